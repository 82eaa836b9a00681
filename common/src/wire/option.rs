//! The label option: IPv4 option 134 (FIPS 188, CIPSO) with one free-form tag of type 7.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |  type, 0x86   | length, 20|40 |              DOI ..           |   0
//! +---------------+---------------+---------------+---------------+
//! |            .. DOI             |    tag, 7     | length, 14|34 |   4
//! +---------------+---------------+---------------+---------------+
//! |    TLV, 3     |   length, 6   |             ScID ..           |   8
//! +---------------+---------------+---------------+---------------+
//! |            .. ScID            |    TLV, 6     |   length, 6   |  12
//! +-------------------------------+---------------+---------------+
//! |                             SnID                              |  16
//! +---------------+---------------+---------------+-+-------------+
//! |    TLV, 7     |  length, 20   |    key id     |P|  segments   |  20
//! +---------------+---------------+---------------+-+-------------+
//! |                  sequence number, low 32 bits                 |  24
//! +---------------------------------------------------------------+
//! |                                                               |  28
//! +                              ICV                              +
//! |                                                               |  32
//! +                                                               +
//! |                                                               |  36
//! +---------------------------------------------------------------+
//! ```
//!
//! The first 20 bytes are [`LabelTag`], the other 20 [`AuthTag`]; a label-only option has no
//! second half. Both convert to and from five words in the order of memory ([`Words`]), because the
//! kernel reads and writes them as such: BPF has no unaligned loads, and bytes would go one by one.
//! [`LabelOption`] is the front for bytes of any length.

use core::fmt;

use crate::icv::Icv;
use crate::label::Label;
use crate::verdict::DropReason;

/// The option's type; its high bit has fragments carry it.
pub const KIND: u8 = 0x86;
/// Bytes of the option without authentication, and of each half of one with it.
pub const LABEL_LEN: usize = 20;
/// Bytes of the option with authentication; all the room an IPv4 header has.
pub const AUTH_LEN: usize = 40;

/// The domain of interpretation that DSI used, and the default.
pub const DEFAULT_DOI: [u8; 4] = [0x10, 0x00, 0x10, 0x00];

/// The most segments a super-frame may have.
pub const SEGMENTS_MAX: u32 = SEGMENTS_MASK as u32;

const FLAG_PAYLOAD: u8 = 0x80;
const SEGMENTS_MASK: u8 = 0x7f;

const TAG_KIND: u8 = 7;
const TLV_SCID: [u8; 2] = [3, 6];
const TLV_SNID: [u8; 2] = [6, 6];
const TLV_AUTH: [u8; 2] = [7, 20];

/// Half an option, as it stands in memory.
pub type Words = [u32; 5];

/// Why bytes are no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// The bytes end inside the option; how many there are.
    Truncated(u8),
    /// Bytes follow the option; its length.
    Trailing(u8),
    /// Not option 134.
    Kind,
    /// The option is neither 20 nor 40 bytes long.
    Length,
    /// The DOI is 0.
    Doi,
    /// Not a tag of type 7.
    TagKind,
    /// The tag's length does not fit the option's.
    TagLength,
    /// No `ScID` of 4 bytes where it belongs.
    ScidTlv,
    /// The `ScID` is 0.
    Scid,
    /// No `SnID` of 4 bytes where it belongs.
    SnidTlv,
    /// The `SnID` is 0.
    Snid,
    /// No authentication of 18 bytes where it belongs.
    AuthTlv,
    /// A super-frame of one segment.
    Segments,
}

impl OptionError {
    /// The offset of the first byte that is wrong.
    #[must_use]
    pub const fn offset(self) -> usize {
        match self {
            Self::Kind => 0,
            Self::Length => 1,
            Self::Doi => 2,
            Self::TagKind => 6,
            Self::TagLength => 7,
            Self::ScidTlv => 8,
            Self::Scid => 10,
            Self::SnidTlv => 14,
            Self::Snid => 16,
            Self::AuthTlv => 20,
            Self::Segments => 23,
            Self::Truncated(at) | Self::Trailing(at) => at as usize,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Kind => "the option type is not 134",
            Self::Length => "the option length is neither 20 nor 40",
            Self::Doi => "the DOI is 0",
            Self::TagKind => "the tag type is not 7",
            Self::TagLength => "the tag length does not fit the option",
            Self::ScidTlv => "expected a ScID, 03 06",
            Self::Scid => "the ScID is 0",
            Self::SnidTlv => "expected a SnID, 06 06",
            Self::Snid => "the SnID is 0",
            Self::AuthTlv => "expected an authentication, 07 14",
            Self::Segments => "a super-frame has 2 to 127 segments, not 1",
            Self::Truncated(_) => "the bytes end inside the option",
            Self::Trailing(_) => "bytes follow the option",
        }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (offset {})", self.text(), self.offset())
    }
}

impl core::error::Error for OptionError {}

impl From<OptionError> for DropReason {
    #[inline(always)]
    fn from(_: OptionError) -> Self {
        Self::BadOption
    }
}

/// The first half: who sent the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelTag {
    /// The option's length: 20, or 40 if an [`AuthTag`] follows.
    pub len: u8,
    /// Domain of interpretation; never 0.
    pub doi: [u8; 4],
    /// The label; neither id is 0.
    pub label: Label,
}

impl LabelTag {
    /// Reads the first half of an option.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    #[inline(always)]
    pub const fn parse(bytes: &[u8; LABEL_LEN]) -> Result<Self, OptionError> {
        Self::from_words(words(bytes))
    }

    /// [`LabelTag::parse`] for words.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    #[inline(always)]
    pub const fn from_words(words: Words) -> Result<Self, OptionError> {
        let [w0, w1, w2, w3, w4] = words;
        let [kind, len, i0, i1] = w0.to_ne_bytes();
        let [i2, i3, tag, tag_len] = w1.to_ne_bytes();
        let [t0, l0, c0, c1] = w2.to_ne_bytes();
        let [c2, c3, t1, l1] = w3.to_ne_bytes();
        let doi = [i0, i1, i2, i3];
        let label = Label { snid: u32::from_be(w4), scid: u32::from_be_bytes([c0, c1, c2, c3]) };
        if kind != KIND {
            return Err(OptionError::Kind);
        }
        if len as usize != LABEL_LEN && len as usize != AUTH_LEN {
            return Err(OptionError::Length);
        }
        if u32::from_ne_bytes(doi) == 0 {
            return Err(OptionError::Doi);
        }
        if tag != TAG_KIND {
            return Err(OptionError::TagKind);
        }
        if tag_len != len.wrapping_sub(6) {
            return Err(OptionError::TagLength);
        }
        if t0 != TLV_SCID[0] || l0 != TLV_SCID[1] {
            return Err(OptionError::ScidTlv);
        }
        if label.scid == 0 {
            return Err(OptionError::Scid);
        }
        if t1 != TLV_SNID[0] || l1 != TLV_SNID[1] {
            return Err(OptionError::SnidTlv);
        }
        if label.snid == 0 {
            return Err(OptionError::Snid);
        }
        Ok(Self { len, doi, label })
    }

    /// Whether an [`AuthTag`] follows.
    #[must_use]
    #[inline(always)]
    pub const fn authenticated(&self) -> bool {
        self.len as usize == AUTH_LEN
    }

    /// The first half of an option.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> Words {
        let [i0, i1, i2, i3] = self.doi;
        let [c0, c1, c2, c3] = self.label.scid.to_be_bytes();
        [
            u32::from_ne_bytes([KIND, self.len, i0, i1]),
            u32::from_ne_bytes([i2, i3, TAG_KIND, self.len.wrapping_sub(6)]),
            u32::from_ne_bytes([TLV_SCID[0], TLV_SCID[1], c0, c1]),
            u32::from_ne_bytes([c2, c3, TLV_SNID[0], TLV_SNID[1]]),
            self.label.snid.to_be(),
        ]
    }

    /// Writes the first half of an option.
    #[inline(always)]
    pub const fn emit(&self, to: &mut [u8; LABEL_LEN]) {
        *to = bytes(self.words());
    }
}

/// The flags of an [`AuthTag`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Flags(u8);

impl Flags {
    /// The flags of a packet whose payload is covered or not, and which is a super-frame of
    /// `segments` (2..=127, or 0 if it is none).
    #[must_use]
    #[inline(always)]
    pub const fn new(covered: bool, segments: u8) -> Self {
        Self((segments & SEGMENTS_MASK) | if covered { FLAG_PAYLOAD } else { 0 })
    }

    /// The flags as they stand in the option.
    #[must_use]
    #[inline(always)]
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// Whether the ICV covers the payload.
    #[must_use]
    #[inline(always)]
    pub const fn payload_covered(self) -> bool {
        self.0 & FLAG_PAYLOAD != 0
    }

    /// The super-frame's segments, or 0 if the packet is none.
    #[must_use]
    #[inline(always)]
    pub const fn segments(self) -> u8 {
        self.0 & SEGMENTS_MASK
    }
}

/// The second half: the proof of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthTag {
    /// Which epoch's key.
    pub key_id: u8,
    /// What the ICV covers.
    pub flags: Flags,
    /// Low half of the sequence number.
    pub seq_low: u32,
    /// The integrity check value.
    pub icv: Icv,
}

impl AuthTag {
    /// Reads the second half of an option.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    #[inline(always)]
    pub const fn parse(bytes: &[u8; LABEL_LEN]) -> Result<Self, OptionError> {
        Self::from_words(words(bytes))
    }

    /// [`AuthTag::parse`] for words.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    #[inline(always)]
    pub const fn from_words(words: Words) -> Result<Self, OptionError> {
        let [w0, seq, i0, i1, i2] = words;
        let [tlv, len, key_id, flags] = w0.to_ne_bytes();
        if tlv != TLV_AUTH[0] || len != TLV_AUTH[1] {
            return Err(OptionError::AuthTlv);
        }
        let flags = Flags(flags);
        if flags.segments() == 1 {
            return Err(OptionError::Segments);
        }
        Ok(Self { key_id, flags, seq_low: u32::from_be(seq), icv: Icv([i0, i1, i2]) })
    }

    /// The second half of an option.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> Words {
        let Icv([i0, i1, i2]) = self.icv;
        let lead = [TLV_AUTH[0], TLV_AUTH[1], self.key_id, self.flags.0];
        [u32::from_ne_bytes(lead), self.seq_low.to_be(), i0, i1, i2]
    }

    /// Writes the second half of an option.
    #[inline(always)]
    pub const fn emit(&self, to: &mut [u8; LABEL_LEN]) {
        *to = bytes(self.words());
    }
}

/// A whole option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelOption {
    /// Who sent the packet.
    pub tag: LabelTag,
    /// The proof, unless the option is label-only.
    pub auth: Option<AuthTag>,
}

impl LabelOption {
    /// Reads an option that fills `bytes` exactly.
    ///
    /// # Errors
    /// Names the first field that is wrong, and so its offset.
    pub fn parse(bytes: &[u8]) -> Result<Self, OptionError> {
        let (first, rest) = bytes.split_first_chunk().ok_or(truncated(bytes))?;
        let tag = LabelTag::parse(first)?;
        let (auth, rest) = if tag.authenticated() {
            let (second, rest) = rest.split_first_chunk().ok_or(truncated(bytes))?;
            (Some(AuthTag::parse(second)?), rest)
        } else {
            (None, rest)
        };
        if rest.is_empty() { Ok(Self { tag, auth }) } else { Err(OptionError::Trailing(tag.len)) }
    }
}

/// A wrong type or length is worth more to the reader than the missing rest.
fn truncated(bytes: &[u8]) -> OptionError {
    match bytes {
        [kind, ..] if *kind != KIND => OptionError::Kind,
        [_, len, ..] if !matches!(*len as usize, LABEL_LEN | AUTH_LEN) => OptionError::Length,
        _ => OptionError::Truncated(u8::try_from(bytes.len()).unwrap_or(u8::MAX)),
    }
}

#[inline(always)]
const fn words(bytes: &[u8; LABEL_LEN]) -> Words {
    let &[a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, e0, e1, e2, e3] = bytes;
    [
        u32::from_ne_bytes([a0, a1, a2, a3]),
        u32::from_ne_bytes([b0, b1, b2, b3]),
        u32::from_ne_bytes([c0, c1, c2, c3]),
        u32::from_ne_bytes([d0, d1, d2, d3]),
        u32::from_ne_bytes([e0, e1, e2, e3]),
    ]
}

#[inline(always)]
const fn bytes(words: Words) -> [u8; LABEL_LEN] {
    let [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3], [e0, e1, e2, e3]] = [
        words[0].to_ne_bytes(),
        words[1].to_ne_bytes(),
        words[2].to_ne_bytes(),
        words[3].to_ne_bytes(),
        words[4].to_ne_bytes(),
    ];
    [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, e0, e1, e2, e3]
}

#[cfg(test)]
mod tests;
