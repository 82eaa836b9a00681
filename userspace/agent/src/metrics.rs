//! The agent's metrics and health.

use std::sync::{Arc, Mutex};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sigil_cluster::web::Health;
use sigil_control::Status;
use sigil_datapath::Counters;

use crate::node::Node;
use crate::serve::with_node;

/// What they are read from.
pub(crate) struct Site(pub(crate) Arc<Mutex<Node>>);

impl Health for Site {
    async fn metrics(&self) -> String {
        let read = with_node(&self.0, |node| {
            let counters = node.counters().unwrap_or_default();
            text(&counters, &node.status(), node.unheard())
        });
        read.await.unwrap_or_default()
    }

    async fn trouble(&self) -> Option<String> {
        let problems = with_node(&self.0, |node| node.status().problems).await;
        let problems = problems.unwrap_or_else(|error| vec![error.to_string()]);
        (!problems.is_empty()).then(|| problems.join("\n"))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    hook: &'static str,
    reason: &'static str,
}

fn text(counters: &Counters, status: &Status, unheard: usize) -> String {
    let seen = Family::<At, Counter>::default();
    let accepted = Family::<At, Counter>::default();
    let dropped = Family::<Why, Counter>::default();
    for (hook, row) in &counters.rows {
        let hook = hook.name();
        seen.get_or_create(&At { hook }).inc_by(row.seen);
        accepted.get_or_create(&At { hook }).inc_by(row.accepted);
        for (reason, count) in row.dropped.iter().filter(|(_, count)| *count > 0) {
            dropped.get_or_create(&Why { hook, reason: reason.name() }).inc_by(*count);
        }
    }
    let lost = Counter::<u64>::default();
    lost.inc_by(counters.events.lost);
    let mut registry = Registry::with_prefix("sigil");
    registry.register("packets_seen", "Packets and operations judged", seen);
    registry.register("packets_accepted", "Those that were let through", accepted);
    registry.register("packets_dropped", "Those that were not", dropped);
    registry.register("events_lost", "Reports of drops that had no room", lost);
    let server = status.server.as_ref();
    let age = server.and_then(|server| server.age);
    let values = [
        ("enforcing", "0 while the agent only observes", i64::from(status.enforcing)),
        ("policy_serial", "Serial of the policy in force", number(status.serial)),
        ("policy_age_seconds", "Since the server's policy was put in force", age.map_or(0, number)),
        (
            "server_attached",
            "1 while attached to a server",
            i64::from(server.is_some_and(|server| server.address.is_some())),
        ),
        ("problems", "What is not as it should be", count(status.problems.len())),
        ("warnings", "What soon will not be", count(status.warnings.len())),
        ("alarms_unheard", "Alarms that the server has yet to hear", count(unheard)),
    ];
    let left = "Epochs of the key file after the one that packets are stamped with";
    let spare = status.spare_epochs.map(|spare| ("epochs_spare", left, count(spare)));
    for (name, help, value) in values.into_iter().chain(spare) {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_common::verdict::{DropReason, Hook};
    use sigil_datapath::Row;

    #[test]
    fn what_is_dropped_is_told_by_hook_and_reason() {
        let dropped = vec![(DropReason::NoRule, 3), (DropReason::BadIcv, 0)];
        let row = Row { seen: 5, accepted: 2, dropped, ..Row::default() };
        let counters = Counters { rows: vec![(Hook::Ingress, row)], ..Counters::default() };
        let text = text(&counters, &Status::default(), 4);
        for line in [
            "sigil_packets_dropped_total{hook=\"ingress\",reason=\"no-rule\"} 3",
            "sigil_packets_seen_total{hook=\"ingress\"} 5",
            "sigil_alarms_unheard 4",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("bad-icv") && !text.contains("epochs_spare"));
    }

    #[test]
    fn the_last_epoch_raises_an_alert() {
        let warnings = vec![String::new()];
        let last = Status { spare_epochs: Some(0), warnings, ..Status::default() };
        let text = text(&Counters::default(), &last, 0);
        assert!(
            text.contains("sigil_epochs_spare 0") && text.contains("sigil_warnings 1"),
            "{text}"
        );
    }
}
