//! What a client asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A client's question or wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How the agent is. Answered with [`crate::Reply::Status`].
    Status,
    /// The document in force. Answered with [`crate::Reply::InForce`].
    Show,
    /// The counters. Answered with [`crate::Reply::Stats`].
    Stats,
    /// Put this document in force. Answered with [`crate::Reply::Loaded`].
    Load {
        /// What diagnostics call the document.
        name: String,
        /// The document.
        document: String,
        /// Say what would happen, change nothing.
        dry_run: bool,
    },
    /// Read the agent's own policy and key files again. Answered as [`Request::Load`].
    Reload {
        /// Say what would happen, change nothing.
        dry_run: bool,
    },
    /// Send events from now on. Answered with [`crate::Reply::Watching`].
    Watch,
    /// Put the asking process into a zone. Answered with [`crate::Reply::Labelled`].
    Run {
        /// The zone.
        zone: ZoneRef,
    },
}

impl Request {
    /// What the request asks for, in a sentence's words.
    #[must_use]
    pub const fn purpose(&self) -> &'static str {
        match self {
            Self::Status => "read the status",
            Self::Show => "read the policy",
            Self::Stats => "read the counters",
            Self::Load { .. } | Self::Reload { .. } => "load a policy",
            Self::Watch => "watch events",
            Self::Run { .. } => "enter a zone",
        }
    }
}

/// A zone, as an operator writes it: a number is a ScID, all else is a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ZoneRef {
    /// Its ScID.
    Id(u32),
    /// Its name.
    Name(String),
}

impl FromStr for ZoneRef {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id))
    }
}

impl fmt::Display for ZoneRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(scid) => write!(f, "{scid}"),
            Self::Name(name) => write!(f, "`{name}`"),
        }
    }
}
