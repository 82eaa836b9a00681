//! The node: its datapath, and what was put in force there.

mod files;
mod member;
mod start;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use sigil_common::abi::process::Task;
use sigil_control::{
    Attached, Failure, FailureKind, HeldKeys, InForce, Labelled, Request, Stats, Status,
};
use sigil_datapath::{Counters, Datapath, EpochKeys, Error, Stamping, Tasks};
use sigil_policy::NodeRules;
use tokio::sync::watch;

use crate::alarms::Alarms;
use crate::authorise::{Client, Denied, Permit, authorise};
use crate::config::Config;
use crate::gate::ExecRules;
use crate::keys::Keys;
use crate::names::Names;
use crate::peer::{Living, Peer};
use crate::policy::{Document, Kept};
use crate::report;
use crate::signed::Signed;
use crate::uplink::Line;
use crate::zone::enter;

pub(crate) use start::{Processes, check};

/// All that a node's agent holds. One request at a time changes it.
#[derive(Debug)]
pub(crate) struct Node {
    config: Arc<Config>,
    datapath: Datapath,
    tasks: Arc<Tasks>,
    kept: Kept,
    status: Status,
    names: watch::Sender<Arc<Names>>,
    exec_rules: watch::Sender<Arc<ExecRules>>,
    started: Instant,
    /// Under a Security Server.
    signed: Option<Signed>,
    line: Line,
    alarms: Option<Alarms>,
    /// What the policy demands and this node cannot keep.
    unkept: Option<String>,
    /// The keys beside which others are still to be retired.
    unretired: Option<Keys>,
}

impl Node {
    /// Takes note of the rules that are in force now.
    fn in_force(&mut self, rules: &NodeRules, generation: u32) {
        // Under a server the signed copy is what is kept.
        if self.signed.is_none()
            && let Err(error) = self.kept.write(&self.config.state)
        {
            tracing::error!("{error:#}: after a restart an older policy may be in force");
        }
        let names = Names::of(rules);
        self.status.node = names.nodes.get(&rules.snid).cloned();
        self.status.cluster.clone_from(&rules.cluster);
        self.status.serial = rules.serial;
        self.status.generation = generation;
        self.status.peers = rules.peers.len();
        self.status.verdicts = rules.verdicts.len();
        self.status.policy = self.kept.document().name;
        self.names.send_replace(Arc::new(names));
        let lsm = self.datapath.without_lsm();
        self.exec_rules.send_replace(Arc::new(ExecRules::of(rules, lsm.is_none())));
        self.unkept = unkept(rules, lsm, &self.config.guard_exec);
        tracing::info!(
            cluster = self.status.cluster,
            serial = rules.serial,
            generation,
            peers = rules.peers.len(),
            verdicts = rules.verdicts.len(),
            "policy in force",
        );
    }

    /// The names in force, now and later.
    pub(crate) fn names(&self) -> watch::Receiver<Arc<Names>> {
        self.names.subscribe()
    }

    /// May this client have its request, and what was it when it was asked? See [`authorise`].
    pub(crate) fn authorise(
        &self,
        peer: &Peer,
        request: &Request,
    ) -> Result<(Permit, Task), Failure> {
        // The order matters: alive after the table was read, so the entry read was its own.
        let task = self.tasks.of(peer.pid);
        let alive = !task.is_doomed() && peer.is_alive();
        let client = Client { uid: peer.uid, scid: task.scid(), alive };
        authorise(client, request, &self.names.borrow(), &self.config.run)
            .map(|permit| (permit, task))
            .map_err(|denied| refused(&denied))
    }

    /// Puts a client into a zone that it is permitted.
    pub(crate) fn enter(
        &self,
        peer: &Peer,
        was: Task,
        scid: u32,
        zone: String,
    ) -> Result<Labelled, Failure> {
        if enter(&*self.tasks, peer.pid, peer, was, scid) {
            Ok(Labelled { scid, zone })
        } else {
            Err(refused(&Denied::Gone))
        }
    }

    pub(crate) fn status(&self) -> Status {
        let uptime = self.started.elapsed().as_secs();
        let mut status = Status { uptime, server: self.server(), ..self.status.clone() };
        if let Some(server) = status.server.as_ref().filter(|server| server.address.is_none()) {
            status.problems.push(server.absence());
        }
        let told = |problem: &&String| !status.problems.contains(problem);
        status.problems.extend(self.unkept.iter().filter(told).cloned().collect::<Vec<_>>());
        status
    }

    /// The kernel's counters, for metrics.
    pub(crate) fn counters(&self) -> Result<Counters, Error> {
        self.datapath.counters()
    }

    /// The document in force.
    pub(crate) fn show(&self) -> Result<InForce, Failure> {
        let Document { name, bytes, .. } = self.kept.document();
        if bytes.is_empty() {
            return Err(failed(anyhow!("no policy came yet: nothing is allowed")));
        }
        let document = String::from_utf8(bytes).map_err(failed)?;
        let part_of = self.signed.as_ref().map(|_| self.status.snid);
        Ok(InForce { name, document, part_of })
    }

    pub(crate) fn stats(&self) -> Result<Stats, Failure> {
        let counters = self.datapath.counters().map_err(failed)?;
        Ok(report::stats(&counters, &self.names.borrow()))
    }
}

/// Why zones that demand signed code run nothing here, if the policy has any.
fn unkept(rules: &NodeRules, without_lsm: Option<&str>, guarded: &[PathBuf]) -> Option<String> {
    let strict: Vec<_> = rules.signed_code_zones().collect();
    let zones = rules.zones.iter().filter(|zone| strict.contains(&zone.scid));
    let zones = zones.map(|zone| zone.name.as_str()).collect::<Vec<_>>().join(", ");
    let why = match without_lsm {
        _ if strict.is_empty() => return None,
        Some(why) => format!("needs the backend lsm: {why}"),
        None if guarded.is_empty() => {
            "needs `guard_exec`: every program counts as unsigned".to_owned()
        }
        None => return None,
    };
    Some(format!("zones run nothing here, for they demand signed code ({zones}), and that {why}"))
}

fn held(epochs: &[EpochKeys], stamping: Option<Stamping>) -> Vec<HeldKeys> {
    let held = |epoch: &EpochKeys| HeldKeys {
        key_id: epoch.key_id,
        suite: epoch.suite.name().to_owned(),
        pairs: epoch.pairs.len(),
        stamps: stamping.is_some_and(|stamping| stamping.key_id == epoch.key_id),
    };
    epochs.iter().map(held).collect()
}

fn attached_message(attached: &sigil_datapath::Attached) -> Attached {
    Attached {
        interface: attached.interface.clone(),
        mode: attached.mode.name().to_owned(),
        hook: attached.hook.name().to_owned(),
    }
}

fn warn(warnings: &str) {
    if !warnings.is_empty() {
        tracing::warn!("the policy has warnings:\n{}", warnings.trim_end());
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refusal(report: String) -> anyhow::Error {
    anyhow!("the policy is refused\n{}", report.trim_end())
}

fn refused(error: &impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Refused, message: error.to_string() }
}

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure { kind: FailureKind::Failed, message: format!("{:#}", error.into()) }
}
