//! A running client end.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use sigil_harness::{Node, Process, binary};

use crate::end::{Answer, Command, Work};

/// How long an answer may take beside what was asked for.
const PATIENCE: Duration = Duration::from_mins(1);

/// A client end on a node, and the pipe to it.
#[derive(Debug)]
pub struct Driver {
    commands: File,
    process: Process,
    server: Ipv4Addr,
    next: u64,
}

impl Driver {
    /// Starts a driver on a node, in a security zone or in none, that works with this server.
    ///
    /// # Errors
    /// It is not built.
    pub fn start(node: &Node, zone: Option<u32>, server: Ipv4Addr) -> Result<Self> {
        let pipe = node.directory().join("driver");
        if !pipe.exists() {
            nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        let process =
            end(node, zone, &["drive", pipe.to_str().context("a path that is no text")?])?;
        // For reading as well, or it would wait here for the driver, and the driver end with a pause.
        let commands = OpenOptions::new().read(true).write(true).open(pipe)?;
        Ok(Self { commands, process, server, next: 0 })
    }

    /// Has it do something.
    ///
    /// # Errors
    /// It cannot.
    pub fn work(&mut self, work: Work, time: Duration) -> Result<Answer> {
        self.begin(work, time)?;
        self.finish(time)
    }

    /// Has it begin with something; [`Driver::finish`] waits for the answer.
    ///
    /// # Errors
    /// It is gone.
    pub fn begin(&mut self, work: Work, time: Duration) -> Result<()> {
        self.next += 1;
        let milliseconds = u64::try_from(time.as_millis())?;
        let command = Command { id: self.next, work, server: self.server, milliseconds };
        let mut line = serde_json::to_string(&command)?;
        line.push('\n');
        Ok(self.commands.write_all(line.as_bytes())?)
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// It has none.
    pub fn finish(&mut self, time: Duration) -> Result<Answer> {
        let id = format!("{} ", self.next);
        let line = self.process.wait_line(time + PATIENCE, |line| line.starts_with(&id))?;
        let answer: Answer = serde_json::from_str(line.trim_start_matches(&id))?;
        match answer.error {
            None => Ok(answer),
            Some(error) => bail!(error),
        }
    }
}

/// Starts an end on a node.
fn end(node: &Node, zone: Option<u32>, arguments: &[&str]) -> Result<Process> {
    let program = binary("sigil-bench")?;
    let program = program.to_str().context("a path that is no text")?;
    let argv = [&[program, "end"], arguments].concat();
    start(node, zone, &argv)
}

/// Starts a command on a node, in a security zone or in none.
pub(super) fn start(node: &Node, zone: Option<u32>, argv: &[&str]) -> Result<Process> {
    match zone {
        Some(scid) => node.spawn_zone(scid, argv),
        None => node.spawn(argv),
    }
}

/// Starts a server on a node and waits until it serves.
///
/// # Errors
/// It does not start.
pub fn serve(node: &Node, zone: Option<u32>, arguments: &[&str]) -> Result<Process> {
    let process = end(node, zone, arguments)?;
    process.wait_line(PATIENCE, |line| line == "ready")?;
    Ok(process)
}
