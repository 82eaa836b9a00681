//! Processes and files, with and without Sigil.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use sigil_harness::cluster::generate_keys;
use sigil_harness::{Agent, Lab, Node};

use super::{Distributions, Pace, run};
use crate::bed::{Driver, ZONE, document, start_agent};
use crate::end::{Placement, Row, Work};
use crate::kernel::{program, sys};
use crate::mode::{Kind, PLAIN, SIPHASH_TC};
use crate::samples::Samples;

const ROWS: [Row; 5] = [Row::Stat, Row::OpenClose, Row::Fork, Row::Exec, Row::Sh];
/// Programs that do nothing at the tracepoints of fork, exec and exit.
pub const FLOOR: &str = "floor-task";
/// The agent's programs; what a packet carries is no matter here.
pub const SIGIL: &str = "sigil";

/// Measures the loops. A process's programs see every process of the machine, so that only one mode
/// can stand at a time: Sigil is started, measured and taken away anew in each round.
///
/// # Errors
/// A mode cannot be set up, or a loop fails.
pub fn tasks(pace: Pace) -> Result<(Samples, Distributions)> {
    let (mut samples, mut distributions) = (Samples::default(), Distributions::default());
    let modes = [PLAIN.id, FLOOR, SIGIL];
    for round in 0..pace.rounds {
        for turn in 0..modes.len() {
            let Some(mode) = modes.get((turn + round) % modes.len()).copied() else { continue };
            let mut stand = Stand::new(mode)?;
            for row in ROWS {
                let time = match row {
                    Row::Stat | Row::OpenClose => pace.time / 4,
                    _ => pace.time,
                };
                let work = Work::Loop(row, Placement::Pinned);
                let answer = run(&mut stand.driver, mode, work, time)?;
                let key = ["latency", &row.name(), mode, Placement::Pinned.name()];
                samples.push(key, round, answer.value, "ns");
                distributions.add(row, mode, &answer);
            }
        }
    }
    Ok((samples, distributions))
}

/// A driver in a mode. The fields are in the order in which they go.
struct Stand {
    driver: Driver,
    _agent: Option<Agent>,
    _links: Vec<OwnedFd>,
    _nodes: (Node, Node),
    _lab: Lab,
}

impl Stand {
    fn new(mode: &str) -> Result<Self> {
        let lab = Lab::new(mode)?;
        let nodes = lab.pair("one", "two")?;
        let (node, mut agent, mut zone, mut links) = (&nodes.0, None, None, Vec::new());
        if mode == FLOOR {
            for tracepoint in [c"sched_process_fork", c"sched_process_exec", c"sched_process_exit"]
            {
                let program = program::empty_tracepoint()?;
                links.push(sys::attach_tracepoint(program.as_fd(), tracepoint)?);
            }
        }
        if mode == SIGIL {
            let Kind::Sigil(sigil) = SIPHASH_TC.kind else { unreachable!("a mode of Sigil's") };
            let (policy, keys) =
                (node.directory().join("policy.xml"), node.directory().join("keys"));
            std::fs::write(&policy, document(1, sigil.protection, 0, true))?;
            generate_keys(&policy, sigil.suite.context("a suite")?, 1, &keys)?;
            agent = Some(start_agent(node, 1, &sigil, &policy, &keys)?);
            zone = Some(ZONE);
        }
        let mut driver = Driver::start(node, zone, node.address())?;
        // Pages that the first children copy are none of the loops'.
        driver.work(Work::Loop(Row::Exec, Placement::Pinned), Duration::from_millis(10))?;
        Ok(Self { driver, _agent: agent, _links: links, _nodes: nodes, _lab: lab })
    }
}
