//! Bounds that the verifier of Linux 6.1 can follow.
//!
//! It loses what it knows of a number where the compiler copies it before it compares, and the
//! compiler drops what would only say it again.

/// A length of 1 to 64, said in a way that every verifier understands.
#[inline(always)]
pub(crate) fn within_64(len: u32) -> u32 {
    let mut less = u64::from(len.wrapping_sub(1));
    // SAFETY: a bitwise and.
    unsafe { core::arch::asm!("{0} &= 63", inout(reg) less, options(pure, nomem, nostack)) };
    less as u32 + 1
}
