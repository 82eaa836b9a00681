//! Processes and files: `lat_proc` and `lat_syscall`.
#![expect(unsafe_code, reason = "forks without an exec")]

use std::ffi::CStr;

use anyhow::{Result, ensure};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, stat as stat_file};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, execv, fork as fork_process};

/// A small program that is everywhere and does nothing.
const PROGRAM: &CStr = c"/bin/true";
const SHELL: &CStr = c"/bin/sh";

pub(super) fn stat() -> Result<()> {
    Ok(stat_file(PROGRAM).map(drop)?)
}

pub(super) fn open_close() -> Result<()> {
    Ok(open(PROGRAM, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map(drop)?)
}

pub(super) fn fork() -> Result<()> {
    child(&[])
}

pub(super) fn exec() -> Result<()> {
    child(&[PROGRAM])
}

pub(super) fn sh() -> Result<()> {
    // Two commands, or the shell would become the last one without a fork.
    child(&[SHELL, c"-c", c"/bin/true; exit 0"])
}

/// A child that becomes a command, or nothing, and ends.
fn child(command: &[&CStr]) -> Result<()> {
    // SAFETY: the driver has one thread, and the child allocates nothing.
    match unsafe { fork_process() }? {
        ForkResult::Child => {
            if let [program, ..] = command {
                // Comes back only where it fails, and then the exit status says so.
                let _ = execv(program, command);
            }
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!command.is_empty())) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None)?;
            ensure!(matches!(status, WaitStatus::Exited(_, 0)), "a child ended with {status:?}");
            Ok(())
        }
    }
}
