//! What `labelctl` reports as JSON.

use crate::{Node, Output, PATIENCE, Process};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// `labelctl stats -o json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Stats {
    /// Version of the format.
    pub schema: u32,
    /// One row for each hook.
    pub hooks: BTreeMap<String, Row>,
    /// Drops by the node they came from.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// What became of the reports of drops.
    #[serde(default)]
    pub events: Events,
}

/// The counters of one hook.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Row {
    /// Packets or operations judged.
    pub seen: u64,
    /// Those let through.
    pub accepted: u64,
    /// The others, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
}

/// Drops of one source node, at one hook, for one reason.
#[derive(Clone, Debug, Deserialize)]
pub struct Pair {
    /// The source's `SnID`.
    pub snid: u32,
    /// Name of the hook.
    pub hook: String,
    /// Name of the reason.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// What became of the reports of drops.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Events {
    /// Handed to the agent.
    pub sent: u64,
    /// Lost for want of room.
    pub lost: u64,
    /// Held back by the rate limit.
    pub suppressed: u64,
}

/// A line of `labelctl watch -o jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Version of the format.
    pub schema: u32,
    /// Monotonic clock.
    pub time_ns: u64,
    /// Name of the hook.
    pub hook: String,
    /// Name of the reason.
    pub reason: String,
    /// `tcp`, `udp`, `icmp` or a number.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Where it came from.
    pub source: Endpoint,
    /// Where it went.
    pub target: Endpoint,
    /// The local process, where there is one.
    #[serde(default)]
    pub process: Option<Task>,
    /// The policy's line that decided, where one did.
    #[serde(default)]
    pub line: Option<u32>,
    /// How many like it were not reported since the last one.
    #[serde(default)]
    pub suppressed: u64,
}

/// One end of a packet's way.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The node, 0 where unknown.
    pub snid: u32,
    /// The security context, 0 where unknown.
    pub scid: u32,
    /// The address.
    pub address: Option<Ipv4Addr>,
    /// The port.
    pub port: Option<u16>,
}

/// A process in an [`Event`].
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    /// Its id.
    pub pid: u32,
    /// Its name as the kernel keeps it.
    pub comm: String,
}

impl Row {
    /// All drops.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.dropped.values().sum()
    }
}

impl Stats {
    /// The counters of a hook; zeros where it has none.
    #[must_use]
    pub fn hook(&self, name: &str) -> Row {
        self.hooks.get(name).cloned().unwrap_or_default()
    }

    /// Drops at a hook for a reason.
    #[must_use]
    pub fn dropped(&self, hook: &str, reason: &str) -> u64 {
        self.hook(hook).dropped.get(reason).copied().unwrap_or_default()
    }

    /// All drops at all hooks, by reason.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.hooks.values().flat_map(|row| &row.dropped) {
            *sums.entry(reason.as_str()).or_default() += count;
        }
        sums
    }

    /// Drops at all hooks since an earlier reading, by reason.
    #[must_use]
    pub fn drops_since(&self, before: &Self) -> BTreeMap<String, u64> {
        let earlier = before.reasons();
        let new = self.reasons().into_iter().map(|(reason, count)| {
            (reason.to_owned(), count - earlier.get(reason).copied().unwrap_or_default().min(count))
        });
        new.filter(|(_, count)| *count > 0).collect()
    }

    /// Whether each hook let through or dropped, for one reason, every packet that it saw.
    ///
    /// # Errors
    ///
    /// Names the hook where one packet too many or too few is counted.
    pub fn balanced(&self) -> Result<()> {
        for (name, row) in &self.hooks {
            let judged = row.accepted + row.drops();
            ensure!(
                row.seen == judged,
                "{name} saw {} packets and judged {judged}: {row:?}",
                row.seen
            );
        }
        Ok(())
    }
}

impl Node {
    /// Runs `labelctl <arguments>` against the node's agent.
    ///
    /// # Errors
    ///
    /// `labelctl` is not built.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        self.start(self.labelctl()?.args(arguments))?.wait(Duration::from_secs(30))
    }

    /// The agent's counters.
    ///
    /// # Errors
    ///
    /// The agent does not answer.
    pub fn stats(&self) -> Result<Stats> {
        self.json(&["stats", "-o", "json"])
    }

    /// The agent's state.
    ///
    /// # Errors
    ///
    /// The agent does not answer.
    pub fn status(&self) -> Result<serde_json::Value> {
        self.json(&["status", "-o", "json"])
    }

    /// Follows the drops on the node, from here on.
    ///
    /// # Errors
    ///
    /// The agent does not answer.
    pub fn watch(&self) -> Result<Watch> {
        let process = self.start(self.labelctl()?.args(["watch", "-o", "jsonl"]))?;
        process.wait_error_line(PATIENCE, |line| line.starts_with("watching"))?;
        Ok(Watch { process, seen: 0 })
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.ctl(arguments)?;
        ensure!(output.success(), "labelctl {arguments:?}: {}", output.stderr);
        serde_json::from_str(&output.stdout).with_context(|| output.stdout)
    }
}

/// A running `labelctl watch`.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    seen: usize,
}

impl Watch {
    /// The next event that fits; those before it are gone.
    ///
    /// # Errors
    ///
    /// None came within `timeout`, or a line is no event.
    pub fn next(&mut self, timeout: Duration, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        let parse = |line: &str| serde_json::from_str::<Event>(line);
        let wanted = |line: &str| parse(line).map_or(true, |event| fits(&event));
        let line = self.process.next_line(&mut self.seen, timeout, wanted)?;
        parse(&line).context(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(seen: u64) -> Stats {
        serde_json::from_str(&format!(
            r#"{{"schema":1,"hooks":{{
                "ingress":{{"seen":{seen},"accepted":7,"dropped":{{"bad-icv":2,"replay":1}}}},
                "egress":{{"seen":1,"accepted":1,"dropped":{{}}}}}},
                "pairs":[{{"snid":2,"hook":"ingress","reason":"replay","count":1}}],
                "events":{{"sent":3,"lost":0,"suppressed":0}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn counters_balance_to_the_packet() {
        assert!(stats(10).balanced().is_ok());
        let error = stats(11).balanced().unwrap_err().to_string();
        assert!(error.starts_with("ingress saw 11 packets and judged 10"), "{error}");
    }

    #[test]
    fn what_did_not_happen_counts_zero() {
        assert_eq!(stats(10).dropped("ingress", "replay"), 1);
        assert_eq!(stats(10).dropped("deliver", "replay"), 0);
        assert_eq!(stats(10).reasons(), BTreeMap::from([("bad-icv", 2), ("replay", 1)]));
        assert!(stats(10).drops_since(&stats(10)).is_empty());
    }

    #[test]
    fn an_event_may_lack_process_and_line() {
        let line = r#"{"schema":1,"time_ns":5,"hook":"ingress","reason":"no-rule","protocol":"tcp",
            "source":{"snid":2,"scid":3,"address":"10.77.0.2","port":40000},
            "target":{"snid":1,"scid":0,"address":"10.77.0.1","port":80},
            "process":null,"line":null,"suppressed":0}"#;
        let event: Event = serde_json::from_str(line).unwrap();
        assert_eq!((event.source.snid, event.target.port), (2, Some(80)));
        assert!(event.process.is_none());
    }
}
