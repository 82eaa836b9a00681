//! What the agent answers.

use serde::{Deserialize, Serialize};

use crate::{Event, Stats, Status};

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It will not or cannot; nothing was changed.
    Failed(Failure),
    /// To [`crate::Request::Status`].
    Status(Status),
    /// To [`crate::Request::Show`].
    InForce(InForce),
    /// To [`crate::Request::Stats`].
    Stats(Stats),
    /// To [`crate::Request::Load`] and [`crate::Request::Reload`].
    Loaded(Loaded),
    /// To [`crate::Request::Watch`]: every event from now on follows.
    Watching {
        /// The node's SnID.
        snid: u32,
    },
    /// An event, to a watcher.
    Event(Event),
    /// The watcher was too slow for events that came here.
    Missed {
        /// Exactly how many.
        count: u64,
    },
    /// To [`crate::Request::Run`].
    Labelled(Labelled),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub kind: FailureKind,
    /// What is wrong and what to do, for people; several lines for a policy.
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request is no request.
    Malformed,
    /// The client may not ask for this.
    Refused,
    /// The document has errors, or its serial is too low.
    Policy,
    /// Too many clients.
    Busy,
    /// The agent could not do it.
    Failed,
}

/// The document in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// What diagnostics call it.
    pub name: String,
    /// The document.
    pub document: String,
    /// The node that it is about, where a server gave it that node's part of the policy alone.
    pub part_of: Option<u32>,
}

/// A policy was loaded, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Whether the document was tried only.
    pub dry_run: bool,
    /// Whether it differs from what was in force.
    pub changed: bool,
    /// The document's cluster.
    pub cluster: String,
    /// The document's serial.
    pub serial: u64,
    /// The generation of rules in force; in a dry run, of those that stay.
    pub generation: u32,
    /// Labels that may have to do with this node.
    pub peers: usize,
    /// Verdicts about them.
    pub verdicts: usize,
    /// What the compiler warns about, for people.
    pub warnings: String,
    /// In a dry run, what would be gained and lost on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// How many more changes there are than are listed.
    #[serde(default)]
    pub more: u64,
}

/// A difference between the policy in force and another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Gained; else lost.
    pub gained: bool,
    /// In words.
    pub text: String,
}

/// The asking process is in a zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// The zone's ScID.
    pub scid: u32,
    /// The zone's name.
    pub zone: String,
}
