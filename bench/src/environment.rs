//! The machine that was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The file in a results folder.
pub const FILE: &str = "environment.json";

/// What results depend on beside the code.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// The day, `YYYY-MM-DD`.
    pub date: String,
    /// The revision of the code.
    pub revision: String,
    /// `uname -r`.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// How many there are.
    pub cpus: usize,
    /// The hypervisor's vendor, or none.
    pub hypervisor: String,
    /// Load averages when the run began: what else the machine had to do.
    pub load_before: String,
    /// And when it ended.
    pub load_after: String,
    /// Settings of the kernel that matter, by name. `reno` is set in each namespace.
    pub settings: Vec<(String, String)>,
    /// What of the kernel did the cryptography, by algorithm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drivers: Vec<(String, String)>,
    /// What emulated the machine, where something did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub emulator: String,
    /// Emulated machines that measured as well, by their circumstances.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<String, Self>,
}

/// Algorithms of the peers.
const ALGORITHMS: [&str; 3] =
    ["hmac(sha256)", "authenc(hmac(sha256),ecb(cipher_null))", "rfc4106(gcm(aes))"];

const SETTINGS: [&str; 12] = [
    "/sys/devices/system/cpu/vulnerabilities/spectre_v2",
    "/sys/devices/system/cpu/vulnerabilities/meltdown",
    "/sys/kernel/security/lsm",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/core/bpf_jit_harden",
    "/proc/sys/net/core/default_qdisc",
    "/proc/sys/net/core/rmem_max",
    "/proc/sys/net/core/netdev_max_backlog",
    "/proc/sys/net/ipv4/tcp_congestion_control",
    "/proc/sys/net/ipv4/tcp_rmem",
    "/proc/sys/net/ipv4/tcp_wmem",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
];

impl Environment {
    /// This machine.
    #[must_use]
    pub fn here(date: &str, revision: &str) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let value = cpuinfo.lines().find_map(|line| line.strip_prefix(name))?;
            Some(value.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let virtual_machine = cpuinfo.lines().any(|line| {
            line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
        });
        Self {
            date: date.to_owned(),
            revision: revision.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            hypervisor: if virtual_machine { "virtual machine" } else { "none" }.to_owned(),
            load_before: load(),
            load_after: String::new(),
            settings: SETTINGS.map(|path| (path.to_owned(), read(path))).into(),
            drivers: Vec::new(),
            emulator: String::new(),
            guests: BTreeMap::new(),
        }
    }

    /// Adds what is known only when the run is over.
    pub fn close(&mut self) {
        self.load_after = load();
        self.drivers = drivers(&fs::read_to_string("/proc/crypto").unwrap_or_default());
    }

    /// Writes it to a results folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        Ok(fs::write(directory.join(FILE), json)?)
    }

    /// Reads that of a results folder.
    ///
    /// # Errors
    /// It is missing or no such file.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().replace('\t', " ")
}

/// The driver of each algorithm that is in use, of those with one name the one that the kernel prefers.
fn drivers(crypto: &str) -> Vec<(String, String)> {
    let mut found: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
    for entry in crypto.split("\n\n") {
        let field = |name: &str| {
            let line = entry.lines().find(|line| line.starts_with(name))?;
            line.split_once(": ").map(|(_, value)| value)
        };
        let Some(name) = field("name").filter(|name| ALGORITHMS.contains(name)) else { continue };
        let priority = field("priority").and_then(|value| value.parse().ok()).unwrap_or(0);
        let candidate = (priority, field("driver").unwrap_or_default());
        found.entry(name).and_modify(|best| *best = candidate.max(*best)).or_insert(candidate);
    }
    let named = found.into_iter().map(|(name, (_, driver))| (name.to_owned(), driver.to_owned()));
    named.collect()
}

fn load() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Keeps this thread, and those it will make, on one CPU, or lets it go again.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    match cpu {
        Some(cpu) => set.set(cpu)?,
        None => (0..CpuSet::count()).try_for_each(|cpu| set.set(cpu))?,
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("CPU {cpu:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_driver_of_a_peers_algorithm_is_named() {
        let crypto = "name         : hmac(sha256)\ndriver       : hmac(sha256-generic)\npriority     : 100\n\n\
                      name         : hmac(sha256)\ndriver       : hmac(sha256-avx2)\npriority     : 170\n\n\
                      name         : hmac(sha256)\ndriver       : hmac(sha256-ssse3)\npriority     : 150\n\n\
                      name         : lzo\ndriver       : lzo-generic\npriority     : 0\n";
        let expected = ("hmac(sha256)".to_owned(), "hmac(sha256-avx2)".to_owned());
        assert_eq!(drivers(crypto), [expected]);
        assert_eq!(drivers(""), []);
    }
}
