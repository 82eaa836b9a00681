//! The fixed part of what an ICV covers.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+---------------+---------------+
//! |    domain     |    key id     |     flags     |   protocol    |   0
//! +---------------+---------------+---------------+---------------+
//! |                             SnID                              |   4
//! +---------------------------------------------------------------+
//! |                             ScID                              |   8
//! +---------------------------------------------------------------+
//! |                                                               |  12
//! +                       sequence number                         +
//! |                                                               |  16
//! +---------------------------------------------------------------+
//! |                        source address                         |  20
//! +---------------------------------------------------------------+
//! |                      destination address                      |  24
//! +-------------------------------+-------------------------------+
//! |         total length          |             IP id             |  28
//! +---+-+-------------------------+-------------------------------+
//! |0 0|M|    fragment offset      |               0               |  32
//! +---+-+-------------------------+-------------------------------+
//! |            first 4 bytes of the transport header              |  36
//! +---------------------------------------------------------------+
//! ```
//!
//! All fields are big endian. The lengths are those of the packet on the wire, label included; DF
//! is left out because routers may clear it.

use crate::label::Label;

/// Bytes of a [`Header`].
pub const HEADER_LEN: u32 = 40;

/// The first byte of every message, so that no other use of a pair key can yield a packet's ICV.
pub const DOMAIN: u8 = 0x53;

/// What of the fragment word is covered: the offset and MF.
const FRAGMENT_MASK: u16 = 0x3fff;

/// The facts an ICV binds together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcvInput {
    /// Which epoch's key.
    pub key_id: u8,
    /// The flags of the authentication tag.
    pub flags: u8,
    /// The IPv4 protocol.
    pub protocol: u8,
    /// The sender's label.
    pub label: Label,
    /// The whole sequence number, of which the packet carries the low half. Of a super-frame, the
    /// first.
    pub seq: u64,
    /// Source address as a number in host order.
    pub source: u32,
    /// Destination address as a number in host order.
    pub destination: u32,
    /// IPv4 total length; 0 in a super-frame, whose segments differ in it.
    pub total_len: u16,
    /// IPv4 identification; 0 in a super-frame.
    pub id: u16,
    /// The fragment word; all but offset and MF is ignored.
    pub fragment: u16,
    /// The first 4 bytes of the transport header as a number; 0 where there are fewer, or in a
    /// fragment that is not the first.
    pub transport: u32,
}

impl IcvInput {
    /// The bytes to authenticate.
    #[must_use]
    #[inline(always)]
    pub const fn header(&self) -> Header {
        let lead = u32::from_be_bytes([DOMAIN, self.key_id, self.flags, self.protocol]);
        let lengths = pair16(self.total_len, self.id);
        let fragment = pair16(self.fragment & FRAGMENT_MASK, 0);
        let [seq_high, seq_low] = halves(self.seq);
        Header([
            pair32(lead, self.label.snid),
            pair32(self.label.scid, seq_high),
            pair32(seq_low, self.source),
            pair32(self.destination, lengths),
            pair32(fragment, self.transport),
        ])
    }
}

/// 40 bytes of message as five words in the order of memory, so that neither building nor reading
/// them goes byte by byte: BPF has no unaligned loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Header(pub(super) [u64; 5]);

impl Header {
    /// The header with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN as usize]) -> Self {
        let mut words = [0; 5];
        for (word, piece) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*piece);
        }
        Self(words)
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN as usize] {
        let mut bytes = [0; HEADER_LEN as usize];
        for (piece, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *piece = word.to_ne_bytes();
        }
        bytes
    }
}

/// A checksum that the ICV reads as 0 when it covers the payload: a packet of the local host
/// reaches egress with the field half computed (`CHECKSUM_PARTIAL`).
///
/// All three lie in the first block of a message, which holds the first 24 bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChecksumField {
    /// None that an interface card computes.
    None = 0,
    /// Bytes 16 and 17.
    Tcp = 1,
    /// Bytes 6 and 7.
    Udp = 2,
    /// Bytes 8 to 11.
    Sctp = 3,
}

impl ChecksumField {
    /// The field in the payload of an IPv4 packet with this protocol and fragment word.
    #[must_use]
    #[inline(always)]
    pub const fn of(protocol: u8, fragment: u16) -> Self {
        match (fragment & 0x1fff, protocol) {
            (0, 6) => Self::Tcp,
            (0, 17) => Self::Udp,
            (0, 132) => Self::Sctp,
            _ => Self::None,
        }
    }

    /// The bits of the first block's words 5, 6 and 7 (bytes 0 to 23 of the payload) that stay.
    #[inline(always)]
    pub(super) const fn keep(self) -> [u64; 3] {
        let cut: [u64; 3] = match self {
            Self::None => [0, 0, 0],
            Self::Tcp => [0, 0, 0xffff],
            Self::Udp => [0xffff << 48, 0, 0],
            Self::Sctp => [0, 0xffff_ffff, 0],
        };
        [!cut[0].to_le(), !cut[1].to_le(), !cut[2].to_le()]
    }
}

impl From<u8> for ChecksumField {
    #[inline(always)]
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Sctp,
            _ => Self::None,
        }
    }
}

#[inline(always)]
const fn pair32(first: u32, second: u32) -> u64 {
    (((first as u64) << 32) | second as u64).to_be()
}

#[inline(always)]
const fn pair16(first: u16, second: u16) -> u32 {
    ((first as u32) << 16) | second as u32
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
const fn halves(word: u64) -> [u32; 2] {
    [(word >> 32) as u32, word as u32]
}
