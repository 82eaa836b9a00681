//! Processes that are older than enforcement, and those that must end.

use std::fs::{self, File};
use std::io::Read;
use std::thread;

use anyhow::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sigil_common::abi::event::Doom;
use sigil_common::abi::process::Task;
use sigil_datapath::{Doomed, Tasks};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Labels what runs already: each process gets what `label_of` says of its program's file, and none
/// twice. The kernel's programs are attached by now, so children of a process that has its label have
/// it too; those that it made just before are found in the next round. How many got a ScID.
pub(crate) fn adopt(tasks: &Tasks, mut label_of: impl FnMut(&File) -> Task) -> usize {
    /// A process that forks faster than one round takes cannot go on so for ever.
    const ROUNDS: usize = 64;
    let mut labelled = 0;
    for _ in 0..ROUNDS {
        let unknown: Vec<_> = processes().filter(|pid| !tasks.of(*pid).is_known()).collect();
        if unknown.is_empty() {
            break;
        }
        for pid in unknown {
            let program = File::open(format!("/proc/{pid}/exe"));
            let label = program.map_or(Task::known(0), |program| label_of(&program));
            // Whoever executed something else meanwhile, or is somebody else, has a word by now.
            if tasks.replace(pid, Task::default(), label) && label.scid() != 0 {
                labelled += 1;
            }
        }
    }
    labelled
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Kills what the kernel's programs ask for, on a thread of its own, for as long as the agent lives.
/// Should that fail, the error comes out of the receiver.
pub(crate) fn reap(mut doomed: Doomed, tasks: Arc<Tasks>) -> Result<oneshot::Receiver<Error>> {
    let (failure, failed) = oneshot::channel();
    let run = move || {
        loop {
            while let Some(doom) = doomed.pop() {
                kill(&doom, &tasks, "it was forked against the rules");
            }
            let mut polled = [PollFd::new(&doomed, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    let _ = failure.send(Error::new(error).context("the ring of the doomed"));
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("reaper".to_owned()).spawn(run).context("cannot start a thread")?;
    Ok(failed)
}

/// Kills a process that is doomed. The id may be another's by the time it is held: one that is younger than the verdict, or that has a
/// label of its own, is not meant. Whether it was there, and is killed.
pub(crate) fn kill(doom: &Doom, tasks: &Tasks, why: &str) -> bool {
    let Some(pid) = i32::try_from(doom.pid).ok().and_then(Pid::from_raw) else { return false };
    let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let older = started(doom.pid).is_some_and(|start| start <= doom.time_ns);
    if older && tasks.of(doom.pid).is_doomed() {
        match pidfd_send_signal(&held, Signal::KILL) {
            Ok(()) => {
                tracing::warn!(pid = doom.pid, "killed: {why}");
                return true;
            }
            Err(error) => {
                tracing::error!(pid = doom.pid, "not killed, but without rights: {error}");
            }
        }
    }
    false
}

/// When a process started, in nanoseconds since boot, rounded down.
fn started(pid: u32) -> Option<u64> {
    const TICK_NS: u64 = 10_000_000;
    const START_AFTER_NAME: usize = 19;
    let mut stat = String::new();
    File::open(format!("/proc/{pid}/stat")).ok()?.read_to_string(&mut stat).ok()?;
    // The name may hold blanks and parentheses.
    let (_, after) = stat.rsplit_once(')')?;
    let ticks: u64 = after.split_whitespace().nth(START_AFTER_NAME)?.parse().ok()?;
    ticks.checked_mul(TICK_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_started_before_now() {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000_000
            + u64::try_from(now.tv_nsec).unwrap();
        let start = started(std::process::id()).unwrap();
        assert!(start <= now && now - start < 3_600_000_000_000, "{start} {now}");
        assert_eq!(started(u32::MAX), None);
    }

    #[test]
    fn this_process_is_among_all() {
        assert!(processes().any(|pid| pid == std::process::id()));
    }
}
