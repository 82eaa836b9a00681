//! HMAC-SHA-256 (RFC 2104) with both pad blocks compressed ahead of time.

use core::hint::black_box;

use super::key::{join4, split, split4};
use super::scratch::{BLOCK_LEN, Scratch};
use super::{HEADER_LEN, Header, Icv, KEY_LEN, MacKey, sha256};

/// The states after the inner and the outer pad. Leaves no key behind on the stack.
pub(super) fn prepare(key: &[u8; KEY_LEN]) -> [u64; 8] {
    let [i0, i1, i2, i3] = padded(key, 0x36);
    let [o0, o1, o2, o3] = padded(key, 0x5c);
    [i0, i1, i2, i3, o0, o1, o2, o3]
}

fn padded(key: &[u8; KEY_LEN], pad: u8) -> [u64; 4] {
    let mut scratch = Scratch::new();
    scratch.chain = sha256::IV;
    scratch.schedule[0] = [u32::from_ne_bytes([pad; 4]); 16];
    for (word, piece) in scratch.schedule[0].iter_mut().zip(key.as_chunks().0) {
        *word ^= u32::from_be_bytes(*piece);
    }
    sha256::compress(&mut scratch);
    let state = join4(scratch.chain);
    scratch = Scratch::new();
    black_box(&scratch);
    state
}

#[inline(always)]
fn inner(key: &MacKey) -> [u32; 8] {
    split4([key.0[0], key.0[1], key.0[2], key.0[3]])
}

#[inline(always)]
fn outer(key: &MacKey) -> [u32; 8] {
    split4([key.0[4], key.0[5], key.0[6], key.0[7]])
}

/// Bytes hashed before the message: the pad block.
const PAD_LEN: u64 = BLOCK_LEN as u64;

#[inline(always)]
pub(super) fn of_header(key: &MacKey, header: &Header, scratch: &mut Scratch) -> Icv {
    scratch.set(header);
    scratch.block[5] = (0x80_u64 << 56).to_be();
    scratch.block[7] = ((PAD_LEN + u64::from(HEADER_LEN)) * 8).to_be();
    scratch.chain = inner(key);
    compress(scratch);
    close(scratch, outer(key))
}

#[inline(always)]
pub(super) fn begin(scratch: &mut Scratch) {
    scratch.chain = inner(&scratch.key);
}

#[inline(always)]
pub(super) fn absorb(scratch: &mut Scratch) {
    compress(scratch);
}

/// The padding is a one bit behind the message and its length in the block's last word, for which a
/// last block of over 55 bytes has no room.
#[inline(always)]
pub(super) fn finish(scratch: &mut Scratch, len: u32) -> Icv {
    let bits = PAD_LEN.wrapping_add(scratch.total(len)).wrapping_mul(8).to_be();
    let mut left = len;
    let mut end = 0x80_u64 << 56;
    for word in &mut scratch.block {
        if left < 8 {
            *word |= (end >> (left * 8)).to_be();
            end = 0;
            break;
        }
        left = left.wrapping_sub(8);
    }
    if len > 55 {
        compress(scratch);
        scratch.wipe();
        scratch.block[0] = end.to_be();
    }
    scratch.block[7] = bits;
    compress(scratch);
    close(scratch, outer(&scratch.key))
}

/// The outer hash, over the inner one.
#[inline(always)]
fn close(scratch: &mut Scratch, outer: [u32; 8]) -> Icv {
    const BITS: u32 = (BLOCK_LEN + 32) * 8;
    let [h0, h1, h2, h3, h4, h5, h6, h7] = scratch.chain;
    let zero = black_box(0);
    scratch.schedule[0] =
        [h0, h1, h2, h3, h4, h5, h6, h7, 1 << 31, zero, zero, zero, zero, zero, zero, BITS];
    scratch.chain = outer;
    sha256::compress(scratch);
    let [first, second, third, ..] = scratch.chain;
    Icv([first.to_be(), second.to_be(), third.to_be()])
}

#[inline(always)]
fn compress(scratch: &mut Scratch) {
    for (pair, word) in scratch.schedule[0].as_chunks_mut().0.iter_mut().zip(&scratch.block) {
        let [low, high] = split(u64::from_be(*word));
        *pair = [high, low];
    }
    sha256::compress(scratch);
}
