//! One agent per node.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Held as long as the process lives; the kernel lets go of it at any end.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the state directory if need be, and locks it.
    pub(crate) fn take(state: &Path) -> Result<Self> {
        let unusable = || format!("cannot use the state directory {}", state.display());
        DirBuilder::new().recursive(true).mode(0o700).create(state).with_context(unusable)?;
        let path = state.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another sigild runs on this node (it holds {}): stop it first",
                path.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(unusable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_agent_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("sigil");
        let first = Lock::take(&state).unwrap();
        let said = Lock::take(&state).unwrap_err().to_string();
        assert!(said.starts_with("another sigild runs on this node"), "{said}");
        drop(first);
        assert!(Lock::take(&state).is_ok());
    }
}
