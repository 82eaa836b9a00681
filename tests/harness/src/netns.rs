//! Network namespaces, by way of iproute2.
//!
//! Not `ip netns exec`: it remounts `/sys`, which hides every bpffs below it.

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Where iproute2 keeps the namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with loopback up and IPv6 off on all other devices.
    pub(crate) fn create(name: String) -> Result<Self> {
        ip(&["netns", "add", &name], "")?;
        let netns = Self { name };
        netns.ip("link set lo up")?;
        netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        Ok(netns)
    }

    /// The name that `ip -n` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file to `setns` to.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs iproute2 commands, one a line, inside the namespace.
    ///
    /// # Errors
    ///
    /// What `ip` says when one fails.
    pub fn ip(&self, commands: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], commands)
            .with_context(|| format!("in {}: {commands}", self.name))
    }

    /// Runs `work` on a thread inside the namespace.
    ///
    /// # Errors
    ///
    /// The namespace is gone, or this is not root.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a sysctl of the namespace, e.g. `ipv4/tcp_congestion_control`.
    ///
    /// # Errors
    ///
    /// The kernel has no such sysctl, or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(name);
        self.enter(|| {
            fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
        })
    }

    pub(crate) fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("namespace {}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("cannot remove namespace {}: {error:#}", self.name);
        }
    }
}

/// Removes a namespace.
pub(crate) fn remove(name: &str) -> Result<()> {
    ip(&["netns", "del", name], "")
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("iproute2 is not installed: run scripts/setup")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), stderr.trim());
    Ok(())
}
