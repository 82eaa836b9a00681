//! Installing keys. A slot's key is replaced as a whole; an unchanged one keeps its counters.
//!
//! No packet ever sees two keys in one slot: what goes is made unusable first and stays as it is until
//! every packet that began with it is through, and what comes is usable when all of it is there.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use sigil_common::abi::{
    key::{EPOCH_SLOTS, NO_KEY, Node, RxKey, TxKey},
    name,
};
use sigil_common::icv::{self, Header, Icv, MacKey, Suite};
use sigil_common::replay::{SEQ_LIMIT, SPAN_MAX};

use crate::error::Error;
use crate::load::Datapath;
use crate::sys;

/// Names a key on disk without telling it: its MAC over a message that no packet yields, for its
/// first byte is not [`sigil_common::icv::DOMAIN`].
pub(crate) fn fingerprint(suite: Suite, key: &MacKey) -> String {
    hex::encode(tell(suite, key).to_bytes())
}

fn tell(suite: Suite, key: &MacKey) -> Icv {
    let message = Header::from_bytes(b"fingerprint of a key in Sigil's state   ");
    icv::of_message(suite, key, &message, &[]).unwrap_or_default()
}

/// What tells a key in [`RxKey::name`].
fn name_of(suite: Suite, key: &MacKey) -> u64 {
    tell(suite, key).to_bytes().first_chunk().copied().map_or(0, u64::from_ne_bytes)
}

/// Which epoch packets are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamping {
    /// Its key id.
    pub key_id: u8,
    /// How many more could take its place: a reboot, or a detach, uses one up.
    pub spare: usize,
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
    /// node has not lost the counters of, and verified with any of them. Says which that is; nothing for
    /// no epochs.
    ///
    /// # Errors
    /// [`Error::EpochUsed`] if no epoch is left to stamp with; [`Error::Limit`], [`Error::Map`].
    pub fn install_keys(&mut self, epochs: &[EpochKeys]) -> Result<Option<Stamping>, Error> {
        let snid = self.options.snid;
        let Some(last) = epochs.last() else { return Ok(None) };
        let mut stamping: Option<Stamping> = None;
        for epoch in epochs {
            if self.may_stamp(epoch)? {
                let first = Stamping { key_id: epoch.key_id, spare: 0 };
                let more = |held: Stamping| Stamping { spare: held.spare + 1, ..held };
                stamping = Some(stamping.map_or(first, more));
            }
        }
        let Some(Stamping { key_id, .. }) = stamping else {
            return Err(Error::EpochUsed { key_id: last.key_id });
        };
        self.make_way(epochs, key_id)?;
        // What is verified first, what is stamped last: no peer may get a packet too early.
        for epoch in epochs {
            for pair in epoch.pairs.iter().filter(|pair| pair.target == snid) {
                self.install_rx(epoch, pair)?;
            }
        }
        for epoch in epochs.iter().filter(|epoch| epoch.key_id == key_id) {
            for pair in epoch.pairs.iter().filter(|pair| pair.source == snid) {
                self.install_tx(epoch, pair)?;
            }
        }
        Ok(stamping)
    }

    /// Empties the slots that hold other keys than those which are to come into them.
    fn make_way(&mut self, epochs: &[EpochKeys], stamping: u8) -> Result<(), Error> {
        let snid = self.options.snid;
        let (mut rx, mut tx) = (BTreeSet::new(), BTreeSet::new());
        for epoch in epochs {
            for pair in &epoch.pairs {
                let key = MacKey::prepare(epoch.suite, &pair.key);
                if pair.target == snid {
                    let slot = self.slot(pair.source, epoch.key_id)?;
                    let held = self.rx_key(slot)?;
                    if held.suite != 0 && !holds_rx(&held, epoch, &key) {
                        rx.insert(slot);
                    }
                }
                if pair.source == snid && epoch.key_id == stamping {
                    let slot = self.slot(pair.target, epoch.key_id)?;
                    let held = self.tx_key(slot)?;
                    if held.suite != 0 && !holds_tx(&held, epoch, &key) {
                        tx.insert(slot);
                    }
                }
            }
        }
        if !rx.is_empty() {
            // How far its peer was with a key that goes: it may come back.
            self.persist()?;
        }
        self.clear(&rx, &tx)
    }

    /// Empties slots: unusable first, gone when no packet uses them any more.
    fn clear(&mut self, rx: &BTreeSet<u32>, tx: &BTreeSet<u32>) -> Result<(), Error> {
        if rx.is_empty() && tx.is_empty() {
            return Ok(());
        }
        for slot in rx {
            let held = self.rx_key(*slot)?;
            self.set_rx_key(*slot, &RxKey { suite: 0, ..held })?;
        }
        for slot in tx {
            // The counter goes on to the end: only who would take from it is sent away.
            let held = self.tx_key(*slot)?;
            self.stamp_with(
                slot / EPOCH_SLOTS,
                |now| if now == held.key_id { NO_KEY } else { now },
            )?;
        }
        self.wait_for_packets()?;
        for slot in rx {
            self.set_rx_key(*slot, &RxKey::default())?;
        }
        for slot in tx {
            self.set_tx_key(*slot, TxKey::default())?;
        }
        Ok(())
    }

    /// Waits until every packet is through whose programs run now.
    pub(crate) fn wait_for_packets(&self) -> Result<(), Error> {
        let name = name::CONFIG;
        let missing = || Error::Missing(name.to_owned());
        let Map::Array(map) = self.bpf.map(name).ok_or_else(missing)? else {
            return Err(missing());
        };
        sys::wait_for_programs(map.fd().as_fd()).map_err(Error::io(Path::new(name)))
    }

    /// Whether no sequence number would be used twice: the kernel still counts each of the epoch's keys
    /// that packets were ever stamped with.
    fn may_stamp(&mut self, epoch: &EpochKeys) -> Result<bool, Error> {
        let snid = self.options.snid;
        for pair in epoch.pairs.iter().filter(|pair| pair.source == snid) {
            let mac = MacKey::prepare(epoch.suite, &pair.key);
            let slot = self.slot(pair.target, epoch.key_id)?;
            let held = self.tx_key(slot)?;
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
        let (mut rx, mut tx) = (BTreeSet::new(), BTreeSet::new());
        for slot in 0..self.options.limits.nodes * EPOCH_SLOTS {
            let held = self.tx_key(slot)?;
            if held.suite != 0 && !kept.contains(&(slot, held.key_id)) {
                tx.insert(slot);
            }
            let held = self.rx_key(slot)?;
            if held.suite != 0 && !kept.contains(&(slot, held.key_id)) {
                rx.insert(slot);
            }
        }
        self.clear(&rx, &tx)?;
        self.free_nodes()
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
        if holds_rx(&self.rx_key(slot)?, epoch, &mac) {
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
        // The kernel copies a value from one end to the other: not before all is there is it usable.
        self.set_rx_key(slot, &RxKey { suite: 0, ..key })?;
        self.set_rx_key(slot, &key)
    }

    fn install_tx(&mut self, epoch: &EpochKeys, pair: &Pair) -> Result<(), Error> {
        let slot = self.slot(pair.target, epoch.key_id)?;
        let node = slot / EPOCH_SLOTS;
        let mac = MacKey::prepare(epoch.suite, &pair.key);
        if !holds_tx(&self.tx_key(slot)?, epoch, &mac) {
            // On disk before the first packet is stamped.
            self.state.mark_used(&fingerprint(epoch.suite, &mac))?;
            let key = TxKey {
                seq: 1,
                limit: SEQ_LIMIT - SPAN_MAX,
                suite: epoch.suite as u32,
                key_id: u32::from(epoch.key_id),
                mac,
            };
            self.set_tx_key(slot, key)?;
        }
        self.stamp_with(node, |_| u32::from(epoch.key_id))
    }

    /// Says which key id stamps packets to a node, from the one that does now.
    fn stamp_with(&mut self, node: u32, key_id: impl FnOnce(u32) -> u32) -> Result<(), Error> {
        let mut nodes: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        let mut entry = nodes.get(&node, 0).map_err(Error::map(name::NODES))?;
        entry.tx_key_id = key_id(entry.tx_key_id);
        nodes.set(node, entry, 0).map_err(Error::map(name::NODES))
    }

    pub(crate) fn rx_key(&self, slot: u32) -> Result<RxKey, Error> {
        let map: Array<&MapData, RxKey> = self.view(name::RX_KEYS)?;
        map.get(&slot, 0).map_err(Error::map(name::RX_KEYS))
    }

    fn set_rx_key(&mut self, slot: u32, key: &RxKey) -> Result<(), Error> {
        let mut map: Array<&mut MapData, RxKey> = self.view_mut(name::RX_KEYS)?;
        map.set(slot, key, 0).map_err(Error::map(name::RX_KEYS))
    }

    pub(crate) fn tx_key(&self, slot: u32) -> Result<TxKey, Error> {
        let map: Array<&MapData, TxKey> = self.view(name::TX_KEYS)?;
        map.get(&slot, 0).map_err(Error::map(name::TX_KEYS))
    }

    fn set_tx_key(&mut self, slot: u32, key: TxKey) -> Result<(), Error> {
        let mut map: Array<&mut MapData, TxKey> = self.view_mut(name::TX_KEYS)?;
        map.set(slot, key, 0).map_err(Error::map(name::TX_KEYS))
    }

    /// The slot of a node's key, whose index is made if need be.
    fn slot(&mut self, snid: u32, key_id: u8) -> Result<u32, Error> {
        Ok(self.node_index(snid)? * EPOCH_SLOTS + u32::from(key_id) % EPOCH_SLOTS)
    }
}

fn holds_rx(held: &RxKey, epoch: &EpochKeys, key: &MacKey) -> bool {
    held.suite == epoch.suite as u32 && held.key_id == u32::from(epoch.key_id) && held.mac.same(key)
}

fn holds_tx(held: &TxKey, epoch: &EpochKeys, key: &MacKey) -> bool {
    held.suite == epoch.suite as u32 && held.key_id == u32::from(epoch.key_id) && held.mac.same(key)
}
