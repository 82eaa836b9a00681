//! What Sigil's programs cost per packet in the kernel, against programs that do nothing.

mod bed;
mod case;
mod frame;
pub(crate) mod program;
mod rules;
mod single;
pub(crate) mod sys;
mod traffic;

use std::time::Instant;

use anyhow::{Context, Result};
use sigil_datapath::Mode;

use crate::environment;
use crate::samples::{Samples, float};
use bed::{Bed, Setup};

/// Numbers of rules.
const COUNTS: [u32; 4] = [10, 1000, 100_000, 1_000_000];
/// Those of the first table.
const QUICK: [u32; 2] = [10, 1000];

/// Measures programs on single packets, and on real traffic; and their sizes.
///
/// # Errors
/// The kernel refuses something, or a program decides otherwise than it should.
pub fn kernel(rounds: usize, quick: bool) -> Result<Samples> {
    let start = Instant::now();
    let counts = if quick { &QUICK[..] } else { &COUNTS };
    let of = |mode, name: &'static str| {
        let bed = |count: &u32| Bed::new(&format!("{name}{count}"), Setup::Sigil(mode, *count));
        counts.iter().map(bed).collect::<Result<Vec<_>>>()
    };
    let (mut tc, mut xdp) = (of(Mode::Tc, "t")?, of(Mode::Xdp, "x")?);
    let mut empty = Bed::new("empty", Setup::Empty)?;
    eprintln!("{:.1} s to load {counts:?} rules, twice each", start.elapsed().as_secs_f64());
    environment::pin(Some(0))?;
    let _statistics = sys::statistics().context("run-time statistics")?;
    let mut samples = Samples::default();
    sizes(tc.first().context("a bed")?, &mut samples)?;
    single::measure(&mut tc, counts, rounds, &mut samples)?;
    traffic::measure(&mut tc, &mut xdp, &mut empty, counts, rounds.div_ceil(5), &mut samples)?;
    environment::pin(None)?;
    Ok(samples)
}

fn sizes(bed: &Bed, samples: &mut Samples) -> Result<()> {
    for (name, size) in &bed.sigil()?.sizes {
        for (what, value, unit) in [
            ("verified", size.verified, "instructions"),
            ("translated", size.translated, "instructions"),
            ("jited", size.jited, "B"),
        ] {
            samples.push(["size", name, what, ""], 0, float(value.into()), unit);
        }
    }
    Ok(())
}
