//! Key material in the form in which the kernel uses it.

use core::fmt;

use super::{Suite, hmac};

/// Bytes of a pair key.
pub const KEY_LEN: usize = 32;

/// A pair key, prepared for one suite so that a packet pays for nothing that depends on the key
/// alone.
///
/// | suite | contents |
/// | --- | --- |
/// | HMAC-SHA-256 | the states after the inner and after the outer pad, 8 words of 32 bits each |
/// | BLAKE3 | the key's 8 words of 32 bits |
/// | SipHash | k0 and k1, from the first 16 bytes of the key |
///
/// The rest is 0. It is `Copy` because it is a map value; whoever holds one in user space wipes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MacKey(pub(super) [u64; 8]);

const _: () = assert!(size_of::<MacKey>() == 64);

impl MacKey {
    /// No key at all; what an empty slot of a map holds.
    pub const ZERO: Self = Self([0; 8]);

    /// Prepares a pair key.
    #[must_use]
    pub fn prepare(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        let mut words = [0; 8];
        let pieces = match suite {
            Suite::HmacSha256 => return Self(hmac::prepare(key)),
            Suite::Blake3 => 4,
            Suite::SipHash24 => 2,
        };
        for (word, piece) in words.iter_mut().zip(key.as_chunks().0).take(pieces) {
            *word = u64::from_le_bytes(*piece);
        }
        Self(words)
    }
}

impl Default for MacKey {
    fn default() -> Self {
        Self::ZERO
    }
}

impl MacKey {
    /// Whether both hold the same key, in a time that does not depend on where they differ.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey([redacted])")
    }
}

/// The two halves of a word, the low one first.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
pub(super) const fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Undoes [`split`].
#[inline(always)]
pub(super) const fn join(low: u32, high: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// Four words as eight.
#[inline(always)]
pub(super) const fn split4(words: [u64; 4]) -> [u32; 8] {
    let [w0, w1] = split(words[0]);
    let [w2, w3] = split(words[1]);
    let [w4, w5] = split(words[2]);
    let [w6, w7] = split(words[3]);
    [w0, w1, w2, w3, w4, w5, w6, w7]
}

/// Undoes [`split4`].
#[inline(always)]
pub(super) const fn join4(words: [u32; 8]) -> [u64; 4] {
    let [w0, w1, w2, w3, w4, w5, w6, w7] = words;
    [join(w0, w1), join(w2, w3), join(w4, w5), join(w6, w7)]
}
