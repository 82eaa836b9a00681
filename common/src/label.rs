//! The `<SnID, ScID>` pair.

use core::fmt;

/// The ScID of what the node's kernel sends by itself (RST, ICMP errors, echo replies) unless the
/// policy declares a zone named `kernel` with another id.
pub const KERNEL_SCID: u32 = u32::MAX;

/// What a packet carries: the node it comes from and the security context of its sender.
///
/// Both ids are 1..=2^32-1. An id of 0 means *unlabelled*; no wildcard ever grants it anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C, align(8))]
pub struct Label {
    /// Security node id.
    pub snid: u32,
    /// Security context id.
    pub scid: u32,
}

impl Label {
    /// Both halves as one word, for atomic storage; 0 is no label.
    #[must_use]
    pub const fn word(self) -> u64 {
        ((self.snid as u64) << 32) | self.scid as u64
    }

    /// The label that [`Label::word`] packed.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
    pub const fn from_word(word: u64) -> Self {
        Self { snid: (word >> 32) as u32, scid: word as u32 }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.snid, self.scid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_both_halves() {
        let label = Label { snid: 7, scid: u32::MAX };
        assert_eq!(Label::from_word(label.word()), label);
        assert_eq!(label.to_string(), "7:4294967295");
    }
}
