//! Version 2 control groups: one for each lab, in it one for each node.

use crate::{PATIENCE, until};
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

/// Where cgroup2 is mounted: at `/sys/fs/cgroup`, or below it beside the controllers of version 1.
pub(crate) fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts.lines().find_map(mount_point).context("no cgroup2 is mounted")
}

/// `36 35 98:0 /root /mount/point options [optional]… - type source superoptions`
fn mount_point(line: &str) -> Option<PathBuf> {
    let (place, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4)).flatten().map(PathBuf::from)
}

/// A control group, removed on drop with all that runs in it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("control group {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that takes in processes.
    pub(crate) fn procs(&self) -> Result<File> {
        Ok(OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove control group {}: {error:#}", self.path.display());
        }
    }
}

/// Kills what runs in a control group and removes it with the groups below it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.kill"), "1")?;
    until("empty control group", PATIENCE, || {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 0").then_some(()))
    })?;
    remove_tree(path)
}

fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_beside_version_1() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(v1), None);
        assert_eq!(mount_point(v2), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }
}
