//! The agent's status and counters: what `labelctl status` and `stats` print as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's SnID.
    pub snid: u32,
    /// The node's name in the policy.
    pub node: Option<String>,
    /// The policy's cluster.
    pub cluster: String,
    /// The serial of the policy in force.
    pub serial: u64,
    /// The generation of rules in force.
    pub generation: u32,
    /// Whether what the policy refuses is dropped; else it only counts.
    pub enforcing: bool,
    /// How the agent found the kernel: `fresh`, `adopted` or `upgraded`.
    pub origin: String,
    /// Where the programs are attached.
    pub attached: Vec<Attached>,
    /// What keeps the rules on processes: `lsm` or `fanotify`, see ARCHITECTURE.
    #[serde(default)]
    pub backend: String,
    /// Why it is not `lsm`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub without_lsm: String,
    /// Directories whose file systems' programs are judged before they run.
    #[serde(default)]
    pub guarded: Vec<String>,
    /// The keys that were installed.
    pub keys: Vec<HeldKeys>,
    /// How many of them could follow the one that packets are stamped with, where they are of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare_epochs: Option<usize>,
    /// Labels that may have to do with this node.
    pub peers: usize,
    /// Verdicts about them.
    pub verdicts: usize,
    /// Where the policy came from.
    pub policy: String,
    /// Seconds since the agent started.
    pub uptime: u64,
    /// The Security Server, where the node has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// What soon will not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A node's line to its Security Server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The server, while attached to it.
    pub address: Option<SocketAddr>,
    /// Seconds since it was last heard of; nothing if it never was.
    pub silent: Option<u64>,
    /// The revision of the policy in force; 0 for none.
    pub revision: u64,
    /// Seconds since it was put in force.
    pub age: Option<u64>,
    /// The server has not confirmed it yet.
    pub trial: bool,
    /// Why the server cannot be reached, or a policy was not applied.
    pub problem: Option<String>,
}

impl Server {
    /// Why it is not there.
    #[must_use]
    pub fn absence(&self) -> String {
        let why = self.problem.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        match self.silent {
            Some(silent) => format!("no server for {silent} s{why}"),
            None => format!("no server yet{why}"),
        }
    }

    /// In a sentence; what [`Server::absence`] says is left out.
    #[must_use]
    pub fn describe(&self) -> String {
        let policy = match self.age {
            Some(age) => format!("revision {}, {age} s old", self.revision),
            None => "no policy".to_owned(),
        };
        let problem = self.problem.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        match (self.address, self.silent) {
            (Some(address), _) => format!("attached to {address}; {policy}{problem}"),
            (None, Some(silent)) => format!("no server for {silent} s; {policy}"),
            (None, None) => format!("no server yet; {policy}"),
        }
    }
}

/// A guarded interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// Where ingress is verified: `xdp` or `tc`.
    pub mode: String,
    /// How TC programs are attached: `tcx` or `clsact`.
    #[serde(default)]
    pub hook: String,
}

/// One epoch's keys; never the keys themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKeys {
    /// The key id that labels carry.
    pub key_id: u8,
    /// The suite's name.
    pub suite: String,
    /// How many pairs of nodes.
    pub pairs: usize,
    /// Whether packets are stamped with it; with the others they are only verified.
    #[serde(default)]
    pub stamps: bool,
}

/// The counters. A hook or a reason that never counted may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By the hook's name.
    pub hooks: BTreeMap<String, Counts>,
    /// Drops by the node they came from.
    pub pairs: Vec<Pair>,
    /// What became of the reports of drops.
    pub events: Events,
}

/// One hook's counters: `seen = accepted + sum(dropped)`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets or operations judged.
    pub seen: u64,
    /// Those let through.
    pub accepted: u64,
    /// Those of them let through only because the agent was told to observe.
    #[serde(default, skip_serializing_if = "none")]
    pub observed: u64,
    /// The others, by the reason's name.
    pub dropped: BTreeMap<String, u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn none(count: &u64) -> bool {
    *count == 0
}

/// Drops of packets from one node, at one hook, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The source's SnID, 0 where unknown.
    pub snid: u32,
    /// The node's name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The hook's name.
    pub hook: String,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// What became of the reports of drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Handed to the agent.
    pub sent: u64,
    /// Lost for want of room.
    pub lost: u64,
    /// Held back, because their flow had just been reported.
    pub suppressed: u64,
}
