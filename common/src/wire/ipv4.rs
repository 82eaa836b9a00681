//! The IPv4 header (RFC 791): what the kernel programs read of it, its checksum, its options.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |Version|  IHL  |      TOS      |         total length          |   0
//! +-------+-------+---------------+-+-+-+-------------------------+
//! |              id               |0|D|M|    fragment offset      |   4
//! +---------------+---------------+-+-+-+-------------------------+
//! |      TTL      |   protocol    |           checksum            |   8
//! +---------------+---------------+-------------------------------+
//! |                        source address                         |  12
//! +---------------------------------------------------------------+
//! |                      destination address                      |  16
//! +---------------------------------------------------------------+
//! |                      options, 0..40 bytes                     |  20
//! +---------------------------------------------------------------+
//! ```

use super::option::{KIND, Words};
use crate::verdict::DropReason;

/// Bytes of a header without options.
pub const HEADER_LEN: u32 = 20;
/// Bytes of the options at most.
pub const OPTIONS_MAX: u32 = 40;
/// Bit DF of the fragment word.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Bit MF of the fragment word.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment word's offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// The fixed part of a header, as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Ipv4(pub Words);

impl Ipv4 {
    /// The header, if version and lengths can be, where `available` bytes follow its start. The
    /// checksum is not judged: the stack does that.
    ///
    /// # Errors
    /// [`DropReason::BadHeader`].
    #[inline(always)]
    pub const fn check(self, available: u32) -> Result<Self, DropReason> {
        let (header, total) = (self.header_len(), self.total_len() as u32);
        if self.version() != 4 || header < HEADER_LEN || total < header || total > available {
            return Err(DropReason::BadHeader);
        }
        Ok(self)
    }

    /// Version; 4.
    #[must_use]
    #[inline(always)]
    pub const fn version(self) -> u8 {
        self.0[0].to_ne_bytes()[0] >> 4
    }

    /// Bytes of header and options.
    #[must_use]
    #[inline(always)]
    pub const fn header_len(self) -> u32 {
        ((self.0[0].to_ne_bytes()[0] & 0x0f) as u32) << 2
    }

    /// Bytes of header, options and payload.
    #[must_use]
    #[inline(always)]
    pub const fn total_len(self) -> u16 {
        let [_, _, high, low] = self.0[0].to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Identification.
    #[must_use]
    #[inline(always)]
    pub const fn id(self) -> u16 {
        let [high, low, ..] = self.0[1].to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// DF, MF and the fragment offset.
    #[must_use]
    #[inline(always)]
    pub const fn fragment(self) -> u16 {
        let [_, _, high, low] = self.0[1].to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Whether the packet is a part of a datagram.
    #[must_use]
    #[inline(always)]
    pub const fn fragmented(self) -> bool {
        self.fragment() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Whether the packet has the transport header, being no fragment or the first.
    #[must_use]
    #[inline(always)]
    pub const fn first_fragment(self) -> bool {
        self.fragment() & OFFSET_MASK == 0
    }

    /// Protocol of the payload.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        self.0[2].to_ne_bytes()[1]
    }

    /// Header checksum.
    #[must_use]
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        let [_, _, high, low] = self.0[2].to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Source address, in host order.
    #[must_use]
    #[inline(always)]
    pub const fn source(self) -> u32 {
        u32::from_be(self.0[3])
    }

    /// Destination address, in host order.
    #[must_use]
    #[inline(always)]
    pub const fn target(self) -> u32 {
        u32::from_be(self.0[4])
    }
}

/// Adds 20 bytes, a header or half a label option, to a sum of ones' complement. The sum is in the
/// order of memory, which such sums carry through (RFC 1071, section 2B).
#[must_use]
#[inline(always)]
pub const fn sum(start: u64, words: Words) -> u64 {
    start
        .wrapping_add(words[0] as u64)
        .wrapping_add(words[1] as u64)
        .wrapping_add(words[2] as u64)
        .wrapping_add(words[3] as u64)
        .wrapping_add(words[4] as u64)
}

/// A sum below 2^48 in one word. The checksum to put into the packet is its inverse.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add((sum >> 16) & 0xffff).wrapping_add(sum >> 32);
    let sum = (sum & 0xffff).wrapping_add(sum >> 16);
    (sum & 0xffff).wrapping_add(sum >> 16) as u16
}

/// The checksum after the header's words `old` became `new` (RFC 1624, equation 3). All three in
/// one order, that of memory or the host's; sums of several words go through [`fold`].
#[must_use]
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum as u64).wrapping_add(!old as u64).wrapping_add(new as u64))
}

/// What an application's own IPv4 options hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// No label option.
    Clear,
    /// A label option that the application wrote itself.
    Foreign,
    /// Lengths that do not add up; a receiver might see anything in it.
    Malformed,
}

/// Reads options byte by byte, counting down to the next one rather than jumping to it: every offset
/// is then a constant to the verifier.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    state: u32,
}

const AT_KIND: u32 = 0;
const AT_LENGTH: u32 = 0x100;
const AT_END: u32 = 0x200;
const AT_FOREIGN: u32 = 0x300;
const AT_MALFORMED: u32 = 0x400;

impl Scanner {
    /// Before the first option.
    #[must_use]
    #[inline(always)]
    pub const fn new() -> Self {
        Self { state: AT_KIND }
    }

    /// Takes the next byte.
    #[inline(always)]
    pub const fn take(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (AT_KIND, KIND) => AT_FOREIGN,
            (AT_KIND, 0) => AT_END,
            (AT_KIND, 1) => AT_KIND,
            (AT_KIND, _) => AT_LENGTH,
            (AT_LENGTH, 0 | 1) => AT_MALFORMED,
            (AT_LENGTH, len) => len as u32 - 2,
            (last @ AT_END.., _) => last,
            (left, _) => left.wrapping_sub(1),
        };
    }

    /// What the bytes held.
    #[must_use]
    #[inline(always)]
    pub const fn end(self) -> Scan {
        match self.state {
            AT_KIND | AT_END => Scan::Clear,
            AT_FOREIGN => Scan::Foreign,
            _ => Scan::Malformed,
        }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Looks for an option 134 in the first `len` bytes (at most 40) of `options`.
#[must_use]
#[inline(always)]
pub fn scan_options(options: &[u8; OPTIONS_MAX as usize], len: u32) -> Scan {
    if len > OPTIONS_MAX {
        return Scan::Malformed;
    }
    let mut scanner = Scanner::new();
    for (byte, _) in options.iter().zip(0..len) {
        scanner.take(*byte);
    }
    scanner.end()
}

#[cfg(test)]
mod tests;
