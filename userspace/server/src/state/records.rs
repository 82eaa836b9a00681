//! From the store's records to what the server knows.

use std::sync::Arc;

use anyhow::Result;

use super::{State, decode, encode, lock};
use crate::record::{Alarm, Chain, Held, Holder, Snapshot, Status};
use crate::store::{Stored, Transaction};

impl State {
    pub(super) async fn reload(&self) -> Result<()> {
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
    pub(super) fn take(&self, snapshot: &mut Snapshot, stored: &Stored) -> Result<()> {
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
}

fn renew<T>(held: &mut Held<T>, version: u64, value: T) {
    if version > held.version {
        *held = Held { version, value };
    }
}
