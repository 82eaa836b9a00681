//! Tables and plots of a results folder, made of its samples alone.

mod cells;
mod kernel;
mod latency;
mod peers;
mod plot;
pub mod readme;
mod scale;
mod throughput;
mod verify;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::environment::Environment;
use crate::measure::Distributions;
use crate::samples::Samples;

/// The tables, in a results folder.
pub const SUMMARY: &str = "summary.md";
/// The folder of plots in it.
pub const PLOTS: &str = "plots";

/// Writes the tables and plots of a results folder.
///
/// # Errors
/// Its samples cannot be read, or something cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    let (samples, environment) = (Samples::read(folder)?, Environment::read(folder)?);
    let path = folder.join(SUMMARY);
    fs::write(&path, summary(&samples, Some(&environment)))
        .with_context(|| path.display().to_string())?;
    plot::all(&samples, &Distributions::read(folder)?, &folder.join(PLOTS))
}

/// All tables of a run.
#[must_use]
pub fn summary(samples: &Samples, environment: Option<&Environment>) -> String {
    let mut text = String::new();
    if let Some(environment) = environment {
        head(&mut text, environment);
    }
    for part in [
        latency::tables(samples),
        verify::tables(samples),
        kernel::tables(samples),
        throughput::tables(samples),
        scale::tables(samples),
        peers::tables(samples, environment),
    ] {
        text.push_str(&part);
    }
    text
}

fn head(text: &mut String, environment: &Environment) {
    let Environment { date, revision, kernel, cpu, cpus, hypervisor, .. } = environment;
    // A line that cannot be written to a string is none that could fail.
    let _ = write!(
        text,
        "# Measured on {date}\n\n\
         Linux {kernel} on {cpu}, {cpus} CPUs ({hypervisor}); revision {revision}; load {} when it began and \
         {} when it ended. Raw samples are in `samples.csv`, latency distributions in \
         `distributions.csv`, settings in `environment.json`; `sigil-bench report` makes these tables \
         and the plots of them.\n\n\
         Modes are measured in turn, round after round. A figure is the median of the rounds; an \
         overhead the median of the rounds' own ratios, with the interval that holds the true median \
         with 95 % confidence (order statistics). Where the interval includes zero, the row is \
         noisier than its difference, and says so with `~`.\n\n",
        environment.load_before, environment.load_after
    );
}
