//! The rule maps of one node: what the datapath loads, and what `labelctl policy compile` prints.
//!
//! Every vector is sorted by its key, so equal policies give equal bytes and a difference between
//! two policies is a difference between lines.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use sigil_common::abi::policy::demand::SIGNED_CODE;
use sigil_common::abi::process;
use sigil_common::label::Label;

/// One node's part of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeRules {
    /// The cluster's name.
    pub cluster: String,
    /// The document's serial number.
    pub serial: u64,
    /// This node.
    pub snid: u32,
    /// The ScID of what this node's kernel sends by itself.
    pub kernel_scid: u32,
    /// The ScID of sockets and processes that have none; 0 for none.
    pub default_scid: u32,
    /// Whether some pair of labels that this node takes part in needs its payload covered.
    pub integrity: bool,
    /// Every declared node.
    pub nodes: Vec<NodeEntry>,
    /// Every declared zone, and the predeclared one.
    pub zones: Vec<ZoneEntry>,
    /// Every label that has a relation with a local zone. See [`PeerEntry`].
    #[serde(serialize_with = "rows")]
    pub peers: Vec<(Label, PeerEntry)>,
    /// What a class of peers and a local zone may do; no row means nothing.
    #[serde(serialize_with = "rows")]
    pub verdicts: Vec<(VerdictKey, VerdictEntry)>,
    /// The zones of ports, on all nodes; protocol 1, port 0 is a node's kernel zone.
    #[serde(serialize_with = "rows")]
    pub ports: Vec<(PortKey, u32)>,
    /// Hosts without labels; the longest prefix wins, and a node's address is never one of them.
    pub perimeter: Vec<PerimeterEntry>,
    /// Local SOCKET permissions by local ScID; no row means none.
    #[serde(serialize_with = "rows")]
    pub sockets: Vec<(u32, SocketEntry)>,
    /// Whether the document has PROCESS rules: without any, processes fork and execute as they like.
    pub governs_processes: bool,
    /// PROCESS permissions by local ScID; no row means none.
    #[serde(serialize_with = "rows")]
    pub processes: Vec<(u32, ProcessEntry)>,
    /// The ScID after an exec; no row means that it stays, and that a program labelled for another
    /// zone is refused.
    #[serde(serialize_with = "rows")]
    pub transitions: Vec<(TransitionKey, u32)>,
    /// Whose sockets become whose in use; no row means that the use is refused.
    pub relabels: Vec<RelabelEntry>,
    /// Whose labels on files count.
    pub signers: Vec<SignerEntry>,
    /// Public keys whose signatures count no more.
    #[serde(serialize_with = "hexes")]
    pub revoked_keys: Vec<[u8; 32]>,
    /// SHA-256 of signatures that count no more.
    #[serde(serialize_with = "hexes")]
    pub revoked_signatures: Vec<[u8; 32]>,
    /// What files without a good label count as; no row means nothing, and the ScID stays.
    pub unsigned: Vec<UnsignedEntry>,
}

/// A row of [`NodeRules::relabels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RelabelEntry {
    /// The socket's ScID.
    pub owner: u32,
    /// The ScID of the process that uses it, which the socket then has.
    pub user: u32,
    /// The line of the rule.
    pub line: u32,
}

/// A row of [`NodeRules::signers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignerEntry {
    /// The Ed25519 public key.
    #[serde(serialize_with = "hex32")]
    pub key: [u8; 32],
    /// What people call them.
    pub name: String,
    /// Each `ScID` that its labels may have, sorted.
    pub scids: Vec<u32>,
    /// Labels with a lower serial count no more.
    pub least_serial: u64,
}

/// A row of [`NodeRules::unsigned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct UnsignedEntry {
    /// The ScID before the exec.
    pub parent: u32,
    /// The ScID that the file counts as; 0 refuses the exec.
    pub binary: u32,
}

impl NodeRules {
    /// The zones whose processes run signed code alone.
    pub fn signed_code_zones(&self) -> impl Iterator<Item = u32> {
        let strict = self.processes.iter().filter(|(_, of)| of.demand & SIGNED_CODE != 0);
        strict.map(|(scid, _)| *scid)
    }

    /// Whether there are any.
    #[must_use]
    pub fn demands_signed_code(&self) -> bool {
        self.signed_code_zones().next().is_some()
    }

    /// Where execs lead: the ScID after them, 0 where they are refused. A binary of 0 is a file that
    /// nobody vouches for.
    #[must_use]
    pub fn execs(&self) -> BTreeMap<process::TransitionKey, u32> {
        let key = |parent, binary| process::TransitionKey { parent, binary };
        let rules = self.transitions.iter().map(|(of, new)| (key(of.parent, of.binary), *new));
        let mut execs: BTreeMap<_, _> = rules.collect();
        for one in &self.unsigned {
            let own = if one.parent == one.binary { one.parent } else { 0 };
            let led = execs.get(&key(one.parent, one.binary)).copied().unwrap_or(own);
            execs.insert(key(one.parent, 0), led);
        }
        execs
    }
}

/// A node's row of [`NodeRules::nodes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeEntry {
    /// Its id.
    pub snid: u32,
    /// Its name; the id as text when it has none.
    pub name: String,
    /// Its addresses, sorted.
    pub addresses: Vec<Ipv4Addr>,
    /// The ScID of what its kernel sends by itself.
    pub kernel_scid: u32,
}

/// A zone's row of [`NodeRules::zones`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZoneEntry {
    /// Its id.
    pub scid: u32,
    /// Its name; the id as text when it has none.
    pub name: String,
    /// `sigil_common::abi::policy::PROTECTION_*`.
    pub protection: u8,
}

/// A label's row of [`NodeRules::peers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerEntry {
    /// Labels of one class have the same verdicts. Class 0 has none.
    pub class: u32,
    /// `sigil_common::abi::policy::PEER_*`.
    pub flags: u32,
}

/// The key of [`NodeRules::verdicts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct VerdictKey {
    /// The peer's class.
    pub class: u32,
    /// The local zone.
    pub scid: u32,
}

/// A row of [`NodeRules::verdicts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct VerdictEntry {
    /// The verdict flags of `sigil_common::abi::policy`.
    pub flags: u32,
    /// `sigil_common::abi::policy::PROTECTION_*`: what packets between the two need.
    pub protection: u8,
    /// The line of the rule that decided opening; 0 for none.
    pub create_line: u32,
    /// The line of the rule that decided admission; 0 for none.
    pub receive_line: u32,
}

/// The key of [`NodeRules::ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortKey {
    /// The node.
    pub snid: u32,
    /// The number in the IP header: 6 TCP, 17 UDP, 132 SCTP, 1 ICMP.
    pub protocol: u8,
    /// The port; 0 for ICMP.
    pub port: u16,
}

/// A row of [`NodeRules::perimeter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PerimeterEntry {
    /// The network.
    pub prefix: Ipv4Addr,
    /// 0..=32.
    pub prefix_len: u8,
    /// The static label.
    #[serde(flatten, serialize_with = "label")]
    pub label: Label,
}

/// A row of [`NodeRules::sockets`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SocketEntry {
    /// `sigil_common::abi::policy::socket` bits granted.
    pub allow: u32,
    /// Bits whose use, or the attempt, raises an alarm.
    pub alarm: u32,
}

/// A row of [`NodeRules::processes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessEntry {
    /// `sigil_common::abi::policy::process` bits granted.
    pub allow: u32,
    /// Bits whose use, or the attempt, raises an alarm.
    pub alarm: u32,
    /// The line of the rule that decided FORK; 0 for none.
    pub fork_line: u32,
    /// The line of the rule that decided EXECVE; 0 for none.
    pub execve_line: u32,
    /// `sigil_common::abi::policy::demand` bits.
    pub demand: u32,
}

/// The key of [`NodeRules::transitions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TransitionKey {
    /// The ScID before the exec.
    pub parent: u32,
    /// The ScID of the program's file.
    pub binary: u32,
}

/// The columns of a key or of a value: a row is one flat JSON object.
trait Columns {
    type Shown<'a>: Serialize
    where
        Self: 'a;
    fn shown(&self) -> Self::Shown<'_>;
}

macro_rules! own_columns {
    ($($name:ty),+) => { $(impl Columns for $name {
        type Shown<'a> = &'a Self;
        fn shown(&self) -> &Self { self }
    })+ };
}
own_columns!(
    PeerEntry,
    VerdictKey,
    VerdictEntry,
    PortKey,
    SocketEntry,
    ProcessEntry,
    TransitionKey
);

#[derive(Serialize)]
struct LabelColumns {
    snid: u32,
    scid: u32,
}

#[derive(Serialize)]
struct ScidColumn {
    scid: u32,
}

impl Columns for Label {
    type Shown<'a> = LabelColumns;
    fn shown(&self) -> LabelColumns {
        LabelColumns { snid: self.snid, scid: self.scid }
    }
}

impl Columns for u32 {
    type Shown<'a> = ScidColumn;
    fn shown(&self) -> ScidColumn {
        ScidColumn { scid: *self }
    }
}

#[derive(Serialize)]
struct Row<K, V> {
    #[serde(flatten)]
    key: K,
    #[serde(flatten)]
    value: V,
}

fn rows<S: Serializer, K: Columns, V: Columns>(rows: &[(K, V)], to: S) -> Result<S::Ok, S::Error> {
    let mut seq = to.serialize_seq(Some(rows.len()))?;
    for (key, value) in rows {
        seq.serialize_element(&Row { key: key.shown(), value: value.shown() })?;
    }
    seq.end()
}

fn hexes<S: Serializer>(rows: &[[u8; 32]], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(rows.iter().map(hex::encode))
}

fn hex32<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(bytes))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a field so")]
fn label<S: Serializer>(label: &Label, to: S) -> Result<S::Ok, S::Error> {
    label.shown().serialize(to)
}
