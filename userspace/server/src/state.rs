//! What the server knows, and the one way to change it.
//!
//! Decisions are made on a [`Snapshot`] and committed only if the records that they rest on are
//! still the same, so that several servers on one store agree. Whoever serves a node or an
//! administrator follows the snapshots.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use ring::signature::Ed25519KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast, watch};
use tonic::Status as Refusal;

use crate::administrators::adopt;
use crate::alarms::{Book, Journal, Totals};
use crate::ca::Ca;
use crate::documents::InUse;
use crate::holders::Holders;
use crate::record::{
    Admin, Alarm, Chain, Cluster, Held, Holder, Keys, Node, Policies, Snapshot, Status, Token, now,
};
use crate::store::{Store, Stored, Transaction};
use crate::valve::{Told, Valve};
use crate::vault::{Vault, random};

/// How often a commit is tried again after another server was faster.
const ATTEMPTS: usize = 16;
/// How long changes of nodes' statuses are gathered before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// Records and bytes in one write of what was gathered: etcd takes 128, and 1.5 MB.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1 << 20;

/// Records that are no part of a snapshot.
const QUIET: [&str; 5] = ["status/", "alarm/", "chain/", "holder/", "document/"];

/// The server's state.
pub(crate) struct State {
    pub(crate) store: Box<dyn Store>,
    pub(crate) vault: Vault,
    pub(crate) cluster: Cluster,
    pub(crate) ca: Ca,
    pub(crate) policy_key: Ed25519KeyPair,
    /// This run of this server.
    pub(crate) me: String,
    snapshot: watch::Sender<Arc<Snapshot>>,
    commits: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    /// Wakes whoever waits for nodes to follow.
    pub(crate) progress: Notify,
    dirty: Notify,
    /// One writer at a time: who comes meanwhile finds that it was done.
    saving: tokio::sync::Mutex<()>,
    /// Where alarms go as lines of JSON.
    journal: Mutex<Option<Journal>>,
    pub(crate) in_use: tokio::sync::Mutex<InUse>,
    /// Holds back what somebody causes over and over.
    valve: Mutex<Valve>,
    pub(crate) alarms: broadcast::Sender<Alarm>,
    /// Used only where the store is shared.
    pub(crate) holders: Holders,
}

/// What changes too often to be committed each time.
#[derive(Default)]
struct Live {
    statuses: BTreeMap<u32, Status>,
    /// What is to be written; nothing where a record goes.
    unsaved: Unsaved,
    /// Why that failed the last time.
    trouble: Option<String>,
    chains: BTreeMap<u32, Chain>,
    alarms: Book,
}

type Unsaved = BTreeMap<String, Option<Vec<u8>>>;

/// Records that a decision changes.
#[derive(Default)]
pub(crate) struct Draft {
    writes: Vec<(String, u64, Option<Vec<u8>>)>,
    /// Records that it rests on and leaves as they are, and their versions.
    reads: Vec<(String, u64)>,
    /// Records that go, whatever they are.
    deletes: Vec<String>,
}

impl Draft {
    fn put<T: Serialize>(&mut self, key: String, version: u64, value: &T) {
        self.writes.push((key, version, Some(encode(value))));
    }

    pub(crate) fn expect(&mut self, key: String, version: u64) {
        self.reads.push((key, version));
    }

    pub(crate) fn delete(&mut self, key: String) {
        self.deletes.push(key);
    }

    pub(crate) fn admin(&mut self, snapshot: &Snapshot, name: &str, admin: &Admin) {
        let version = snapshot.admins.get(name).map_or(0, |held| held.version);
        self.put(format!("admin/{name}"), version, admin);
    }

    pub(crate) fn keys(&mut self, snapshot: &Snapshot, keys: &Keys) {
        self.put("keys".to_owned(), snapshot.keys.version, keys);
    }

    pub(crate) fn policies(&mut self, snapshot: &Snapshot, policies: &Policies) {
        self.put("policy".to_owned(), snapshot.policies.version, policies);
    }

    pub(crate) fn node(&mut self, snapshot: &Snapshot, snid: u32, node: &Node) {
        let version = snapshot.nodes.get(&snid).map_or(0, |held| held.version);
        self.put(format!("node/{snid}"), version, node);
    }

    pub(crate) fn token(&mut self, snapshot: &Snapshot, hash: &str, token: &Token) {
        let version = snapshot.tokens.get(hash).map_or(0, |held| held.version);
        self.put(format!("token/{hash}"), version, token);
    }

    pub(crate) fn drop_token(&mut self, snapshot: &Snapshot, hash: &str) {
        let version = snapshot.tokens.get(hash).map_or(0, |held| held.version);
        self.writes.push((format!("token/{hash}"), version, None));
    }
}

/// JSON of records does not fail: their maps have strings for keys.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    // What is wrong is not repeated: the record may hold a key.
    serde_json::from_slice(value)
        .map_err(|_| anyhow!("the record `{key}` is of another version of sigil-server"))
}

impl State {
    /// Makes a new cluster in an empty store.
    pub(crate) async fn create(
        store: &dyn Store,
        vault: &Vault,
        cluster: &Cluster,
        (name, admin): (&str, &Admin),
    ) -> Result<()> {
        let name = format!("admin/{name}");
        let put = vec![
            ("cluster".to_owned(), vault.seal("cluster", &encode(cluster))?),
            (name.clone(), vault.seal(&name, &encode(admin))?),
        ];
        let expect = vec![("cluster".to_owned(), 0), (name, 0)];
        let made = store.commit(Transaction { expect, put, delete: Vec::new() }).await?;
        made.context("the store holds a cluster already")?;
        Ok(())
    }

    /// Reads everything from the store.
    pub(crate) async fn open(store: Box<dyn Store>, vault: Vault) -> Result<Arc<Self>> {
        let found = store.scan("cluster").await?;
        let stored = found.into_iter().find(|stored| stored.key == "cluster");
        let sealed = stored
            .and_then(|stored| stored.value)
            .context("the store holds no cluster: make one with `sigil-server init`")?;
        let cluster: Cluster = decode("cluster", &vault.open_value("cluster", &sealed)?)?;
        let ca = Ca::of(&cluster)?;
        let policy_key = Ed25519KeyPair::from_pkcs8(&cluster.policy_key.0)
            .map_err(|error| anyhow!("the key that signs policies: {error}"))?;
        let mut me = [0; 8];
        random(&mut me)?;
        let state = Arc::new(Self {
            store,
            vault,
            cluster,
            ca,
            policy_key,
            me: hex::encode(me),
            snapshot: watch::channel(Arc::default()).0,
            commits: tokio::sync::Mutex::new(()),
            live: Mutex::default(),
            progress: Notify::new(),
            dirty: Notify::new(),
            saving: tokio::sync::Mutex::new(()),
            journal: Mutex::default(),
            in_use: tokio::sync::Mutex::default(),
            valve: Mutex::default(),
            alarms: broadcast::channel(1024).0,
            holders: Holders::default(),
        });
        state.reload().await?;
        adopt(&state).await.map_err(|refusal| anyhow!("{}", refusal.message()))?;
        Ok(state)
    }

    /// The state now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The state now and later.
    pub(crate) fn follow(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    async fn reload(&self) -> Result<()> {
        let mut snapshot = Snapshot::default();
        // Holders before statuses, as they are written.
        let prefixes = [
            "keys", "policy", "node/", "token/", "admin/", "holder/", "status/", "alarm/", "chain/",
        ];
        for prefix in prefixes {
            for stored in self.store.scan(prefix).await? {
                self.take(&mut snapshot, &stored)?;
            }
        }
        self.snapshot.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// Takes note of a record. What this server holds in a newer version stays.
    fn take(&self, snapshot: &mut Snapshot, stored: &Stored) -> Result<()> {
        let Stored { key, value, version } = stored;
        let value = value.as_ref().map(|sealed| self.vault.open_value(key, sealed)).transpose()?;
        let value = value.as_ref().map(|value| value.as_slice());
        let name = key.split_once('/');
        match (key.as_str(), name, value) {
            ("keys", _, Some(value)) => renew(&mut snapshot.keys, *version, decode(key, value)?),
            ("policy", _, Some(value)) => {
                renew(&mut snapshot.policies, *version, decode(key, value)?);
            }
            (_, Some(("node", snid)), Some(value)) => {
                let node = snapshot.nodes.entry(snid.parse()?).or_default();
                renew(node, *version, decode(key, value)?);
            }
            (_, Some(("admin", name)), Some(value)) => {
                let admin = snapshot.admins.entry(name.to_owned()).or_default();
                renew(admin, *version, decode(key, value)?);
            }
            (_, Some(("token", hash)), value) => match value {
                Some(value) => {
                    let token = decode(key, value)?;
                    snapshot
                        .tokens
                        .insert(hash.to_owned(), Held { version: *version, value: token });
                }
                None => {
                    snapshot.tokens.remove(hash);
                }
            },
            (_, Some(("status", snid)), Some(value)) => {
                self.take_status(snid.parse()?, decode(key, value)?);
            }
            (_, Some(("holder", snid)), Some(value)) => {
                self.take_holder(snid.parse()?, *version, decode(key, value)?);
            }
            (_, Some(("alarm", rest)), Some(value)) => {
                let by = rest.split('/').nth(1);
                // This server's own come back from etcd, perhaps after they were given up for others.
                if by != Some(self.me.as_str()) {
                    let alarms: Vec<Alarm> = decode(key, value)?;
                    self.hear(key.clone(), &alarms);
                }
            }
            (_, Some(("chain", snid)), Some(value)) => {
                let (snid, chain): (u32, Chain) = (snid.parse()?, decode(key, value)?);
                let mut live = lock(&self.live);
                let mine = live.statuses.get(&snid).is_some_and(|held| held.attached == self.me);
                if !mine {
                    live.chains.insert(snid, chain);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_status(&self, snid: u32, status: Status) {
        let mut live = lock(&self.live);
        let own = live.statuses.get(&snid).filter(|held| held.attached == self.me);
        match own.map(encode) {
            None => {
                live.statuses.insert(snid, status);
                self.progress.notify_one();
            }
            // The server that had the node before wrote of it once more.
            Some(own) if status.attached != self.me => {
                live.unsaved.insert(format!("status/{snid}"), Some(own));
                self.dirty.notify_one();
            }
            Some(_) => {}
        }
    }

    fn take_holder(&self, snid: u32, version: u64, holder: Holder) {
        let server = holder.server.clone();
        if self.holders.note(snid, version, holder) && server != self.me {
            let mut live = lock(&self.live);
            let status = live.statuses.get_mut(&snid);
            if let Some(own) = status.filter(|held| held.attached == self.me) {
                // From now on the other server says how the node is.
                own.attached = server;
                live.unsaved.remove(&format!("status/{snid}"));
            }
        }
    }

    /// Writes which server has a node, if the record is still of that version; notes it, or what is
    /// there instead.
    pub(crate) async fn put_holder(
        &self,
        snid: u32,
        version: u64,
        holder: &Holder,
    ) -> Result<bool> {
        // Of one length, so that none is another's prefix.
        let key = format!("holder/{snid:010}");
        let put = vec![(key.clone(), self.vault.seal(&key, &encode(holder))?)];
        let expect = vec![(key.clone(), version)];
        let done = self.store.commit(Transaction { expect, put, delete: Vec::new() }).await?;
        if let Some(version) = done {
            self.take_holder(snid, version, holder.clone());
            return Ok(true);
        }
        for Stored { key, value, version } in self.store.scan(&key).await? {
            let value = self.vault.open_value(&key, &value.unwrap_or_default())?;
            self.take_holder(snid, version, decode(&key, &value)?);
        }
        Ok(false)
    }

    /// Decides on the state, and commits what was decided. `decide` may be called again with a newer
    /// snapshot.
    pub(crate) async fn update<T>(
        &self,
        decide: impl Fn(&Snapshot, &mut Draft) -> Result<T, Refusal> + Send + Sync,
    ) -> Result<T, Refusal>
    where
        T: Send,
    {
        let _alone = self.commits.lock().await;
        for _ in 0..ATTEMPTS {
            let snapshot = self.snapshot();
            let mut draft = Draft::default();
            let decided = decide(&snapshot, &mut draft)?;
            if draft.writes.is_empty() || self.commit(draft).await.map_err(|e| unavailable(&e))? {
                return Ok(decided);
            }
            self.reload().await.map_err(|error| unavailable(&error))?;
        }
        Err(Refusal::aborted("other servers change the same records: try again"))
    }

    async fn commit(&self, draft: Draft) -> Result<bool> {
        let mut transaction =
            Transaction { expect: draft.reads, delete: draft.deletes, put: Vec::new() };
        for (key, version, value) in &draft.writes {
            transaction.expect.push((key.clone(), *version));
            match value {
                Some(value) => {
                    transaction.put.push((key.clone(), self.vault.seal(key, value)?));
                }
                None => transaction.delete.push(key.clone()),
            }
        }
        let puts = transaction.put.clone();
        let deletes = transaction.delete.clone();
        let Some(version) = self.store.commit(transaction).await? else { return Ok(false) };
        let gone = deletes.into_iter().map(|key| Stored { key, value: None, version });
        let stored = puts
            .into_iter()
            .map(|(key, value)| Stored { key, value: Some(value), version })
            .chain(gone);
        let mut snapshot = (*self.snapshot()).clone();
        for stored in stored {
            self.take(&mut snapshot, &stored)?;
        }
        self.snapshot.send_replace(Arc::new(snapshot));
        Ok(true)
    }

    /// Follows what other servers commit, for as long as the server lives.
    pub(crate) async fn follow_others(self: Arc<Self>) -> Result<()> {
        const BREATHER: Duration = Duration::from_millis(200);
        loop {
            match self.store.watch().await {
                Ok(None) => return Ok(()),
                Ok(Some(mut changes)) => {
                    {
                        // What came before the watch began.
                        let _alone = self.commits.lock().await;
                        if let Err(error) = self.reload().await {
                            tracing::warn!("the store cannot be read: {error:#}");
                        }
                    }
                    while let Some(stored) = changes.recv().await {
                        if QUIET.iter().any(|prefix| stored.key.starts_with(prefix)) {
                            self.take(&mut Snapshot::default(), &stored)?;
                        } else {
                            let mut snapshot = (*self.snapshot()).clone();
                            self.take(&mut snapshot, &stored)?;
                            self.snapshot.send_modify(|held| merge(held, snapshot));
                        }
                    }
                }
                Err(error) => tracing::warn!("the store cannot be watched: {error:#}"),
            }
            tokio::time::sleep(BREATHER).await;
        }
    }

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

    fn hear(&self, key: String, alarms: &[Alarm]) {
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

    /// Why what was gathered cannot be written, if so.
    pub(crate) fn unsaved(&self) -> Option<String> {
        lock(&self.live).trouble.clone()
    }

    /// Writes statuses and alarms, for as long as the server lives.
    pub(crate) async fn save(self: Arc<Self>) -> Result<()> {
        loop {
            self.dirty.notified().await;
            tokio::time::sleep(GATHER).await;
            self.save_now().await;
        }
    }

    /// Writes what was gathered; what cannot be written is tried again.
    pub(crate) async fn save_now(&self) {
        let _alone = self.saving.lock().await;
        loop {
            let batch = batch(&lock(&self.live).unsaved);
            if batch.is_empty() {
                lock(&self.live).trouble = None;
                return;
            }
            match self.write(&batch).await {
                Ok(()) => {
                    let mut live = lock(&self.live);
                    for (key, value) in &batch {
                        if live.unsaved.get(key) == Some(value) {
                            live.unsaved.remove(key);
                        }
                    }
                }
                Err(error) => {
                    let why = format!("the store takes nothing: {error:#}");
                    let known = lock(&self.live).trouble.replace(why.clone());
                    if known.as_ref() != Some(&why) {
                        tracing::error!("{why}");
                    }
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    async fn write(&self, batch: &Unsaved) -> Result<()> {
        let mut transaction = Transaction::default();
        for (key, value) in batch {
            match value {
                Some(value) => transaction.put.push((key.clone(), self.vault.seal(key, value)?)),
                None => transaction.delete.push(key.clone()),
            }
        }
        self.store.commit(transaction).await?;
        Ok(())
    }
}

/// What is written next, all of it or nothing. A node's alarms are there exactly if its chain says
/// so: whatever happens, they are neither lost nor counted twice.
fn batch(unsaved: &Unsaved) -> Unsaved {
    let mut batch = Unsaved::new();
    let mut bytes = 0;
    for (key, value) in unsaved {
        if batch.len() >= BATCH || bytes >= BATCH_BYTES {
            break;
        }
        let chain = key.strip_prefix("alarm/").and_then(|rest| rest.rsplit_once('/'));
        let chain = chain.and_then(|(_, snid)| unsaved.get_key_value(&format!("chain/{snid}")));
        for (key, value) in chain.into_iter().chain([(key, value)]) {
            bytes += value.as_ref().map_or(0, Vec::len);
            batch.insert(key.clone(), value.clone());
        }
    }
    batch
}

fn renew<T>(held: &mut Held<T>, version: u64, value: T) {
    if version > held.version {
        *held = Held { version, value };
    }
}

/// Keeps what is newer, record by record: a commit of this server may have come in between.
fn merge(held: &mut Arc<Snapshot>, news: Snapshot) {
    let mut merged = (**held).clone();
    renew(&mut merged.keys, news.keys.version, news.keys.value);
    renew(&mut merged.policies, news.policies.version, news.policies.value);
    for (snid, node) in news.nodes {
        renew(merged.nodes.entry(snid).or_default(), node.version, node.value);
    }
    for (name, admin) in news.admins {
        renew(merged.admins.entry(name).or_default(), admin.version, admin.value);
    }
    merged.tokens = news.tokens;
    *held = Arc::new(merged);
}

/// A failure that is not the asker's.
pub(crate) fn unavailable(error: &anyhow::Error) -> Refusal {
    tracing::error!("{error:#}");
    Refusal::unavailable(format!("{error:#}"))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_once_is_bounded_and_keeps_alarms_with_their_chains() {
        let mut unsaved = Unsaved::new();
        for snid in 1..=300u32 {
            unsaved.insert(format!("alarm/{snid:020}/me/{snid}"), Some(vec![0; 50_000]));
            unsaved.insert(format!("chain/{snid}"), Some(vec![0; 100]));
            unsaved.insert(format!("status/{snid}"), Some(vec![0; 100]));
        }
        let mut alarms = 0;
        while !unsaved.is_empty() {
            let next = batch(&unsaved);
            assert!(!next.is_empty() && next.len() <= BATCH + 1, "{}", next.len());
            let bytes: usize = next.values().flatten().map(Vec::len).sum();
            assert!(bytes <= BATCH_BYTES + 60_000, "{bytes}");
            for key in next.keys().filter(|key| key.starts_with("alarm/")) {
                alarms += 1;
                let snid = key.rsplit('/').next().unwrap();
                assert!(next.contains_key(&format!("chain/{snid}")), "{key}");
            }
            unsaved.retain(|key, _| !next.contains_key(key));
        }
        assert_eq!(alarms, 300);
    }
}
