//! Files that are labelled and signed, and what an attacker does to them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod attacks;
mod cache;
mod elf;
mod scripts;
mod trust;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sigil_binary::{
    Found, How, PrivateKey, Scids, Signer, Trust, Unsigned, Verified, label, verify,
};
use tempfile::TempDir;

/// A directory, a key and who trusts it.
struct Bench {
    dir: TempDir,
    key: PrivateKey,
    trust: Trust,
}

impl Bench {
    /// In the working directory's file system: that of `/tmp` may be of any kind.
    fn new() -> Self {
        Self::within(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    fn within(parent: &Path) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let key = PrivateKey::generate(dir.path().join("key")).unwrap();
        let trust = Trust::new([signer(&key)], [], []);
        Self { dir, key, trust }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A copy of a program of the system.
    fn program(&self, name: &str, of: &str) -> PathBuf {
        let path = self.path(name);
        fs::copy(of, &path).unwrap();
        path
    }

    fn sign(&self, path: &Path) -> Found {
        label(path, 2, 7, Some(&self.key), How::default()).unwrap()
    }

    fn signed(&self, name: &str, of: &str) -> PathBuf {
        let path = self.program(name, of);
        self.sign(&path);
        path
    }

    fn verify(&self, path: &Path) -> Result<Verified, Unsigned> {
        verify(&File::open(path).unwrap(), &self.trust)
    }
}

fn signer(key: &PrivateKey) -> Signer {
    Signer { key: *key.public(), scids: Scids::All, least_serial: 0 }
}
