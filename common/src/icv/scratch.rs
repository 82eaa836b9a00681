//! A message of any length, taken in blocks of 64 bytes.
//!
//! ```text
//! block 0    header, 40 bytes | payload 0..24
//! block 1    payload 24..88
//! block 2    payload 88..152  …
//! ```
//!
//! All suites have blocks that divide 64, so nothing is ever buffered. The caller fills
//! [`Scratch::block`] in place, calls [`Scratch::absorb`] for every block but the last, and
//! [`Scratch::finish`] for the last.

use core::hint::black_box;

use super::sha256::Schedule;
use super::{ChecksumField, HEADER_LEN, Header, Icv, MacKey, Suite, blake3, hmac, siphash};

/// Bytes of a block.
pub const BLOCK_LEN: u32 = 64;

/// Payload bytes in block 0, behind the header.
pub const FIRST_LEN: u32 = BLOCK_LEN - HEADER_LEN;

/// The longest payload that an ICV covers; above every MTU in use.
pub const PAYLOAD_MAX: u32 = 16_384;

/// Blocks of a message with a payload of `len` bytes.
#[must_use]
#[inline(always)]
pub const fn blocks(len: u32) -> u32 {
    len.wrapping_add(HEADER_LEN + BLOCK_LEN - 1) / BLOCK_LEN
}

/// Depth of BLAKE3's stack of chaining values: the bits of the number of whole chunks.
pub(super) const LEVELS: usize = 5;

const _: () = assert!((HEADER_LEN + PAYLOAD_MAX - 1) / blake3::CHUNK_LEN < 1 << LEVELS);

/// Working memory for one message. In the kernel it is a per-CPU map value; it starts as zeroes and
/// [`Scratch::begin`] resets it.
#[repr(C)]
pub struct Scratch {
    /// The current block in the order of memory. Bytes behind the message's end are 0.
    pub block: [u64; 8],
    pub(super) key: MacKey,
    pub(super) sip: [u64; 4],
    /// The state of SHA-256, or the chaining value of BLAKE3.
    pub(super) chain: [u32; 8],
    /// The working words of a compression.
    pub(super) words: [u32; 16],
    /// SHA-256's message schedule.
    pub(super) schedule: Schedule,
    pub(super) stack: [[u64; 4]; LEVELS],
    /// Blocks absorbed so far.
    pub(super) absorbed: u64,
}

const _: () = assert!(size_of::<Scratch>() == 680);

impl Scratch {
    /// Empty working memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            block: [0; 8],
            key: MacKey::ZERO,
            sip: [0; 4],
            chain: [0; 8],
            words: [0; 16],
            schedule: [[0; 16]; 4],
            stack: [[0; 4]; LEVELS],
            absorbed: 0,
        }
    }

    /// Starts a message: puts the header into the block, with no payload behind it yet.
    #[inline(always)]
    pub fn begin(&mut self, suite: Suite, key: &MacKey, header: &Header) {
        self.set(header);
        self.key = *key;
        self.absorbed = 0;
        match suite {
            Suite::HmacSha256 => hmac::begin(self),
            Suite::Blake3 => {}
            Suite::SipHash24 => siphash::begin(self),
        }
    }

    /// Reads the payload's checksum field as 0; only for block 0.
    #[inline(always)]
    pub fn clear(&mut self, field: ChecksumField) {
        let keep = field.keep();
        self.block[5] &= keep[0];
        self.block[6] &= keep[1];
        self.block[7] &= keep[2];
    }

    /// Takes the block, which is full and not the message's last.
    #[inline(always)]
    pub fn absorb(&mut self, suite: Suite) {
        match suite {
            Suite::HmacSha256 => hmac::absorb(self),
            Suite::Blake3 => blake3::absorb(self),
            Suite::SipHash24 => siphash::absorb(self),
        }
        self.absorbed = self.absorbed.wrapping_add(1);
    }

    /// Takes the message's last block, of which `len` bytes (1..=64) are in use.
    #[must_use]
    #[inline(always)]
    pub fn finish(&mut self, suite: Suite, len: u32) -> Icv {
        match suite {
            Suite::HmacSha256 => hmac::finish(self, len),
            Suite::Blake3 => blake3::finish(self, len),
            Suite::SipHash24 => siphash::finish(self, len),
        }
    }

    /// Zeroes the block.
    ///
    /// To the compiler the 0 is no constant, or it would call `memset`, which on BPF goes byte by
    /// byte.
    #[inline(always)]
    pub fn wipe(&mut self) {
        self.block = [black_box(0); 8];
    }

    /// A block of nothing but the header.
    #[inline(always)]
    pub(super) fn set(&mut self, header: &Header) {
        let [h0, h1, h2, h3, h4] = header.0;
        let zero = black_box(0);
        self.block = [h0, h1, h2, h3, h4, zero, zero, zero];
    }

    /// The message's length in bytes once the last block, of `len` bytes, is taken.
    #[inline(always)]
    pub(super) const fn total(&self, len: u32) -> u64 {
        self.absorbed.wrapping_mul(BLOCK_LEN as u64).wrapping_add(len as u64)
    }

    /// Puts `piece` into the block at byte `at`, and zeroes behind it. Returns the bytes in use.
    pub(super) fn fill(&mut self, at: u32, piece: &[u8]) -> u32 {
        let mut bytes = [0; BLOCK_LEN as usize];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.block) {
            *to = word.to_ne_bytes();
        }
        let fresh = piece.iter().copied().chain(core::iter::repeat(0));
        for (to, byte) in bytes.iter_mut().skip(at as usize).zip(fresh) {
            *to = byte;
        }
        for (word, from) in self.block.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*from);
        }
        u32::try_from(piece.len()).unwrap_or(BLOCK_LEN).saturating_add(at).min(BLOCK_LEN)
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
