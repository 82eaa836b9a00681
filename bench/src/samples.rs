//! Samples, and what is quoted of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The file in a results folder.
pub const FILE: &str = "samples.csv";

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The measurement that it belongs to.
    pub series: String,
    /// What was done.
    pub row: String,
    /// With what attached.
    pub mode: String,
    /// Under which circumstances.
    pub at: String,
    /// When: samples of one round are neighbours in time.
    pub round: u32,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// What tells a set of samples apart: series, row, mode, circumstances.
pub type Key<'a> = [&'a str; 4];

/// The samples of a run.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    all: Vec<Sample>,
    /// Positions in `all`.
    index: BTreeMap<[String; 4], Vec<usize>>,
}

impl Samples {
    /// Reads a results folder.
    ///
    /// # Errors
    /// Its file is missing or no table of samples.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let mut reader =
            csv::Reader::from_path(&path).with_context(|| path.display().to_string())?;
        let mut samples = Self::default();
        for sample in reader.deserialize() {
            samples.add(sample.with_context(|| path.display().to_string())?);
        }
        Ok(samples)
    }

    /// Writes a results folder's file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut writer = csv::Writer::from_path(directory.join(FILE))?;
        self.all.iter().try_for_each(|sample| writer.serialize(sample))?;
        Ok(writer.flush()?)
    }

    /// Adds a sample.
    pub fn push(&mut self, key: Key, round: usize, value: f64, unit: &str) {
        let [series, row, mode, at] = key.map(str::to_owned);
        let round = u32::try_from(round).unwrap_or(u32::MAX);
        self.add(Sample { series, row, mode, at, round, value, unit: unit.to_owned() });
    }

    /// Adds all samples of another part of the run.
    pub fn append(&mut self, other: Self) {
        other.all.into_iter().for_each(|sample| self.add(sample));
    }

    /// Takes over samples in place of those of the same series under the same circumstances.
    pub fn replace(&mut self, other: Self) {
        let place = |sample: &Sample| (sample.series.clone(), sample.at.clone());
        let replaced: BTreeSet<_> = other.all.iter().map(place).collect();
        let mut samples = Self::default();
        let kept = std::mem::take(&mut self.all).into_iter();
        kept.filter(|sample| !replaced.contains(&place(sample))).for_each(|one| samples.add(one));
        samples.append(other);
        *self = samples;
    }

    fn add(&mut self, sample: Sample) {
        let Sample { series, row, mode, at, .. } = &sample;
        let key = [series, row, mode, at].map(Clone::clone);
        self.index.entry(key).or_default().push(self.all.len());
        self.all.push(sample);
    }

    /// The samples of a key.
    pub fn of(&self, key: Key) -> impl Iterator<Item = &Sample> {
        let found = self.index.get(&key.map(str::to_owned));
        found.into_iter().flatten().filter_map(|at| self.all.get(*at))
    }

    /// All there is of a series.
    pub fn series<'a>(&'a self, series: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.all.iter().filter(move |sample| sample.series == series)
    }

    /// What is known of a figure.
    #[must_use]
    pub fn estimate(&self, key: Key) -> Option<Estimate> {
        Estimate::of(self.of(key).map(|sample| sample.value).collect())
    }

    /// What is known of the difference to another mode, round by round.
    #[must_use]
    pub fn difference(&self, key: Key, base: &str) -> Option<Estimate> {
        let [series, row, _, at] = key;
        let base: BTreeMap<u32, f64> =
            self.of([series, row, base, at]).map(|sample| (sample.round, sample.value)).collect();
        let difference = |sample: &Sample| Some(sample.value - base.get(&sample.round)?);
        Estimate::of(self.of(key).filter_map(difference).collect())
    }

    /// What is known of the ratio to another mode, round by round: what slowed one round down slowed
    /// down both.
    #[must_use]
    pub fn ratio(&self, key: Key, base: &str) -> Option<Estimate> {
        let [series, row, _, at] = key;
        let base: BTreeMap<u32, f64> =
            self.of([series, row, base, at]).map(|sample| (sample.round, sample.value)).collect();
        let ratio = |sample: &Sample| Some(sample.value / base.get(&sample.round)?);
        Estimate::of(self.of(key).filter_map(ratio).collect())
    }
}

/// A median, and the interval that holds the true one with 95 % confidence: two order statistics of
/// the samples, whatever their distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The sample in the middle.
    pub median: f64,
    /// The interval; none where there are fewer than six samples.
    pub interval: Option<(f64, f64)>,
    /// How many samples.
    pub samples: usize,
}

impl Estimate {
    /// The estimate of some samples; none where there is none.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let count = samples.len();
        let upper = *samples.get(count / 2)?;
        let lower = *samples.get(count.saturating_sub(1) / 2)?;
        let interval = confidence_rank(count).and_then(|rank| {
            let (low, high) = (samples.get(rank)?, samples.get(count - 1 - rank)?);
            Some((*low, *high))
        });
        Some(Self { median: f64::midpoint(lower, upper), interval, samples: count })
    }

    /// Whether the interval leaves open which of the two is larger, this figure or `value`.
    #[must_use]
    pub fn is_noise_around(&self, value: f64) -> bool {
        self.interval.is_none_or(|(low, high)| low <= value && value <= high)
    }
}

/// The largest `k` with `P(X <= k) <= 2.5 %` for X binomial with `count` throws of a fair coin: between
/// the samples of ranks `k` and `count - 1 - k` (from 0) lies the median with 95 % confidence.
fn confidence_rank(count: usize) -> Option<usize> {
    // Beyond this the first term would underflow; so many samples are never taken.
    let throws = u32::try_from(count).ok().filter(|throws| *throws < 1000)?;
    let mut term = 0.5_f64.powi(throws.cast_signed());
    let mut sum = term;
    let mut rank = None;
    for k in 0..throws {
        if sum > 0.025 {
            break;
        }
        rank = usize::try_from(k).ok();
        term *= f64::from(throws - k) / f64::from(k + 1);
        sum += term;
    }
    rank
}

/// The median of samples; 0 where there are none.
#[must_use]
pub fn median(samples: Vec<f64>) -> f64 {
    Estimate::of(samples).map_or(0.0, |estimate| estimate.median)
}

/// A count as a number to divide by.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_published_table() {
        // Conover, Practical Nonparametric Statistics, table A3, ranks counted from 1 there.
        let ranks = [5, 6, 9, 15, 25, 40].map(confidence_rank);
        assert_eq!(ranks, [None, Some(0), Some(1), Some(3), Some(7), Some(13)]);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_samples() {
        let few = Estimate::of((0..9).map(f64::from).collect()).unwrap();
        assert_eq!(few, Estimate { median: 4.0, interval: Some((1.0, 7.0)), samples: 9 });
        assert!(few.is_noise_around(1.0) && !few.is_noise_around(0.5));
        assert_eq!(Estimate::of(vec![1.0, 2.0]).unwrap().median.to_bits(), 1.5_f64.to_bits());
        assert_eq!(Estimate::of(vec![]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut samples = Samples::default();
        for (round, (base, value)) in
            [(10.0, 11.0), (20.0, 22.0), (30.0, 33.0)].into_iter().enumerate()
        {
            samples.push(["latency", "udp", "plain", "pinned"], round, base, "ns");
            samples.push(["latency", "udp", "sigil", "pinned"], round, value, "ns");
        }
        let ratio = samples.ratio(["latency", "udp", "sigil", "pinned"], "plain").unwrap();
        assert!((ratio.median - 1.1).abs() < 1e-9);
        let mut newer = Samples::default();
        newer.push(["latency", "udp", "sigil", "free"], 0, 1.0, "ns");
        samples.replace(newer.clone());
        assert_eq!(samples.all.len(), 7, "other circumstances");
        newer.push(["latency", "udp", "sigil", "pinned"], 0, 2.0, "ns");
        let mut replaced = samples.clone();
        replaced.replace(newer);
        assert_eq!(replaced.all.len(), 2);
        assert!(replaced.estimate(["latency", "udp", "plain", "pinned"]).is_none());
        let directory = tempfile::tempdir().unwrap();
        samples.write(directory.path()).unwrap();
        let again = Samples::read(directory.path()).unwrap();
        assert_eq!(again.all, samples.all);
    }
}
