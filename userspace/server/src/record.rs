//! The records, as they are stored.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Milliseconds since 1970.
pub(crate) type Millis = i64;

/// The time now.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// A secret's bytes or text. Wiped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub(crate) struct Secret<T: Zeroize>(pub(crate) T);

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `cluster`: who signs. Written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) name: String,
    /// PEM.
    pub(crate) ca: String,
    /// PEM.
    pub(crate) ca_key: Secret<String>,
    /// PKCS #8: Ed25519.
    pub(crate) policy_key: Secret<Vec<u8>>,
    /// The suite of the keys, by its number on the wire.
    pub(crate) suite: u8,
}

/// `node/SNID`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) revoked: bool,
    /// SHA-256 of the certified public key; a certificate of any other key is not the node's.
    pub(crate) key: String,
    /// The one before, until the node used the new one.
    pub(crate) former: Option<String>,
    /// See `Hello` in the messages; empty until the node attached.
    pub(crate) instance: String,
    /// The first epoch whose keys this instance may have.
    pub(crate) first_epoch: u64,
    /// When its certificate ends.
    pub(crate) ends: Millis,
}

/// `admin/NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Admin {
    pub(crate) revoked: bool,
    /// See [`Node::key`].
    pub(crate) key: String,
    /// When the certificate ends.
    pub(crate) ends: Millis,
    pub(crate) added: Millis,
    /// Who added it; empty where that was done on the server's host.
    pub(crate) by: String,
}

/// `token/HASH`: the token itself is not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) snid: u32,
    pub(crate) expires: Millis,
    /// The administrator who drew it.
    pub(crate) by: String,
    /// Shown already; kept until it expires, so that a second use is told from a wrong guess.
    pub(crate) used: bool,
}

/// `keys`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// Rises with every change of what any node should hold.
    pub(crate) version: u64,
    /// At most four, numbered without gaps, the newest last.
    pub(crate) epochs: Vec<Epoch>,
    /// The number of the epoch to stamp with.
    pub(crate) stamp: u64,
    /// When `epochs` or `stamp` last changed.
    pub(crate) since: Millis,
    /// An epoch of at least this number is wanted.
    pub(crate) wanted: u64,
}

/// An epoch and its master secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Epoch {
    pub(crate) number: u64,
    pub(crate) secret: Secret<[u8; 32]>,
    pub(crate) created: Millis,
}

impl Epoch {
    /// The key id on the wire.
    #[expect(clippy::cast_possible_truncation, reason = "ids come round; at most four at once")]
    pub(crate) const fn key_id(&self) -> u8 {
        self.number as u8
    }
}

/// `policy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policies {
    /// The last revision given out.
    pub(crate) revision: u64,
    /// The highest serial ever accepted.
    pub(crate) serial: u64,
    /// Whether the highest serial was accepted at all: 0 is a serial too.
    pub(crate) any: bool,
    /// In force.
    pub(crate) current: Option<Release>,
    /// On trial on some nodes.
    pub(crate) canary: Option<Canary>,
    /// Documents in the store, by their hashes, the oldest first.
    pub(crate) documents: Vec<String>,
}

/// Documents that stay in the store.
const DOCUMENTS: usize = 16;

impl Policies {
    /// Whether a document, by its hash, is in force or on trial.
    pub(crate) fn uses(&self, document: &str) -> bool {
        let trial = self.canary.as_ref().map(|canary| &canary.release);
        self.current.iter().chain(trial).any(|release| release.document == document)
    }

    /// Notes a document that is in the store now; which ones are to go for it. None that is used does.
    pub(crate) fn keep(&mut self, document: &str) -> Vec<String> {
        self.documents.retain(|held| held != document);
        self.documents.push(document.to_owned());
        let surplus = self.documents.len().saturating_sub(DOCUMENTS);
        let gone = self.documents.iter().filter(|held| !self.uses(held)).take(surplus);
        let gone: Vec<_> = gone.cloned().collect();
        self.documents.retain(|held| !gone.contains(held));
        gone
    }
}

/// A document with a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    pub(crate) revision: u64,
    pub(crate) serial: u64,
    /// SHA-256 of the document, by which it is stored.
    pub(crate) document: String,
    /// Its serial may be below that of what it replaces.
    pub(crate) revert: bool,
}

/// A release on trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Canary {
    pub(crate) release: Release,
    pub(crate) nodes: Vec<u32>,
    pub(crate) ends: Millis,
    pub(crate) confirm_seconds: u32,
}

/// `status/SNID`: what a node last said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The server that it is attached to, by its start; empty for none.
    pub(crate) attached: String,
    pub(crate) seen: Millis,
    pub(crate) version: String,
    pub(crate) revision: u64,
    pub(crate) serial: u64,
    pub(crate) keys: u64,
    pub(crate) failed: u64,
    pub(crate) problem: String,
    pub(crate) reverts: u32,
    pub(crate) stamped: u64,
}

/// `holder/SNID`: the server that a node is attached to, where several share the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// By its start; empty for none.
    pub(crate) server: String,
    /// Of another server, to which somebody came who says to be the node.
    pub(crate) claim: Option<Claim>,
    /// The last claim that was refused, for the node lives where it is.
    pub(crate) refused: String,
}

/// A server's claim to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Random.
    pub(crate) id: String,
    /// The server, by its start.
    pub(crate) server: String,
}

/// One of the alarms in `alarm/NUMBER`, where the number is the first one's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarm {
    pub(crate) number: u64,
    pub(crate) time: Millis,
    /// 0 where it is not known.
    pub(crate) snid: u32,
    pub(crate) kind: String,
    pub(crate) message: String,
    /// How many happenings it stands for.
    pub(crate) count: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hook: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Party>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<Party>,
    /// Its number in the node's own chain; 0 for the server's alarms.
    pub(crate) node_number: u64,
    /// Who acknowledged it; empty until somebody did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) acknowledged: String,
}

/// A label, as an alarm names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Party {
    pub(crate) snid: u32,
    pub(crate) scid: u32,
    pub(crate) zone: String,
}

/// `chain/SNID`: how far a node's alarms were heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chain {
    pub(crate) id: Vec<u8>,
    pub(crate) number: u64,
    pub(crate) hash: Vec<u8>,
}

/// A record and its version in the store; version 0 for one that is not there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held<T> {
    pub(crate) version: u64,
    pub(crate) value: T,
}

/// What decides what nodes get, as one server knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) keys: Held<Keys>,
    pub(crate) policies: Held<Policies>,
    pub(crate) nodes: BTreeMap<u32, Held<Node>>,
    pub(crate) tokens: BTreeMap<String, Held<Token>>,
    pub(crate) admins: BTreeMap<String, Held<Admin>>,
}

impl Snapshot {
    /// Nodes that hold keys.
    pub(crate) fn members(&self) -> impl Iterator<Item = (u32, &Node)> {
        let members = self.nodes.iter().map(|(snid, node)| (*snid, &node.value));
        members.filter(|(_, node)| !node.revoked)
    }

    /// What a node should have in force.
    pub(crate) fn release(&self, snid: u32) -> Option<&Release> {
        let policies = &self.policies.value;
        let trial = policies.canary.as_ref().filter(|canary| canary.nodes.contains(&snid));
        trial.map(|canary| &canary.release).or(policies.current.as_ref())
    }
}
