//! Read-modify-write of map values, which `core::sync::atomic` does not offer for BPF.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

/// Adds to a word and returns what it held.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn fetch_add(word: *mut u64, amount: u64) -> u64 {
    // SAFETY: by contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, amount) }
}

/// Puts `new` there, with a barrier before and after; what was there.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    // SAFETY: by contract.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(word, new) }
}

/// Puts `new` in place of `old`; whether `old` was there.
///
/// # Safety
/// `word` is an aligned word of a map value.
#[inline(always)]
pub(crate) unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: by contract.
    let (_, swapped) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    swapped
}
