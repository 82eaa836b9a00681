//! How a node comes up, whoever says what is in force there.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use sigil_cluster::envelope::Recipient;
use sigil_control::Status;
use sigil_datapath::{Datapath, Doomed, Options, Origin as Found, Tasks};
use sigil_policy::NodeRules;
use tokio::sync::watch;

use super::files::{read_keys, warn_without_keys};
use super::{Node, attached_message, refusal, warn};
use crate::alarms::Alarms;
use crate::config::{Config, Origin};
use crate::feed::Rings;
use crate::gate::{ExecRules, Gate};
use crate::names::Names;
use crate::policy::{Document, Kept, admit};
use crate::process::adopt;
use crate::signed::Signed;
use crate::uplink::{Line, credential};

/// What goes on threads of its own once the agent has given up its privileges.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) gate: Gate,
    pub(crate) doomed: Doomed,
    pub(crate) tasks: Arc<Tasks>,
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

    #[expect(clippy::too_many_arguments, reason = "the two ways to start meet here")]
    pub(super) fn attach(
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
            unretired: None,
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

const fn origin_name(origin: Found) -> &'static str {
    match origin {
        Found::Fresh => "fresh",
        Found::Adopted => "adopted",
        Found::Upgraded => "upgraded",
    }
}
