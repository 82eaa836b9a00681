//! Processes carry labels: a program's file and the rules decide at each exec, forks inherit, and
//! sockets serve the processes of their own label only.

mod exec;
mod interpreters;
mod meeting;
mod relabel;
mod revocation;
mod ring;
mod rules;
mod sockets;
mod storm;

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use sigil_binary::{How, PrivateKey, label};
use sigil_common::abi::name;
use sigil_common::abi::process::Task;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, Process, Programs, until};

const POLICY: &str = include_str!("policy.xml");
/// The key that the policy names: of RFC 8032, for each test's own.
const NOBODYS: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const USER: u32 = 10;
const SECURE: u32 = 20;
const RIGID: u32 = 30;
const SINGLE: u32 = 40;
const STRICT: u32 = 50;
const FRONT: u32 = 60;
const WORKER: u32 = 70;
const BARRED: u32 = 80;

/// The distribution's own: others may be scripts that fork.
const PYTHON: &str = "/usr/bin/python3";

/// What the programs of these tests do: say that they run, and wait.
const WAIT: &str = "echo ready; sleep 60";

/// A node whose programs lie in a file system of their own, which is guarded, and somebody who signs.
struct Bench {
    // Dropped in this order: the programs are mounted in a node's directory.
    programs: Programs,
    cluster: Cluster,
    key: PrivateKey,
    /// The document in force at first.
    policy: String,
    /// One test at a time: a child that another test forks holds for a moment what this one writes, and
    /// a file that is open for writing is neither run nor signed.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Bench {
    fn start(name: &str) -> Result<Self> {
        let mut bench = Self::prepare(name)?;
        bench.cluster.member("one")?.start()?;
        Ok(bench)
    }

    /// Where nothing is refused that the other programs can only see, and end.
    fn without_lsm(name: &str) -> Result<Self> {
        let mut bench = Self::prepare(name)?;
        let member = bench.cluster.member("one")?;
        member.config.backend = "fanotify".into();
        member.start()?;
        Ok(bench)
    }

    fn prepare(name: &str) -> Result<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = tempfile::tempdir()?;
        let key = PrivateKey::generate(keys.path().join("key"))?;
        let hex = key.public().map(|byte| format!("{byte:02x}")).concat();
        ensure!(POLICY.contains(NOBODYS), "whose key does the policy name?");
        let policy = POLICY.replace(NOBODYS, &hex);
        let setting = Setting { suite: None, ..Setting::of(&policy) };
        let mut cluster = Cluster::prepare(name, &setting)?;
        let programs = Programs::mount(cluster.node("one")?)?;
        cluster.member("one")?.config.guard_exec = vec![programs.path().into()];
        Ok(Self { programs, cluster, key, policy, _alone: alone })
    }

    fn node(&self) -> Result<&Node> {
        self.cluster.node("one")
    }

    /// A shell of its own, signed for `secure` or not.
    fn shell(&self, name: &str, signed: bool) -> Result<PathBuf> {
        let path = self.programs.copy(&fs::canonicalize("/bin/sh")?, name)?;
        if signed {
            self.sign(&path)?;
        }
        Ok(path)
    }

    fn sign(&self, path: &Path) -> Result<()> {
        label(path, SECURE, 1, Some(&self.key), How::default())?;
        Ok(())
    }

    /// Runs a shell, or a script, until it says that it is ready; then its label is final.
    fn waiting(&self, program: &Path) -> Result<Process> {
        ready(self.node()?.spawn(&[text(program)?, "-c", WAIT])?)
    }

    fn label_of(&self, process: &Process) -> Result<u32> {
        Ok(self.task(process.pid())?.scid())
    }

    fn task(&self, pid: u32) -> Result<Task> {
        let pin = self.node()?.bpffs().join("sigil/maps").join(name::TASKS);
        let map = Map::Array(MapData::from_pin(pin)?);
        Ok(Array::<_, Task>::try_from(map)?.get(&pid, 0)?)
    }

    /// Runs a python program in a zone to its end; what it printed.
    fn python(&self, zone: u32, program: &str) -> Result<String> {
        let output = self.node()?.run_zone(zone, &[PYTHON, "-c", program])?;
        anyhow::ensure!(output.stderr.is_empty(), "{}", output.stderr);
        Ok(output.stdout.trim().to_owned())
    }
}

/// Changes a file, as soon as nobody executes it any more: children of a killed shell take a moment.
fn tamper(path: &Path) -> Result<()> {
    let mut file =
        until("end of those who execute the file", PATIENCE, || {
            match OpenOptions::new().append(true).open(path) {
                Ok(file) => Ok(Some(file)),
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
    Ok(file.write_all(b"\0")?)
}

fn ready(process: Process) -> Result<Process> {
    process.wait_line(PATIENCE, |line| line == "ready")?;
    Ok(process)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

/// Until a process that printed its id is gone.
fn gone(pid: &str) -> Result<()> {
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    until("end of the process", PATIENCE, || {
        let alive = fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        Ok((!alive).then_some(()))
    })
}
