//! Alarms that the server has not heard yet, in a file. What is in it survives the agent; it is
//! bounded, and what had to go for newer ones leaves a gap in the numbers that the server sees.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message as _;
use sigil_cluster::chain::{CHAIN_LEN, Head, Place, REPORT_MAX};
use sigil_cluster::credential::write_secret;
use sigil_cluster::proto::{NodeAlarm, Report, Reported, SpoolHead, SpoolRecord};

const FILE: &str = "alarms";
/// Alarms that wait.
const MOST: usize = 4096;
/// What goes at once when there are more.
const LESS: usize = MOST / 4;
/// Bytes of a report: the server takes 256 KiB.
const REPORT_BYTES: usize = 200 << 10;

/// What of a kernel counter was reported: hook and reason.
pub(crate) type Totals = BTreeMap<(String, String), u64>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    /// Up to the last alarm that was raised.
    head: Head,
    /// Up to the last alarm that is not in `waiting`.
    gone: Head,
    waiting: VecDeque<NodeAlarm>,
    totals: Totals,
    /// None where the file is behind and has to be written anew.
    file: Option<File>,
    records: usize,
}

impl Spool {
    /// Goes on with the file, up to where it is whole, or begins a chain. `fresh`: the kernel's
    /// counters began anew.
    pub(crate) fn open(state: &Path, fresh: bool) -> Result<Self> {
        let path = state.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut spool = Self::parse(path, &bytes)?;
        if fresh {
            spool.totals.clear();
        }
        spool.rewrite();
        Ok(spool)
    }

    fn parse(path: PathBuf, mut bytes: &[u8]) -> Result<Self> {
        let whole = SpoolHead::decode_length_delimited(&mut bytes);
        let whole = whole.ok().filter(|head| head.chain.len() == CHAIN_LEN);
        let head = if let Some(head) = whole {
            head
        } else {
            let mut chain = vec![0; CHAIN_LEN];
            sigil_keys::system_random(&mut chain)?;
            bytes = &[];
            SpoolHead { chain, ..SpoolHead::default() }
        };
        let key = |of: Reported| ((of.hook, of.reason), of.total);
        let gone = Head { chain: head.chain, number: head.number, hash: head.hash };
        let mut spool = Self {
            path,
            head: gone.clone(),
            gone,
            waiting: VecDeque::new(),
            totals: head.reported.into_iter().map(key).collect(),
            file: None,
            records: 0,
        };
        // What follows a torn record was never acknowledged to anybody.
        while let Ok(SpoolRecord { alarm: Some(alarm), reported }) =
            SpoolRecord::decode_length_delimited(&mut bytes)
        {
            if spool.head.place(&alarm) != Place::Next || spool.waiting.len() >= MOST {
                break;
            }
            spool.head.advance(&alarm);
            spool.waiting.push_back(alarm);
            spool.totals.extend(reported.map(key));
        }
        Ok(spool)
    }

    /// What of a counter was reported.
    pub(crate) fn reported(&self, hook: &str, reason: &str) -> u64 {
        self.totals.get(&(hook.to_owned(), reason.to_owned())).copied().unwrap_or(0)
    }

    /// Numbers alarms and writes them. `totals` are what the counters were that they report.
    pub(crate) fn push(&mut self, alarms: Vec<(NodeAlarm, Option<Reported>)>) {
        if alarms.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        for (alarm, reported) in alarms {
            let number = self.head.number + 1;
            let alarm = NodeAlarm { number, previous: self.head.hash.clone(), ..alarm };
            self.head.advance(&alarm);
            if let Some(of) = &reported {
                self.totals.insert((of.hook.clone(), of.reason.clone()), of.total);
            }
            let record = SpoolRecord { alarm: Some(alarm.clone()), reported };
            bytes.extend(record.encode_length_delimited_to_vec());
            self.waiting.push_back(alarm);
            self.records += 1;
        }
        if self.waiting.len() > MOST {
            self.forget(self.waiting.len() - MOST + LESS);
            self.file = None;
        }
        let written =
            self.file.as_mut().map(|file| file.write_all(&bytes).and_then(|()| file.sync_data()));
        if !matches!(written, Some(Ok(()))) {
            self.rewrite();
        }
    }

    fn forget(&mut self, count: usize) {
        for alarm in self.waiting.drain(..count.min(self.waiting.len())) {
            self.gone.advance(&alarm);
        }
    }

    /// What to report next, if anything waits.
    pub(crate) fn report(&self) -> Option<Report> {
        let mut left = REPORT_BYTES;
        let fits = |alarm: &&NodeAlarm| {
            let length = alarm.encoded_len();
            let first = left == REPORT_BYTES;
            left = left.saturating_sub(length);
            first || left > 0
        };
        let alarms: Vec<_> =
            self.waiting.iter().take(REPORT_MAX).take_while(fits).cloned().collect();
        (!alarms.is_empty()).then(|| Report { chain: self.head.chain.clone(), alarms })
    }

    /// The server has all up to a number.
    pub(crate) fn heard(&mut self, number: u64) {
        let count = self.waiting.iter().take_while(|alarm| alarm.number <= number).count();
        self.forget(count);
        // Written anew now and then; what is reported twice is counted once.
        if self.records > 2 * self.waiting.len() + REPORT_MAX {
            self.rewrite();
        }
    }

    /// Whether so much waits that what can be told later, or is kept elsewhere, is better not added.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.len() >= MOST / 2
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes the file anew. Where the disk takes nothing, memory holds what waits.
    fn rewrite(&mut self) {
        let reported = self.totals.iter().map(|((hook, reason), total)| Reported {
            hook: hook.clone(),
            reason: reason.clone(),
            total: *total,
        });
        let head = SpoolHead {
            chain: self.gone.chain.clone(),
            number: self.gone.number,
            hash: self.gone.hash.clone(),
            reported: reported.collect(),
        };
        let mut bytes = head.encode_length_delimited_to_vec();
        for alarm in &self.waiting {
            let record = SpoolRecord { alarm: Some(alarm.clone()), reported: None };
            bytes.extend(record.encode_length_delimited_to_vec());
        }
        self.records = self.waiting.len();
        let written = write_secret(&self.path, &bytes)
            .and_then(|()| OpenOptions::new().append(true).open(&self.path));
        if let Err(error) = &written {
            tracing::error!("alarms are kept in memory alone: {}: {error}", self.path.display());
        }
        self.file = written.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(spool: &mut Spool, count: u64, total: u64) {
        let (hook, reason) = ("ingress".to_owned(), "no-rule".to_owned());
        let alarm = NodeAlarm { kind: "drop".into(), count, ..NodeAlarm::default() };
        spool.push(vec![(alarm, Some(Reported { hook, reason, total }))]);
    }

    fn numbers(spool: &Spool) -> Vec<u64> {
        spool.report().unwrap_or_default().alarms.iter().map(|alarm| alarm.number).collect()
    }

    #[test]
    fn what_waits_is_there_after_a_restart_and_what_was_heard_is_not() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(state.path(), true).unwrap();
        for at in 1..=5 {
            raise(&mut spool, 2, at * 2);
        }
        spool.heard(2);
        let chain = spool.head.clone();
        let again = Spool::open(state.path(), false).unwrap();
        // The file may hold what was heard; then it is told again.
        assert!(numbers(&again).ends_with(&[3, 4, 5]), "{:?}", numbers(&again));
        assert_eq!((again.head, again.totals.len()), (chain, 1));
        let mut again = Spool::open(state.path(), false).unwrap();
        assert_eq!(again.reported("ingress", "no-rule"), 10);
        again.heard(5);
        raise(&mut again, 1, 11);
        assert_eq!(numbers(&again), [6]);
    }

    #[test]
    fn a_torn_or_changed_file_is_good_up_to_there() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(state.path(), true).unwrap();
        for at in 1..=3 {
            raise(&mut spool, 1, at);
        }
        let path = state.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let found = numbers(&Spool::open(state.path(), false).unwrap());
            assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "{length}");
        }
        let mut changed = whole.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        fs::write(&path, &changed).unwrap();
        Spool::open(state.path(), false).unwrap();
    }

    #[test]
    fn a_report_is_no_longer_than_the_server_takes() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(state.path(), true).unwrap();
        let long = NodeAlarm { message: "x".repeat(10_000), ..NodeAlarm::default() };
        spool.push(vec![(long, None); 50]);
        let mut reports = 0;
        while let Some(report) = spool.report() {
            assert!(report.encoded_len() < 256 << 10 && !report.alarms.is_empty());
            spool.heard(report.alarms.last().unwrap().number);
            reports += 1;
        }
        assert!(reports > 1 && spool.waiting() == 0);
        spool.push(vec![(
            NodeAlarm { message: "x".repeat(300 << 10), ..NodeAlarm::default() },
            None,
        )]);
        assert_eq!(numbers(&spool).len(), 1, "one is told however long");
    }

    #[test]
    fn it_is_bounded_and_a_full_disk_stops_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(state.path(), true).unwrap();
        let many = vec![(NodeAlarm::default(), None); MOST + 1];
        spool.push(many);
        assert!(spool.waiting() <= MOST);
        let first = numbers(&spool)[0];
        let gone = MOST + 1 - spool.waiting();
        assert_eq!(first, gone as u64 + 1, "the newest are kept");
        fs::remove_dir_all(state.path()).unwrap();
        spool.file = None;
        raise(&mut spool, 1, 1);
        assert!(spool.waiting() > 0 && spool.file.is_none());
    }
}
