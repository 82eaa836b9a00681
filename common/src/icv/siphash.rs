//! SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012; reference `vectors_sip128`).

use super::key::split;
use super::scratch::{BLOCK_LEN, Scratch};
use super::{HEADER_LEN, Header, Icv, MacKey};

struct Sip([u64; 4]);

impl Sip {
    #[inline(always)]
    const fn new(key: &MacKey) -> Self {
        let (k0, k1) = (key.0[0], key.0[1]);
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v1 = v1.rotate_left(13) ^ v0;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v3);
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.wrapping_add(v3);
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.wrapping_add(v1);
        v1 = v1.rotate_left(17) ^ v2;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    const fn squeeze(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }

    #[inline(always)]
    const fn icv(mut self) -> Icv {
        self.0[2] ^= 0xee;
        let [first, second] = split(self.squeeze());
        self.0[1] ^= 0xdd;
        let [third, _] = split(self.squeeze());
        Icv([first.to_le(), second.to_le(), third.to_le()])
    }
}

#[inline(always)]
pub(super) const fn of_header(key: &MacKey, header: &Header) -> Icv {
    let mut sip = Sip::new(key);
    sip.absorb(u64::from_le(header.0[0]));
    sip.absorb(u64::from_le(header.0[1]));
    sip.absorb(u64::from_le(header.0[2]));
    sip.absorb(u64::from_le(header.0[3]));
    sip.absorb(u64::from_le(header.0[4]));
    sip.absorb((HEADER_LEN as u64) << 56);
    sip.icv()
}

#[inline(always)]
pub(super) fn begin(scratch: &mut Scratch) {
    scratch.sip = Sip::new(&scratch.key).0;
}

#[inline(always)]
pub(super) fn absorb(scratch: &mut Scratch) {
    let mut sip = Sip(scratch.sip);
    for word in &scratch.block {
        sip.absorb(u64::from_le(*word));
    }
    scratch.sip = sip.0;
}

/// Whole words first; what is left of the last one shares a word with the length.
#[inline(always)]
pub(super) fn finish(scratch: &Scratch, len: u32) -> Icv {
    let mut sip = Sip(scratch.sip);
    let mut left = len;
    let mut last = scratch.total(len) << 56;
    for word in &scratch.block {
        let word = u64::from_le(*word);
        if left < 8 {
            last |= word;
            break;
        }
        sip.absorb(word);
        left = left.wrapping_sub(8);
    }
    sip.absorb(last);
    sip.icv()
}

const _: () = assert!(BLOCK_LEN.is_multiple_of(8));
