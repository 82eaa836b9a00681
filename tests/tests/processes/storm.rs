//! Many processes at once: every label right, nothing left behind.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use sigil_common::abi::name;
use sigil_common::abi::process::Chain;
use sigil_harness::storm::Storm;
use sigil_harness::{PATIENCE, binary};

use crate::{Bench, SECURE, USER, text};

/// How long the storm lasts; `SIGIL_STORM_SECONDS` says otherwise.
const SECONDS: u64 = 5;

/// Each process of the storm asks for a port that is `secure`'s alone.
#[test]
fn every_label_of_a_storm_is_right() -> Result<()> {
    let bench = Bench::start("storm")?;
    let seconds = std::env::var("SIGIL_STORM_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(SECONDS);
    let signed = bench.programs.copy(&binary("sigil-traffic")?, "signed")?;
    bench.sign(&signed)?;
    let unsigned = bench.programs.copy(&binary("sigil-traffic")?, "unsigned")?;
    let storms = [(&signed, true), (&unsigned, false), (&signed, true), (&unsigned, false)]
        .into_iter()
        .map(|(program, may)| {
            let lasts = seconds.to_string();
            let argv = [text(program)?, "storm", "127.0.0.1:8000", &lasts];
            Ok((bench.node()?.spawn_zone(USER, &argv)?, may))
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut forks, mut execs) = (0, 0);
    for (process, may) in storms {
        let output = process.wait(Duration::from_secs(seconds) + PATIENCE)?;
        let storm: Storm = serde_json::from_str(&output.stdout).context(output.stderr)?;
        let right: &[&str] = if may { &["ok", "EADDRINUSE"] } else { &["EPERM"] };
        assert!(storm.told.keys().all(|told| right.contains(&told.as_str())), "{storm:?}");
        (forks, execs) = (forks + storm.forks + storm.execs, execs + storm.execs);
    }
    let [a, b, both] = [forks, execs, forks + execs].map(|made| made / seconds);
    println!("{a} forks and {b} execs a second, {both} together");
    assert!(execs > 100, "{execs} execs are no storm");

    let pin = bench.node()?.bpffs().join("sigil/maps").join(name::CHAINS);
    let chains = HashMap::<_, u32, Chain>::try_from(Map::LruHashMap(MapData::from_pin(pin)?))?;
    assert_eq!(chains.keys().count(), 0, "execs that nobody remembers to forget");
    let after = bench.waiting(&bench.shell("after", true)?)?;
    assert_eq!(bench.label_of(&after)?, SECURE);
    bench.node()?.stats()?.balanced()
}
