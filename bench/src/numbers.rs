//! Samples, and what is quoted of them.

use serde::Serialize;

/// What is quoted of many samples.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// How many.
    pub samples: usize,
}

impl Summary {
    /// Sums samples up; all zero where there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        Self { min: at(0), median: at(sorted.len() / 2), samples: sorted.len() }
    }

    /// The largest sample, where more is better.
    #[must_use]
    pub fn largest(samples: &[f64]) -> f64 {
        samples.iter().copied().fold(0.0, f64::max)
    }
}

/// A count as a number to divide by.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// Numbers that look random and are the same in every run (xorshift64).
#[derive(Debug)]
pub struct Shuffle(pub u64);

impl Shuffle {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 33) % u64::from(limit.max(1))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let summary = Summary::of(&[5.0, 1.0, 3.0]);
        assert_eq!(
            (summary.min.to_bits(), summary.median.to_bits()),
            (1f64.to_bits(), 3f64.to_bits())
        );
        assert_eq!(Summary::of(&[]).samples, 0);
    }
}
