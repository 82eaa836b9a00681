//! Programs on real packets of established flows: what the kernel's statistics say of each attached
//! program while one client exchanges datagrams with one server, both on one CPU.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Result, ensure};
use sigil_common::abi::name;

use super::bed::Bed;
use super::sys;
use crate::end::{Placement, Row, Work};
use crate::samples::{Samples, float};

const TC: [&str; 3] = [name::TC_STAMP, name::TC_VERIFY, name::SKB_DELIVER];
const XDP: [&str; 4] = [name::TC_STAMP, name::XDP_VERIFY, name::TC_HANDOVER, name::SKB_DELIVER];
/// In the order in which the bed attaches them.
const EMPTY: [&str; 4] = ["empty XDP", "empty TC in", "empty TC out", "empty cgroup"];
/// How long a round's exchange takes.
const TIME: Duration = Duration::from_millis(50);

/// A bed, its programs and how results name them.
struct Measured<'a> {
    bed: &'a mut Bed,
    mode: &'static str,
    at: String,
    programs: Vec<(&'static str, std::os::fd::OwnedFd)>,
}

/// Measures the attached programs of beds with so many rules each.
pub(super) fn measure(
    tc: &mut [Bed],
    xdp: &mut [Bed],
    empty: &mut Bed,
    counts: &[u32],
    rounds: usize,
    samples: &mut Samples,
) -> Result<()> {
    let mut all = Vec::new();
    for (beds, mode, names) in [(tc, "tc", &TC[..]), (xdp, "xdp", &XDP)] {
        for (bed, count) in beds.iter_mut().zip(counts) {
            bed.serve()?;
            let sigil = bed.sigil()?;
            let open = |name: &&'static str| Ok((*name, sigil.program(name)?.try_clone()?));
            let programs = names.iter().map(open).collect::<Result<_>>()?;
            all.push(Measured { bed, mode, at: format!("rules={count}"), programs });
        }
    }
    empty.serve()?;
    let programs = EMPTY.into_iter().zip(&empty.empty);
    let programs = programs.map(|(name, program)| Ok((name, program.try_clone()?)));
    let programs = programs.collect::<Result<_>>()?;
    all.push(Measured { bed: empty, mode: "empty", at: String::new(), programs });
    for round in 0..rounds {
        for Measured { bed, mode, at, programs } in &mut all {
            let read = |(_, program): &(_, std::os::fd::OwnedFd)| runs(program.as_fd());
            let before = programs.iter().map(read).collect::<Result<Vec<_>>>()?;
            let answer = bed.driver()?.work(Work::Loop(Row::Udp, Placement::Pinned), TIME)?;
            ensure!(answer.repeated == 0, "{} datagrams lost", answer.repeated);
            for ((name, program), before) in programs.iter().zip(before) {
                let runs = runs(program.as_fd())?.since(before);
                ensure!(runs.count >= answer.count, "{name} saw {} packets", runs.count);
                let mean = float(runs.time) / float(runs.count);
                samples.push(["traffic", name, mode, at], round, mean, "ns");
            }
        }
    }
    Ok(())
}

fn runs(program: BorrowedFd) -> Result<sys::Runs> {
    Ok(sys::runs(program)?)
}
