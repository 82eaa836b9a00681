//! The measurements.

mod latency;
mod peers;
mod rules;
mod scale;
mod tasks;
mod throughput;
mod verify;

pub use latency::latency;
pub use peers::{INSTRUCTIONS, SCALAR, SELINUX, VECTOR, WIRE, circumstances_of, peers};
pub use rules::rules;
pub use scale::scale;
pub use tasks::{FLOOR, SIGIL, tasks};
pub use throughput::throughput;
pub use verify::{CACHED, FIRST, SIZES, verify};

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::bed::Driver;
use crate::end::{Answer, Row, Work};
use crate::samples::Samples;

/// How long loops run in one round. Processes take longer than messages.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often everything is measured.
    pub rounds: usize,
    /// A loop's time in a round.
    pub time: Duration,
}

/// The file of latency distributions in a results folder.
pub const DISTRIBUTIONS: &str = "distributions.csv";

/// How many rounds of a loop took so long, to 1 %.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bar {
    /// The loop.
    pub row: String,
    /// The mode.
    pub mode: String,
    /// Nanoseconds.
    pub ns: u64,
    /// How many.
    pub count: u64,
}

/// The distributions of a run's latencies.
#[derive(Debug, Default)]
pub struct Distributions(BTreeMap<(String, &'static str, u64), u64>);

impl Distributions {
    /// Adds those of a part of the run, and gives its samples back.
    pub fn take(&mut self, (samples, other): (Samples, Self)) -> Samples {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
        samples
    }

    fn add(&mut self, row: Row, mode: &'static str, answer: &Answer) {
        for (ns, count) in &answer.histogram {
            *self.0.entry((row.name(), mode, *ns)).or_default() += count;
        }
    }

    /// Writes a results folder's file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut writer = csv::Writer::from_path(directory.join(DISTRIBUTIONS))?;
        for ((row, mode, ns), count) in &self.0 {
            let (row, mode) = (row.clone(), (*mode).to_owned());
            writer.serialize(Bar { row, mode, ns: *ns, count: *count })?;
        }
        Ok(writer.flush()?)
    }

    /// Reads those of a results folder.
    ///
    /// # Errors
    /// The file is missing or no such file.
    pub fn read(directory: &Path) -> Result<Vec<Bar>> {
        let path = directory.join(DISTRIBUTIONS);
        let mut reader =
            csv::Reader::from_path(&path).with_context(|| path.display().to_string())?;
        Ok(reader.deserialize().collect::<Result<_, _>>()?)
    }
}

/// A loop of a driver's; says which one failed.
fn run(driver: &mut Driver, mode: &str, work: Work, time: Duration) -> Result<Answer> {
    driver.work(work, time).with_context(|| format!("{work:?} in mode {mode}"))
}
