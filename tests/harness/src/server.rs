//! A Security Server, and the cluster under it.

use crate::lab::Node;
use crate::{Output, PATIENCE, Process, binary, until};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The part of `sigild`'s configuration that names a server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ServerTable {
    /// What `sigild join` writes.
    pub credential: PathBuf,
}

/// A running `sigil-server`, killed on drop.
#[derive(Debug)]
pub struct Server {
    process: Option<Process>,
    directory: PathBuf,
    address: SocketAddrV4,
    made: String,
}

/// What `labelctl policy status` says of a cluster.
#[derive(Debug, Deserialize)]
pub struct ClusterStatus {
    /// Of the policy in force.
    pub revision: u64,
    /// Of the policy in force.
    pub serial: u64,
    /// The version of the keys.
    pub keys: u64,
    /// Key ids.
    pub epochs: Vec<u32>,
    /// The key id to stamp with.
    pub stamp: u32,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node of [`ClusterStatus`].
#[derive(Debug, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub snid: u32,
    /// `enrolled`, `revoked`, …
    pub state: String,
    /// Whether it is attached now.
    pub attached: bool,
    /// Of the policy in force there.
    pub revision: u64,
    /// What it should have.
    pub wanted: u64,
    /// Of the policy in force there.
    pub serial: u64,
    /// The version of its keys.
    pub keys: u64,
    /// Why it is not where it should be.
    pub problem: String,
}

impl Server {
    /// Makes a cluster on a node and serves it there. `settings` go below the configuration.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn start(node: &Node, cluster: &str, settings: &str) -> Result<Self> {
        let directory = node.directory().join("server");
        let address = SocketAddrV4::new(node.address(), 7443);
        let mut init = Command::new(binary("sigil-server")?);
        init.args(["init", "--cluster", cluster, "--listen", &address.to_string(), "--out"]);
        let made = node.start(init.arg(&directory))?.wait(PATIENCE)?;
        ensure!(made.success(), "sigil-server init: {}", made.stderr);
        let file = directory.join("server.toml");
        let text = std::fs::read_to_string(&file)?;
        // The tables that `init` writes come last, and are replaced.
        let head = text.split("\n[").next().unwrap_or_default();
        std::fs::write(&file, format!("{head}\n{settings}"))?;
        let mut server = Self { process: None, directory, address, made: made.stdout };
        server.resume(node)?;
        Ok(server)
    }

    /// Starts it again.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn resume(&mut self, node: &Node) -> Result<()> {
        let mut command = Command::new(binary("sigil-server")?);
        command.args(["run", "--config"]).arg(self.directory.join("server.toml"));
        let process = node.start(&mut command)?;
        self.process = Some(process);
        node.wait_listening(self.address.port()).with_context(|| self.stderr())
    }

    /// `sigil-server recover`, while it does not run.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn recover(&self, node: &Node) -> Result<Output> {
        let mut command = Command::new(binary("sigil-server")?);
        command.args(["recover", "--config"]).arg(self.directory.join("server.toml"));
        node.start(&mut command)?.wait(PATIENCE)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    ///
    /// It had ended before.
    pub fn kill(&mut self) -> Result<Output> {
        let process = self.process.take().context("no server runs")?;
        process.signal(nix::sys::signal::Signal::SIGKILL)?;
        process.wait(PATIENCE)
    }

    /// Its process, while one runs.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// What it logged so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.as_ref().map(Process::stderr).unwrap_or_default()
    }

    /// What `sigil-server init` printed.
    #[must_use]
    pub fn made(&self) -> &str {
        &self.made
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The administrator's credential.
    #[must_use]
    pub fn admin(&self) -> PathBuf {
        self.directory.join("admin.toml")
    }

    /// Runs `labelctl` as the administrator, on a node that reaches the server.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn labelctl(&self, from: &Node, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("labelctl")?);
        command.args(arguments).env("SIGIL_ADMIN", self.admin());
        from.start(&mut command)?.wait(3 * PATIENCE)
    }

    /// As [`Server::labelctl`], for what has to succeed: its output.
    ///
    /// # Errors
    ///
    /// It says no, or fails.
    pub fn administer(&self, from: &Node, arguments: &[&str]) -> Result<String> {
        let output = self.labelctl(from, arguments)?;
        let said = (&output.stdout, &output.stderr);
        ensure!(output.success(), "labelctl {arguments:?}: {said:?}\n{}", self.stderr());
        Ok(output.stdout.trim().to_owned())
    }

    /// Has a node join with a new token; `config` is its agent's file.
    ///
    /// # Errors
    ///
    /// It is refused.
    pub fn join(&self, from: &Node, node: &Node, snid: u32, config: &Path) -> Result<()> {
        let token = self.administer(from, &["node", "enroll", &snid.to_string()])?;
        let output = self.join_with(node, config, &token)?;
        ensure!(output.success(), "sigild join: {}", output.stderr);
        Ok(())
    }

    /// `sigild join` with this token, whatever comes of it.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn join_with(&self, node: &Node, config: &Path, token: &str) -> Result<Output> {
        let mut command = Command::new(binary("sigild")?);
        command.arg("--config").arg(config).args(["join", "--server", &self.address.to_string()]);
        node.start(command.env("SIGIL_TOKEN", token))?.wait(PATIENCE)
    }

    /// How the cluster is.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub fn status(&self, from: &Node) -> Result<ClusterStatus> {
        let output = self.labelctl(from, &["policy", "status", "-o", "json"])?;
        serde_json::from_str(&output.stdout).with_context(|| output.stderr)
    }

    /// Waits until the cluster is so.
    ///
    /// # Errors
    ///
    /// It never is.
    pub fn wait(
        &self,
        from: &Node,
        what: &str,
        fits: impl Fn(&ClusterStatus) -> bool,
    ) -> Result<ClusterStatus> {
        let mut last = None;
        let found = until(what, 2 * PATIENCE, || {
            let status = self.status(from)?;
            let fit = fits(&status);
            last = Some(status);
            Ok(fit.then(|| last.take()).flatten())
        });
        found.with_context(|| format!("{last:?}\n{}", self.stderr()))
    }

    /// Waits until every enrolled node is attached and has what it should have.
    ///
    /// # Errors
    ///
    /// One does not follow.
    pub fn settled(&self, from: &Node) -> Result<ClusterStatus> {
        self.wait(from, "nodes in step", |status| {
            let follows = |node: &NodeStatus| {
                node.attached && node.revision == node.wanted && node.keys == status.keys
            };
            let enrolled = |node: &&NodeStatus| node.state == "enrolled";
            status.nodes.iter().filter(enrolled).all(follows)
        })
    }
}
