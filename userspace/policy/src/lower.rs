//! A policy to the rule maps of one node.
//!
//! Only rules that name the node, or `*`, on one side count. They are folded into *cells*, one for
//! each pattern of peers and each local zone, so that no step costs nodes × zones × rules. Peers
//! whose cells are the same share one row of verdicts, and one class.

pub(crate) mod cells;
mod relations;

use std::collections::BTreeMap;

use sigil_common::abi::policy::demand::SIGNED_CODE;
use sigil_common::abi::policy::process::{EXECVE, FORK};
use sigil_common::label::KERNEL_SCID;

use crate::model::{ANY, KERNEL, Node, Policy, Protection, Rule, Signer, Zone};
use crate::permission::Class;
use crate::rules::{
    NodeEntry, NodeRules, PerimeterEntry, PortKey, ProcessEntry, RelabelEntry, SignerEntry,
    SocketEntry, TransitionKey, UnsignedEntry, ZoneEntry,
};
use cells::LocalCell;
pub(crate) use relations::Relations;

/// The most labels that one node's maps hold.
const MAX_PEERS: usize = 4 << 20;
/// The most rows of verdicts, and of transitions, that one node's maps hold.
const MAX_ROWS: usize = 8 << 20;

/// Why a policy has no maps for a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// The policy does not declare the node.
    #[error("the policy declares no node with SnID {snid}")]
    UnknownNode {
        /// The SnID asked for.
        snid: u32,
    },
    /// The maps would be larger than any node should hold.
    #[error(
        "the {map} of SnID {snid} would have more than {limit} rows; use fewer nodes, zones or `*`"
    )]
    TooLarge {
        /// The node.
        snid: u32,
        /// The map.
        map: &'static str,
        /// Its limit.
        limit: usize,
    },
}

impl Policy {
    /// The rule maps of the node `snid`.
    ///
    /// # Errors
    /// When the policy does not declare the node, or its maps would be too large.
    pub fn rules_for(&self, snid: u32) -> Result<NodeRules, LowerError> {
        let node = self.node(snid).ok_or(LowerError::UnknownNode { snid })?;
        let relations = Relations::new(self, node, self.rules.iter())?;
        Ok(NodeRules {
            cluster: self.cluster.clone(),
            serial: self.serial,
            snid,
            kernel_scid: node.kernel_scid,
            default_scid: node.default_scid,
            integrity: relations.integrity,
            nodes: self.nodes.iter().map(node_entry).collect(),
            zones: self.zone_entries(),
            peers: relations.peers,
            verdicts: relations.verdicts,
            ports: self.port_entries(),
            perimeter: self.perimeter_entries(),
            sockets: self.local_entries(node, Class::Socket, self.rules.iter(), |_, cell| {
                let (allow, alarm) = cell.masks();
                (allow | alarm != 0).then_some(SocketEntry { allow, alarm })
            }),
            governs_processes: self.governs_processes(),
            processes: self.local_entries(node, Class::Process, self.rules.iter(), |scid, cell| {
                let (allow, alarm) = cell.masks();
                let (fork_line, execve_line) = (cell.line(FORK), cell.line(EXECVE));
                let demand = self.zone(scid).map_or(0, demand);
                (allow | alarm | fork_line | execve_line | demand != 0).then_some(ProcessEntry {
                    allow,
                    alarm,
                    fork_line,
                    execve_line,
                    demand,
                })
            }),
            transitions: self.transition_entries(snid)?,
            relabels: self.relabel_entries(),
            signers: self.signer_entries(),
            revoked_keys: self.revoked_keys.clone(),
            revoked_signatures: self.revoked_signatures.clone(),
            unsigned: self.unsigned_entries(),
        })
    }

    fn zone_entries(&self) -> Vec<ZoneEntry> {
        let entry = |scid, name: &str| ZoneEntry {
            scid,
            name: name.to_owned(),
            protection: self.protection(scid, scid).number(),
        };
        let own = |zone: &Zone| ZoneEntry {
            protection: zone.protection.number(),
            ..entry(zone.scid, &zone.name)
        };
        let mut entries: Vec<ZoneEntry> = self.zones.iter().map(own).collect();
        if self.kernel_scid() == KERNEL_SCID && self.zone(KERNEL_SCID).is_none() {
            entries.push(ZoneEntry {
                protection: Protection::default().number(),
                ..entry(KERNEL_SCID, KERNEL)
            });
        }
        entries
    }

    fn port_entries(&self) -> Vec<(PortKey, u32)> {
        let key = |snid, protocol, port| PortKey { snid, protocol, port };
        let declared = self
            .ports
            .iter()
            .map(|port| (key(port.snid, port.protocol.number(), port.number), port.scid));
        let icmp = self.nodes.iter().map(|node| (key(node.snid, ICMP, 0), node.kernel_scid));
        let mut entries: Vec<_> = declared.chain(icmp).collect();
        entries.sort_unstable();
        entries
    }

    fn perimeter_entries(&self) -> Vec<PerimeterEntry> {
        let entry = |host: &crate::Perimeter| PerimeterEntry {
            prefix: host.prefix,
            prefix_len: host.prefix_len,
            label: host.label,
        };
        self.perimeter.iter().map(entry).collect()
    }

    /// The declared zones, and the kernel's where it is none of them; sorted.
    fn local_zones(&self, node: &Node) -> Vec<u32> {
        let mut zones: Vec<u32> = self.zones.iter().map(|zone| zone.scid).collect();
        if self.zone(node.kernel_scid).is_none() {
            zones.push(node.kernel_scid);
            zones.sort_unstable();
        }
        zones
    }

    /// Whether processes fork and execute by rules, and not as they like.
    pub(crate) fn governs_processes(&self) -> bool {
        self.rules.iter().any(|rule| rule.class == Class::Process)
    }

    /// `rules`: at least those that may be about the node.
    pub(crate) fn local_entries<'r, E>(
        &self,
        node: &Node,
        class: Class,
        rules: impl Iterator<Item = &'r Rule>,
        entry: impl Fn(u32, &LocalCell) -> Option<E>,
    ) -> Vec<(u32, E)> {
        let mine = |rule: &&Rule| rule.class == class && is(rule.source.snid, node.snid);
        let mut patterns: BTreeMap<u32, LocalCell> = BTreeMap::new();
        for rule in rules.filter(mine) {
            patterns.entry(rule.source.scid).or_default().add(class, rule);
        }
        let zones = self.local_zones(node).into_iter();
        zones
            .filter_map(|scid| {
                let mut cell = patterns.get(&scid).cloned().unwrap_or_default();
                if let Some(any) = patterns.get(&ANY).filter(|_| self.zone(scid).is_some()) {
                    cell.merge(any);
                }
                entry(scid, &cell).map(|entry| (scid, entry))
            })
            .collect()
    }

    /// Whose labels on files count, the same on every node.
    #[must_use]
    pub fn signer_entries(&self) -> Vec<SignerEntry> {
        let zones = || self.zones.iter().map(|zone| zone.scid).collect();
        let entry = |signer: &Signer| SignerEntry {
            key: signer.key,
            name: signer.name.clone(),
            scids: if signer.scids.contains(&ANY) { zones() } else { signer.scids.clone() },
            least_serial: signer.least_serial,
        };
        self.signers.iter().map(entry).collect()
    }

    fn relabel_entries(&self) -> Vec<RelabelEntry> {
        let rules = self.relabels.iter();
        let entry = |rule: &crate::Relabel| RelabelEntry {
            owner: rule.owner,
            user: rule.user,
            line: rule.line,
        };
        let mut entries: Vec<_> = rules.map(entry).collect();
        entries.sort_unstable();
        entries
    }

    pub(crate) fn unsigned_entries(&self) -> Vec<UnsignedEntry> {
        let entry = |parent| Some(UnsignedEntry { parent, binary: self.unsigned_for(parent)? });
        self.zones.iter().filter_map(|zone| entry(zone.scid)).collect()
    }

    pub(crate) fn transition_entries(
        &self,
        snid: u32,
    ) -> Result<Vec<(TransitionKey, u32)>, LowerError> {
        let expand = |id| match id {
            ANY => self.zones.iter().map(|zone| zone.scid).collect(),
            id => vec![id],
        };
        let mut rules: Vec<_> = self.transitions.iter().collect();
        rules.sort_by_key(|rule| {
            let named = u32::from(rule.parent != ANY) + u32::from(rule.binary != ANY);
            (named, rule.parent, rule.binary, !rule.line)
        });
        // The first of rules that repeat each other is enough.
        rules.reverse();
        rules.dedup_by_key(|rule| (rule.parent, rule.binary));
        rules.reverse();
        let mut entries = BTreeMap::new();
        for rule in rules {
            let binaries: Vec<u32> = expand(rule.binary);
            for parent in expand(rule.parent) {
                if entries.len() + binaries.len() > MAX_ROWS {
                    return Err(LowerError::TooLarge { snid, map: "transitions", limit: MAX_ROWS });
                }
                entries.extend(
                    binaries
                        .iter()
                        .map(|binary| (TransitionKey { parent, binary: *binary }, rule.new)),
                );
            }
        }
        Ok(entries.into_iter().collect())
    }
}

/// What a zone asks of its processes.
fn demand(zone: &Zone) -> u32 {
    if zone.signed_code { SIGNED_CODE } else { 0 }
}

/// ICMP's number in the IP header.
const ICMP: u8 = 1;

fn node_entry(node: &Node) -> NodeEntry {
    NodeEntry {
        snid: node.snid,
        name: node.name.clone(),
        addresses: node.addresses.clone(),
        kernel_scid: node.kernel_scid,
    }
}

fn is(pattern: u32, id: u32) -> bool {
    pattern == ANY || pattern == id
}
