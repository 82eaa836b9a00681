//! Many short processes, each of which asks the kernel what its label may do.
//!
//! The program `sigil-traffic storm …` makes one, so that it can be put into a security zone.
#![expect(unsafe_code, reason = "a fork without an exec")]

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Forks for each exec, which costs about as much as ten of them.
const FORKS: u32 = 48;

/// What became of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Storm {
    /// Children that only forked.
    pub forks: u64,
    /// Children that forked and executed.
    pub execs: u64,
    /// How often a child was told what: `ok`, or the name of an errno. Two that bind at once get
    /// `EADDRINUSE`, which only those learn that may bind.
    pub told: BTreeMap<String, u64>,
}

/// Makes children, one after the other, each of which binds a UDP socket to an address.
///
/// # Errors
///
/// A child cannot be made, or does not end by itself.
pub fn storm(lasts: Duration, address: SocketAddr) -> Result<Storm> {
    let mut storm = Storm::default();
    let own = std::env::current_exe()?;
    let port = address.to_string();
    let start = Instant::now();
    while start.elapsed() < lasts {
        for _ in 0..FORKS {
            *storm.told.entry(forked(address)?).or_default() += 1;
            storm.forks += 1;
        }
        let output = Command::new(&own).args(["try", "bind", "udp", &port]).output()?;
        let said = String::from_utf8(output.stdout)?.trim().to_owned();
        *storm.told.entry(said).or_default() += 1;
        storm.execs += 1;
    }
    Ok(storm)
}

/// What a child was told that has only forked.
fn forked(address: SocketAddr) -> Result<String> {
    // SAFETY: this process has one thread, so its child may do anything.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let told = UdpSocket::bind(address).map_or_else(|error| errno(&error), |_| 0);
            // SAFETY: ends the child; what the parent would write at its end is the parent's.
            unsafe { libc::_exit(told) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok("ok".into()),
            WaitStatus::Exited(_, code) => Ok(format!("{:?}", Errno::from_raw(code))),
            status => bail!("a child ended with {status:?}"),
        },
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
