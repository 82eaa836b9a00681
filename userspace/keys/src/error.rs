//! What can be wrong, and what to do about it. No error holds a byte of a key.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::node::{CLUSTER_MAX, EPOCHS_MAX};

/// A key file cannot be used.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: FileProblem,
}

/// What is wrong with a key file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// The system refused.
    #[error("cannot {action} the key file")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The last part of the path is a link.
    #[error("is a symbolic link; name the key file itself")]
    Symlink,
    /// A directory, a device, a pipe.
    #[error("is not a regular file")]
    NotRegular,
    /// Somebody else could have written it.
    #[error("belongs to user {uid}; check where it comes from, then: chown root FILE")]
    Owner {
        /// Its owner.
        uid: u32,
    },
    /// Others can read or write it.
    #[error("has mode {mode:04o}, so that others may have read it; at least: chmod 600 FILE")]
    Mode {
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than any key file.
    #[error("has {len} bytes, more than a key file may have ({max})")]
    TooLarge {
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// Not text.
    #[error("is not UTF-8 text")]
    NotText,
    /// What it says.
    #[error(transparent)]
    Content(#[from] ParseError),
    /// Something has this name already.
    #[error("exists already, and keys are never overwritten; choose another name or move it away")]
    Exists,
}

/// What a key file says is wrong.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    #[source]
    pub problem: Problem,
}

/// What is wrong with keys.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// No TOML.
    #[error("{0}")]
    Syntax(String),
    /// A field is not there.
    #[error("`{field}` is missing")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field that key files do not have.
    #[error("unknown field; known here: {known}")]
    Unknown {
        /// The names that are known.
        known: &'static str,
    },
    /// A field of another type, or a number out of range.
    #[error("`{field}` must be {expected}")]
    Type {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An id of 0.
    #[error("`{field}` is 0, which is no node's")]
    Zero {
        /// The field's name.
        field: &'static str,
    },
    /// The cluster has no proper name.
    #[error("`cluster` must have 1 to {CLUSTER_MAX} bytes and no control characters")]
    Cluster,
    /// Too many epochs, or none.
    #[error("{count} epochs; a node holds 1 to {EPOCHS_MAX}")]
    Epochs {
        /// How many there are.
        count: usize,
    },
    /// Key ids with gaps.
    #[error("epoch {after} follows epoch {before}; key ids are consecutive, and 0 follows 255")]
    EpochOrder {
        /// A key id.
        before: u8,
        /// The next one in the file.
        after: u8,
    },
    /// A pair of one.
    #[error("a pair of node {snid} with itself")]
    Loop {
        /// Its `SnID`.
        snid: u32,
    },
    /// A key that the node must not know.
    #[error("pair {source_snid}→{target} is none of node {snid}'s: it must not hold this key")]
    Stranger {
        /// The node whose keys these are.
        snid: u32,
        /// The pair's source.
        source_snid: u32,
        /// The pair's target.
        target: u32,
    },
    /// Two keys for one pair.
    #[error("a second key for pair {source_snid}→{target} in epoch {epoch}")]
    Duplicate {
        /// The epoch's key id.
        epoch: u8,
        /// The pair's source.
        source_snid: u32,
        /// The pair's target.
        target: u32,
    },
    /// Not a key.
    #[error("`key` must be 64 hexadecimal digits")]
    Key,
}

/// Keys cannot be generated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// A node is named twice.
    #[error("node {snid} is named twice")]
    Twice {
        /// Its `SnID`.
        snid: u32,
    },
    /// The keys would be no good.
    #[error(transparent)]
    Keys(Problem),
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the system's random number generator failed")]
pub struct RandomError;
