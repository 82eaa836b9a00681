//! The node: its datapath, and what was put in force there.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use sigil_common::abi::policy::PROTECTION_AUTHENTICATE;
use sigil_common::abi::process::Task;
use sigil_control::{Attached, Failure, FailureKind, HeldKeys, Labelled, Loaded, Stats, Status};
use sigil_datapath::{Datapath, Doomed, EpochKeys, Error, Options, Origin, Tasks};
use sigil_policy::NodeRules;
use tokio::sync::watch;

use crate::authorise::{Client, Denied, Permit, authorise};
use crate::config::Config;
use crate::feed::Rings;
use crate::gate::{ExecRules, Gate};
use crate::keys::Keys;
use crate::names::Names;
use crate::peer::{Living, Peer};
use crate::policy::{Document, InForce, Kept, admit, newest};
use crate::process::adopt;
use crate::report;
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
    let keys = read_keys(config)?;
    let document = Document::read(&config.policy)?;
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
    ) -> Result<(Self, Rings, Processes)> {
        let snid = config.snid.get();
        let keys = read_keys(&config)?;
        let kept = Kept::read(&config.state);
        let document = newest(Document::read(&config.policy)?, kept.as_ref());
        let first = admit(&document, snid, None).map_err(refusal)?;
        keys.check_cluster(&first.rules.cluster)?;

        let (mut datapath, origin) = Datapath::open(options)?;
        let now = if origin == Origin::Fresh { None } else { datapath.in_force()? };
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
            Some(now) if !admitted.changed && origin == Origin::Adopted => now.generation,
            _ => datapath.apply(&admitted.rules)?.generation,
        };
        let kept = Kept::new(&document, admitted.rules.serial);
        let attached = datapath.attach()?;
        let rings = Rings { events: datapath.events()?, log: datapath.log()? };
        let tasks = Arc::new(datapath.tasks()?);
        let status = Status {
            snid,
            enforcing: !config.observe,
            origin: origin_name(origin).to_owned(),
            attached: attached.iter().map(attached_message).collect(),
            keys: held(&keys.epochs),
            ..Status::default()
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
        };
        node.in_force(&admitted.rules, generation);
        let processes = node.govern(gate_rules)?;
        Ok((node, rings, processes))
    }

    /// Labels what runs already, then guards execs: the programs that follow processes are attached.
    fn govern(&mut self, rules: watch::Receiver<Arc<ExecRules>>) -> Result<Processes> {
        let needs_files = rules.borrow().needs_files();
        let (execs, doomed) = (self.datapath.execs()?, self.datapath.doomed()?);
        let mut gate = Gate::new(execs, Arc::clone(&self.tasks), rules);
        let labelled = adopt(&self.tasks, |program| gate.scid_of_running(program));
        tracing::info!(labelled, "processes that ran already have their labels");
        let guarded = &self.config.guard_exec;
        if !guarded.is_empty() {
            gate.guard(guarded)?;
        } else if needs_files {
            tracing::warn!(
                "the policy has TRANSITION rules and `guard_exec` is empty: every program counts as unsigned"
            );
        }
        "fanotify".clone_into(&mut self.status.backend);
        self.status.guarded = guarded.iter().map(|path| path.display().to_string()).collect();
        Ok(Processes { gate, doomed, tasks: Arc::clone(&self.tasks) })
    }

    /// Takes note of the rules that are in force now.
    fn in_force(&mut self, rules: &NodeRules, generation: u32) {
        if let Err(error) = self.kept.write(&self.config.state) {
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
        self.exec_rules.send_replace(Arc::new(ExecRules::of(rules)));
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
        let document = Document::read(&self.config.policy).map_err(failed)?;
        self.load(&document, dry_run)
    }

    /// Puts a document in force, or changes nothing and says why. The keys are read again, for the
    /// nodes that it may add.
    pub(crate) fn load(&mut self, document: &Document, dry_run: bool) -> Result<Loaded, Failure> {
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
        Ok(Loaded {
            dry_run,
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
        Status { uptime: self.started.elapsed().as_secs(), ..self.status.clone() }
    }

    pub(crate) fn stats(&self) -> Result<Stats, Failure> {
        let counters = self.datapath.counters().map_err(failed)?;
        Ok(report::stats(&counters))
    }

    /// Writes down what must outlive a reboot.
    pub(crate) fn persist(&mut self) -> Result<(), Error> {
        self.datapath.persist()
    }

    /// Once a second: persists, and now and then looks whether all is as it was set up. A trouble
    /// is told once, and shown by the status as long as it lasts.
    pub(crate) fn upkeep(&mut self, maintain: bool) {
        let mut problems = Vec::from_iter(self.datapath.persist().err());
        if maintain {
            let upkeep = self.datapath.maintain();
            problems.extend(upkeep.problems);
            let attached: Vec<_> = upkeep.attached.iter().map(attached_message).collect();
            for at in attached.iter().filter(|at| !self.status.attached.contains(at)) {
                tracing::info!(interface = at.interface, mode = at.mode, "guarded again");
            }
            self.status.attached = attached;
        } else if problems.is_empty() {
            return;
        }
        let problems: Vec<_> = problems.into_iter().map(|error| failed(error).message).collect();
        for problem in problems.iter().filter(|problem| !self.status.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        self.status.problems = problems;
    }

    /// Some interface changed: if it is one of this node's, that is looked after at once.
    pub(crate) fn links_changed(&mut self) {
        if self.datapath.moved() {
            self.upkeep(true);
        }
    }
}

fn read_keys(config: &Config) -> Result<Keys> {
    let read = |path| Keys::read(path, config.snid.get());
    config.keys.as_deref().map_or_else(|| Ok(Keys::default()), read)
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
    Attached { interface: attached.interface.clone(), mode: attached.mode.name().to_owned() }
}

const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Fresh => "fresh",
        Origin::Adopted => "adopted",
        Origin::Upgraded => "upgraded",
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
    if config.keys.is_none() && needed && rules.nodes.len() > 1 {
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
