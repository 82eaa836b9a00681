//! `LMBench`'s network loops in every mode.

use anyhow::Result;

use super::{Distributions, Pace, run};
use crate::bed::{Beds, Options};
use crate::end::{Placement, Row, Work};
use crate::mode::Mode;
use crate::samples::{Samples, float};

const ROWS: [Row; 5] = [Row::Udp, Row::RpcUdp, Row::Tcp, Row::RpcTcp, Row::Connect];
/// The loops run with both ends unpinned in one of so many rounds.
const FREE: usize = 3;

/// Measures the loops in these modes, which take turns within a round.
///
/// # Errors
/// A mode cannot be set up, or a loop fails.
pub fn latency(modes: &[Mode], pace: Pace, free: bool) -> Result<(Samples, Distributions)> {
    let mut beds = Beds::new(modes, Options { rpc: true, ..Options::default() })?;
    let (mut samples, mut distributions) = (Samples::default(), Distributions::default());
    for round in 0..pace.rounds {
        beds.round(round, |mode, bed| {
            let mut measure = |row: Row, placement: Placement| {
                let work = Work::Loop(row, placement);
                let answer = run(&mut bed.driver, mode.id, work, pace.time)?;
                let name = row.name();
                let mut push = |series: &str, value, unit: &str| {
                    samples.push([series, &name, mode.id, placement.name()], round, value, unit);
                };
                push("latency", answer.value, "ns");
                if answer.repeated > 0 {
                    push("repeated", float(answer.repeated), "");
                }
                if placement == Placement::Pinned {
                    distributions.add(row, mode.id, &answer);
                }
                Ok::<_, anyhow::Error>(())
            };
            for row in ROWS {
                measure(row, Placement::Pinned)?;
            }
            for row in ROWS.into_iter().filter(|_| free && round % FREE == 0) {
                measure(row, Placement::Free)?;
            }
            Ok(())
        })?;
    }
    Ok((samples, distributions))
}
