//! Which signatures the labels of running processes come from, so that those that are revoked end.
//!
//! A process's word carries the number of the signature. Numbers outlive the agent, as labels do: they lie
//! in a map beside the words.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};
use sigil_binary::{KeyId, SignatureId, Trust, Verified};
use sigil_common::abi::event::Doom;
use sigil_common::abi::process::{Task, Voucher};
use sigil_datapath::{Execs, Tasks};

use crate::process::kill;

pub(super) struct Vouchers {
    numbers: HashMap<Voucher, u32>,
    last: u32,
}

impl Vouchers {
    /// Those of the agents before.
    pub(super) fn of(execs: &Execs) -> Result<Self> {
        let known = execs.vouchers()?;
        let last = known.iter().map(|(number, _)| *number).max().unwrap_or(0);
        let numbers = known.into_iter().map(|(number, voucher)| (voucher, number)).collect();
        Ok(Self { numbers, last })
    }

    /// The number of a file's signature, a new one if it has none. Nothing if none is left: the file
    /// must not count as signed then, for nobody could end what runs it.
    pub(super) fn number(
        &mut self,
        execs: &mut Execs,
        tasks: &Tasks,
        of: &Verified,
    ) -> Option<u32> {
        let voucher = Voucher { key: of.key.0, signature: of.signature.0 };
        if let Some(number) = self.numbers.get(&voucher) {
            return Some(*number);
        }
        let number = self.last.checked_add(1).filter(|number| *number <= Task::VOUCHER_MAX)?;
        let mut added = execs.add_voucher(number, voucher);
        if matches!(added, Ok(false)) {
            self.drop_unused(execs, tasks);
            added = execs.add_voucher(number, voucher);
        }
        if !matches!(added, Ok(true)) {
            tracing::error!("no room for another signature: its program counts as unsigned");
            return None;
        }
        self.last = number;
        self.numbers.insert(voucher, number);
        Some(number)
    }

    /// Gives up the numbers that no process has and no file leads to.
    fn drop_unused(&mut self, execs: &mut Execs, tasks: &Tasks) {
        if let Err(error) = execs.forget_all() {
            tracing::error!("files are not forgotten: {error}");
            return;
        }
        let used: BTreeSet<_> =
            tasks.find(|task| task.voucher() != 0).iter().map(|(_, task)| task.voucher()).collect();
        self.numbers
            .retain(|_, number| used.contains(number) || execs.remove_voucher(*number).is_err());
    }

    /// Ends the processes whose labels come from signatures that are revoked: what they hold open goes
    /// with them. Files are not known by these signatures any more. Each is told with its name and ScID.
    pub(super) fn end_revoked(
        &self,
        trust: &Trust,
        tasks: &Tasks,
        mut tell: impl FnMut(&Doom, &str, u32),
    ) {
        /// One that forks all the time is found in the next round; born of the doomed, it is doomed.
        const ROUNDS: usize = 64;
        let revoked: BTreeSet<_> = self
            .numbers
            .iter()
            .filter(|(of, _)| trust.revokes(KeyId(of.key), SignatureId(of.signature)))
            .map(|(_, number)| *number)
            .collect();
        if revoked.is_empty() {
            return;
        }
        let (mut idle, mut round) = (0, 0);
        // Twice in a row nobody: an exec or fork that was under way has written its word by then.
        while idle < 2 && round < ROUNDS {
            let found = tasks.find(|task| !task.is_doomed() && revoked.contains(&task.voucher()));
            idle = if found.is_empty() { idle + 1 } else { 0 };
            round += 1;
            for (pid, task) in found {
                if tasks.replace(pid, task, Task::doomed(task.scid())) {
                    let doom = Doom { time_ns: now(), pid, pad: 0 };
                    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    if kill(&doom, tasks, "the signature that its label comes from is revoked") {
                        tell(&doom, comm.trim_end(), task.scid());
                    }
                }
            }
        }
        if idle < 2 {
            tracing::error!("processes of a revoked signature still come: start the agent again");
        }
    }
}

/// Nanoseconds since boot.
fn now() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// A clock's time.
pub(super) fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000_000).saturating_add(part(time.tv_nsec))
}
