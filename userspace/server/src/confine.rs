//! What the server denies itself, and the one limit that it raises.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, capabilities};

/// Secrets must not end up in a core dump, a debugger or the swap.
pub(crate) fn hide_memory() {
    // Either may be refused in a container; the server is worth running still.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("the server's memory may be dumped: {error}");
    }
    // Where the limit holds, memory that is wanted later would be refused.
    let free = getrlimit(Resource::Memlock).current.is_none()
        || capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::IPC_LOCK));
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if !free || mlockall(flags).is_err() {
        tracing::warn!("the server's memory may be swapped out: allow it to lock memory");
    }
}

/// Each node is a connection.
pub(crate) fn open_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("few nodes can be attached at once: {error}");
    }
}

/// Whether secrets may lie in a directory: nobody but its owner and root can put files there.
pub(crate) fn private(directory: &Path) -> Result<()> {
    const OTHERS_WRITE: u32 = 0o022;
    let read = || directory.display().to_string();
    let metadata = std::fs::metadata(directory).with_context(read)?;
    let own = [0, geteuid().as_raw()].contains(&metadata.uid());
    ensure!(
        own && metadata.mode() & OTHERS_WRITE == 0,
        "others can put files into {0}: chmod 700 {0}, and have it belong to root or to you",
        directory.display()
    );
    Ok(())
}
