//! What every scene plays on: the cluster, its servers, and the attacker beside it.

use crate::governed::Governed;
use crate::operator::Operator;
use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::{Setting, generate_keys, key_file};
use sigil_harness::{Attacker, Cluster, Node, Process, Programs};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;

pub(crate) const POLICY: &str = include_str!("../../../dsp/demo.xml");
pub(crate) const OPENED: &str = include_str!("../../../dsp/demo-opened.xml");
pub(crate) const WEB: u32 = 10;
pub(crate) const APP: u32 = 20;
pub(crate) const DB: u32 = 30;
pub(crate) const USER: u32 = 40;
pub(crate) const SECURE: u32 = 50;

pub(crate) struct Stage {
    /// Running servers; ended before the cluster.
    _servers: Vec<Process>,
    /// Programs of web's node, in a file system of their own; unmounted before the node goes.
    pub(crate) programs: Programs,
    pub(crate) operator: Operator,
    pub(crate) mallory: Attacker,
    pub(crate) cluster: Cluster,
    /// Another cluster, under a Security Server, once it was built.
    pub(crate) governed: Option<Governed>,
}

impl Stage {
    pub(crate) fn set() -> Result<Self> {
        let operator = Operator::new()?;
        let policy = operator.named_in(POLICY);
        let mut cluster = Cluster::prepare("demo", &Setting::of(&policy))?;
        let programs = Programs::mount(cluster.node("web")?)?;
        cluster.member("web")?.config.guard_exec = vec![programs.path().into()];
        let rogue = cluster.member("rogue")?;
        let foreign = rogue.node.directory().join("foreign-keys");
        generate_keys(&rogue.config.policy, "siphash-2-4-96", 2, &foreign)?;
        rogue.config.keys = Some(key_file(&foreign, rogue.config.snid));
        for name in ["web", "app", "db", "rogue"] {
            cluster.member(name)?.start()?;
        }
        let mallory = Attacker::plug(&cluster.lab)?;
        let (app, db) = (cluster.node("app")?, cluster.node("db")?);
        let directory = app.directory().join("www");
        fs::create_dir(&directory)?;
        fs::write(directory.join("index.html"), "hello from app\n")?;
        let www = directory.to_str().context("path")?;
        let servers = vec![
            app.spawn_zone(APP, &["python3", "-m", "http.server", "8000", "-d", www])?,
            db.spawn_zone(DB, &["python3", "-m", "http.server", "8000", "-d", www])?,
            db.spawn_zone(DB, &["iperf3", "--server"])?,
            app.serve(Some(APP), &["udp-echo", "9000"])?,
            db.serve(Some(DB), &["udp-echo", "9000"])?,
        ];
        app.wait_listening(8000)?;
        db.wait_listening(8000)?;
        db.wait_listening(5201)?;
        Ok(Self { _servers: servers, programs, operator, mallory, cluster, governed: None })
    }

    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        self.cluster.node(name)
    }

    /// Why the nodes dropped packets while `act` ran.
    pub(crate) fn drops(&self, nodes: &[&str], act: impl FnOnce() -> Result<()>) -> Result<String> {
        let read = || nodes.iter().map(|name| self.node(name)?.stats()).collect::<Result<Vec<_>>>();
        let before = read()?;
        act()?;
        let mut sums = BTreeMap::new();
        for (after, before) in read()?.iter().zip(&before) {
            for (reason, count) in after.drops_since(before) {
                *sums.entry(reason).or_default() += count;
            }
        }
        Ok(reasons(sums))
    }

    /// Why a node drops frames that the attacker sends.
    pub(crate) fn inject(&self, target: &str, frames: &[Vec<u8>]) -> Result<String> {
        Ok(reasons(self.mallory.inject(self.node(target)?, frames)?))
    }

    /// Loads a policy on all nodes.
    pub(crate) fn load(&self, policy: &str) -> Result<()> {
        for node in self.cluster.nodes() {
            let file = node.directory().join("next.xml");
            fs::write(&file, self.operator.named_in(policy))?;
            let output = node.ctl(&["load", file.to_str().context("path")?])?;
            ensure!(output.success(), "labelctl load: {}", output.stderr);
        }
        Ok(())
    }
}

/// The reasons for drops, most frequent first.
fn reasons(drops: BTreeMap<String, u64>) -> String {
    let mut drops: Vec<_> = drops.into_iter().collect();
    drops.sort_by_key(|(_, count)| Reverse(*count));
    let reasons: Vec<_> = drops.into_iter().map(|(reason, _)| reason).collect();
    reasons.join(", ")
}
