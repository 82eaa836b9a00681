//! A file system of its own for programs, so that guarding execs there touches nothing else on the
//! machine.

use crate::Node;
use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where it is in a node's directory.
pub(crate) const PROGRAMS: &str = "programs";

/// A tmpfs in a node's directory, unmounted on drop.
#[derive(Debug)]
pub struct Programs {
    path: PathBuf,
}

impl Programs {
    /// Mounts it.
    ///
    /// # Errors
    ///
    /// It cannot be mounted.
    pub fn mount(node: &Node) -> Result<Self> {
        let path = node.directory().join(PROGRAMS);
        fs::create_dir_all(&path)?;
        mount(Some(PROGRAMS), &path, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a program there.
    ///
    /// # Errors
    ///
    /// It cannot be read or written.
    pub fn copy(&self, of: &Path, name: &str) -> Result<PathBuf> {
        let to = self.path.join(name);
        fs::copy(of, &to).with_context(|| of.display().to_string())?;
        Ok(to)
    }

    /// Writes an executable script there.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        let to = self.path.join(name);
        fs::write(&to, text)?;
        fs::set_permissions(&to, Permissions::from_mode(0o755))?;
        Ok(to)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.path.display());
        }
    }
}
