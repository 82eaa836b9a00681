//! What the server knows, and the one way to change it.
//!
//! Decisions are made on a [`Snapshot`] and committed only if the records that they rest on are
//! still the same, so that several servers on one store agree. Whoever serves a node or an
//! administrator follows the snapshots.

mod draft;
mod live;
mod records;
mod saving;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ring::signature::Ed25519KeyPair;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tonic::Status as Refusal;

use crate::alarms::Journal;
use crate::ca::Ca;
use crate::documents::InUse;
use crate::holders::Holders;
use crate::record::{Admin, Alarm, Cluster, Snapshot};
use crate::store::{Store, StoreError, Stored, Transaction};
use crate::valve::Valve;
use crate::vault::{Vault, random};
use live::Live;

pub(crate) use draft::Draft;

/// How often a commit is tried again after another server was faster.
const ATTEMPTS: usize = 16;

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

    async fn follow_changes(&self, changes: &mut mpsc::Receiver<Stored>) -> Result<()> {
        while let Some(stored) = changes.recv().await {
            if QUIET.iter().any(|prefix| stored.key.starts_with(prefix)) {
                self.take(&mut Snapshot::default(), &stored)?;
                continue;
            }
            // What this server commits meanwhile must not be lost, nor this.
            let _alone = self.commits.lock().await;
            let mut snapshot = (*self.snapshot()).clone();
            self.take(&mut snapshot, &stored)?;
            self.snapshot.send_replace(Arc::new(snapshot));
        }
        Ok(())
    }

    /// Follows what other servers commit, for as long as the server lives. Ends on a record that it
    /// cannot read: whoever went on without it would not hear of a revocation.
    pub(crate) async fn follow_others(self: Arc<Self>) -> Result<()> {
        const BREATHER: Duration = Duration::from_millis(200);
        loop {
            match self.store.watch().await {
                Ok(None) => std::future::pending().await,
                Ok(Some(mut changes)) => {
                    // What came before the watch began.
                    let read = {
                        let _alone = self.commits.lock().await;
                        self.reload().await
                    };
                    match read {
                        Err(error) if error.is::<StoreError>() => {
                            tracing::warn!("the store cannot be read: {error:#}");
                        }
                        read => {
                            read?;
                            self.follow_changes(&mut changes).await?;
                        }
                    }
                }
                Err(error) => tracing::warn!("the store cannot be watched: {error:#}"),
            }
            tokio::time::sleep(BREATHER).await;
        }
    }
}

/// A failure that is not the asker's.
pub(crate) fn unavailable(error: &anyhow::Error) -> Refusal {
    tracing::error!("{error:#}");
    Refusal::unavailable(format!("{error:#}"))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
