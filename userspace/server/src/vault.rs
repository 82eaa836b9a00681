//! The store's records, encrypted: what lies on a disk or in etcd tells nothing and cannot be
//! changed or moved unnoticed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use sigil_cluster::credential::write_secret;
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;

/// Seals and opens values. A record's name is bound to its value.
pub(crate) struct Vault {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Vault {
    /// Draws a key and writes it to a new file that only its owner can read.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        ensure!(!path.exists(), "{} is there already: keys are not overwritten", path.display());
        let mut key = Zeroizing::new([0; KEY_LEN]);
        random(&mut *key)?;
        write_secret(path, &*key).with_context(|| path.display().to_string())?;
        Self::new(&*key)
    }

    /// Reads the key's file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        const OTHERS: u32 = 0o077;
        let read = || format!("cannot read the store's key {}", path.display());
        let mode = fs::metadata(path).with_context(read)?.permissions().mode();
        ensure!(
            mode & OTHERS == 0,
            "others may have read the store's key: chmod 600 {}",
            path.display()
        );
        let key = Zeroizing::new(fs::read(path).with_context(read)?);
        Self::new(&key).with_context(read)
    }

    fn new(key: &[u8]) -> Result<Self> {
        let key =
            UnboundKey::new(&AES_256_GCM, key).map_err(|_| anyhow!("a key has {KEY_LEN} bytes"))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// Encrypts a record's value: nonce, then ciphertext.
    pub(crate) fn seal(&self, name: &str, value: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| anyhow!("the system has no randomness"))?;
        let mut sealed = Zeroizing::new(value.to_owned());
        sealed.reserve_exact(AES_256_GCM.tag_len());
        let at = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(at, Aad::from(name.as_bytes()), &mut *sealed)
            .map_err(|_| anyhow!("a record is too long to be encrypted"))?;
        Ok([&nonce, sealed.as_slice()].concat())
    }

    /// Decrypts a record's value.
    pub(crate) fn open_value(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = || {
            anyhow!(
                "the record `{name}` was changed, or encrypted with another key: check `store_key`, \
                 or restore the store from a copy"
            )
        };
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let mut text = Zeroizing::new(text.to_owned());
        let at = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .key
            .open_in_place(at, Aad::from(name.as_bytes()), &mut text)
            .map_err(|_| wrong())?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

/// Random bytes of the system's.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| anyhow!("the system has no randomness"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_under_its_own_name_and_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.key");
        let vault = Vault::create(&path).unwrap();
        assert!(Vault::create(&path).is_err());
        let sealed = vault.seal("a", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let again = Vault::open(&path).unwrap();
        assert_eq!(*again.open_value("a", &sealed).unwrap(), b"secret");
        assert!(again.open_value("b", &sealed).is_err(), "moved to another name");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(again.open_value("a", &bad).is_err(), "{bit}");
        }
        assert!(again.open_value("a", &sealed[..8]).is_err());
        assert_ne!(vault.seal("a", b"secret").unwrap(), sealed, "a nonce came twice");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Vault::open(&path).is_err());
    }
}
