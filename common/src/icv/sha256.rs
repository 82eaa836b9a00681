//! The compression function of SHA-256 (FIPS 180-4).
//!
//! All state is in the scratch, none on the stack. Rounds are unrolled by eight, after which every
//! word is back in its place.

use core::hint::black_box;

use super::scratch::Scratch;

/// The initial state.
pub(super) const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

#[rustfmt::skip]
static K: [[u32; 8]; 8] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// The message schedule; its first row is the block.
pub(super) type Schedule = [[u32; 16]; 4];

/// A round in place, on the words at `$a` to `$h`, which the next round reads one place on.
///
/// `black_box` has every round read them from memory again: left to itself, the compiler moves them
/// to the stack.
macro_rules! round {
    ($words:ident, $w:ident, $k:ident, $i:literal: $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal $h:literal) => {
        let s = black_box(&mut *$words);
        let (e, f, g) = (s[$e], s[$f], s[$g]);
        let t1 = s[$h]
            .wrapping_add($k[$i])
            .wrapping_add($w[$i])
            .wrapping_add(e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25))
            .wrapping_add(g ^ (e & (f ^ g)));
        s[$d] = s[$d].wrapping_add(t1);
        let (a, b, c) = (s[$a], s[$b], s[$c]);
        s[$h] = t1
            .wrapping_add(a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22))
            .wrapping_add(b ^ ((a ^ b) & (b ^ c)));
    };
}

/// Takes the block in the schedule into the chain.
#[inline(never)]
pub(super) fn compress(scratch: &mut Scratch) {
    let schedule = scratch.schedule.as_flattened_mut();
    for at in 0..48 {
        let Some([w0, w1, .., w9, _, _, _, _, w14, _, w16]) =
            schedule.get_mut(at..).and_then(<[u32]>::first_chunk_mut::<17>)
        else {
            return;
        };
        let s0 = w1.rotate_right(7) ^ w1.rotate_right(18) ^ (*w1 >> 3);
        let s1 = w14.rotate_right(17) ^ w14.rotate_right(19) ^ (*w14 >> 10);
        *w16 = w0.wrapping_add(s0).wrapping_add(*w9).wrapping_add(s1);
    }
    for (word, from) in scratch.words.iter_mut().zip(scratch.chain) {
        *word = from;
    }
    for (w, k) in scratch.schedule.as_flattened().as_chunks::<8>().0.iter().zip(&K) {
        let s = &mut scratch.words;
        round!(s, w, k, 0: 0 1 2 3 4 5 6 7);
        round!(s, w, k, 1: 7 0 1 2 3 4 5 6);
        round!(s, w, k, 2: 6 7 0 1 2 3 4 5);
        round!(s, w, k, 3: 5 6 7 0 1 2 3 4);
        round!(s, w, k, 4: 4 5 6 7 0 1 2 3);
        round!(s, w, k, 5: 3 4 5 6 7 0 1 2);
        round!(s, w, k, 6: 2 3 4 5 6 7 0 1);
        round!(s, w, k, 7: 1 2 3 4 5 6 7 0);
    }
    for (word, add) in scratch.chain.iter_mut().zip(&scratch.words) {
        *word = word.wrapping_add(*add);
    }
}
