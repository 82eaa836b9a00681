//! Writes what was gathered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::{State, lock};
use crate::store::Transaction;

/// How long changes of nodes' statuses are gathered before they are written.
pub(super) const GATHER: Duration = Duration::from_millis(200);
/// Records and bytes in one write of what was gathered: etcd takes 128, and 1.5 MB.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 1 << 20;

pub(super) type Unsaved = BTreeMap<String, Option<Vec<u8>>>;

impl State {
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
