//! `LMBench`'s network loops in every mode.

use std::time::Duration;

use anyhow::Result;

use super::{Distributions, Pace, run};
use crate::bed::{Bed, Options};
use crate::end::{Placement, Row, Work};
use crate::mode::Mode;
use crate::samples::{Samples, float};

const ROWS: [Row; 5] = [Row::Udp, Row::RpcUdp, Row::Tcp, Row::RpcTcp, Row::Connect];
/// The loops run with both ends unpinned in one of so many rounds.
const FREE: usize = 3;

/// Measures the loops in these modes. All modes stand side by side, and take turns within a round of a
/// loop, beginning with another one each time.
///
/// # Errors
/// A mode cannot be set up, or a loop fails.
pub fn latency(modes: &[Mode], pace: Pace, free: bool) -> Result<(Samples, Distributions)> {
    let mut beds = Bed::each(modes, Options { rpc: true, ..Options::default() })?;
    let (mut samples, mut distributions) = (Samples::default(), Distributions::default());
    for round in 0..pace.rounds {
        for row in ROWS {
            for turn in 0..modes.len() {
                let at = (turn + round) % modes.len();
                let (Some(mode), Some(bed)) = (modes.get(at), beds.get_mut(at)) else { continue };
                let mut measure = |placement: Placement, time: Duration| {
                    let answer = run(&mut bed.driver, mode.id, Work::Loop(row, placement), time)?;
                    let name = row.name();
                    let mut push = |series: &str, value, unit: &str| {
                        let key = [series, &name, mode.id, placement.name()];
                        samples.push(key, round, value, unit);
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
                measure(Placement::Pinned, pace.time)?;
                if free && round % FREE == 0 {
                    measure(Placement::Free, pace.time)?;
                }
            }
        }
    }
    Ok((samples, distributions))
}
