//! A node under a Security Server: policies, keys and revocations come from there, alarms go there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sigil_cluster::channel::Prepare;
use sigil_cluster::envelope::Recipient;
use sigil_cluster::proto::{self, Progress, SignedPolicy};
use sigil_common::label::KERNEL_SCID;
use sigil_control::{Server, Status};
use sigil_datapath::{Datapath, Options, Origin as Found};
use sigil_policy::NodeRules;

use super::start::Processes;
use super::{Node, held, refusal, warn};
use crate::alarms::{Alarms, Samples};
use crate::config::Config;
use crate::feed::Rings;
use crate::policy::{InForce, Kept, admit};
use crate::serve::brief;
use crate::signed::{self, Signed};
use crate::uplink::Line;

impl Node {
    /// Starts from the signed copy, or with nothing allowed. Keys that the kernel holds stay there
    /// until the server says which are good.
    pub(super) fn start_under_server(
        config: Arc<Config>,
        options: &Options,
        member: Recipient,
    ) -> Result<(Self, Rings, Processes)> {
        let (snid, cluster) = (member.snid, member.cluster.clone());
        let mut signed = Signed::open(&config.state, member)?;
        let document = signed.document();
        let mut rules = match &document {
            Some(document) => admit(document, snid, None).map_err(refusal)?.rules,
            None => NodeRules { cluster, snid, kernel_scid: KERNEL_SCID, ..NodeRules::default() },
        };
        without(&mut rules, &signed.kept.revoked);
        let (mut datapath, origin) = Datapath::open(options)?;
        signed.instance(origin == Found::Fresh)?;
        let generation = datapath.apply(&rules)?.generation;
        let kept = if let Some(document) = &document {
            Kept::new(document, rules.serial)
        } else {
            tracing::warn!("no policy came yet: nothing is allowed");
            Kept::none()
        };
        let status = Status::default();
        Self::attach(config, datapath, origin, kept, status, Some(signed), &rules, generation)
    }

    pub(super) fn server(&self) -> Option<Server> {
        let signed = self.signed.as_ref()?;
        let age = |since: i64| u64::try_from(signed::seconds() - since).unwrap_or_default();
        let progress = signed.progress();
        let problems = [self.line.problem.clone(), progress.problem];
        let problems = problems.into_iter().filter(|problem| !problem.is_empty());
        let problem = problems.collect::<Vec<_>>().join("; ");
        Some(Server {
            address: self.line.server,
            silent: (self.line.heard != 0).then(|| age(self.line.heard)),
            revision: progress.revision,
            age: (progress.revision != 0).then(|| age(signed.kept.since)),
            trial: signed.kept.trial,
            problem: (!problem.is_empty()).then_some(problem),
        })
    }

    /// Notes how the line to the server is.
    pub(crate) fn line(&mut self, note: impl FnOnce(&mut Line)) {
        note(&mut self.line);
    }

    /// What makes a socket the line to the server.
    pub(crate) fn prepare(&self) -> Result<Prepare> {
        let marker = self.datapath.marker()?;
        Ok(Arc::new(move |socket| marker.mark(socket).map_err(io::Error::other)))
    }

    /// See [`proto::Hello::instance`].
    pub(crate) fn instance(&self) -> Vec<u8> {
        self.signed.as_ref().map(|signed| signed.kept.instance.clone()).unwrap_or_default()
    }

    /// Where events are noted that the server is told of.
    pub(crate) fn samples(&self) -> Option<Samples> {
        self.alarms.as_ref().map(Alarms::samples)
    }

    /// Alarms that the server has yet to hear.
    pub(crate) fn report(&self) -> Option<proto::Report> {
        self.alarms.as_ref().and_then(Alarms::report)
    }

    /// How many those are.
    pub(crate) fn unheard(&self) -> usize {
        self.alarms.as_ref().map_or(0, Alarms::waiting)
    }

    /// The server has all up to a number.
    pub(crate) fn heard(&mut self, number: u64) {
        if let Some(alarms) = &mut self.alarms {
            alarms.heard(number);
        }
    }

    /// How far this node is, for the server.
    pub(crate) fn progress(&self) -> Progress {
        let progress = self.signed.as_ref().map(Signed::progress).unwrap_or_default();
        // Roughly, so that it is news now and then. What cannot be read now is read the next time.
        let stamped = self.datapath.stamped().unwrap_or_default() & !0xffff;
        Progress { stamped, ..progress }
    }

    /// How long the policy in force may go without its server, if it was not confirmed.
    pub(crate) fn trial(&mut self) -> Option<Duration> {
        let signed = self.signed.as_ref().filter(|signed| signed.kept.trial)?;
        signed.envelope.as_ref().map(confirm_within)
    }

    /// Puts a signed policy in force, or changes nothing and says why. Says how long it may go
    /// without its server, if there is a way back.
    pub(crate) fn take(&mut self, policy: SignedPolicy) -> Result<Option<Duration>> {
        let envelope = self.signed()?.check(&policy)?;
        if let Err(error) = self.enforce(&envelope) {
            let why = brief(&format!("{error:#}"));
            self.signed()?.refused(envelope.revision, why);
            return Err(error);
        }
        let confirm = confirm_within(&envelope);
        let signed = self.signed()?;
        signed.advance(policy, envelope);
        Ok(signed.kept.trial.then_some(confirm))
    }

    /// The server is known to be reachable under the policy in force.
    pub(crate) fn confirm(&mut self) {
        if let Some(signed) = &mut self.signed {
            signed.confirm();
        }
    }

    /// The policy in force cost this node its server: the one before is in force again.
    pub(crate) fn go_back(&mut self) -> Result<()> {
        let Some(signed) = &mut self.signed else { return Ok(()) };
        let Some((policy, envelope)) = signed.previous() else {
            signed.confirm();
            return Ok(());
        };
        let why = "the server was lost after it was put in force";
        tracing::error!(revision = envelope.revision, "{why}: going back");
        self.enforce(&envelope)?;
        self.signed()?.go_back(policy, envelope, why);
        Ok(())
    }

    fn signed(&mut self) -> Result<&mut Signed> {
        self.signed.as_mut().context("this node has no server")
    }

    /// Puts an envelope's document in force, but for those who were revoked.
    fn enforce(&mut self, envelope: &proto::Envelope) -> Result<()> {
        let document = signed::document(envelope);
        let now = InForce { serial: self.kept.serial, bytes: Some(self.kept.bytes()) };
        let again = envelope.revert || self.status.serial == 0;
        let back = self.signed.as_ref().is_some_and(|signed| {
            signed.previous().is_some_and(|(_, previous)| previous.revision == envelope.revision)
        });
        let floor = (!again && !back).then_some(now);
        let mut admitted = admit(&document, self.status.snid, floor).map_err(refusal)?;
        warn(&admitted.warnings);
        if let Some(signed) = &self.signed {
            without(&mut admitted.rules, &signed.kept.revoked);
        }
        let applied = self.datapath.apply(&admitted.rules)?;
        self.kept = Kept::new(&document, admitted.rules.serial);
        self.in_force(&admitted.rules, applied.generation);
        Ok(())
    }

    /// Installs the keys that the server says are all this node has, and drops those it revoked. What
    /// cannot be written down is not used.
    pub(crate) fn install(&mut self, keys: &proto::Keys) -> Result<()> {
        let signed = self.signed()?;
        if let Err(old) = signed.may_follow(keys) {
            self.alarm("keys-refused", format!("keys are refused: {old}"));
            return Err(old.into());
        }
        let epochs = crate::keys::of_server(keys)?;
        let followed = signed.follow(keys);
        signed.trouble = followed
            .as_ref()
            .err()
            .map_or_else(String::new, |error| brief(&format!("new keys are not taken: {error:#}")));
        followed?;
        if signed.revoke(keys.revoked.clone())
            && let Some(document) = signed.document()
        {
            let snid = self.config.snid.get();
            let mut rules = admit(&document, snid, None).map_err(refusal)?.rules;
            without(&mut rules, &keys.revoked);
            let applied = self.datapath.apply(&rules)?;
            self.in_force(&rules, applied.generation);
        }
        self.datapath.retire_keys(&epochs)?;
        let stamping = self.datapath.install_keys(&epochs)?;
        self.datapath.forget_keys(&epochs)?;
        self.status.keys = held(&epochs, stamping);
        self.signed()?.keys = keys.version;
        tracing::info!(version = keys.version, epochs = epochs.len(), stamp = keys.stamp, "keys");
        Ok(())
    }
}

/// Takes nodes out of the rules: they are strangers then, in either direction.
fn without(rules: &mut NodeRules, revoked: &[u32]) {
    let stays = |snid: u32| !revoked.contains(&snid);
    rules.nodes.retain(|node| stays(node.snid));
    rules.peers.retain(|(label, _)| stays(label.snid));
    rules.ports.retain(|(port, _)| stays(port.snid));
}

fn confirm_within(envelope: &proto::Envelope) -> Duration {
    Duration::from_secs(u64::from(envelope.confirm_seconds.clamp(1, 3600)))
}
