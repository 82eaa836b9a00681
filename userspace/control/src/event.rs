//! Events, as `labelctl watch` prints them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A drop, an alarm, or what would have been a drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// When the agent heard of it, by the node's clock: microseconds since 1970.
    #[serde(default)]
    pub time_us: u64,
    /// What happened.
    pub kind: EventKind,
    /// The hook's name.
    pub hook: String,
    /// The drop reason's name; `alarm` for an alarm.
    pub reason: String,
    /// `tcp`, `udp`, `icmp`, `sctp` or the IP protocol's number.
    pub protocol: Option<String>,
    /// The sender.
    pub source: Endpoint,
    /// The receiver.
    pub target: Endpoint,
    /// The local socket's process.
    pub process: Option<Process>,
    /// The line of the policy that decided.
    pub line: Option<u32>,
    /// Drops of this flow since its last event that were not reported.
    pub suppressed: u32,
}

/// Kinds of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A packet was dropped or an operation refused.
    Drop,
    /// A rule with `<alarm>` was used.
    Alarm,
    /// It would have been dropped, had the agent not been told to observe.
    Observed,
    /// A process was ended: the signature that its label came from is revoked.
    Revoked,
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Alarm => "alarm",
            Self::Observed => "observed",
            Self::Revoked => "revoked",
        }
    }
}

/// One end of a conversation, as far as known; an id of 0 is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The SnID.
    pub snid: u32,
    /// The ScID.
    pub scid: u32,
    /// The node's name in the policy.
    pub node: Option<String>,
    /// The zone's name in the policy.
    pub zone: Option<String>,
    /// The IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// The port.
    pub port: Option<u16>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name as the kernel keeps it, control characters replaced.
    pub comm: String,
}
