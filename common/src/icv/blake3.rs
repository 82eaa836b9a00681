//! Keyed BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020), the tree above chunks included.

use core::hint::black_box;

use super::key::{join4, split, split4};
use super::scratch::{BLOCK_LEN, Scratch};
use super::{HEADER_LEN, Header, Icv, MacKey};

/// Bytes of a chunk, the leaf of BLAKE3's tree.
pub(super) const CHUNK_LEN: u32 = 1024;

const CHUNK_BLOCKS: u64 = (CHUNK_LEN / BLOCK_LEN) as u64;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;
const KEYED: u32 = 16;

/// The fractional bits of SHA-256's first four constants.
const IV: [u32; 4] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a];

macro_rules! mix {
    ($v:ident $a:literal $b:literal $c:literal $d:literal, $m:ident $x:literal $y:literal) => {
        let (mut a, mut b, mut c, mut d) = ($v[$a], $v[$b], $v[$c], $v[$d]);
        a = a.wrapping_add(b).wrapping_add(split(u64::from_le($m[$x / 2]))[$x % 2]);
        d = (d ^ a).rotate_right(16);
        c = c.wrapping_add(d);
        b = (b ^ c).rotate_right(12);
        a = a.wrapping_add(b).wrapping_add(split(u64::from_le($m[$y / 2]))[$y % 2]);
        d = (d ^ a).rotate_right(8);
        c = c.wrapping_add(d);
        b = (b ^ c).rotate_right(7);
        ($v[$a], $v[$b], $v[$c], $v[$d]) = (a, b, c, d);
    };
}

/// One round, the columns and then the diagonals, with the message's words in their order for it.
///
/// `black_box` has either half read the words from memory again: left to itself, the compiler moves
/// them to the stack.
macro_rules! round {
    ($scratch:ident:
        $x0:literal $y0:literal $x1:literal $y1:literal $x2:literal $y2:literal $x3:literal $y3:literal
        $x4:literal $y4:literal $x5:literal $y5:literal $x6:literal $y6:literal $x7:literal $y7:literal) => {
        let Scratch { words: v, block: m, .. } = black_box(&mut *$scratch);
        mix!(v 0 4 8 12, m $x0 $y0);
        mix!(v 1 5 9 13, m $x1 $y1);
        mix!(v 2 6 10 14, m $x2 $y2);
        mix!(v 3 7 11 15, m $x3 $y3);
        let Scratch { words: v, block: m, .. } = black_box(&mut *$scratch);
        mix!(v 0 5 10 15, m $x4 $y4);
        mix!(v 1 6 11 12, m $x5 $y5);
        mix!(v 2 7 8 13, m $x6 $y6);
        mix!(v 3 4 9 14, m $x7 $y7);
    };
}

/// Takes the block, of `len` bytes, into the chaining value.
#[inline(never)]
fn compress(scratch: &mut Scratch, counter: u32, len: u32, flags: u32) {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = scratch.chain;
    let [i0, i1, i2, i3] = IV;
    scratch.words = [c0, c1, c2, c3, c4, c5, c6, c7, i0, i1, i2, i3, counter, 0, len, flags];
    round!(scratch: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    round!(scratch: 2 6 3 10 7 0 4 13 1 11 12 5 9 14 15 8);
    round!(scratch: 3 4 10 12 13 2 7 14 6 5 9 0 11 15 8 1);
    round!(scratch: 10 7 12 9 14 3 13 15 4 0 11 2 5 8 1 6);
    round!(scratch: 12 13 9 11 15 10 14 8 7 2 5 3 0 1 6 4);
    round!(scratch: 9 14 11 5 8 12 15 1 13 3 0 10 2 6 4 7);
    round!(scratch: 11 15 5 0 1 9 8 6 14 10 2 12 3 4 7 13);
    let [l0, l1, l2, l3, l4, l5, l6, l7, h0, h1, h2, h3, h4, h5, h6, h7] = scratch.words;
    scratch.chain = [l0 ^ h0, l1 ^ h1, l2 ^ h2, l3 ^ h3, l4 ^ h4, l5 ^ h5, l6 ^ h6, l7 ^ h7];
}

#[inline(always)]
fn key_words(key: &MacKey) -> [u32; 8] {
    split4([key.0[0], key.0[1], key.0[2], key.0[3]])
}

#[inline(always)]
const fn icv(chain: &[u32; 8]) -> Icv {
    Icv([chain[0].to_le(), chain[1].to_le(), chain[2].to_le()])
}

#[inline(always)]
pub(super) fn of_header(key: &MacKey, header: &Header, scratch: &mut Scratch) -> Icv {
    scratch.set(header);
    scratch.chain = key_words(key);
    let flags = KEYED | CHUNK_START | CHUNK_END | ROOT;
    compress(scratch, 0, HEADER_LEN, flags);
    icv(&scratch.chain)
}

/// Takes the block at its place in its chunk. `end` is `CHUNK_END`, with `ROOT` if it is one.
#[inline(always)]
fn take(scratch: &mut Scratch, len: u32, end: u32) {
    let mut flags = KEYED | end;
    if scratch.absorbed.is_multiple_of(CHUNK_BLOCKS) {
        flags |= CHUNK_START;
        scratch.chain = key_words(&scratch.key);
    }
    compress(scratch, chunks(scratch.absorbed), len, flags);
}

/// Whole chunks so far.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "PAYLOAD_MAX keeps it below 2^LEVELS")]
const fn chunks(absorbed: u64) -> u32 {
    (absorbed / CHUNK_BLOCKS) as u32
}

/// Joins a subtree on the left with the one in `chain` under a parent node.
#[inline(always)]
fn parent(scratch: &mut Scratch, left: [u64; 4], root: u32) {
    let [l0, l1, l2, l3] = left.map(u64::to_le);
    let [r0, r1, r2, r3] = join4(scratch.chain).map(u64::to_le);
    scratch.block = [l0, l1, l2, l3, r0, r1, r2, r3];
    scratch.chain = key_words(&scratch.key);
    compress(scratch, 0, BLOCK_LEN, KEYED | PARENT | root);
}

/// The stack of subtrees is a binary counter: level n holds a subtree of 2^n chunks if bit n of the
/// number of whole chunks is set. A new chunk carries as an increment does.
#[inline(always)]
pub(super) fn absorb(scratch: &mut Scratch) {
    if scratch.absorbed % CHUNK_BLOCKS != CHUNK_BLOCKS - 1 {
        return take(scratch, BLOCK_LEN, 0);
    }
    take(scratch, BLOCK_LEN, CHUNK_END);
    let mut chunks = chunks(scratch.absorbed);
    for level in 0..scratch.stack.len() {
        let Some(left) = scratch.stack.get_mut(level) else { return };
        if chunks & 1 == 0 {
            *left = join4(scratch.chain);
            return;
        }
        let left = *left;
        parent(scratch, left, 0);
        chunks >>= 1;
    }
}

#[inline(never)]
fn close(scratch: &mut Scratch, len: u32) {
    let mut chunks = chunks(scratch.absorbed);
    if chunks == 0 {
        return take(scratch, len, CHUNK_END | ROOT);
    }
    take(scratch, len, CHUNK_END);
    for level in 0..scratch.stack.len() {
        let Some(left) = scratch.stack.get(level).copied() else { return };
        let here = chunks & 1;
        chunks >>= 1;
        if here != 0 {
            parent(scratch, left, if chunks == 0 { ROOT } else { 0 });
        }
    }
}

#[inline(always)]
pub(super) fn finish(scratch: &mut Scratch, len: u32) -> Icv {
    close(scratch, len);
    icv(&scratch.chain)
}
