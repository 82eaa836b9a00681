//! The key that signs.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::record::KeyId;

/// Bytes of a private key's file at most; Ed25519 needs 83.
const LEN_MAX: u64 = 4096;

/// An Ed25519 private key. Debug shows its id only.
pub struct PrivateKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

/// A private key cannot be used, or not be made.
#[derive(Debug, Error)]
#[error("{}", path.display())]
pub struct PrivateKeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub problem: KeyProblem,
}

/// What is wrong with a private key's file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The system refused.
    #[error("cannot {action} the private key")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("is not a regular file")]
    NotRegular,
    /// Others can read or write it.
    #[error(
        "has mode {mode:04o}, so that others may have read the private key; at least: chmod 600 FILE"
    )]
    Mode {
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else could have written it.
    #[error("belongs to user {uid}; a private key belongs to root or to who uses it")]
    Owner {
        /// Its owner.
        uid: u32,
    },
    /// No key.
    #[error("is no Ed25519 private key (PKCS#8, DER): make one with labelctl binary keygen")]
    NotAKey,
    /// Something has this name already.
    #[error("exists already, and keys are never overwritten; choose another name")]
    Exists,
    /// No randomness.
    #[error("the system's random number generator failed")]
    Random,
}

impl PrivateKey {
    /// Draws a key and writes it to a new file of mode 0600, as PKCS#8 in DER.
    ///
    /// # Errors
    /// [`KeyProblem::Exists`], or what the system says. No file is left then.
    pub fn generate(path: impl AsRef<Path>) -> Result<Self, PrivateKeyError> {
        let path = path.as_ref();
        generate(path).map_err(|problem| PrivateKeyError { path: path.to_owned(), problem })
    }

    /// Reads a key that nobody but root, or who runs this, can have written or read.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PrivateKeyError> {
        let path = path.as_ref();
        load(path).map_err(|problem| PrivateKeyError { path: path.to_owned(), problem })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The id that labels name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        let mut bytes = [0; 64];
        bytes.iter_mut().zip(signature.as_ref()).for_each(|(to, from)| *to = *from);
        bytes
    }

    fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyProblem> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
        let pair = pair.map_err(|_| KeyProblem::NotAKey)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyProblem::NotAKey)?;
        Ok(Self { pair, public })
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, [redacted])", self.id())
    }
}

fn generate(path: &Path) -> Result<PrivateKey, KeyProblem> {
    let document =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyProblem::Random)?;
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = created.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyProblem::Exists,
        _ => KeyProblem::Io { action: "create", source },
    })?;
    file.write_all(document.as_ref()).and_then(|()| file.sync_all()).map_err(|source| {
        // Half a key is worse than none, and if it cannot go either, the error says enough.
        let _ = std::fs::remove_file(path);
        KeyProblem::Io { action: "write", source }
    })?;
    PrivateKey::from_pkcs8(document.as_ref())
}

fn load(path: &Path) -> Result<PrivateKey, KeyProblem> {
    // O_NONBLOCK, for a pipe would have us wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file: File = opened.map_err(|source| KeyProblem::Io { action: "open", source })?;
    let io = |source| KeyProblem::Io { action: "read", source };
    let metadata = file.metadata().map_err(io)?;
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_file() {
        return Err(KeyProblem::NotRegular);
    }
    if uid != 0 && uid != rustix::process::geteuid().as_raw() {
        return Err(KeyProblem::Owner { uid });
    }
    if mode != 0o600 && mode != 0o400 {
        return Err(KeyProblem::Mode { mode });
    }
    if metadata.len() > LEN_MAX {
        return Err(KeyProblem::NotAKey);
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(metadata.len()).unwrap_or(0)]);
    file.read_exact(&mut bytes).map_err(io)?;
    PrivateKey::from_pkcs8(&bytes)
}
