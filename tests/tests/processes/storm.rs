//! Many processes at once: every label right, nothing left behind.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use sigil_harness::binary;

use crate::{Bench, SECURE, text};

/// How long the storm lasts; `SIGIL_STORM_SECONDS` says otherwise.
const SECONDS: u64 = 5;

/// Each process of the storm asks for a port that is `secure`'s alone.
#[test]
fn every_label_of_a_storm_is_right() -> Result<()> {
    let bench = Bench::start("storm")?;
    let seconds = std::env::var("SIGIL_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let signed = bench.programs.copy(&binary("sigil-traffic")?, "signed")?;
    bench.sign(&signed)?;
    let unsigned = bench.programs.copy(&binary("sigil-traffic")?, "unsigned")?;
    let workers: Vec<_> =
        [(&signed, "ok"), (&unsigned, "EPERM"), (&signed, "ok"), (&unsigned, "EPERM")]
            .into_iter()
            .map(|(program, expected)| {
                // A fork and an exec a turn. Two that ask at once get in each other's way, rightly.
                let turn = format!(
                    "while :; do said=$({} try bind udp 127.0.0.1:8000); \
                 [ \"$said\" = {expected} ] && echo right || echo \"$said\"; done",
                    text(program)?,
                );
                let mut command = Command::new("sh");
                command.args(["-c", &turn]).stdout(Stdio::piped());
                bench.node()?.start(&mut command)
            })
            .collect::<Result<_>>()?;
    thread::sleep(seconds);
    let (mut count, mut wrong) = (0u64, BTreeMap::<String, u64>::new());
    for worker in workers {
        for line in worker.stdout().lines() {
            count += 1;
            if !["right", "EADDRINUSE"].contains(&line) {
                *wrong.entry(line.to_owned()).or_default() += 1;
            }
        }
    }
    ensure!(count > 100, "{count} processes are no storm");
    assert!(wrong.is_empty(), "of {count}: {wrong:?}");
    println!("{count} forks and execs in {seconds:?}");
    let after = bench.waiting(&bench.shell("after", true)?)?;
    assert_eq!(bench.label_of(&after)?, SECURE);
    bench.node()?.stats()?.balanced()
}
