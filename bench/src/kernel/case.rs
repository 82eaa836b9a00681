//! Programs that are run on single packets in turn.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, ensure};

use super::sys;
use crate::samples::{float, median};

/// Runs in a row, of which the first few warm the caches up and are left out.
const BURST: usize = 24;
const WARM: usize = 4;

type Packet<'a> = Box<dyn FnMut() -> Result<Vec<u8>> + 'a>;

/// A program, its packets, and the medians of the rounds so far.
struct Case<'a> {
    program: BorrowedFd<'a>,
    action: u32,
    packet: Packet<'a>,
    medians: Vec<f64>,
}

/// The programs.
#[derive(Default)]
pub(super) struct Cases<'a> {
    cases: Vec<Case<'a>>,
}

impl<'a> Cases<'a> {
    /// Adds a program that is to return this action for these packets.
    pub(super) fn add(
        &mut self,
        program: BorrowedFd<'a>,
        action: u32,
        packet: impl FnMut() -> Result<Vec<u8>> + 'a,
    ) -> usize {
        self.cases.push(Case { program, action, packet: Box::new(packet), medians: Vec::new() });
        self.cases.len() - 1
    }

    /// Runs every program in turn.
    pub(super) fn round(&mut self) -> Result<()> {
        for (number, case) in self.cases.iter_mut().enumerate() {
            let mut times = Vec::with_capacity(BURST);
            for run in 0..BURST {
                let packet = (case.packet)()?;
                let before = sys::runs(case.program)?;
                let action = sys::run(case.program, &packet)?;
                let runs = sys::runs(case.program)?.since(before);
                ensure!(action == case.action, "case {number} run {run} returned {action:#x}");
                // A packet of a node's own, in between, spoils the sample.
                if run >= WARM && runs.count == 1 {
                    times.push(float(runs.time));
                }
            }
            case.medians.push(median(times));
        }
        Ok(())
    }

    /// A case's nanoseconds, round by round; of one that runs inside of a program (`around`) without
    /// what that adds to the empty program.
    pub(super) fn times(&self, id: usize, empty: usize, around: Option<usize>) -> Result<Vec<f64>> {
        let of = |id: usize| self.cases.get(id).map(|case| case.medians.iter()).context("a case");
        let Some(around) = around else { return Ok(of(id)?.copied().collect()) };
        let wrapped = of(id)?.zip(of(around)?).zip(of(empty)?);
        Ok(wrapped.map(|((time, around), empty)| time - around + empty).collect())
    }
}
