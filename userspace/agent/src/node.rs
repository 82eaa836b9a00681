//! The node: its datapath, and what was put in force there.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use sigil_cluster::channel::Prepare;
use sigil_cluster::envelope::Recipient;
use sigil_cluster::proto::{self, Progress, SignedPolicy};
use sigil_common::abi::policy::PROTECTION_AUTHENTICATE;
use sigil_common::abi::process::Task;
use sigil_common::label::KERNEL_SCID;
use sigil_control::{
    Attached, Failure, FailureKind, HeldKeys, Labelled, Loaded, Server, Stats, Status,
};
use sigil_datapath::{Datapath, Doomed, EpochKeys, Error, Options, Origin as Found, Tasks};
use sigil_policy::NodeRules;
use tokio::sync::watch;

use crate::alarms::{Alarms, Samples};
use crate::authorise::{Client, Denied, Permit, authorise};
use crate::config::{Config, Origin};
use crate::feed::Rings;
use crate::gate::{ExecRules, Gate};
use crate::keys::Keys;
use crate::names::Names;
use crate::peer::{Living, Peer};
use crate::policy::{Document, InForce, Kept, admit, newest};
use crate::process::adopt;
use crate::report;
use crate::serve::brief;
use crate::signed::{self, Signed};
use crate::uplink::{Line, credential};
use crate::zone::enter;

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
}

/// What goes on threads of its own once the agent has given up its privileges.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) gate: Gate,
    pub(crate) doomed: Doomed,
    pub(crate) tasks: Arc<Tasks>,
}

/// `sigild --check`.
pub(crate) fn check(config: &Config) -> Result<()> {
    let policy = match config.origin() {
        Origin::Files { policy, .. } => policy,
        Origin::Server(server) => {
            let (_, member) = credential(&server.credential, config.snid.get())?;
            writeln!(io::stdout(), "good: node {} of cluster {}", member.snid, member.cluster)?;
            return Ok(());
        }
    };
    let keys = read_keys(config)?;
    let document = Document::read(policy)?;
    let admitted = admit(&document, config.snid.get(), None).map_err(refusal)?;
    keys.check_cluster(&admitted.rules.cluster)?;
    warn(&admitted.warnings);
    warn_without_keys(config, &admitted.rules);
    let rules = &admitted.rules;
    writeln!(
        io::stdout(),
        "good: cluster {}, serial {}, node {}, {} peers, {} verdicts, {} epochs of keys",
        rules.cluster,
        rules.serial,
        rules.snid,
        rules.peers.len(),
        rules.verdicts.len(),
        keys.epochs.len(),
    )?;
    Ok(())
}

impl Node {
    /// Brings the node up: keys, rules, then the programs. What can be refused is refused before
    /// the kernel is touched.
    pub(crate) fn start(
        config: Arc<Config>,
        options: &Options,
        member: Option<Recipient>,
    ) -> Result<(Self, Rings, Processes)> {
        match member {
            None => Self::start_from_files(config, options),
            Some(member) => Self::start_under_server(config, options, member),
        }
    }

    fn start_from_files(
        config: Arc<Config>,
        options: &Options,
    ) -> Result<(Self, Rings, Processes)> {
        let snid = config.snid.get();
        let keys = read_keys(&config)?;
        let kept = Kept::read(&config.state);
        let document = newest(Document::read(configured(&config)?)?, kept.as_ref());
        let first = admit(&document, snid, None).map_err(refusal)?;
        keys.check_cluster(&first.rules.cluster)?;

        let (mut datapath, origin) = Datapath::open(options)?;
        let now = if origin == Found::Fresh { None } else { datapath.in_force()? };
        let in_force = now.as_ref().map(|now| InForce {
            serial: now.serial,
            bytes: kept.as_ref().filter(|kept| kept.serial == now.serial).map(Kept::bytes),
        });
        let admitted = admit(&document, snid, in_force).map_err(refusal)?;
        warn(&admitted.warnings);
        warn_without_keys(&config, &admitted.rules);

        datapath.install_keys(&keys.epochs)?;
        datapath.retire_keys(&keys.epochs)?;
        let generation = match &now {
            Some(now) if !admitted.changed && origin == Found::Adopted => now.generation,
            _ => datapath.apply(&admitted.rules)?.generation,
        };
        let kept = Kept::new(&document, admitted.rules.serial);
        let status = Status { keys: held(&keys.epochs), ..Status::default() };
        Self::attach(config, datapath, origin, kept, status, None, &admitted.rules, generation)
    }

    /// Starts from the signed copy, or with nothing allowed. Keys that the kernel holds stay there
    /// until the server says which are good.
    fn start_under_server(
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

    #[expect(clippy::too_many_arguments, reason = "the two ways to start meet here")]
    fn attach(
        config: Arc<Config>,
        mut datapath: Datapath,
        origin: Found,
        kept: Kept,
        status: Status,
        signed: Option<Signed>,
        rules: &NodeRules,
        generation: u32,
    ) -> Result<(Self, Rings, Processes)> {
        let alarms = match signed {
            Some(_) => Some(Alarms::open(&config.state, origin == Found::Fresh)?),
            None => None,
        };
        let attached = datapath.attach()?;
        match datapath.leave_others() {
            Ok(left) => left.iter().for_each(|interface| {
                tracing::warn!(
                    interface,
                    "not in `interfaces` any more: it is not guarded any more"
                );
            }),
            // The next start tries again; what is to be guarded is.
            Err(error) => tracing::error!("an interface keeps what guarded it: {error}"),
        }
        let rings = Rings { events: datapath.events()?, log: datapath.log()? };
        let tasks = Arc::new(datapath.tasks()?);
        let status = Status {
            snid: config.snid.get(),
            enforcing: !config.observe,
            origin: origin_name(origin).to_owned(),
            attached: attached.iter().map(attached_message).collect(),
            ..status
        };
        let (names, _) = watch::channel(Arc::new(Names::default()));
        let (exec_rules, gate_rules) = watch::channel(Arc::new(ExecRules::default()));
        let mut node = Self {
            config,
            datapath,
            tasks,
            kept,
            status,
            names,
            exec_rules,
            started: Instant::now(),
            signed,
            line: Line::default(),
            alarms,
            unkept: None,
        };
        node.in_force(rules, generation);
        let processes = node.govern(gate_rules)?;
        Ok((node, rings, processes))
    }

    /// Labels what runs already, then guards execs: the programs that follow processes are attached.
    fn govern(&mut self, rules: watch::Receiver<Arc<ExecRules>>) -> Result<Processes> {
        let needs_files = rules.borrow().needs_files();
        let (execs, doomed) = (self.datapath.execs()?, self.datapath.doomed()?);
        let libraries = &self.config.libraries;
        let mut gate = Gate::new(execs, Arc::clone(&self.tasks), rules, libraries)?;
        let labelled = adopt(&self.tasks, |program| gate.label_of_running(program));
        tracing::info!(labelled, "processes that ran already have their labels");
        let guarded = &self.config.guard_exec;
        if !guarded.is_empty() {
            gate.guard(guarded)?;
        } else if needs_files {
            tracing::warn!(
                "the policy has TRANSITION rules and `guard_exec` is empty: every program counts as unsigned"
            );
        }
        match self.datapath.without_lsm() {
            None => "lsm".clone_into(&mut self.status.backend),
            Some(why) => {
                "fanotify".clone_into(&mut self.status.backend);
                why.clone_into(&mut self.status.without_lsm);
                tracing::info!("forks are not refused but killed, without LSM programs: {why}");
            }
        }
        self.status.guarded = guarded.iter().map(|path| path.display().to_string()).collect();
        Ok(Processes { gate, doomed, tasks: Arc::clone(&self.tasks) })
    }

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
        request: &sigil_control::Request,
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

    /// Reads the configured policy and the keys again.
    pub(crate) fn reload(&mut self, dry_run: bool) -> Result<Loaded, Failure> {
        self.refuse_under_server()?;
        let document = Document::read(configured(&self.config).map_err(failed)?).map_err(failed)?;
        self.load(&document, dry_run)
    }

    fn refuse_under_server(&self) -> Result<(), Failure> {
        if self.signed.is_none() {
            return Ok(());
        }
        let message = "this node's policy comes from its server: labelctl policy push".to_owned();
        Err(Failure { kind: FailureKind::Refused, message })
    }

    /// Puts a document in force, or changes nothing and says why. The keys are read again, for the
    /// nodes that it may add.
    pub(crate) fn load(&mut self, document: &Document, dry_run: bool) -> Result<Loaded, Failure> {
        self.refuse_under_server()?;
        let now = InForce { serial: self.kept.serial, bytes: Some(self.kept.bytes()) };
        let admitted = admit(document, self.status.snid, Some(now))
            .map_err(|message| Failure { kind: FailureKind::Policy, message })?;
        let keys = read_keys(&self.config).map_err(failed)?;
        let rules = &admitted.rules;
        keys.check_cluster(&rules.cluster).map_err(failed)?;
        if !dry_run {
            self.datapath.install_keys(&keys.epochs).map_err(failed)?;
            self.datapath.retire_keys(&keys.epochs).map_err(failed)?;
            self.status.keys = held(&keys.epochs);
            if admitted.changed {
                let applied = self.datapath.apply(rules).map_err(failed)?;
                self.kept = Kept::new(document, rules.serial);
                self.in_force(rules, applied.generation);
            }
        }
        let (changes, more) = if dry_run && admitted.changed {
            self.kept.changes(&admitted.policy, self.status.snid).map_err(failed)?
        } else {
            (Vec::new(), 0)
        };
        Ok(Loaded {
            dry_run,
            changes,
            more,
            changed: admitted.changed,
            cluster: rules.cluster.clone(),
            serial: rules.serial,
            generation: self.status.generation,
            peers: rules.peers.len(),
            verdicts: rules.verdicts.len(),
            warnings: admitted.warnings,
        })
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

    fn server(&self) -> Option<Server> {
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

    /// Tells the server, if there is one.
    fn alarm(&mut self, kind: &str, message: String) {
        if let Some(alarms) = &mut self.alarms {
            alarms.raise(kind, message);
        }
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

    /// The kernel's counters, for metrics.
    pub(crate) fn counters(&self) -> Result<sigil_datapath::Counters, Error> {
        self.datapath.counters()
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
        let signed = self.signed.as_mut().context("this node has no server")?;
        let envelope = signed.check(&policy)?;
        if let Err(error) = self.enforce(&envelope) {
            let why = brief(&format!("{error:#}"));
            let signed = self.signed.as_mut().context("this node has no server")?;
            signed.refused(envelope.revision, why);
            return Err(error);
        }
        let confirm = confirm_within(&envelope);
        let signed = self.signed.as_mut().context("this node has no server")?;
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
        let signed = self.signed.as_mut().context("this node has no server")?;
        signed.go_back(policy, envelope, why);
        Ok(())
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
        let signed = self.signed.as_mut().context("this node has no server")?;
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
        self.datapath.install_keys(&epochs)?;
        self.datapath.forget_keys(&epochs)?;
        self.status.keys = held(&epochs);
        if let Some(signed) = &mut self.signed {
            signed.keys = keys.version;
        }
        tracing::info!(version = keys.version, epochs = epochs.len(), stamp = keys.stamp, "keys");
        Ok(())
    }

    pub(crate) fn stats(&self) -> Result<Stats, Failure> {
        let counters = self.datapath.counters().map_err(failed)?;
        Ok(report::stats(&counters, &self.names.borrow()))
    }

    /// Writes down what must outlive a reboot.
    pub(crate) fn persist(&mut self) -> Result<(), Error> {
        self.datapath.persist()
    }

    /// Once a second: persists, and now and then looks whether all is as it was set up. A trouble
    /// is told once, and shown by the status as long as it lasts.
    pub(crate) fn upkeep(&mut self, maintain: bool) {
        let mut problems = Vec::from_iter(self.datapath.persist().err());
        if let Some(alarms) = &mut self.alarms {
            match self.datapath.counters() {
                Ok(counters) => alarms.look(&counters, Instant::now()),
                Err(error) => problems.push(error),
            }
        }
        if maintain {
            let upkeep = self.datapath.maintain();
            let mut again = Vec::new();
            problems.extend(upkeep.problems);
            let attached: Vec<_> = upkeep.attached.iter().map(attached_message).collect();
            for at in attached.iter().filter(|at| !self.status.attached.contains(at)) {
                tracing::info!(interface = at.interface, mode = at.mode, "guarded again");
                again.push(format!("{} was not guarded any more, and is again", at.interface));
            }
            self.status.attached = attached;
            for message in again {
                self.alarm("guarded-again", message);
            }
            for what in upkeep.repaired {
                let message = format!("somebody removed or changed {what}: it is as it was again");
                tracing::error!("{message}");
                self.alarm("tampered", message);
            }
        } else if problems.is_empty() && self.signed.as_ref().is_none_or(Signed::is_kept) {
            return;
        }
        let mut problems: Vec<_> = problems
            .into_iter()
            .map(|error| {
                let tampered = matches!(error, Error::Tampered { .. });
                (if tampered { "tampered" } else { "node-problem" }, failed(error).message)
            })
            .collect();
        if let Some(Err(error)) = self.signed.as_mut().map(Signed::keep) {
            problems.push(("node-problem", format!("{error:#}")));
        }
        problems.extend(self.unkept.clone().map(|problem| ("node-problem", problem)));
        let told = problems.iter().map(|(_, problem)| problem.clone()).collect();
        let held = std::mem::replace(&mut self.status.problems, told);
        for (kind, problem) in problems.into_iter().filter(|(_, told)| !held.contains(told)) {
            tracing::error!("{problem}");
            self.alarm(kind, problem);
        }
    }
}

fn configured(config: &Config) -> Result<&Path> {
    match config.origin() {
        Origin::Files { policy, .. } => Ok(policy),
        Origin::Server(_) => bail!("the policy comes from the server"),
    }
}

fn read_keys(config: &Config) -> Result<Keys> {
    match config.origin() {
        Origin::Files { keys: Some(path), .. } => Keys::read(path, config.snid.get()),
        Origin::Files { keys: None, .. } | Origin::Server(_) => Ok(Keys::default()),
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

fn held(epochs: &[EpochKeys]) -> Vec<HeldKeys> {
    let held = |epoch: &EpochKeys| HeldKeys {
        key_id: epoch.key_id,
        suite: epoch.suite.name().to_owned(),
        pairs: epoch.pairs.len(),
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

const fn origin_name(origin: Found) -> &'static str {
    match origin {
        Found::Fresh => "fresh",
        Found::Adopted => "adopted",
        Found::Upgraded => "upgraded",
    }
}

fn warn(warnings: &str) {
    if !warnings.is_empty() {
        tracing::warn!("the policy has warnings:\n{}", warnings.trim_end());
    }
}

fn warn_without_keys(config: &Config, rules: &NodeRules) {
    let needed =
        rules.verdicts.iter().any(|(_, verdict)| verdict.protection >= PROTECTION_AUTHENTICATE);
    let none = matches!(config.origin(), Origin::Files { keys: None, .. });
    if none && needed && rules.nodes.len() > 1 {
        tracing::warn!(
            "no `keys` are configured, and the policy asks for authentication: packets from and to \
             other nodes will be dropped (labelctl keys generate makes keys)"
        );
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
