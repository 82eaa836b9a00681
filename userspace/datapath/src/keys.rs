//! Installing keys. A slot's key is replaced as a whole; an unchanged one keeps its counters.

use std::collections::BTreeSet;

use aya::maps::{Array, MapData};
use sigil_common::abi::{
    key::{EPOCH_SLOTS, Node, RxKey, TxKey},
    name,
};
use sigil_common::icv::{self, Header, Icv, MacKey, Suite};
use sigil_common::replay::{SEQ_LIMIT, SPAN_MAX};

use crate::error::Error;
use crate::load::Datapath;

/// Names a key on disk without telling it: its MAC over a message that no packet yields, for its
/// first byte is not [`sigil_common::icv::DOMAIN`].
pub(crate) fn fingerprint(suite: Suite, key: &MacKey) -> String {
    hex::encode(tell(suite, key))
}

fn tell(suite: Suite, key: &MacKey) -> Icv {
    let message = Header::from_bytes(b"fingerprint of a key in Sigil's state   ");
    icv::of_message(suite, key, &message, &[]).unwrap_or_default()
}

/// What tells a key in [`RxKey::name`].
fn name_of(suite: Suite, key: &MacKey) -> u64 {
    tell(suite, key).first_chunk().copied().map_or(0, u64::from_ne_bytes)
}

/// The keys of one epoch.
#[derive(Debug)]
pub struct EpochKeys {
    /// The key id on the wire.
    pub key_id: u8,
    /// The MAC.
    pub suite: Suite,
    /// Pairs with this node on one side.
    pub pairs: Vec<Pair>,
}

/// The key of one direction.
pub struct Pair {
    /// Who stamps with it.
    pub source: u32,
    /// Who verifies with it.
    pub target: u32,
    /// The key.
    pub key: zeroize::Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pair {{ {} -> {}, [redacted] }}", self.source, self.target)
    }
}

impl Datapath {
    /// Installs the keys of up to four epochs. Packets are stamped with the first epoch that this
    /// node has not lost the counters of, and verified with any of them.
    ///
    /// # Errors
    /// [`Error::EpochUsed`] if no epoch is left to stamp with; [`Error::Limit`], [`Error::Map`].
    pub fn install_keys(&mut self, epochs: &[EpochKeys]) -> Result<(), Error> {
        let snid = self.options.snid;
        let mut usable = None;
        for epoch in epochs {
            if usable.is_none() && self.may_stamp(epoch)? {
                usable = Some(epoch.key_id);
            }
        }
        if usable.is_none()
            && let Some(last) = epochs.last()
        {
            return Err(Error::EpochUsed { key_id: last.key_id });
        }
        // What is verified first, what is stamped last: no peer may get a packet too early.
        for epoch in epochs {
            for pair in epoch.pairs.iter().filter(|pair| pair.target == snid) {
                self.install_rx(epoch, pair)?;
            }
        }
        for epoch in epochs.iter().filter(|epoch| Some(epoch.key_id) == usable) {
            for pair in epoch.pairs.iter().filter(|pair| pair.source == snid) {
                self.install_tx(epoch, pair)?;
            }
        }
        Ok(())
    }

    /// Whether no sequence number would be used twice: the kernel still counts each of the epoch's keys
    /// that packets were ever stamped with.
    fn may_stamp(&mut self, epoch: &EpochKeys) -> Result<bool, Error> {
        let snid = self.options.snid;
        for pair in epoch.pairs.iter().filter(|pair| pair.source == snid) {
            let mac = MacKey::prepare(epoch.suite, &pair.key);
            let slot = self.slot(pair.target, epoch.key_id)?;
            let map: Array<&MapData, TxKey> = self.view(name::TX_KEYS)?;
            let held = map.get(&slot, 0).map_err(Error::map(name::TX_KEYS))?;
            if !held.mac.same(&mac) && self.state.used(&fingerprint(epoch.suite, &mac)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets every key that is not among these: what was taken from the key file is revoked.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::Map`], [`Error::Io`].
    pub fn retire_keys(&mut self, epochs: &[EpochKeys]) -> Result<(), Error> {
        self.persist()?;
        let snid = self.options.snid;
        let mut kept = BTreeSet::new();
        for epoch in epochs {
            for pair in &epoch.pairs {
                let peer = if pair.source == snid { pair.target } else { pair.source };
                kept.insert((self.slot(peer, epoch.key_id)?, u32::from(epoch.key_id)));
            }
        }
        for slot in 0..self.options.limits.nodes * EPOCH_SLOTS {
            let mut map: Array<&mut MapData, TxKey> = self.view_mut(name::TX_KEYS)?;
            let held = map.get(&slot, 0).map_err(Error::map(name::TX_KEYS))?;
            if held.suite != 0 && !kept.contains(&(slot, held.key_id)) {
                map.set(slot, TxKey::default(), 0).map_err(Error::map(name::TX_KEYS))?;
            }
            let mut map: Array<&mut MapData, RxKey> = self.view_mut(name::RX_KEYS)?;
            let held = map.get(&slot, 0).map_err(Error::map(name::RX_KEYS))?;
            if held.suite != 0 && !kept.contains(&(slot, held.key_id)) {
                map.set(slot, RxKey::default(), 0).map_err(Error::map(name::RX_KEYS))?;
            }
        }
        Ok(())
    }

    /// The most packets that any key was stamped with so far which this node stamps with now.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn stamped(&self) -> Result<u64, Error> {
        let nodes: Array<&MapData, Node> = self.view(name::NODES)?;
        let keys: Array<&MapData, TxKey> = self.view(name::TX_KEYS)?;
        let mut most = 0;
        for index in 0..self.options.limits.nodes {
            let node = nodes.get(&index, 0).map_err(Error::map(name::NODES))?;
            let slot = index * EPOCH_SLOTS + node.tx_key_id % EPOCH_SLOTS;
            let key = keys.get(&slot, 0).map_err(Error::map(name::TX_KEYS))?;
            if key.suite != 0 && key.key_id == node.tx_key_id {
                most = most.max(key.seq);
            }
        }
        Ok(most)
    }

    /// Forgets what is on disk of keys that are not among these. Only for keys that never come
    /// again: one that did would be stamped with from the beginning.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn forget_keys(&mut self, epochs: &[EpochKeys]) -> Result<(), Error> {
        let pairs = epochs.iter().flat_map(|epoch| {
            epoch
                .pairs
                .iter()
                .map(|pair| fingerprint(epoch.suite, &MacKey::prepare(epoch.suite, &pair.key)))
        });
        self.state.retain(&pairs.collect())
    }

    fn install_rx(&mut self, epoch: &EpochKeys, pair: &Pair) -> Result<(), Error> {
        let slot = self.slot(pair.source, epoch.key_id)?;
        let mac = MacKey::prepare(epoch.suite, &pair.key);
        let floor = self.state.floor(&fingerprint(epoch.suite, &mac));
        let mut map: Array<&mut MapData, RxKey> = self.view_mut(name::RX_KEYS)?;
        let held = map.get(&slot, 0).map_err(Error::map(name::RX_KEYS))?;
        if held.suite == epoch.suite as u32
            && held.key_id == u32::from(epoch.key_id)
            && held.mac.same(&mac)
        {
            return Ok(());
        }
        let key = RxKey {
            suite: epoch.suite as u32,
            key_id: u32::from(epoch.key_id),
            mac,
            name: name_of(epoch.suite, &mac),
            top: floor,
            floor,
            ..RxKey::default()
        };
        map.set(slot, key, 0).map_err(Error::map(name::RX_KEYS))
    }

    fn install_tx(&mut self, epoch: &EpochKeys, pair: &Pair) -> Result<(), Error> {
        let slot = self.slot(pair.target, epoch.key_id)?;
        let node = slot / EPOCH_SLOTS;
        let mac = MacKey::prepare(epoch.suite, &pair.key);
        let map: Array<&MapData, TxKey> = self.view(name::TX_KEYS)?;
        let held = map.get(&slot, 0).map_err(Error::map(name::TX_KEYS))?;
        let same = held.suite == epoch.suite as u32
            && held.key_id == u32::from(epoch.key_id)
            && held.mac.same(&mac);
        if !same {
            // On disk before the first packet is stamped.
            self.state.mark_used(&fingerprint(epoch.suite, &mac))?;
            let mut map: Array<&mut MapData, TxKey> = self.view_mut(name::TX_KEYS)?;
            let key = TxKey {
                seq: 1,
                limit: SEQ_LIMIT - SPAN_MAX,
                suite: epoch.suite as u32,
                key_id: u32::from(epoch.key_id),
                mac,
            };
            map.set(slot, key, 0).map_err(Error::map(name::TX_KEYS))?;
        }
        let mut nodes: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        let mut entry = nodes.get(&node, 0).map_err(Error::map(name::NODES))?;
        entry.tx_key_id = u32::from(epoch.key_id);
        nodes.set(node, entry, 0).map_err(Error::map(name::NODES))
    }

    /// The slot of a node's key, whose index is made if need be.
    fn slot(&mut self, snid: u32, key_id: u8) -> Result<u32, Error> {
        Ok(self.node_index(snid)? * EPOCH_SLOTS + u32::from(key_id) % EPOCH_SLOTS)
    }
}
