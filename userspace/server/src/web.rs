//! The server's metrics and health.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sigil_cluster::web::Health;

use crate::sessions::Sessions;
use crate::state::State;

/// What they are read from.
pub(crate) struct Site {
    pub(crate) state: Arc<State>,
    pub(crate) sessions: Arc<Sessions>,
}

impl Health for Site {
    async fn metrics(&self) -> String {
        metrics(&self.state, &self.sessions)
    }

    async fn trouble(&self) -> Option<String> {
        if self.state.snapshot().keys.value.epochs.is_empty() {
            return Some("no keys yet".to_owned());
        }
        self.state.unsaved()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Drop {
    node: u32,
    hook: String,
    reason: String,
}

fn metrics(state: &State, sessions: &Sessions) -> String {
    let snapshot = state.snapshot();
    let statuses = state.statuses();
    let lagging = snapshot.members().filter(|(snid, _)| {
        let wanted = snapshot.release(*snid).map_or(0, |release| release.revision);
        statuses.get(snid).is_none_or(|status| status.revision < wanted)
    });
    let (keys, policies) = (&snapshot.keys.value, &snapshot.policies.value);
    let current = policies.current.as_ref();
    let revoked = snapshot.nodes.values().filter(|node| node.value.revoked).count();
    let values = [
        ("nodes_enrolled", "Nodes that hold keys", number(snapshot.members().count())),
        ("nodes_revoked", "Nodes that were cut off", number(revoked)),
        ("nodes_attached", "Nodes attached to this server", number(sessions.count())),
        (
            "nodes_lagging",
            "Enrolled nodes without the policy they should have",
            number(lagging.count()),
        ),
        (
            "policy_serial",
            "Serial of the policy in force",
            current.map_or(0, |now| signed(now.serial)),
        ),
        (
            "policy_revision",
            "Revision of the policy in force",
            current.map_or(0, |now| signed(now.revision)),
        ),
        ("policy_canary", "1 while a policy is on trial", i64::from(policies.canary.is_some())),
        ("key_epochs", "Epochs that are accepted", number(keys.epochs.len())),
        ("key_epoch", "Number of the epoch that is stamped with", signed(keys.stamp)),
        ("alarms_held", "Alarms that are kept", number(state.alarms().len())),
    ];
    let mut registry = Registry::with_prefix("sigil_server");
    for (name, help, value) in values {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let (kinds, drops) = state.totals();
    let alarms = Family::<Kind, Counter>::default();
    for (kind, count) in kinds {
        alarms.get_or_create(&Kind { kind }).inc_by(count);
    }
    registry.register("alarms", "Alarms since this server started", alarms);
    let reported = Family::<Drop, Counter>::default();
    for ((node, hook, reason), count) in drops {
        reported.get_or_create(&Drop { node, hook, reason }).inc_by(count);
    }
    registry.register(
        "drops_reported",
        "Drops that nodes reported since this server started",
        reported,
    );
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
