//! The alarms that are kept, and the journal that they are written to as lines of JSON.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::record::Alarm;

/// Alarms that are kept.
const KEPT: usize = 20_000;
/// A journal of this size goes aside, and the one that lay there goes.
const JOURNAL: u64 = 64 << 20;
/// Bytes that wait while the disk takes none.
const PENDING: usize = 8 << 20;

/// Alarms by kind, and drops by node, hook and reason.
pub(crate) type Totals = (BTreeMap<String, u64>, BTreeMap<(u32, String, String), u64>);

/// Alarms by the record that they are stored in, the oldest first.
#[derive(Default)]
pub(crate) struct Book {
    records: VecDeque<(String, Vec<Alarm>)>,
    count: usize,
    of_node: BTreeMap<u32, usize>,
    kinds: BTreeMap<String, u64>,
    drops: BTreeMap<(u32, String, String), u64>,
}

impl Book {
    /// Adds a record, unless it is there. Says which ones had to go for it: the oldest of the node
    /// that has most, so that nobody can make another's alarms disappear.
    pub(crate) fn add(&mut self, key: String, alarms: Vec<Alarm>) -> Option<Vec<String>> {
        let known = self.records.iter().rev().take_while(|(held, _)| *held >= key);
        if alarms.is_empty() || known.into_iter().any(|(held, _)| *held == key) {
            return None;
        }
        for alarm in &alarms {
            *self.kinds.entry(alarm.kind.clone()).or_default() += 1;
            if !alarm.reason.is_empty() {
                let of = (alarm.snid, alarm.hook.clone(), alarm.reason.clone());
                let sum = self.drops.entry(of).or_default();
                *sum = sum.saturating_add(alarm.count);
            }
        }
        self.count += alarms.len();
        let snid = alarms.first().map_or(0, |alarm| alarm.snid);
        *self.of_node.entry(snid).or_default() += alarms.len();
        let after = self.records.iter().rev().take_while(|(held, _)| *held > key).count();
        self.records.insert(self.records.len() - after, (key, alarms));
        let mut gone = Vec::new();
        while self.count > KEPT {
            let Some(key) = self.evict() else { break };
            gone.push(key);
        }
        Some(gone)
    }

    fn evict(&mut self) -> Option<String> {
        let most = *self.of_node.iter().max_by_key(|(_, count)| **count)?.0;
        let of = |alarms: &[Alarm]| alarms.first().map_or(0, |alarm| alarm.snid);
        let at = self.records.iter().position(|(_, alarms)| of(alarms) == most)?;
        let (key, alarms) = self.records.remove(at)?;
        self.count -= alarms.len();
        if let Some(count) = self.of_node.get_mut(&most) {
            *count -= alarms.len();
        }
        Some(key)
    }

    /// The newest alarm's number.
    pub(crate) fn last(&self) -> u64 {
        let newest = self.records.back().and_then(|(_, alarms)| alarms.last());
        newest.map_or(0, |alarm| alarm.number)
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<Alarm> {
        self.records.iter().flat_map(|(_, alarms)| alarms).cloned().collect()
    }

    /// Marks alarms. Says how many are there, and which records changed.
    pub(crate) fn acknowledge(
        &mut self,
        numbers: &[u64],
        by: &str,
    ) -> (u64, Vec<(String, Vec<Alarm>)>) {
        let numbers: HashSet<_> = numbers.iter().collect();
        let (mut count, mut changed) = (0, Vec::new());
        for (key, alarms) in &mut self.records {
            let before = count;
            for alarm in alarms.iter_mut().filter(|alarm| numbers.contains(&alarm.number)) {
                by.clone_into(&mut alarm.acknowledged);
                count += 1;
            }
            if count > before {
                changed.push((key.clone(), alarms.clone()));
            }
        }
        (count, changed)
    }

    /// Since the start: alarms of each kind, and what nodes' drops add up to by node, hook and
    /// reason.
    pub(crate) fn totals(&self) -> Totals {
        (self.kinds.clone(), self.drops.clone())
    }
}

/// A file of lines, each an alarm.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// Lines that the disk did not take.
    pending: Vec<u8>,
    failing: bool,
}

impl Journal {
    /// Goes on with the file, or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let (file, size) = append(path)?;
        Ok(Self { path: path.to_owned(), file, size, pending: Vec::new(), failing: false })
    }

    /// Appends alarms, or does so the next time if the disk takes nothing.
    pub(crate) fn write(&mut self, alarms: &[Alarm]) {
        for alarm in alarms {
            // Into memory, and without maps: it does not fail.
            let _ = serde_json::to_writer(&mut self.pending, alarm);
            self.pending.push(b'\n');
        }
        match self.flush() {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(
                        "alarms wait to be written to {}: {error}",
                        self.path.display()
                    );
                }
                if self.pending.len() > PENDING {
                    let lines = self.pending.split(|byte| *byte == b'\n').count() - 1;
                    tracing::error!("{lines} alarms are not in {}: {error}", self.path.display());
                    self.pending.clear();
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.size >= JOURNAL {
            let mut aside = self.path.as_os_str().to_owned();
            aside.push(".1");
            std::fs::rename(&self.path, aside)?;
            (self.file, self.size) = append(&self.path)?;
        }
        if let Err(error) = self.file.write_all(&self.pending) {
            // No half a line stays.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, snid: u32, count: usize) -> (String, Vec<Alarm>) {
        let alarm = |at| Alarm { number: number + at as u64, snid, count: 1, ..Alarm::default() };
        (format!("alarm/{number:020}"), (0..count).map(alarm).collect())
    }

    #[test]
    fn a_flood_of_one_node_costs_no_other_its_alarms() {
        let mut book = Book::default();
        let (key, alarms) = record(1, 1, 1);
        book.add(key.clone(), alarms.clone()).unwrap();
        assert!(book.add(key, alarms).is_none(), "twice");
        let mut gone = 0;
        for at in 1..=300 {
            let (key, alarms) = record(at * 1000, 2, 100);
            gone += book.add(key, alarms).unwrap().len();
        }
        assert!(gone >= 100 && book.list().len() <= KEPT);
        assert_eq!(book.list().first().map(|alarm| alarm.snid), Some(1));
        assert_eq!(book.last(), 300_099);
    }

    #[test]
    fn an_alarm_that_was_acknowledged_says_by_whom() {
        let mut book = Book::default();
        let (key, alarms) = record(10, 2, 3);
        book.add(key.clone(), alarms).unwrap();
        let (count, changed) = book.acknowledge(&[11, 99], "ada");
        assert_eq!((count, changed.len()), (1, 1));
        assert_eq!(book.list()[1].acknowledged, "ada");
        assert!(book.list()[0].acknowledged.is_empty());
    }
}
