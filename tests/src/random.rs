//! Numbers that only look random: a failure happens again.

/// xorshift64*, seeded with anything but 0.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next_word() >> 33).unwrap_or(0) % limit
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.next_word() >> 56).unwrap_or(0)
    }
}
