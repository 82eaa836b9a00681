//! Messages as lines.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::VERSION;

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is longer than the reader allows.
    #[error("the message is longer than {limit} bytes")]
    TooLong {
        /// The most that is allowed.
        limit: usize,
    },
    /// The other side speaks another version.
    #[error(
        "the message has version {theirs}, and this side speaks {VERSION}: install labelctl and sigild of the same release"
    )]
    Version {
        /// The version in the message.
        theirs: u32,
    },
    /// It is no JSON, or none that is known.
    #[error("the message cannot be read")]
    Malformed(#[from] serde_json::Error),
}

/// Cuts a stream of bytes into lines. Holds at most the limit and one piece pushed.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes, the newline included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), searched: 0, limit }
    }

    /// Adds what was received; take all lines out with [`Lines::next`] before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, without its newline.
    ///
    /// # Errors
    /// [`Error::TooLong`]; the stream cannot be used any more then.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may be pushed")]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let fresh = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(newline) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return if self.searched < self.limit { Ok(None) } else { self.too_long() };
        };
        let length = self.searched + newline + 1;
        if length > self.limit {
            return self.too_long();
        }
        let rest = self.buffer.split_off(length);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }

    fn too_long<T>(&self) -> Result<T, Error> {
        Err(Error::TooLong { limit: self.limit })
    }
}

#[derive(Serialize)]
struct Message<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A message's line, with its newline.
///
/// # Errors
/// [`Error::TooLong`].
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(&Message { version: VERSION, body: message })?;
    line.push(b'\n');
    if line.len() > limit { Err(Error::TooLong { limit }) } else { Ok(line) }
}

/// The message of a line.
///
/// # Errors
/// [`Error::Version`] or [`Error::Malformed`].
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, Error> {
    let Version { version } = serde_json::from_slice(line)?;
    if version == VERSION {
        Ok(serde_json::from_slice(line)?)
    } else {
        Err(Error::Version { theirs: version })
    }
}
