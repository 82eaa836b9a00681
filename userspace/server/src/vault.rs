//! The store's records, encrypted: what lies on a disk or in etcd tells nothing and cannot be
//! changed or moved unnoticed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use sigil_cluster::credential::write_secret;
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;
/// A value's first byte: how it is sealed.
const FORMAT: u8 = 2;
/// Each value has a key of its own, of this much randomness: one store's key may seal any number of
/// them, which with random nonces under the key itself would have to stay below 2^32.
const SALT_LEN: usize = 32;
const INFO: &[u8] = b"sigil store record v2";

/// Seals and opens values. A record's name is bound to its value.
pub(crate) struct Vault {
    key: Zeroizing<[u8; KEY_LEN]>,
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
        let key = secret(path)?;
        Self::new(&key).with_context(|| path.display().to_string())
    }

    fn new(key: &[u8]) -> Result<Self> {
        let key = key.try_into().map_err(|_| anyhow!("a key has {KEY_LEN} bytes"))?;
        Ok(Self { key: Zeroizing::new(key), random: SystemRandom::new() })
    }

    /// The key of one value.
    fn of_value(&self, salt: &[u8]) -> Option<LessSafeKey> {
        let root = Salt::new(HKDF_SHA256, salt).extract(&*self.key);
        let key = root.expand(&[INFO], &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// Encrypts a record's value: format, salt, then ciphertext.
    pub(crate) fn seal(&self, name: &str, value: &[u8]) -> Result<Vec<u8>> {
        let mut salt = [0; SALT_LEN];
        self.random.fill(&mut salt).map_err(|_| anyhow!("the system has no randomness"))?;
        let mut sealed = Zeroizing::new(Vec::with_capacity(value.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(value);
        // The key is used this once.
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let key = self.of_value(&salt).context("no key can be derived")?;
        key.seal_in_place_append_tag(nonce, Aad::from(name.as_bytes()), &mut *sealed)
            .map_err(|_| anyhow!("a record is too long to be encrypted"))?;
        Ok([&[FORMAT], salt.as_slice(), sealed.as_slice()].concat())
    }

    /// Decrypts a record's value.
    pub(crate) fn open_value(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = || {
            anyhow!(
                "the record `{name}` was changed, or encrypted with another key: check `store_key`, \
                 or restore the store from a copy"
            )
        };
        let text = sealed.strip_prefix(&[FORMAT]).with_context(|| {
            format!(
                "the record `{name}` was changed, or written by another version of sigil-server"
            )
        })?;
        let (salt, text) = text.split_first_chunk::<SALT_LEN>().ok_or_else(wrong)?;
        let mut text = Zeroizing::new(text.to_owned());
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let key = self.of_value(salt).ok_or_else(wrong)?;
        let length = key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut text)
            .map_err(|_| wrong())?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

/// Reads a key's file, which nobody but its owner may.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    const OTHERS: u32 = 0o077;
    let read = || format!("cannot read the key {}", path.display());
    let mode = fs::metadata(path).with_context(read)?.permissions().mode();
    ensure!(mode & OTHERS == 0, "others may have read the key: chmod 600 {}", path.display());
    Ok(Zeroizing::new(fs::read(path).with_context(read)?))
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
        assert_ne!(vault.seal("a", b"secret").unwrap(), sealed, "a key came twice");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Vault::open(&path).is_err());
    }

    /// Many values under one key of the store share no key of their own, whatever they say.
    #[test]
    fn values_share_no_key_and_other_formats_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let vault = Vault::create(&directory.path().join("store.key")).unwrap();
        let mut salts = std::collections::BTreeSet::new();
        let mut texts = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let sealed = vault.seal("a", &[0; 32]).unwrap();
            salts.insert(sealed[1..=SALT_LEN].to_vec());
            // The key stream itself.
            texts.insert(sealed[1 + SALT_LEN..].to_vec());
        }
        assert_eq!((salts.len(), texts.len()), (1000, 1000));
        let mut former = vault.seal("a", b"secret").unwrap();
        former[0] = 1;
        let said = vault.open_value("a", &former).unwrap_err().to_string();
        assert!(said.contains("another version"), "{said}");
    }
}
