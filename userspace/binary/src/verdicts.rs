//! Verdicts that are remembered, each for one state of one file.
//!
//! A verdict is found again by the inode and its change time. For that to be sound, nobody may change a
//! file afterwards without moving its change time on, and nobody may have it half changed already:
//!
//! - While a file is verified a read lease is on it: it has no writer and no writable mapping then.
//! - Time has passed the change time before the content is read, so that a later write cannot get the
//!   same one. Time set back would break this: every verdict goes when the clock was set.
//! - Where change times do not tell (tmpfs, clocks in the future, file systems with whole seconds) the lease
//!   stays with the verdict. [`Verdicts::sweep`] finds those that somebody waits for.
//!
//! Somebody who must read a file that is not the caller's needs `CAP_LEASE`; without it nothing is verified.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sigil_common::abi::binary::{BinaryKey, kernel_dev};

use crate::lease::{Lease, Tells, tells};
use crate::record::Record;
use crate::trust::Trust;
use crate::unsigned::Unsigned;
use crate::verify::{Verified, find, may_count, verify_found};

/// Leases that stay with their verdicts, at most: each is an open file.
pub const LEASES_MAX: usize = 256;
/// How far wall clock and boot clock may drift apart before the wall clock counts as set.
const STEP: i64 = 1_000_000;
/// How long to wait for the clock to pass a change time: a few ticks of a slow kernel.
const PATIENCE: Duration = Duration::from_millis(40);

/// Where a cache takes the time from.
pub trait Clock {
    /// The clock that files get their times from, in nanoseconds since 1970.
    fn file_time(&self) -> i64;
    /// The wall clock less the time since boot, in nanoseconds: changes when the clock is set, only.
    fn setting(&self) -> i64;
}

/// The system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn file_time(&self) -> i64 {
        nanoseconds(ClockId::RealtimeCoarse)
    }

    fn setting(&self) -> i64 {
        let before = nanoseconds(ClockId::Boottime);
        let wall = nanoseconds(ClockId::Realtime);
        wall - before
    }
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// What is known of a file now.
#[derive(Debug)]
pub struct Judgement {
    /// Which state of which file; nothing of what is no regular file.
    pub key: Option<BinaryKey>,
    /// What it is.
    pub verdict: Result<Verified, Unsigned>,
    /// Whether the verdict was known already.
    pub known: bool,
    /// Verdicts that had to go.
    pub evicted: Vec<Evicted>,
}

/// A verdict that is no longer remembered.
#[derive(Debug)]
#[must_use = "what was derived from the verdict has to go too"]
pub struct Evicted {
    /// Of which state of which file.
    pub key: BinaryKey,
    /// What it was.
    pub verdict: Result<Verified, Unsigned>,
    /// Whoever waits to write goes on when this is dropped: not before all copies of the verdict are gone.
    _lease: Option<Lease>,
}

struct Entry {
    age: u64,
    record: Option<Record>,
    verdict: Result<Verified, Unsigned>,
    lease: Option<Lease>,
}

/// A bounded cache of verdicts. The oldest goes when a new one has no room.
pub struct Verdicts<C = SystemClock> {
    trust: Trust,
    capacity: usize,
    clock: C,
    setting: i64,
    entries: HashMap<BinaryKey, Entry>,
    ages: BTreeMap<u64, BinaryKey>,
    next: u64,
    leases: usize,
}

impl Verdicts {
    /// An empty cache for this many verdicts.
    #[must_use]
    pub fn new(trust: Trust, capacity: usize) -> Self {
        Self::with_clock(trust, capacity, SystemClock)
    }
}

impl<C: Clock> Verdicts<C> {
    /// As [`Verdicts::new`], with another clock.
    #[must_use]
    pub fn with_clock(trust: Trust, capacity: usize, clock: C) -> Self {
        let setting = clock.setting();
        Self {
            trust,
            capacity: capacity.max(1),
            clock,
            setting,
            entries: HashMap::new(),
            ages: BTreeMap::new(),
            next: 0,
            leases: 0,
        }
    }

    /// How many verdicts are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The verdict on a file that is open for reading: a remembered one, or a new one.
    ///
    /// A new one reads the whole file if its label names a trusted signer, and may then, or if the file
    /// is root's, wait some 10 ms for the clock to pass the file's change time.
    pub fn judge(&mut self, file: &File) -> Judgement {
        let mut evicted = self.clock_was_set();
        let key = match key_of(file) {
            Ok(key) => key,
            Err(unsigned) => {
                return Judgement { key: None, verdict: Err(unsigned), known: false, evicted };
            }
        };
        if let Some(entry) = self.entries.get(&key) {
            if entry.lease.as_ref().is_none_or(Lease::holds) {
                return Judgement { key: Some(key), verdict: entry.verdict, known: true, evicted };
            }
            evicted.extend(self.forget(key));
        }
        let fresh = self.fresh(file);
        // The state that was judged, which is not always the one that was looked up.
        let key = fresh.key.unwrap_or(key);
        let verdict = fresh.verdict;
        if fresh.keep {
            evicted.extend(self.remember(key, fresh));
        }
        Judgement { key: Some(key), verdict, known: false, evicted }
    }

    /// Trusts others from now on. What the old trust decided goes, but for signatures that count still.
    pub fn replace(&mut self, trust: Trust) -> Vec<Evicted> {
        self.trust = trust;
        let trust = &self.trust;
        let stays = |entry: &Entry| {
            entry.verdict == Err(Unsigned::NoLabel)
                || entry.verdict.is_ok()
                    && entry.record.is_some_and(|record| trust.signer(&record).is_ok())
        };
        let gone = self.entries.iter().filter(|(_, entry)| !stays(entry));
        let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        gone.into_iter().filter_map(|key| self.forget(key)).collect()
    }

    /// Verdicts whose file somebody waits to write. Call it some ten times a second: they wait so long.
    pub fn sweep(&mut self) -> Vec<Evicted> {
        let mut evicted = self.clock_was_set();
        let broken = |entry: &Entry| entry.lease.as_ref().is_some_and(|lease| !lease.holds());
        let gone = self.entries.iter().filter(|(_, entry)| broken(entry));
        let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        evicted.extend(gone.into_iter().filter_map(|key| self.forget(key)));
        evicted
    }

    /// Forgets everything.
    pub fn clear(&mut self) -> Vec<Evicted> {
        let all: Vec<_> = self.entries.keys().copied().collect();
        all.into_iter().filter_map(|key| self.forget(key)).collect()
    }

    fn clock_was_set(&mut self) -> Vec<Evicted> {
        let setting = self.clock.setting();
        if setting.abs_diff(self.setting) < STEP.unsigned_abs() {
            return Vec::new();
        }
        self.setting = setting;
        self.clear()
    }

    fn forget(&mut self, key: BinaryKey) -> Option<Evicted> {
        let entry = self.entries.remove(&key)?;
        self.ages.remove(&entry.age);
        self.leases -= usize::from(entry.lease.is_some());
        Some(Evicted { key, verdict: entry.verdict, _lease: entry.lease })
    }

    fn remember(&mut self, key: BinaryKey, fresh: Fresh) -> Vec<Evicted> {
        let mut evicted: Vec<_> = self.forget(key).into_iter().collect();
        if self.entries.len() >= self.capacity {
            let oldest = self.ages.first_key_value().map(|(_, key)| *key);
            evicted.extend(oldest.and_then(|key| self.forget(key)));
        }
        if fresh.lease.is_some() && self.leases >= LEASES_MAX {
            let leased =
                |key: &&BinaryKey| self.entries.get(key).is_some_and(|e| e.lease.is_some());
            let oldest = self.ages.values().find(leased).copied();
            evicted.extend(oldest.and_then(|key| self.forget(key)));
        }
        let age = self.next;
        self.next += 1;
        self.leases += usize::from(fresh.lease.is_some());
        self.ages.insert(age, key);
        let Fresh { verdict, record, lease, .. } = fresh;
        self.entries.insert(key, Entry { age, record, verdict, lease });
        evicted
    }

    fn fresh(&self, file: &File) -> Fresh {
        self.verified(file).unwrap_or_else(Fresh::momentary)
    }

    fn verified(&self, file: &File) -> Result<Fresh, Unsigned> {
        let key = key_of(file)?;
        // Whoever may change a file could have everybody wait for its clock, exec after exec. Only root's
        // files may be believed without a label, as interpreters, and so must be known for good.
        let patience = if file.metadata()?.uid() == 0 { PATIENCE } else { Duration::ZERO };
        let passed = self.passes(&key, patience);
        // Most files have no label that could count, and none is read further than that.
        if let Err(unsigned) = find(file).and_then(|found| may_count(&found, &self.trust).map(drop))
        {
            return Ok(Fresh::unsigned(unsigned, key, passed));
        }
        let tells = tells(file)?;
        let lease = Lease::take(file)?;
        // Of the file as it is since it has no writer.
        let key = key_of(file)?;
        let passed = self.passes(&key, PATIENCE);
        let judged = find(file)
            .and_then(|found| Ok((found.record, verify_found(file, &found, &self.trust)?)));
        if !lease.holds() {
            return Err(Unsigned::Busy);
        }
        if key_of(file)? != key {
            return Err(Unsigned::Changed);
        }
        Ok(match judged {
            Err(unsigned) => Fresh::unsigned(unsigned, key, passed),
            Ok((record, verified)) => {
                let lease = Some(lease).filter(|_| !passed || tells == Tells::Nothing);
                let (verdict, record) = (Ok(verified), Some(record));
                Fresh { key: Some(key), verdict, record, lease, keep: true }
            }
        })
    }

    /// Whether files that change from now on get a later change time than this. Waits a little for it.
    fn passes(&self, key: &BinaryKey, patience: Duration) -> bool {
        const PAUSE: Duration = Duration::from_millis(2);
        // A file system that keeps whole seconds says 0 nanoseconds.
        let step = if key.ctime_nsec == 0 { 1_000_000_000 } else { 1 };
        let changed = key.ctime.saturating_mul(1_000_000_000).saturating_add(key.ctime_nsec.into());
        let mut left = patience;
        while self.clock.file_time() < changed.saturating_add(step) {
            if left.is_zero() {
                return false;
            }
            sleep(PAUSE);
            left = left.saturating_sub(PAUSE);
        }
        true
    }
}

/// What was just found out.
struct Fresh {
    key: Option<BinaryKey>,
    verdict: Result<Verified, Unsigned>,
    record: Option<Record>,
    lease: Option<Lease>,
    keep: bool,
}

impl Fresh {
    fn unsigned(unsigned: Unsigned, key: BinaryKey, keep: bool) -> Self {
        Self { key: Some(key), verdict: Err(unsigned), record: None, lease: None, keep }
    }

    /// True now, and perhaps not the next time.
    fn momentary(unsigned: Unsigned) -> Self {
        Self { key: None, verdict: Err(unsigned), record: None, lease: None, keep: false }
    }
}

/// Which state of which file this is.
fn key_of(file: &File) -> Result<BinaryKey, Unsigned> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Unsigned::NotRegular);
    }
    Ok(BinaryKey {
        ino: metadata.ino(),
        ctime: metadata.ctime(),
        ctime_nsec: u32::try_from(metadata.ctime_nsec()).unwrap_or(0),
        dev: kernel_dev(metadata.dev()).ok_or(Unsigned::Changed)?,
    })
}
