//! What changes too often to be committed each time: how nodes are, and alarms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::saving::{GATHER, Unsaved};
use super::{State, encode, lock};
use crate::alarms::{Book, Journal, Totals};
use crate::record::{Alarm, Chain, Status, now};
use crate::valve::Told;

/// See the module.
#[derive(Default)]
pub(super) struct Live {
    pub(super) statuses: BTreeMap<u32, Status>,
    /// What is to be written; nothing where a record goes.
    pub(super) unsaved: Unsaved,
    /// Why that failed the last time.
    pub(super) trouble: Option<String>,
    pub(super) chains: BTreeMap<u32, Chain>,
    pub(super) alarms: Book,
}

impl State {
    /// What nodes last said.
    pub(crate) fn statuses(&self) -> BTreeMap<u32, Status> {
        lock(&self.live).statuses.clone()
    }

    /// Notes what a node said, or that it is gone.
    pub(crate) fn note(&self, snid: u32, change: impl FnOnce(&mut Status)) {
        let mut live = lock(&self.live);
        let status = live.statuses.entry(snid).or_default();
        let before = status.clone();
        change(status);
        let after = status.clone();
        if (Status { seen: 0, ..before }) != (Status { seen: 0, ..after.clone() }) {
            live.unsaved.insert(format!("status/{snid}"), Some(encode(&after)));
            drop(live);
            self.dirty.notify_one();
            self.progress.notify_one();
        }
    }

    /// Raises an alarm of the server's own: at once, or within a second where the same goes on.
    pub(crate) fn alarm(&self, snid: u32, kind: &'static str, message: String) {
        if let Some(told) = lock(&self.valve).pass(snid, kind, message, Instant::now()) {
            self.tell(told);
        }
    }

    /// Raises what was held back, for as long as the server lives.
    pub(crate) async fn tell_held(self: Arc<Self>) -> Result<()> {
        loop {
            tokio::time::sleep(GATHER).await;
            let told = lock(&self.valve).release(Instant::now());
            for told in told {
                self.tell(told);
            }
        }
    }

    /// Raises and writes what there still is; gives up where the store takes nothing.
    pub(crate) async fn end(&self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        let told = lock(&self.valve).drain();
        for told in told {
            self.tell(told);
        }
        if tokio::time::timeout(PATIENCE, self.save_now()).await.is_err() {
            tracing::error!("the last alarms are not in the store; what nodes reported they keep");
        }
    }

    fn tell(&self, Told { snid, kind, message, count }: Told) {
        // What nodes report may be a flood, and is in the journal alone.
        tracing::warn!(snid, kind, count, "{message}");
        let kind = kind.to_owned();
        self.raise(vec![Alarm { snid, kind, message, count, ..Alarm::default() }], None);
    }

    /// Numbers alarms, notes them, and has them written; with them, how far the node's chain is that
    /// they are of.
    pub(crate) fn raise(&self, mut alarms: Vec<Alarm>, chain: Option<(u32, Chain)>) {
        let mut live = lock(&self.live);
        let of = chain.map(|(snid, chain)| {
            live.unsaved.insert(format!("chain/{snid}"), Some(encode(&chain)));
            live.chains.insert(snid, chain);
            snid
        });
        if !alarms.is_empty() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let micros = u64::try_from(since.as_micros()).unwrap_or_default();
            let first = micros.max(live.alarms.last() + 1);
            for (alarm, number) in alarms.iter_mut().zip(first..) {
                (alarm.number, alarm.time) = (number, now());
            }
            // Another server may have drawn the same number.
            let key = format!("alarm/{first:020}/{}/{}", self.me, of.unwrap_or(0));
            live.unsaved.insert(key.clone(), Some(encode(&alarms)));
            // Under the same lock: the next ones are numbered above these.
            self.add(&mut live, key, &alarms);
        }
        drop(live);
        if let Some(journal) = &mut *lock(&self.journal) {
            journal.write(&alarms);
        }
        self.dirty.notify_one();
    }

    pub(super) fn hear(&self, key: String, alarms: &[Alarm]) {
        self.add(&mut lock(&self.live), key, alarms);
    }

    fn add(&self, live: &mut Live, key: String, alarms: &[Alarm]) {
        let Some(gone) = live.alarms.add(key, alarms.to_vec()) else { return };
        live.unsaved.extend(gone.into_iter().map(|key| (key, None)));
        for alarm in alarms {
            // Nobody may be listening.
            let _ = self.alarms.send(alarm.clone());
        }
    }

    /// Has alarms written as lines of JSON as well, from now on.
    pub(crate) fn keep_journal(&self, journal: Journal) {
        *lock(&self.journal) = Some(journal);
    }

    /// The alarms that are kept, the oldest first.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        lock(&self.live).alarms.list()
    }

    /// Marks alarms; says how many of them are there.
    pub(crate) fn acknowledge(&self, numbers: &[u64], by: &str) -> u64 {
        let mut live = lock(&self.live);
        let (count, changed) = live.alarms.acknowledge(numbers, by);
        let changed = changed.into_iter().map(|(key, alarms)| (key, Some(encode(&alarms))));
        live.unsaved.extend(changed.collect::<Vec<_>>());
        drop(live);
        self.dirty.notify_one();
        count
    }

    /// What was counted since the start, see [`Book::totals`].
    pub(crate) fn totals(&self) -> Totals {
        lock(&self.live).alarms.totals()
    }

    /// How far a node's alarms were heard.
    pub(crate) fn chain(&self, snid: u32) -> Chain {
        lock(&self.live).chains.get(&snid).cloned().unwrap_or_default()
    }
}
