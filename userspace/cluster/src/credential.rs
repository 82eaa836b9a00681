//! What a node or an administrator holds: its certificate, its key, and whom it trusts. One file,
//! readable by its owner alone.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::{Identity, IdentityError};

/// Bytes of a credential file at most.
const LEN_MAX: u64 = 1 << 16;

/// See the module. Certificates and the key are PEM.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Where the servers are.
    #[zeroize(skip)]
    pub servers: Vec<SocketAddr>,
    /// The cluster's CA.
    pub ca: String,
    /// The holder's certificate.
    pub certificate: String,
    /// The holder's private key.
    pub key: String,
    /// What signs policies: Ed25519, hexadecimal. Empty where no policy is taken.
    #[serde(default)]
    pub policy_key: String,
}

/// A credential file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The system refused.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may have read or written it.
    #[error("{0} may have been read or written by others: chmod 600 {0}, and have it belong to root or to you", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// No credential. What it says is not repeated: it holds a key.
    #[error("{} holds no credential", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Its certificate is none of Sigil's.
    #[error("{}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
}

impl Credential {
    /// Reads a file that nobody but its owner and root can read.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn load(path: &Path) -> Result<Self, CredentialError> {
        let io = |source| CredentialError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        let own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
        if !own || metadata.mode() & 0o077 != 0 {
            return Err(CredentialError::Exposed { path: path.to_owned() });
        }
        // Enough at once: a buffer that grows leaves copies.
        let mut text = Zeroizing::new(String::with_capacity(1 << 16));
        file.take(LEN_MAX).read_to_string(&mut text).map_err(io)?;
        let malformed = || CredentialError::Malformed { path: path.to_owned() };
        let this: Self = toml::from_str(&text).map_err(|_| malformed())?;
        if this.key().is_none() || this.ca().is_none() || this.certificate().is_none() {
            return Err(malformed());
        }
        Ok(this)
    }

    /// Replaces a file, whole or not at all; it is on disk then.
    ///
    /// # Errors
    /// [`CredentialError::Io`].
    pub fn store(&self, path: &Path) -> Result<(), CredentialError> {
        let io = |source| CredentialError::Io { path: path.to_owned(), source };
        self.fill(Reserved::beside(path).map_err(io)?)
    }

    /// As [`Credential::store`], where there is room already.
    ///
    /// # Errors
    /// [`CredentialError::Io`].
    pub fn fill(&self, room: Reserved) -> Result<(), CredentialError> {
        let text = Zeroizing::new(toml::to_string(self).unwrap_or_default());
        let path = room.path.clone();
        room.fill(text.as_bytes()).map_err(|source| CredentialError::Io { path, source })
    }

    /// Whose it is.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::of_certificate(&self.certificate().ok_or(IdentityError::Unreadable)?)
    }

    /// The key that signs policies; nothing where none is named.
    #[must_use]
    pub fn policy_key(&self) -> Option<Vec<u8>> {
        hex::decode(&self.policy_key).ok().filter(|key| key.len() == 32)
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.ca.as_bytes()).ok()
    }

    /// The holder's certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()
    }

    /// The holder's key.
    #[must_use]
    pub fn key(&self) -> Option<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?}, [redacted])", self.identity().map(|id| id.to_string()))
    }
}

/// A certificate as text.
#[must_use]
pub fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line));
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// Writes a file of mode 0600 beside, synchronises it and renames it into place.
///
/// # Errors
/// What the system says; what was there before stays then.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Reserved::beside(path)?.fill(bytes)
}

/// A place for a file, and room on its disk: taken before what is to be written there costs anything.
/// Given back on drop.
#[derive(Debug)]
pub struct Reserved {
    path: PathBuf,
    beside: PathBuf,
    file: File,
}

impl Reserved {
    /// Bytes that are sure to find room.
    const ROOM: usize = 1 << 14;

    /// Makes a file of mode 0600 beside the one to be.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut this = Self::beside(path)?;
        this.file.write_all(&[0; Self::ROOM])?;
        this.file.sync_all()?;
        Ok(this)
    }

    fn beside(path: &Path) -> io::Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        Ok(Self { path: path.to_owned(), beside, file })
    }

    /// Writes the file, synchronises it and renames it into place.
    ///
    /// # Errors
    /// What the system says; what was there before stays then.
    pub fn fill(mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(bytes)?;
        self.file.set_len(u64::try_from(bytes.len()).map_err(io::Error::other)?)?;
        self.file.sync_all()?;
        fs::rename(&self.beside, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Not there any more once it was renamed.
        let _ = fs::remove_file(&self.beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn credential() -> Credential {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let uri = "spiffe://lab/node/3".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        let certificate = params.self_signed(&key).unwrap().pem();
        Credential {
            servers: vec!["10.0.0.1:7443".parse().unwrap()],
            ca: certificate.clone(),
            certificate,
            key: key.serialize_pem(),
            policy_key: String::new(),
        }
    }

    #[test]
    fn a_place_is_refused_before_anything_is_written_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Reserved::new(&directory.path().join("none/node.toml")).is_err());
        assert!(Reserved::new(directory.path()).is_err(), "a directory");
        let path = directory.path().join("node.toml");
        fs::write(&path, "before").unwrap();
        drop(Reserved::new(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        Reserved::new(&path).unwrap().fill(b"after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing stays beside");
    }

    #[test]
    fn what_is_stored_loads_unless_others_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        let ours = credential();
        ours.store(&path).unwrap();
        ours.store(&path).unwrap();
        let read = Credential::load(&path).unwrap();
        assert_eq!(read.identity().unwrap().to_string(), "spiffe://lab/node/3");
        assert_eq!(read.key, ours.key);
        assert!(!format!("{read:?}").contains("PRIVATE"));
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(Credential::load(&path), Err(CredentialError::Exposed { .. })));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "key = \"secret\"").unwrap();
        let said = format!("{:?}", Credential::load(&path).unwrap_err());
        assert!(!said.contains("secret"), "{said}");
    }
}
