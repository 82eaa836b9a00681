//! What a policy's size costs: compiling, loading, memory, and how soon it is in force.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::generate_keys;
use sigil_harness::{Agent, Lab, Node};

use super::Pace;
use crate::bed::{Driver, ZONE, document, serve, start_agent};
use crate::end::Work;
use crate::kernel::sys;
use crate::mode::{Kind, SIPHASH_TC, Sigil};
use crate::samples::{Samples, float};

/// Numbers of rules.
const COUNTS: [u32; 4] = [10, 1000, 100_000, 1_000_000];
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY_OF_MAPS: f64 = 12.0;
/// Elements of the arrays of rule maps.
const BANKS: u32 = 2;
/// How long a load of the largest policy may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Measures policies of growing size.
///
/// # Errors
/// An agent does not start, or refuses a policy.
pub fn scale(pace: Pace, quick: bool) -> Result<Samples> {
    let mut samples = Samples::default();
    for rules in COUNTS.into_iter().filter(|count| !quick || *count <= 1000) {
        let at = format!("rules={rules}");
        let mut push = |row: &str, round: usize, value: f64, unit: &str| {
            samples.push(["scale", row, SIPHASH_TC.id, &at], round, value, unit);
        };
        let text = document(1, "authenticate", rules, false);
        push("document", 0, float(u64::try_from(text.len())?), "B");
        for round in 0..pace.rounds {
            let start = Instant::now();
            let compiled = sigil_policy::compile("bench.xml", text.as_bytes(), None);
            let compiled = compiled.map_err(|_| anyhow::anyhow!("the policy has errors"))?;
            let lowered = compiled.policy.rules_for(1);
            push("compile", round, start.elapsed().as_secs_f64(), "s");
            ensure!(lowered.is_ok(), "the policy cannot be lowered");
        }
        let mut stand = Stand::new(rules)?;
        for round in 0..pace.rounds {
            let [loaded, judged] = stand.load(round)?;
            push("load", round, loaded, "s");
            push("first packet judged", round, judged, "s");
        }
        push("memory of the agent", 0, stand.resident()?, "B");
        push("memory of the maps", 0, stand.maps()?, "B");
    }
    Ok(samples)
}

/// Two nodes, of which the second lets everything through, and the first what its policy lets through.
struct Stand {
    driver: Driver,
    _server: sigil_harness::Process,
    agents: [Agent; 2],
    rules: u32,
    serial: u32,
    one: Node,
    _two: Node,
    _lab: Lab,
}

impl Stand {
    fn new(rules: u32) -> Result<Self> {
        let Kind::Sigil(sigil) = SIPHASH_TC.kind else { unreachable!("a mode of Sigil's") };
        let sigil = Sigil { rules, ..sigil };
        let lab = Lab::new("scale")?;
        let (one, two) = lab.pair("one", "two")?;
        let keys = one.directory().join("keys");
        let write = |node: &Node, open| {
            let policy = node.directory().join("policy.xml");
            fs::write(&policy, document(1, sigil.protection, rules, open))?;
            Ok::<_, anyhow::Error>(policy)
        };
        let (first, second) = (write(&one, false)?, write(&two, true)?);
        generate_keys(&first, sigil.suite.context("a suite")?, 1, &keys)?;
        let agents = [
            start_agent(&one, 1, &sigil, &first, &keys)?,
            start_agent(&two, 2, &sigil, &second, &keys)?,
        ];
        let server = serve(&one, Some(ZONE), &["serve"])?;
        let driver = Driver::start(&two, Some(ZONE), one.address())?;
        Ok(Self { driver, _server: server, agents, rules, serial: 1, one, _two: two, _lab: lab })
    }

    /// Loads a policy that opens the first node while the second knocks, and then closes it again:
    /// seconds until `labelctl load` has ended, and until the first packet came through.
    fn load(&mut self, round: usize) -> Result<[f64; 2]> {
        let open = self.policy(true)?;
        self.driver.begin(Work::FirstAnswer, PATIENCE)?;
        // The client knocks for a while before the policy comes.
        std::thread::sleep(Duration::from_millis(20));
        let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let loading = Instant::now();
        self.labelctl(&open)?;
        let loaded = loading.elapsed().as_secs_f64();
        let answer = self.driver.finish(PATIENCE)?;
        ensure!(answer.value > start && answer.count > 1, "round {round} was open before");
        let closed = self.policy(false)?;
        self.labelctl(&closed)?;
        Ok([loaded, answer.value - start])
    }

    fn policy(&mut self, open: bool) -> Result<std::path::PathBuf> {
        self.serial += 1;
        let file = self.one.directory().join("next.xml");
        fs::write(&file, document(self.serial, "authenticate", self.rules, open))?;
        Ok(file)
    }

    fn labelctl(&self, policy: &Path) -> Result<()> {
        let process = self.one.start(self.one.labelctl()?.arg("load").arg(policy))?;
        let output = process.wait(PATIENCE)?;
        ensure!(output.success(), "labelctl load: {}", output.stderr);
        Ok(())
    }

    /// Bytes of the first node's agent in memory.
    fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agents[0].pid()))?;
        number(&status, "VmRSS:").map(|kilobytes| kilobytes * 1024.0)
    }

    /// Bytes of the first node's maps, as the kernel counts them.
    fn maps(&self) -> Result<f64> {
        let mut sum = 0.0;
        for entry in fs::read_dir(self.one.bpffs().join("sigil/maps"))? {
            let map = sys::open(&entry?.path())?;
            sum += memory(&map)?;
            // The rule maps are in arrays, one for each bank.
            if field(&map, "map_type:")?.to_bits() == ARRAY_OF_MAPS.to_bits() {
                for bank in 0..BANKS {
                    sum += sys::inner(map.as_fd(), bank).map_or(Ok(0.0), |map| memory(&map))?;
                }
            }
        }
        Ok(sum)
    }
}

fn memory(map: &OwnedFd) -> Result<f64> {
    field(map, "memlock:")
}

fn field(map: &OwnedFd, name: &str) -> Result<f64> {
    number(&fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?, name)
}

fn number(text: &str, field: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field)).context("a field")?;
    value.split_whitespace().next().context("a number")?.parse().context("a number")
}
