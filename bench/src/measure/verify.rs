//! What it takes to execute a signed program for the first time, and again.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sigil_binary::{How, PrivateKey, label};
use sigil_harness::{Agent, Config, Lab, Programs};

use super::Pace;
use crate::bed::{ZONE, signed_document};
use crate::samples::Samples;

/// The file's content is verified.
pub const FIRST: &str = "first";
/// What was found out is still known.
pub const CACHED: &str = "cached";
/// Of the programs, MiB.
pub const SIZES: [u64; 4] = [1, 4, 16, 64];

const MIB: u64 = 1 << 20;
/// A verification waits until the clock has passed the file's change time, which is no part of its cost.
const SETTLE: Duration = Duration::from_millis(30);

/// Executes programs of several sizes, each of them fresh in each round: `/bin/true` and zeroes.
///
/// # Errors
/// The agent does not start, or a program does not run.
pub fn verify(pace: Pace) -> Result<Samples> {
    let mut samples = Samples::default();
    let lab = Lab::new("verify")?;
    let node = lab.node("one", 1)?;
    let programs = Programs::mount(&node)?;
    let key = PrivateKey::generate(node.directory().join("signer"))?;
    let policy = node.directory().join("policy.xml");
    std::fs::write(&policy, signed_document(key.public()))?;
    let mut config = Config::new(&node, 1, &policy, None);
    config.guard_exec = vec![programs.path().into()];
    let _agent = Agent::start(&node, &config)?;
    for round in 0..pace.rounds {
        for size in SIZES {
            let path = programs.copy(&std::fs::canonicalize("/bin/true")?, "program")?;
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(size * MIB)?;
            drop(file);
            label(&path, ZONE, 1, Some(&key), How::default())?;
            // On disk or in memory, it is in the cache: the disk is no matter here.
            std::io::copy(&mut File::open(&path)?, &mut std::io::sink())?;
            std::thread::sleep(SETTLE);
            let at = size.to_string();
            for mode in [FIRST, CACHED] {
                let time = run(&path)?;
                samples.push(["verify", "exec", mode, &at], round, nanos(time), "ns");
            }
            std::fs::remove_file(&path)?;
        }
    }
    Ok(samples)
}

/// From the start of a program to its end.
fn run(program: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = Command::new(program).status().with_context(|| program.display().to_string())?;
    let time = start.elapsed();
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(time)
}

#[expect(clippy::cast_precision_loss, reason = "a time of less than a day")]
fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}
