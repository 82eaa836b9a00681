//! Keys of a cluster: how they are derived, and the file in which a node keeps its own.
//!
//! Keys are directional and per pair. K(a→b) is known to a, to b and to whoever holds the epoch's
//! secret, so that a captured node can forge its own labels and nobody else's. A node's file holds
//! only the pairs that it is part of, for up to [`EPOCHS_MAX`] epochs.
//!
//! Secrets are wiped when dropped, print as `[redacted]`, and appear in no error.

mod error;
mod file;
mod format;
mod node;
mod secret;

pub use error::{FileError, FileProblem, GenerateError, ParseError, Problem, RandomError};
pub use node::{CLUSTER_MAX, EPOCHS_MAX, Epoch, NodeKeys, Pair, generate};
pub use secret::{EpochSecret, PairKey, system_random};
