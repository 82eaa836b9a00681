//! Labs of network namespaces for the tests, the demo and the benchmarks.
//!
//! A [`Lab`] is a bridge in a namespace of its own and the [`Node`]s around it; nothing of it touches
//! the host's network. A node is a namespace with `eth0`, a cgroup, a directory and a bpffs. A
//! [`Cluster`] puts an [`Agent`] on every node that a policy declares. Needs root. Whatever is made
//! here is removed on drop, and [`Lab::sweep`] removes what killed processes left behind.

pub mod agent;
pub mod attacker;
pub mod attempt;
mod cgroup;
pub mod cluster;
pub mod code;
pub mod lab;
pub mod middlebox;
mod netns;
pub mod packet;
mod process;
mod programs;
pub mod report;
pub mod ring;
pub mod server;
pub mod storm;
pub mod traffic;
pub mod two_nodes;

pub use agent::{Agent, Config, Limits, Run};
pub use attacker::{Attacker, Frame, RawSocket, Sniffer};
pub use cluster::Cluster;
pub use lab::{Lab, Node};
pub use middlebox::{Middlebox, Tampering};
pub use netns::Netns;
pub use process::{Output, Process, binary};
pub use programs::Programs;
pub use report::{Event, Stats, Watch};
pub use server::{Server, ServerTable};

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long anything that should happen at once may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many times slower than a machine's own this CPU is: `SIGIL_SLOWER`, set where it is emulated. What
/// waits is as many times more patient.
#[must_use]
pub fn slower() -> u32 {
    std::env::var("SIGIL_SLOWER").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Asks until there is an answer.
///
/// # Errors
///
/// The probe's, or that `timeout` passed without `what`.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout * slower();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("no {what} within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
