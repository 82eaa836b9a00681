//! The integrity check value: a MAC, truncated to 96 bits, over what a packet may not change.
//!
//! The message is the fixed 40 bytes of [`Header`], followed by the payload where the label's flag
//! P says that it is covered. [`of_header`] serves the first case and is the hot path; a
//! [`Scratch`] takes longer messages in blocks of 64 bytes, as the kernel reads them. Both compute
//! exactly HMAC-SHA-256, keyed BLAKE3 or SipHash-2-4-128 over the whole message.
//!
//! Everything large lives in the caller's [`Scratch`], because a BPF program has 512 bytes of stack
//! for its whole chain of calls. Compressions are functions of their own for the same reason.
#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns and pass five words at most")]

mod blake3;
mod hmac;
mod input;
mod key;
pub mod probe;
mod scratch;
mod sha256;
mod siphash;

use core::fmt;
use core::str::FromStr;

pub use input::{ChecksumField, DOMAIN, HEADER_LEN, Header, IcvInput};
pub use key::{KEY_LEN, MacKey};
pub use scratch::{BLOCK_LEN, FIRST_LEN, PAYLOAD_MAX, Scratch, blocks};

/// Bytes of an ICV.
pub const ICV_LEN: u32 = 12;

/// An integrity check value: 12 bytes as three words in the order of memory, for the same reason as a
/// [`Header`]'s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Icv(pub(crate) [u32; 3]);

impl Icv {
    /// The ICV as it stands in a packet.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ICV_LEN as usize]) -> Self {
        let mut words = [0; 3];
        for (word, piece) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*piece);
        }
        Self(words)
    }

    /// Its bytes in a packet.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ICV_LEN as usize] {
        let mut bytes = [0; ICV_LEN as usize];
        for (piece, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *piece = word.to_ne_bytes();
        }
        bytes
    }
}

/// A MAC algorithm; a property of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Suite {
    /// HMAC-SHA-256, two compressions for a header; the conservative choice.
    HmacSha256 = 1,
    /// Keyed BLAKE3, one compression for a header.
    Blake3 = 2,
    /// SipHash-2-4 with 128-bit output; the fastest.
    SipHash24 = 3,
}

impl Suite {
    /// All suites in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::HmacSha256, Self::Blake3, Self::SipHash24];

    /// The suite's name in key files, statistics and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256-96",
            Self::Blake3 => "blake3-96",
            Self::SipHash24 => "siphash-2-4-96",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number or a name that is no suite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSuite;

impl fmt::Display for UnknownSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC suite; known are hmac-sha256-96, blake3-96 and siphash-2-4-96")
    }
}

impl core::error::Error for UnknownSuite {}

/// From the number in a map; 0 marks an empty slot there.
impl TryFrom<u32> for Suite {
    type Error = UnknownSuite;

    #[inline(always)]
    fn try_from(number: u32) -> Result<Self, UnknownSuite> {
        match number {
            1 => Ok(Self::HmacSha256),
            2 => Ok(Self::Blake3),
            3 => Ok(Self::SipHash24),
            _ => Err(UnknownSuite),
        }
    }
}

impl TryFrom<u8> for Suite {
    type Error = UnknownSuite;

    #[inline(always)]
    fn try_from(number: u8) -> Result<Self, UnknownSuite> {
        u32::from(number).try_into()
    }
}

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Self::ALL.into_iter().find(|suite| suite.name() == name).ok_or(UnknownSuite)
    }
}

/// The ICV of a header alone.
#[must_use]
#[inline(always)]
pub fn of_header(suite: Suite, key: &MacKey, header: &Header, scratch: &mut Scratch) -> Icv {
    match suite {
        Suite::SipHash24 => siphash::of_header(key, header),
        Suite::Blake3 => blake3::of_header(key, header, scratch),
        Suite::HmacSha256 => hmac::of_header(key, header, scratch),
    }
}

/// [`of_header`] for SipHash, which needs no working memory.
#[must_use]
#[inline(always)]
pub fn siphash_of_header(key: &MacKey, header: &Header) -> Icv {
    siphash::of_header(key, header)
}

/// The ICV of a header and a payload, for callers that hold both in memory. `None` if the payload
/// is longer than [`PAYLOAD_MAX`].
#[must_use]
pub fn of_message(suite: Suite, key: &MacKey, header: &Header, payload: &[u8]) -> Option<Icv> {
    if payload.len() > PAYLOAD_MAX as usize {
        return None;
    }
    let mut scratch = Scratch::new();
    scratch.begin(suite, key, header);
    let (first, rest) = payload.split_at(payload.len().min(FIRST_LEN as usize));
    let mut len = scratch.fill(HEADER_LEN, first);
    for piece in rest.chunks(BLOCK_LEN as usize) {
        scratch.absorb(suite);
        len = scratch.fill(0, piece);
    }
    Some(scratch.finish(suite, len))
}

/// Whether two ICVs are the same, in a time that does not depend on where they differ.
#[must_use]
#[inline(always)]
pub const fn equal(left: &Icv, right: &Icv) -> bool {
    let (&Icv([a0, a1, a2]), &Icv([b0, b1, b2])) = (left, right);
    (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) == 0
}

#[cfg(test)]
mod tests;
