//! Who is at the other end of a control connection.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The process that connected, held so that its id cannot come to mean another unnoticed.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its id in the agent's pid namespace, the first one.
    pub(crate) pid: u32,
    /// Its effective user when it connected.
    pub(crate) uid: u32,
    held: OwnedFd,
}

impl Peer {
    /// Reads the credentials that the kernel took down at connect(2).
    pub(crate) fn of(socket: &impl AsFd) -> Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials).context("SO_PEERCRED")?;
        let (uid, pid) = (credentials.uid(), credentials.pid());
        let number = u32::try_from(pid).unwrap_or_default();
        ensure!(number != 0, "the client's process cannot be seen from here");
        let held = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(held) => held,
            // Kernels before 6.5.
            Err(nix::Error::ENOPROTOOPT) => open(pid, uid)?,
            Err(error) => return Err(error).context("the client is gone"),
        };
        Ok(Self { pid: number, uid, held })
    }
}

/// Without `SO_PEERPIDFD` the id may have changed hands since connect(2). That the user is the same
/// keeps one user's request from labelling another's process.
fn open(pid: i32, uid: u32) -> Result<OwnedFd> {
    let held = Pid::from_raw(pid).context("the client has no process id")?;
    let held = pidfd_open(held, PidfdFlags::empty()).context("the client is gone")?;
    let owner =
        fs::metadata(PathBuf::from(format!("/proc/{pid}"))).context("the client is gone")?;
    ensure!(owner.st_uid() == uid, "the client is gone, and its id is another's");
    ensure!(runs(held.as_fd()), "the client is gone");
    Ok(held)
}

/// A process that may end at any time.
pub(crate) trait Living {
    /// Whether it has not ended; while it has not, its id is its own.
    fn is_alive(&self) -> bool;
}

impl Living for Peer {
    fn is_alive(&self) -> bool {
        runs(self.held.as_fd())
    }
}

/// A pidfd is readable once its process has ended.
fn runs(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn a_peer_is_who_connected() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&theirs).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.is_alive());
    }

    #[test]
    fn an_ended_process_is_no_longer_alive_even_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let held = open(pid, uid).unwrap();
        assert!(runs(held.as_fd()));
        child.kill().unwrap();
        poll(&mut [PollFd::new(&held, PollFlags::IN)], None).unwrap();
        assert!(!runs(held.as_fd()), "a zombie still has its id, but can do nothing with a label");
        child.wait().unwrap();
        assert!(open(pid, uid).is_err());
    }

    #[test]
    fn a_process_of_another_user_is_not_taken_for_the_client() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(open(pid, rustix::process::geteuid().as_raw() + 1).is_err());
    }
}
