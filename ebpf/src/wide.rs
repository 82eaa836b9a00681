//! Wide loads and stores on packets.
//!
//! Behind an Ethernet header nothing is aligned to four bytes. The kernel lets programs load and
//! store words there on every machine that can (all that Sigil runs on), but the compiler knows
//! nothing of it and would go byte by byte, eight instructions for one.

use core::arch::asm;

use sigil_common::wire::option::Words;

macro_rules! load {
    ($at:expr, $offset:literal) => {{
        let word: u64;
        // SAFETY: the caller vouches for the memory.
        unsafe {
            asm!(
                concat!("{word} = *(u32 *)({at} + ", $offset, ")"),
                word = out(reg) word,
                at = in(reg) $at,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word as u32
    }};
}

macro_rules! store {
    ($at:expr, $offset:literal, $word:expr) => {
        // SAFETY: the caller vouches for the memory.
        unsafe {
            asm!(
                concat!("*(u32 *)({at} + ", $offset, ") = {word}"),
                at = in(reg) $at,
                word = in(reg) u64::from($word),
                options(nostack, preserves_flags),
            );
        }
    };
}

/// Loads five words.
///
/// # Safety
/// 20 bytes at `at` are readable.
#[inline(always)]
pub(crate) unsafe fn load(at: *const Words) -> Words {
    [load!(at, 0), load!(at, 4), load!(at, 8), load!(at, 12), load!(at, 16)]
}

/// Loads one word.
///
/// # Safety
/// 4 bytes at `at` are readable.
#[inline(always)]
pub(crate) unsafe fn load_one(at: *const u32) -> u32 {
    load!(at, 0)
}

/// Stores five words.
///
/// # Safety
/// 20 bytes at `at` are writable.
#[inline(always)]
pub(crate) unsafe fn store(at: *mut Words, words: Words) {
    store!(at, 0, words[0]);
    store!(at, 4, words[1]);
    store!(at, 8, words[2]);
    store!(at, 12, words[3]);
    store!(at, 16, words[4]);
}
