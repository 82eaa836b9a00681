//! What a policy says beside its rules about labels.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use sigil_common::label::Label;

use crate::lower::LowerError;
use crate::model::{KERNEL, Policy, Protection};

/// One statement; names are no part of it where they are not what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
    Node { snid: u32, name: String, addresses: Vec<Ipv4Addr>, kernel: u32, default: u32 },
    Zone { scid: u32, name: String, protection: Protection },
    Port { snid: u32, protocol: &'static str, number: u16, scid: u32 },
    Perimeter { prefix: Ipv4Addr, prefix_len: u8, label: Label },
    Transition { parent: u32, binary: u32, new: u32 },
    Relabel { owner: u32, user: u32 },
    Signer { key: [u8; 32], name: String, scids: Vec<u32>, least_serial: u64 },
    RevokedKey([u8; 32]),
    RevokedSignature([u8; 32]),
    Unsigned { parent: u32, binary: u32 },
}

impl Fact {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Node { .. } => "node",
            Self::Zone { .. } => "zone",
            Self::Port { .. } => "port",
            Self::Perimeter { .. } => "perimeter",
            Self::Transition { .. } => "transition",
            Self::Relabel { .. } => "relabel",
            Self::Signer { .. } => "signer",
            Self::RevokedKey(_) | Self::RevokedSignature(_) => "revoked",
            Self::Unsigned { .. } => "unsigned",
        }
    }
}

pub(super) fn facts(policy: &Policy) -> Result<BTreeSet<Fact>, LowerError> {
    let nodes = policy.nodes.iter().map(|node| Fact::Node {
        snid: node.snid,
        name: node.name.clone(),
        addresses: node.addresses.clone(),
        kernel: node.kernel_scid,
        default: node.default_scid,
    });
    let zones = policy.zones.iter().map(|zone| Fact::Zone {
        scid: zone.scid,
        name: zone.name.clone(),
        protection: zone.protection,
    });
    let ports = policy.ports.iter().map(|port| Fact::Port {
        snid: port.snid,
        protocol: port.protocol.name(),
        number: port.number,
        scid: port.scid,
    });
    let hosts = policy.perimeter.iter().map(|host| Fact::Perimeter {
        prefix: host.prefix,
        prefix_len: host.prefix_len,
        label: host.label,
    });
    let relabels =
        policy.relabels.iter().map(|rule| Fact::Relabel { owner: rule.owner, user: rule.user });
    let signers = policy.signer_entries().into_iter().map(|signer| Fact::Signer {
        key: signer.key,
        name: signer.name,
        scids: signer.scids,
        least_serial: signer.least_serial,
    });
    let unsigned = policy.unsigned_entries().into_iter();
    let unsigned = unsigned.map(|one| Fact::Unsigned { parent: one.parent, binary: one.binary });
    // The same on every node; who is asked for is named in the error alone.
    let transitions = policy
        .transition_entries(0)?
        .into_iter()
        .map(|(key, new)| Fact::Transition { parent: key.parent, binary: key.binary, new });
    let revoked = policy.revoked_keys.iter().copied().map(Fact::RevokedKey);
    let signatures = policy.revoked_signatures.iter().copied().map(Fact::RevokedSignature);
    let facts = nodes.chain(zones).chain(ports).chain(hosts).chain(relabels).chain(signers);
    Ok(facts.chain(unsigned).chain(transitions).chain(revoked).chain(signatures).collect())
}

/// What people call things: as the new policy does, or as the old one did.
pub(crate) struct Names<'p> {
    pub(crate) new: &'p Policy,
    pub(crate) old: Option<&'p Policy>,
}

impl Names<'_> {
    /// `node:zone`.
    pub(crate) fn label(&self, label: Label) -> String {
        format!("{}:{}", self.node(label.snid), self.zone(label.scid))
    }

    fn first(&self, name: impl Fn(&Policy) -> Option<String>, id: u32) -> String {
        let either = [Some(self.new), self.old];
        either.into_iter().flatten().find_map(name).unwrap_or_else(|| id.to_string())
    }

    fn node(&self, snid: u32) -> String {
        let name = |policy: &Policy| {
            let host = || policy.perimeter.iter().find(|host| host.label.snid == snid);
            let node = policy.node(snid).map(|node| node.name.clone());
            node.or_else(|| host()?.name.clone())
        };
        self.first(name, snid)
    }

    fn zone(&self, scid: u32) -> String {
        let name = |policy: &Policy| {
            let zone = policy.zone(scid).map(|zone| zone.name.clone());
            zone.or_else(|| (scid == policy.kernel_scid()).then(|| KERNEL.to_owned()))
        };
        self.first(name, scid)
    }

    pub(super) fn fact(&self, fact: &Fact) -> String {
        match fact {
            Fact::Node { snid, name, addresses, kernel, default } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                let others = match default {
                    0 => "refused".to_owned(),
                    scid => format!("in zone {}", self.zone(*scid)),
                };
                let (at, kernel) = (addresses.join(" "), self.zone(*kernel));
                format!(
                    "node {name} ({snid}) at {at}, kernel in zone {kernel}, what is in none {others}"
                )
            }
            Fact::Zone { scid, name, protection } => {
                format!("zone {name} ({scid}), {}", protection.name())
            }
            Fact::Port { snid, protocol, number, scid } => {
                let (node, zone) = (self.node(*snid), self.zone(*scid));
                format!("port {node} {protocol}/{number} is of zone {zone}")
            }
            Fact::Perimeter { prefix, prefix_len, label } => {
                format!("hosts {prefix}/{prefix_len} are {}", self.label(*label))
            }
            Fact::Transition { parent, binary, new } => {
                let [parent, binary, new] = [parent, binary, new].map(|scid| self.zone(*scid));
                format!("a process of {parent} that executes a file of {binary} becomes {new}")
            }
            Fact::Relabel { owner, user } => {
                let (owner, user) = (self.zone(*owner), self.zone(*user));
                format!("a socket of {owner} that a process of {user} uses becomes {user}")
            }
            Fact::Signer { key, name, scids, least_serial } => {
                let zones: Vec<_> = scids.iter().map(|scid| self.zone(*scid)).collect();
                let (zones, key) = (zones.join(" "), hex(key));
                format!("signer {name} of zones {zones} from serial {least_serial} on, key {key}")
            }
            Fact::RevokedKey(key) => format!("key {} is revoked", hex(key)),
            Fact::RevokedSignature(hash) => format!("signature {} is revoked", hex(hash)),
            Fact::Unsigned { parent, binary: 0 } => {
                format!("unsigned files are refused to {}", self.zone(*parent))
            }
            Fact::Unsigned { parent, binary } => {
                let (parent, binary) = (self.zone(*parent), self.zone(*binary));
                format!("unsigned files that {parent} executes count as {binary}")
            }
        }
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
