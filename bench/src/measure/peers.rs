//! What the kernel has beside Sigil, in instructions.

use std::arch::asm;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sigil_harness::Sniffer;

use super::{Pace, run};
use crate::bed::{Bed, INTERFACE, Options};
use crate::end::{Placement, Row, Work};
use crate::environment;
use crate::mode::{LABELLED, PEERS};
use crate::samples::{Samples, float, median};

/// The series of round trips.
pub const INSTRUCTIONS: &str = "instructions";
/// That of lengths of frames.
pub const WIRE: &str = "wire";
/// That of the clock.
const CLOCK: &str = "clock";
/// Turns of the loop that shows what the clock counts.
const TURNS: u32 = 1_000_000;
/// Instructions of one turn.
const TURN: u32 = 2;
/// How far the clock may be from them.
const TOLERANCE: f64 = 0.01;
/// Frames whose length is looked at.
const FRAMES: usize = 32;
/// How long they may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Measures the round trips on a kernel whose clock counts instructions. One mode after the other: such a clock
/// does not drift, and what a mode sets up for the whole machine is not paid by those that came before.
///
/// # Errors
/// The clock counts something else, a mode cannot be set up, or a loop fails.
pub fn peers(pace: Pace) -> Result<Samples> {
    environment::pin(Some(0))?;
    let ratio = median((0..9).map(|_| instruction()).collect());
    ensure!(
        (ratio - 1.0).abs() < TOLERANCE,
        "the clock goes {ratio:.3} ns for each instruction, not 1: `scripts/bench kernel-peers` boots a \
         machine where it does"
    );
    let at = circumstances()?;
    let modes = if at == SELINUX { &LABELLED[..] } else { &PEERS[..] };
    let mut samples = Samples::default();
    samples.push([CLOCK, "ns per instruction", "", at], 0, ratio, "ns");
    for mode in modes {
        let mut bed = Bed::new(mode, Options::default())?;
        let bytes = wire(&mut bed, pace)?;
        samples.push([WIRE, &Row::Udp.name(), mode.id, at], 0, bytes, "B");
        for row in [Row::Udp, Row::Tcp] {
            for round in 0..pace.rounds {
                let work = Work::Loop(row, Placement::Pinned);
                let answer = run(&mut bed.driver, mode.id, work, pace.time)?;
                let key = [INSTRUCTIONS, &row.name(), mode.id, at];
                samples.push(key, round, answer.value, "");
                ensure!(answer.repeated == 0, "datagrams were lost in mode {}", mode.id);
            }
        }
        eprintln!("{}", mode.title);
    }
    Ok(samples)
}

/// A processor without instructions that work on vectors, and without those for AES.
pub const SCALAR: &str = "scalar";
/// One with them.
pub const VECTOR: &str = "vector";
/// A kernel with `SELinux`, whatever the processor: the labels there need no cryptography.
pub const SELINUX: &str = "SELinux";

/// The circumstances under which the samples of [`peers`] were taken.
#[must_use]
pub fn circumstances_of(samples: &Samples) -> Option<&str> {
    samples.series(CLOCK).next().map(|sample| sample.at.as_str())
}

/// What the kernel runs on and with.
fn circumstances() -> Result<&'static str> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm")?;
    if modules.trim().split(',').any(|module| module == "selinux") {
        return Ok(SELINUX);
    }
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let flags = cpu.lines().find(|line| line.starts_with("flags")).context("no flags of a CPU")?;
    let has = |flag| flags.split_whitespace().any(|one| one == flag);
    Ok(if has("ssse3") || has("avx2") || has("aes") { VECTOR } else { SCALAR })
}

/// Nanoseconds of the clock for an instruction.
fn instruction() -> f64 {
    let start = Instant::now();
    // SAFETY: it counts a register down to 0 and touches nothing else.
    #[expect(unsafe_code, reason = "a loop whose instructions are known")]
    unsafe {
        asm!("2:", "dec {turns:e}", "jnz 2b", turns = inout(reg) TURNS => _, options(nomem, nostack));
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(TURNS * TURN)
}

/// Bytes of the frame that a datagram of 4 bytes makes: what a mode adds, and that it is in force.
fn wire(bed: &mut Bed, pace: Pace) -> Result<f64> {
    let sniffer = Sniffer::start(bed.one.netns(), INTERFACE, |frame| {
        // IPv4, to leave ARP out.
        frame.outgoing && frame.bytes.get(12..14) == Some(&[8, 0])
    })?;
    bed.driver.work(Work::Loop(Row::Udp, Placement::Pinned), pace.time)?;
    let frames = sniffer.take(FRAMES, PATIENCE)?;
    let lengths = frames.iter().map(|frame| u64::try_from(frame.bytes.len()).map(float));
    Ok(median(lengths.collect::<Result<_, _>>()?))
}
