//! Keys, counters and replay windows, per node and epoch.

use crate::icv::MacKey;
use crate::replay::WORDS;

/// Epochs that are held at once per direction and node; a key id's slot is `id % EPOCH_SLOTS`.
pub const EPOCH_SLOTS: u32 = 4;

/// Addresses of one node.
pub const NODE_ADDRESSES: usize = 4;

/// In [`Node::tx_key_id`]: no packet is stamped. The ids of keys are bytes.
pub const NO_KEY: u32 = u32::MAX;

/// The value of `NODES`. An index, once given to a SnID, stays with it while the SnID is in the
/// policy in force or has a key.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Node {
    /// 0 marks a free entry.
    pub snid: u32,
    /// Which key id stamps packets to this node, or [`NO_KEY`].
    pub tx_key_id: u32,
    /// IPv4 addresses as numbers; 0 is an empty place.
    pub addresses: [u32; NODE_ADDRESSES],
}
const _: () = assert!(size_of::<Node>() == 24);

impl Node {
    /// Nobody, to whom nothing is stamped.
    pub const NONE: Self = Self { snid: 0, tx_key_id: NO_KEY, addresses: [0; NODE_ADDRESSES] };
}

/// The value of `TX_KEYS`: how packets to a node are stamped in one epoch.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TxKey {
    /// The next sequence number; taken by atomic addition.
    pub seq: u64,
    /// No number at or above this one may be used; what the agent has reserved on disk.
    pub limit: u64,
    /// 0 marks an empty slot, else a [`crate::icv::Suite`].
    pub suite: u32,
    /// The key id on the wire.
    pub key_id: u32,
    /// Prepared key material.
    pub mac: MacKey,
}
const _: () = assert!(size_of::<TxKey>() == 24 + size_of::<MacKey>());

/// The value of `RX_KEYS`: how packets from a node are verified in one epoch.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RxKey {
    /// 0 marks an empty slot, else a [`crate::icv::Suite`].
    pub suite: u32,
    /// The key id on the wire.
    pub key_id: u32,
    /// Prepared key material.
    pub mac: MacKey,
    /// Tells the key from any other, and nothing of what it is.
    pub name: u64,
    /// Highest sequence number whose ICV held.
    pub top: u64,
    /// Numbers below this one are refused: what was seen before the window was lost.
    pub floor: u64,
    /// The replay window, see [`crate::replay`].
    pub window: [u64; WORDS],
}
const _: () = assert!(size_of::<RxKey>() == 8 + size_of::<MacKey>() + 24 + 8 * WORDS);

impl Default for TxKey {
    fn default() -> Self {
        Self { seq: 0, limit: 0, suite: 0, key_id: 0, mac: MacKey::ZERO }
    }
}

impl Default for RxKey {
    fn default() -> Self {
        let (mac, window) = (MacKey::ZERO, [0; WORDS]);
        Self { suite: 0, key_id: 0, mac, name: 0, top: 0, floor: 0, window }
    }
}
