//! A policy with all names resolved.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::Serialize;
use sigil_common::abi::policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL};
use sigil_common::label::{KERNEL_SCID, Label};

use crate::diagnostic::Span;
use crate::permission::Class;

/// `*` in a [`Pattern`]: any declared id, never 0.
pub const ANY: u32 = 0;

/// What a document says, with every reference resolved. [`crate::compile`] makes one that holds
/// the invariants below; a policy built by hand must hold them itself.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The cluster's name.
    pub cluster: String,
    /// The document's serial number.
    pub serial: u64,
    /// The declared nodes, sorted by SnID, without duplicates.
    pub nodes: Vec<Node>,
    /// The declared zones, sorted by ScID, without duplicates. Only these are what `*` covers.
    pub zones: Vec<Zone>,
    /// Protections of pairs of zones, the smaller ScID first.
    pub pairs: BTreeMap<(u32, u32), Protection>,
    /// The ports with a zone of their own, sorted.
    pub ports: Vec<Port>,
    /// Static labels of unlabelled hosts, sorted.
    pub perimeter: Vec<Perimeter>,
    /// Rules of the classes SOCKET, NETWORK and PROCESS, in document order.
    pub rules: Vec<Rule>,
    /// Rules of class TRANSITION, in document order.
    pub transitions: Vec<Transition>,
    /// Rules of class RELABEL, in document order, one for each pair.
    pub relabels: Vec<Relabel>,
    /// Whose labels on files count, sorted by key, without duplicates.
    pub signers: Vec<Signer>,
    /// Public keys whose signatures count no more, sorted.
    pub revoked_keys: Vec<[u8; 32]>,
    /// SHA-256 of signatures that count no more, sorted.
    pub revoked_signatures: Vec<[u8; 32]>,
    /// What files without a good label count as, in document order, one for each parent.
    pub unsigned: Vec<Unsigned>,
}

/// A declared node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub snid: u32,
    /// Its name; the id as text when it has none.
    pub name: String,
    /// Its addresses, sorted, at most [`Node::MAX_ADDRESSES`].
    pub addresses: Vec<Ipv4Addr>,
    /// The ScID of what its kernel sends by itself.
    pub kernel_scid: u32,
    /// The ScID of sockets and processes that have none; 0 for none.
    pub default_scid: u32,
}

impl Node {
    /// How many addresses a node may have.
    pub const MAX_ADDRESSES: usize = 4;
}

/// A declared zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its id.
    pub scid: u32,
    /// Its name; the id as text when it has none.
    pub name: String,
    /// What packets of its members need.
    pub protection: Protection,
    /// Whether all code that its processes run must be signed.
    pub signed_code: bool,
    /// The element's start tag.
    pub span: Span,
}

/// How packets are protected; a stronger one compares greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// The 20-byte option.
    Label,
    /// The 40-byte option.
    #[default]
    Authenticate,
    /// The 40-byte option over the payload too.
    Integrity,
}

impl Protection {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Label, Self::Authenticate, Self::Integrity];

    /// Its name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Authenticate => "authenticate",
            Self::Integrity => "integrity",
        }
    }

    /// Its number in the kernel's maps.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Label => PROTECTION_LABEL,
            Self::Authenticate => PROTECTION_AUTHENTICATE,
            Self::Integrity => PROTECTION_INTEGRITY,
        }
    }
}

/// A transport protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A port whose listener belongs to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The node.
    pub snid: u32,
    /// The protocol.
    pub protocol: Protocol,
    /// The port's number.
    pub number: u16,
    /// The zone.
    pub scid: u32,
}

/// A host outside the cluster's nodes, or a network of them, and the label it is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Perimeter {
    /// The network; bits beyond `prefix_len` are 0.
    pub prefix: Ipv4Addr,
    /// 0..=32.
    pub prefix_len: u8,
    /// The static label.
    pub label: Label,
    /// A name for its SnID, if it has one.
    pub name: Option<String>,
}

/// One side of a rule; either id may be [`ANY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    /// SnID or [`ANY`].
    pub snid: u32,
    /// ScID or [`ANY`].
    pub scid: u32,
}

impl Pattern {
    /// How many of its ids are not `*`.
    #[must_use]
    pub fn specificity(self) -> u32 {
        u32::from(self.snid != ANY) + u32::from(self.scid != ANY)
    }
}

/// A rule of class SOCKET, NETWORK or PROCESS.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its class, never TRANSITION.
    pub class: Class,
    /// Who acts.
    pub source: Pattern,
    /// On whom; none for PROCESS and for local SOCKET rules.
    pub target: Option<Pattern>,
    /// Permissions granted.
    pub allow: u32,
    /// Permissions denied.
    pub deny: u32,
    /// Permissions whose use raises an alarm; they decide nothing.
    pub alarm: u32,
    /// Its line in the document, from 1.
    pub line: u32,
    /// Its start tag.
    pub span: Span,
}

impl Rule {
    /// How many of its ids are not `*`: the more there are, the stronger the rule.
    #[must_use]
    pub fn specificity(&self) -> u32 {
        self.source.specificity() + self.target.map_or(0, Pattern::specificity)
    }
}

/// A rule of class TRANSITION: a process of `parent` that executes `binary` becomes `new`.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// The ScID before the exec, or [`ANY`].
    pub parent: u32,
    /// The ScID of the program's file, or [`ANY`].
    pub binary: u32,
    /// The ScID after the exec.
    pub new: u32,
    /// Its line in the document, from 1.
    pub line: u32,
    /// Its start tag.
    pub span: Span,
}

/// A rule of class RELABEL: a socket of `owner` that a process of `user` uses becomes `user`'s.
#[derive(Clone, Copy, Debug)]
pub struct Relabel {
    /// The socket's ScID.
    pub owner: u32,
    /// The ScID of the process that uses it; another one.
    pub user: u32,
    /// Its line in the document, from 1.
    pub line: u32,
    /// Its start tag.
    pub span: Span,
}

/// Somebody whose labels on files count.
#[derive(Clone, Debug)]
pub struct Signer {
    /// What people call them.
    pub name: String,
    /// Their Ed25519 public key.
    pub key: [u8; 32],
    /// The zones that they may give to files, sorted; [`ANY`] alone for every declared one.
    pub scids: Vec<u32>,
    /// Labels of theirs with a lower serial count no more.
    pub least_serial: u64,
    /// The element's start tag.
    pub span: Span,
}

impl Signer {
    /// How many zones a signer may have by name.
    pub const MAX_SCIDS: usize = 256;
}

/// What a file without a good label counts as when a process of `parent` executes it.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned {
    /// The ScID before the exec, or [`ANY`].
    pub parent: u32,
    /// The file's ScID; 0 refuses the exec.
    pub binary: u32,
    /// The element's start tag.
    pub span: Span,
}

impl Policy {
    /// What a file without a good label counts as when a process of `parent` executes it: a ScID, or 0
    /// when the exec is refused. Nothing when the policy does not say: the file has no ScID then, and
    /// the process stays in its zone.
    #[must_use]
    pub fn unsigned_for(&self, parent: u32) -> Option<u32> {
        let of = |id| self.unsigned.iter().find(move |one| one.parent == id);
        let any = || of(ANY).filter(|_| self.zone(parent).is_some());
        of(parent).filter(|_| parent != ANY).or_else(any).map(|one| one.binary)
    }

    /// The declared node with this id.
    #[must_use]
    pub fn node(&self, snid: u32) -> Option<&Node> {
        let at = self.nodes.binary_search_by_key(&snid, |node| node.snid).ok()?;
        self.nodes.get(at)
    }

    /// The declared zone with this id.
    #[must_use]
    pub fn zone(&self, scid: u32) -> Option<&Zone> {
        let at = self.zones.binary_search_by_key(&scid, |zone| zone.scid).ok()?;
        self.zones.get(at)
    }

    /// The node or the perimeter host of this name.
    #[must_use]
    pub fn snid(&self, name: &str) -> Option<u32> {
        let node = self.nodes.iter().find(|node| node.name == name).map(|node| node.snid);
        let host = || self.perimeter.iter().find(|host| host.name.as_deref() == Some(name));
        node.or_else(|| Some(host()?.label.snid))
    }

    /// The zone of this name, the predeclared one included.
    #[must_use]
    pub fn scid(&self, name: &str) -> Option<u32> {
        let zone = self.zones.iter().find(|zone| zone.name == name).map(|zone| zone.scid);
        zone.or_else(|| (name == KERNEL).then_some(KERNEL_SCID))
    }

    /// The ScID of kernels: the zone that the document calls `kernel`, else [`KERNEL_SCID`].
    #[must_use]
    pub fn kernel_scid(&self) -> u32 {
        self.zones.iter().find(|zone| zone.name == KERNEL).map_or(KERNEL_SCID, |zone| zone.scid)
    }

    /// Whether a host of the perimeter has this label.
    #[must_use]
    pub fn is_perimeter(&self, label: Label) -> bool {
        self.perimeter.iter().any(|host| host.label == label)
    }

    /// Whether anything can have this label: a declared zone or the kernel on a declared node, or
    /// a perimeter host.
    #[must_use]
    pub fn exists(&self, label: Label) -> bool {
        match self.node(label.snid) {
            Some(node) => node.kernel_scid == label.scid || self.zone(label.scid).is_some(),
            None => self.is_perimeter(label),
        }
    }

    /// Whether `label` is one of those that `pattern` stands for.
    #[must_use]
    pub fn covers(&self, pattern: Pattern, label: Label) -> bool {
        let snid = if pattern.snid == ANY {
            self.node(label.snid).is_some()
        } else {
            pattern.snid == label.snid
        };
        let scid = if pattern.scid == ANY {
            self.zone(label.scid).is_some()
        } else {
            pattern.scid == label.scid
        };
        snid && scid
    }

    /// What packets between two zones need: what their `<pair>` says, else the stronger of the two.
    #[must_use]
    pub fn protection(&self, a: u32, b: u32) -> Protection {
        let own = |scid| self.zone(scid).map_or(Protection::default(), |zone| zone.protection);
        self.pairs.get(&(a.min(b), a.max(b))).copied().unwrap_or_else(|| own(a).max(own(b)))
    }
}

/// The zone name that is predeclared.
pub(crate) const KERNEL: &str = "kernel";
