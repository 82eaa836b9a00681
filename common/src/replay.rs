//! The anti-replay window of one source under one key.
//!
//! Sequence numbers have 64 bits, of which packets carry the low 32. The window is a ring of
//! 64-bit words; each remembers 32 consecutive numbers:
//!
//! ```text
//! sequence number   63            13 12       5 4     0
//!                  |      lap       |   slot   |  bit  |
//!
//! word of a slot    63            32 31               0
//!                  |      lap       |      bits        |
//! ```
//!
//! A word belongs to the newest lap seen in its slot. It changes only by compare-and-swap and its
//! lap never falls, so that whatever CPUs race, each number is accepted at most once; no lock, and
//! no state besides. `top`, the newest number seen, only guides [`infer`]: it may lag.
//!
//! The order is check, ICV, mark: nothing is marked for a packet that does not verify.
#![expect(clippy::inline_always, reason = "the kernel's hot path, where a call costs 10 ns")]

use crate::verdict::DropReason;

/// Numbers the window remembers.
pub const WINDOW: u64 = 8192;
/// Numbers in a word.
pub const PER_WORD: u64 = 32;
/// Words of the window.
pub const WORDS: usize = (WINDOW / PER_WORD) as usize;
/// Numbers from here on are never sent or accepted, so that a lap fits its half of a word with room
/// to spare. At ten million packets a second they last three weeks; epochs are shorter.
pub const SEQ_LIMIT: u64 = 1 << 44;
/// The most numbers a packet takes: the segments of a super-frame.
pub const SPAN_MAX: u64 = 127;
/// Words that [`SPAN_MAX`] numbers touch at most.
pub const SPAN_WORDS: u64 = (SPAN_MAX + PER_WORD - 2) / PER_WORD + 1;
/// Attempts at one word. Each failure means that another CPU succeeded in the same 32 numbers.
pub const ATTEMPTS: usize = 8;

const _: () = assert!(WORDS.is_power_of_two() && SEQ_LIMIT / WINDOW <= 1 << 32);

/// The whole sequence number behind its low half: the least one with this low half that is not
/// below the window (RFC 4303, appendix A2).
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub const fn infer(top: u64, low: u32, window: u64) -> u64 {
    let bottom = top.saturating_sub(window.wrapping_sub(1));
    bottom.wrapping_add(low.wrapping_sub(bottom as u32) as u64)
}

/// Where a number is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index of the word, below [`WORDS`].
    pub index: u32,
    /// The number's lap.
    pub lap: u32,
    /// The number's bit.
    pub mask: u32,
}

/// Where `seq`, below [`SEQ_LIMIT`], is remembered.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "SEQ_LIMIT bounds the lap, masks the rest")]
pub const fn slot(seq: u64) -> Slot {
    Slot {
        index: ((seq / PER_WORD) % WORDS as u64) as u32,
        lap: (seq / WINDOW) as u32,
        mask: 1 << (seq % PER_WORD),
    }
}

/// What a word says about numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// None was seen; the word that remembers them all.
    Fresh(u64),
    /// One was seen before.
    Replay,
    /// The slot has gone on to a later lap.
    TooOld,
}

/// Judges the numbers of `mask` in the slot's lap by its word.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the word")]
pub const fn judge(word: u64, lap: u32, mask: u32) -> Judgement {
    let (held, bits) = ((word >> 32) as u32, word as u32);
    if held > lap {
        return Judgement::TooOld;
    }
    if held < lap {
        return Judgement::Fresh(((lap as u64) << 32) | mask as u64);
    }
    if bits & mask != 0 {
        return Judgement::Replay;
    }
    Judgement::Fresh(word | mask as u64)
}

/// The words of a window: a map value in the kernel, an array in user space.
pub trait Ring {
    /// The word at an index below [`WORDS`].
    fn load(&self, index: u32) -> u64;

    /// Puts `new` at `index` if `old` is there; whether it was.
    fn swap(&self, index: u32, old: u64, new: u64) -> bool;
}

/// A window over its words.
#[derive(Clone, Copy, Debug)]
pub struct Window<R>(pub R);

impl<R: Ring> Window<R> {
    /// Whether a number is fresh; takes nothing.
    ///
    /// # Errors
    /// `Replay`, `ReplayTooOld`, `KeyExhausted` from [`SEQ_LIMIT`] on.
    #[inline(always)]
    pub fn check(&self, seq: u64) -> Result<(), DropReason> {
        let Slot { index, lap, mask } = within(seq)?;
        self.fresh(index, lap, mask)
    }

    /// Takes a number for good. Of packets with the same number at most one succeeds.
    ///
    /// # Errors
    /// As [`Window::check`]; `Replay` also if other CPUs won [`ATTEMPTS`] times in a row.
    #[inline(always)]
    pub fn mark(&self, seq: u64) -> Result<(), DropReason> {
        let Slot { index, lap, mask } = within(seq)?;
        self.take(index, lap, mask)
    }

    /// [`Window::check`] for each of the `count` numbers from `seq` on.
    ///
    /// # Errors
    /// As [`Window::check`]; `BadSegment` if `count` is 0 or above [`SPAN_MAX`].
    #[inline(always)]
    pub fn check_span(&self, seq: u64, count: u64) -> Result<(), DropReason> {
        each(seq, count, |index, lap, mask| self.fresh(index, lap, mask))
    }

    /// [`Window::mark`] for each of the `count` numbers from `seq` on, even if one of them turns out
    /// taken.
    ///
    /// # Errors
    /// As [`Window::mark`] and [`Window::check_span`].
    #[inline(always)]
    pub fn mark_span(&self, seq: u64, count: u64) -> Result<(), DropReason> {
        each(seq, count, |index, lap, mask| self.take(index, lap, mask))
    }

    #[inline(always)]
    fn fresh(&self, index: u32, lap: u32, mask: u32) -> Result<(), DropReason> {
        fresh(judge(self.0.load(index), lap, mask)).map(drop)
    }

    #[inline(always)]
    fn take(&self, index: u32, lap: u32, mask: u32) -> Result<(), DropReason> {
        for _ in 0..ATTEMPTS {
            let word = self.0.load(index);
            if self.0.swap(index, word, fresh(judge(word, lap, mask))?) {
                return Ok(());
            }
        }
        Err(DropReason::Replay)
    }
}

/// Where a number is remembered, if it may be used at all.
#[inline(always)]
const fn within(seq: u64) -> Result<Slot, DropReason> {
    if seq >= SEQ_LIMIT - SPAN_MAX { Err(DropReason::KeyExhausted) } else { Ok(slot(seq)) }
}

/// Calls `visit` with the index, lap and mask of each word that the numbers touch, in order.
#[inline(always)]
fn each(
    seq: u64,
    count: u64,
    visit: impl Fn(u32, u32, u32) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    if count == 0 || count > SPAN_MAX {
        return Err(DropReason::BadSegment);
    }
    within(seq)?;
    let (mut seq, mut left) = (seq, count);
    for _ in 0..SPAN_WORDS {
        let Slot { index, lap, .. } = slot(seq);
        let taken = left.min(PER_WORD.wrapping_sub(seq % PER_WORD));
        visit(index, lap, run(seq % PER_WORD, taken))?;
        seq = seq.wrapping_add(taken);
        left = left.wrapping_sub(taken);
        if left == 0 {
            break;
        }
    }
    Ok(())
}

#[inline(always)]
const fn fresh(judgement: Judgement) -> Result<u64, DropReason> {
    match judgement {
        Judgement::Fresh(next) => Ok(next),
        Judgement::Replay => Err(DropReason::Replay),
        Judgement::TooOld => Err(DropReason::ReplayTooOld),
    }
}

/// `len` (1..=32) bits from bit `from` on.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "from + len is at most 32")]
const fn run(from: u64, len: u64) -> u32 {
    (((1_u64 << len).wrapping_sub(1)) << from) as u32
}

/// In user space the ring is an array. The BPF target has compare-and-swap only as an intrinsic,
/// which the kernel side wraps.
#[cfg(target_has_atomic = "64")]
impl Ring for &[core::sync::atomic::AtomicU64; WORDS] {
    fn load(&self, index: u32) -> u64 {
        use core::sync::atomic::Ordering::Acquire;
        self.get(index as usize).map_or(u64::MAX, |word| word.load(Acquire))
    }

    fn swap(&self, index: u32, old: u64, new: u64) -> bool {
        use core::sync::atomic::Ordering::{AcqRel, Acquire};
        self.get(index as usize)
            .is_some_and(|word| word.compare_exchange(old, new, AcqRel, Acquire).is_ok())
    }
}

#[cfg(test)]
mod tests;
