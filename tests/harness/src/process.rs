//! Child processes inside a node: bounded waits, captured output, killed on drop.

use crate::{slower, until};
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a finished process left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// A running process, killed by its own pid on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
}

impl Process {
    /// Starts a command in the network namespace and the control group that the files stand for.
    pub(crate) fn spawn(command: &mut Command, netns: File, mut procs: File) -> Result<Self> {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let enter = move || {
            SigSet::empty().thread_set_mask()?;
            procs.write_all(b"0")?;
            Ok(setns(&netns, CloneFlags::CLONE_NEWNET)?)
        };
        // SAFETY: between fork and exec, `enter` makes three system calls and allocates nothing.
        #[expect(unsafe_code, reason = "nothing else runs code between fork and exec")]
        unsafe {
            command.pre_exec(enter);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let stdout = Pipe::drain(child.stdout.take());
        let stderr = Pipe::drain(child.stderr.take());
        Ok(Self { name, child, stdout, stderr })
    }

    /// The process's id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It still runs after `timeout`; then it is killed, and the error holds what it printed.
    pub fn wait(mut self, timeout: Duration) -> Result<Output> {
        let waited = until("exit", timeout, || Ok(self.child.try_wait()?));
        let Ok(status) = waited else {
            drop(self.child.kill());
            bail!("{} still runs after {timeout:?}\n{}", self.name, self.printed());
        };
        let code = status.code().unwrap_or(128 + status.signal().unwrap_or_default());
        // A grandchild may hold the pipes open: what came by then is what there is.
        self.stdout.closed(Duration::from_secs(1));
        self.stderr.closed(Duration::from_secs(1));
        Ok(Output { code, stdout: self.stdout.text(), stderr: self.stderr.text() })
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits until a line of its standard output fits, and returns the line.
    ///
    /// # Errors
    ///
    /// The output ended, or `timeout` passed, without such a line.
    pub fn wait_line(&self, timeout: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let mut seen = 0;
        self.next_line(&mut seen, timeout, fits)
    }

    /// As [`Process::wait_line`], of its standard error.
    ///
    /// # Errors
    ///
    /// The output ended, or `timeout` passed, without such a line.
    pub fn wait_error_line(
        &self,
        timeout: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.stderr
            .next_line(&mut 0, timeout, fits)
            .with_context(|| format!("{} printed no such line\n{}", self.name, self.printed()))
    }

    /// As [`Process::wait_line`], from the byte `seen` on; moves `seen` behind the line.
    pub(crate) fn next_line(
        &self,
        seen: &mut usize,
        timeout: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.stdout
            .next_line(seen, timeout, fits)
            .with_context(|| format!("{} printed no such line\n{}", self.name, self.printed()))
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    fn printed(&self) -> String {
        format!("stdout: {}\nstderr: {}", self.stdout(), self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program of this workspace, beside the running executable in cargo's target directory.
///
/// # Errors
///
/// It has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("no {name} near {}: `cargo build --release` makes it", own.display())
        })
}

/// What came out of a pipe so far, read by a thread.
#[derive(Clone, Debug, Default)]
struct Pipe(Arc<(Mutex<Drained>, Condvar)>);

#[derive(Debug, Default)]
struct Drained {
    bytes: Vec<u8>,
    closed: bool,
}

impl Pipe {
    fn drain(source: Option<impl Read + Send + 'static>) -> Self {
        let pipe = Self::default();
        let sink = pipe.clone();
        thread::spawn(move || {
            let mut chunk = vec![0; 1 << 16];
            let mut source = source;
            while let Some(length) = source.as_mut().and_then(|s| s.read(&mut chunk).ok()) {
                let mut drained = sink.lock();
                drained.bytes.extend(chunk.iter().take(length));
                drained.closed = length == 0;
                sink.0.1.notify_all();
                if drained.closed {
                    return;
                }
            }
            sink.lock().closed = true;
            sink.0.1.notify_all();
        });
        pipe
    }

    fn lock(&self) -> MutexGuard<'_, Drained> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    fn closed(&self, timeout: Duration) {
        let waited = self.0.1.wait_timeout_while(self.lock(), timeout, |drained| !drained.closed);
        drop(waited);
    }

    fn next_line(
        &self,
        seen: &mut usize,
        timeout: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let deadline = Instant::now() + timeout * slower();
        let mut drained = self.lock();
        loop {
            while let Some(rest) = drained.bytes.get(*seen..)
                && let Some(length) = rest.iter().position(|byte| *byte == b'\n')
            {
                let line = String::from_utf8_lossy(rest.get(..length)?).into_owned();
                *seen += length + 1;
                if fits(&line) {
                    return Some(line);
                }
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if drained.closed {
                return None;
            }
            drained = self.0.1.wait_timeout(drained, left).ok()?.0;
        }
    }
}
