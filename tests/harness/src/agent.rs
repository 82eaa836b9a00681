//! A node's `sigild`.

use crate::{Node, Output, PATIENCE, Process, ServerTable, binary, slower};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the agent may take to load its programs.
const STARTUP: Duration = Duration::from_mins(1);

/// `sigild`'s configuration file.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// This node's `SnID`.
    pub snid: u32,
    /// The DSP document; empty under a server.
    #[serde(skip_serializing_if = "is_empty")]
    pub policy: PathBuf,
    /// The node's keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    /// The cluster NICs.
    pub interfaces: Vec<String>,
    /// Where ingress verifies: `auto`, `xdp` or `tc`.
    pub mode: String,
    /// What keeps the rules on processes: `auto`, `lsm` or `fanotify`.
    pub backend: String,
    /// The control group that is enforced.
    pub cgroup: PathBuf,
    /// Where programs and maps are pinned.
    pub bpffs: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// What has to outlive the agent.
    pub state: PathBuf,
    /// Where metrics and health are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Whether a drop is only counted.
    pub observe: bool,
    /// The label's domain of interpretation, eight hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doi: Option<String>,
    /// Directories whose file systems' programs are judged before they run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guard_exec: Vec<PathBuf>,
    /// Directories whose files may be libraries of zones that demand signed code.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub libraries: Vec<PathBuf>,
    /// Sizes of the kernel's maps.
    pub limits: Limits,
    /// Who may run commands in which zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<Run>,
    /// The Security Server, which brings policy and keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerTable>,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// Sizes of the kernel's maps; the agent's defaults where there is none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Limits {
    /// Nodes of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Labels that have a handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u32>,
}

/// A user and the zones that `labelctl run` opens to it.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The user's id.
    pub uid: u32,
    /// Names of zones.
    pub zones: Vec<String>,
}

impl Config {
    /// What a node's agent needs, everything else at its default.
    #[must_use]
    pub fn new(node: &Node, snid: u32, policy: &Path, keys: Option<&Path>) -> Self {
        Self {
            snid,
            policy: policy.into(),
            keys: keys.map(Into::into),
            interfaces: vec!["eth0".into()],
            mode: "auto".into(),
            backend: std::env::var("SIGIL_BACKEND").unwrap_or_else(|_| "auto".into()),
            cgroup: node.cgroup().into(),
            bpffs: node.bpffs().join("sigil"),
            socket: node.socket(),
            state: node.directory().join("state"),
            metrics: None,
            observe: false,
            doi: None,
            guard_exec: Vec::new(),
            libraries: Vec::new(),
            limits: Limits::default(),
            run: Vec::new(),
            server: None,
        }
    }

    /// As [`Config::new`], under a Security Server.
    #[must_use]
    pub fn under_server(node: &Node, snid: u32) -> Self {
        let credential = node.directory().join("credential.toml");
        let server = Some(ServerTable { credential });
        Self { server, ..Self::new(node, snid, Path::new(""), None) }
    }

    /// Writes the file, and says where it is.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, node: &Node) -> Result<PathBuf> {
        let file = node.directory().join("sigild.toml");
        fs::write(&file, toml::to_string(self)?)?;
        fs::create_dir_all(&self.state)?;
        Ok(file)
    }
}

/// A running `sigild`, killed on drop; what it pinned stays until the node goes.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    file: PathBuf,
}

impl Agent {
    /// Writes the configuration, starts the agent on the node and waits until it enforces.
    ///
    /// # Errors
    ///
    /// It ended, or is not ready in time; with what it printed.
    pub fn start(node: &Node, config: &Config) -> Result<Self> {
        let file = config.write(node)?;
        let notify = node.directory().join("notify.sock");
        drop(fs::remove_file(&notify));
        let ready = UnixDatagram::bind(&notify)?;
        let mut command = Command::new(binary("sigild")?);
        command.arg("--config").arg(&file).env("NOTIFY_SOCKET", &notify);
        let mut agent = Self { process: node.start(&mut command)?, file };
        agent.wait_ready(&ready)?;
        Ok(agent)
    }

    fn wait_ready(&mut self, socket: &UnixDatagram) -> Result<()> {
        let deadline = Instant::now() + STARTUP * slower();
        let mut message = [0; 4096];
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        while Instant::now() < deadline {
            let received = socket.recv(&mut message).ok().and_then(|length| message.get(..length));
            if received.is_some_and(|m| m.split(|b| *b == b'\n').any(|line| line == b"READY=1")) {
                return Ok(());
            }
            ensure!(self.process.is_running()?, "sigild ended: {}", self.process.stderr());
        }
        bail!("sigild is not ready: {}", self.process.stderr())
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Sends a signal, e.g. SIGHUP to read the policy and the keys again.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it with SIGKILL; what it pinned enforces on.
    ///
    /// # Errors
    ///
    /// It had ended before.
    pub fn kill9(self) -> Result<Output> {
        self.end(Signal::SIGKILL)
    }

    /// Stops it with SIGTERM; what it pinned enforces on.
    ///
    /// # Errors
    ///
    /// It had ended before, or does not end now.
    pub fn stop(self) -> Result<Output> {
        self.end(Signal::SIGTERM)
    }

    /// Stops it and takes its programs off the node.
    ///
    /// # Errors
    ///
    /// It does not end, or `sigild --detach` fails.
    pub fn detach(self, node: &Node) -> Result<()> {
        let file = self.file.clone();
        self.stop()?;
        let mut command = Command::new(binary("sigild")?);
        let process = node.start(command.arg("--config").arg(file).arg("--detach"))?;
        let output = process.wait(PATIENCE).context("sigild --detach")?;
        ensure!(output.success(), "sigild --detach: {}", output.stderr);
        Ok(())
    }

    fn end(mut self, signal: Signal) -> Result<Output> {
        ensure!(self.process.is_running()?, "sigild had ended: {}", self.process.stderr());
        self.process.signal(signal)?;
        self.process.wait(PATIENCE)
    }
}
