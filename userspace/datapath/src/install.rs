//! Applying a policy: the inactive bank is filled, then one word flips.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Instant;

use aya::Pod;
use aya::maps::{Array, ArrayOfMaps, HashMap, InnerMap, LpmTrie, MapData, lpm_trie};
use sigil_common::abi::{
    Generation, generation_flag,
    key::{EPOCH_SLOTS, NODE_ADDRESSES, Node},
    name,
    policy::{CREATE, PEER_KERNEL, PROTECTION_AUTHENTICATE, RECEIVE},
    process::ProcessRule,
    rule::{
        LEAST_SHIFT, NO_NODE, NodeRef, Peer, PerimeterLabel, PortKey, SocketRule, Verdict,
        VerdictKey,
    },
    socket::RelabelKey,
};
use sigil_common::label::Label;
use sigil_policy::{NodeRules, ProcessEntry, VerdictEntry};

use crate::error::Error;
use crate::load::Datapath;

/// What was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of the generation now in force.
    pub generation: u32,
    /// The document's serial.
    pub serial: u64,
    /// Labels that may talk with this node.
    pub peers: usize,
    /// Verdicts between classes of labels and this node's zones.
    pub verdicts: usize,
}

const NO_PREALLOC: u32 = 1;

type Addresses = [u32; NODE_ADDRESSES];

/// What is to be done once rules are in force, and whether it is.
pub(crate) struct Settlement {
    /// The rules' nodes.
    addresses: BTreeMap<u32, Addresses>,
    demands_code: bool,
    is_done: bool,
}

impl Datapath {
    /// Puts a policy in force for every packet from one moment on. On an error the old one stays. What
    /// is to be done once the new one is in force is tried again by [`Self::maintain`], until it is.
    ///
    /// # Errors
    /// [`Error::Limit`] if the maps cannot hold it, [`Error::Map`].
    pub fn apply(&mut self, rules: &NodeRules) -> Result<Applied, Error> {
        let nodes = self.place_nodes(rules)?;
        let labels = self.place_handles(rules)?;
        let mut config = self.config()?;
        let bank = (config.active & 1) ^ 1;
        let number = self.generation()?.number.wrapping_add(1).max(1);

        let least = least_protections(rules);
        let first = first_verdicts(rules);
        let handles: Vec<_> =
            rules.peers.iter().map(|(label, _)| self.handles.of(*label)).collect();
        let peers = rules.peers.iter().zip(&handles).map(|((label, peer), handle)| {
            let node = nodes.get(&label.snid).copied().unwrap_or(NO_NODE);
            let floor = least.get(&peer.class).copied().unwrap_or(PROTECTION_AUTHENTICATE);
            let floor = if peer.flags & PEER_KERNEL == 0 { floor } else { PROTECTION_AUTHENTICATE };
            let flags = peer.flags | u32::from(floor) << LEAST_SHIFT;
            let (scid, verdict) = first.get(&peer.class).copied().unwrap_or_default();
            let class = peer.class;
            (*label, Peer { handle: *handle, class, flags, node, scid, verdict })
        });
        self.fill(name::PEERS, bank, peers)?;
        let verdicts = rules
            .verdicts
            .iter()
            .map(|(key, entry)| (VerdictKey { class: key.class, scid: key.scid }, verdict(entry)));
        self.fill(name::VERDICTS, bank, verdicts)?;
        let ports = rules.ports.iter().map(|(key, scid)| {
            (PortKey { snid: key.snid, port: key.port, protocol: key.protocol, pad: 0 }, *scid)
        });
        self.fill(name::PORTS, bank, ports)?;
        let addresses = rules.nodes.iter().flat_map(|node| {
            let index = nodes.get(&node.snid).copied().unwrap_or(NO_NODE);
            let at = NodeRef { snid: node.snid, node: index };
            node.addresses.iter().map(move |address| (u32::from(*address), at))
        });
        self.fill(name::ADDRESSES, bank, addresses)?;
        let sockets: BTreeMap<_, _> =
            rules.sockets.iter().map(|(scid, entry)| (*scid, *entry)).collect();
        let zones = rules.zones.iter().map(|zone| zone.scid).chain([rules.kernel_scid]);
        let zones: BTreeSet<_> = zones.collect();
        let handles: BTreeMap<_, _> = zones
            .iter()
            .map(|scid| (*scid, self.handles.of(Label { snid: rules.snid, scid: *scid })))
            .collect();
        let own = handles.iter().map(|(scid, handle)| {
            let (allow, alarm) =
                sockets.get(scid).map_or((0, 0), |entry| (entry.allow, entry.alarm));
            (*scid, SocketRule { allow, alarm, handle: *handle, pad: 0 })
        });
        self.fill(name::SOCKET_RULES, bank, own)?;
        let processes = rules.processes.iter().map(|(scid, entry)| {
            let ProcessEntry { allow, alarm, fork_line, execve_line, demand } = *entry;
            (*scid, ProcessRule { allow, alarm, fork_line, execve_line, demand })
        });
        self.fill(name::PROCESS_RULES, bank, processes)?;
        self.fill(name::TRANSITIONS, bank, rules.execs().into_iter())?;
        let relabels = rules.relabels.iter();
        let relabels = relabels.map(|of| (RelabelKey { owner: of.owner, user: of.user }, of.line));
        self.fill(name::RELABELS, bank, relabels)?;
        self.fill_perimeter(rules, bank)?;

        let demands_code = rules.demands_signed_code();
        let generation = Generation {
            number,
            kernel_scid: rules.kernel_scid,
            default_scid: rules.default_scid,
            flags: flag(rules.integrity, generation_flag::INTEGRITY)
                | flag(rules.governs_processes, generation_flag::PROCESSES)
                | flag(demands_code, generation_flag::SIGNED_CODE),
            serial: rules.serial,
        };
        if demands_code {
            let first =
                !crate::load::links(&self.options).join(name::CODE_HOOKS[0].program).exists();
            if self.no_lsm.is_none() {
                // Before anything is demanded; what they do not find demanded they allow.
                self.attach_code_hooks()?;
            } else if first {
                // Nothing runs there until they are.
                self.keep_code(false)?;
                config = self.config()?;
            }
        }
        let mut map: Array<&mut MapData, Generation> = self.view_mut(name::GENERATIONS)?;
        map.set(bank, generation, 0).map_err(Error::map(name::GENERATIONS))?;
        config.active = bank;
        self.set_config(config)?;
        // The rules are in force by now: nothing below may say that they are not.
        self.handles.in_force(&labels, Instant::now());
        let addresses = rules.nodes.iter().map(|node| (node.snid, addresses_of(&node.addresses)));
        let addresses = addresses.collect();
        self.settlement = Some(Settlement { addresses, demands_code, is_done: false });
        let _ = self.settle();
        if crate::load::links(&self.options).exists() {
            let _ = self.reserve_all();
        }
        Ok(Applied {
            generation: number,
            serial: rules.serial,
            peers: rules.peers.len(),
            verdicts: rules.verdicts.len(),
        })
    }

    /// Does what follows a flip, unless it is done: nodes have their new addresses, those that the
    /// rules know no more lose their indexes, and hooks that no zone demands any more go.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        let Some(settlement) = &self.settlement else { return Ok(()) };
        if settlement.is_done {
            return Ok(());
        }
        let (wanted, demands_code) = (settlement.addresses.clone(), settlement.demands_code);
        let limit = self.options.limits.nodes;
        let mut map: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        for index in 0..limit {
            let node = map.get(&index, 0).map_err(Error::map(name::NODES))?;
            if let Some(addresses) = wanted.get(&node.snid)
                && node.addresses != *addresses
            {
                let node = Node { addresses: *addresses, ..node };
                map.set(index, node, 0).map_err(Error::map(name::NODES))?;
            }
        }
        self.free_nodes()?;
        if !demands_code {
            self.remove_code_hooks()?;
        }
        if let Some(settlement) = &mut self.settlement {
            settlement.is_done = true;
        }
        Ok(())
    }

    /// Makes a fresh inner map of the policy's size and puts it into the bank.
    fn fill<K: Pod, V: Pod>(
        &mut self,
        name: &'static str,
        bank: u32,
        entries: impl Iterator<Item = (K, V)>,
    ) -> Result<(), Error>
    where
        HashMap<MapData, K, V>: InnerMap,
    {
        let entries: Vec<_> = entries.collect();
        let size = u32::try_from(entries.len()).unwrap_or(u32::MAX).max(1);
        let mut inner =
            HashMap::<MapData, K, V>::create(size, NO_PREALLOC).map_err(Error::map(name))?;
        for (key, value) in entries {
            inner.insert(key, value, 0).map_err(Error::map(name))?;
        }
        let mut outer: ArrayOfMaps<&mut MapData, HashMap<MapData, K, V>> = self.view_mut(name)?;
        outer.set(bank, &inner, 0).map_err(Error::map(name))
    }

    fn fill_perimeter(&mut self, rules: &NodeRules, bank: u32) -> Result<(), Error> {
        let name = name::PERIMETER;
        let size = u32::try_from(rules.perimeter.len()).unwrap_or(u32::MAX).max(1);
        let mut inner = LpmTrie::<MapData, [u8; 4], PerimeterLabel>::create(size, NO_PREALLOC)
            .map_err(Error::map(name))?;
        for entry in &rules.perimeter {
            let key = lpm_trie::Key::new(u32::from(entry.prefix_len), entry.prefix.octets());
            inner
                .insert(&key, [entry.label.snid, entry.label.scid], 0)
                .map_err(Error::map(name))?;
        }
        let mut outer: ArrayOfMaps<&mut MapData, LpmTrie<MapData, [u8; 4], PerimeterLabel>> =
            self.view_mut(name)?;
        outer.set(bank, &inner, 0).map_err(Error::map(name))
    }

    /// Gives every node of the policy its index. Entries of nodes that are in use change when the bank
    /// has flipped, not before.
    fn place_nodes(&mut self, rules: &NodeRules) -> Result<BTreeMap<u32, u32>, Error> {
        let limit = self.options.limits.nodes;
        let mut map: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        let mut held = BTreeMap::new();
        let mut free = Vec::new();
        for index in 0..limit {
            let node = map.get(&index, 0).map_err(Error::map(name::NODES))?;
            if node.snid == 0 {
                free.push(index);
            } else {
                held.insert(node.snid, index);
            }
        }
        let new = rules.nodes.iter().filter(|entry| !held.contains_key(&entry.snid));
        let needed = held.len() + new.count();
        if needed > limit as usize {
            return Err(Error::Limit { what: "nodes", needed, limit });
        }
        let mut free = free.into_iter();
        let mut placed = BTreeMap::new();
        for entry in &rules.nodes {
            let index = if let Some(index) = held.get(&entry.snid) {
                *index
            } else {
                let index = free.next().ok_or(Error::Limit { what: "nodes", needed, limit })?;
                let addresses = addresses_of(&entry.addresses);
                let node = Node { snid: entry.snid, addresses, ..Node::NONE };
                map.set(index, node, 0).map_err(Error::map(name::NODES))?;
                index
            };
            placed.insert(entry.snid, index);
        }
        Ok(placed)
    }

    /// Takes their indexes back from nodes that the policy in force does not know and that have no key.
    /// What remembers an index (the sockets' verdicts, what a CPU knows of a label) does so for one
    /// generation of rules, and the packets that began with the one before are through.
    pub(crate) fn free_nodes(&mut self) -> Result<(), Error> {
        let Some(settlement) = &self.settlement else { return Ok(()) };
        let mut free = Vec::new();
        for index in 0..self.options.limits.nodes {
            let map: Array<&MapData, Node> = self.view(name::NODES)?;
            let node = map.get(&index, 0).map_err(Error::map(name::NODES))?;
            if node.snid != 0
                && !settlement.addresses.contains_key(&node.snid)
                && !self.has_keys(index)?
            {
                free.push(index);
            }
        }
        if !free.is_empty() {
            self.wait_for_packets()?;
        }
        let mut map: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        for index in free {
            map.set(index, Node::NONE, 0).map_err(Error::map(name::NODES))?;
        }
        Ok(())
    }

    fn has_keys(&self, index: u32) -> Result<bool, Error> {
        for slot in index * EPOCH_SLOTS..(index + 1) * EPOCH_SLOTS {
            if self.rx_key(slot)?.suite != 0 || self.tx_key(slot)?.suite != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives every label of the rules its handle: those labels.
    fn place_handles(&mut self, rules: &NodeRules) -> Result<BTreeSet<Label>, Error> {
        let own = rules.zones.iter().map(|zone| zone.scid).chain([rules.kernel_scid]);
        let peers = rules.peers.iter().map(|(label, _)| *label);
        let wanted: BTreeSet<_> =
            peers.chain(own.map(|scid| Label { snid: rules.snid, scid })).collect();
        let limit = self.options.limits.handles;
        for (handle, label) in self.handles.place(&wanted, limit, Instant::now())? {
            let mut map: Array<&mut MapData, Label> = self.view_mut(name::HANDLES)?;
            map.set(handle, label, 0).map_err(Error::map(name::HANDLES))?;
            self.handles.give(handle, label);
        }
        Ok(wanted)
    }

    /// Reads back the handles that were given out.
    pub(crate) fn read_handles(&mut self) -> Result<(), Error> {
        for handle in 1..self.options.limits.handles {
            let map: Array<&MapData, Label> = self.view(name::HANDLES)?;
            let label = map.get(&handle, 0).map_err(Error::map(name::HANDLES))?;
            if label.snid == 0 {
                break;
            }
            self.handles.held(label);
        }
        Ok(())
    }
}

/// Of each class, the ScID of this node that goes with its labels' own entry, and what it may.
fn first_verdicts(rules: &NodeRules) -> BTreeMap<u32, (u32, Verdict)> {
    let mut first = BTreeMap::new();
    for (key, entry) in &rules.verdicts {
        if key.scid != rules.kernel_scid {
            first.entry(key.class).or_insert((key.scid, verdict(entry)));
        }
    }
    first
}

fn verdict(entry: &VerdictEntry) -> Verdict {
    Verdict {
        flags: entry.flags,
        create_line: entry.create_line,
        receive_line: entry.receive_line,
        protection: entry.protection,
        pad: [0; 3],
    }
}

const fn flag(is_set: bool, bit: u32) -> u32 {
    if is_set { bit } else { 0 }
}

/// The least protection that a class's conversations ask for.
fn least_protections(rules: &NodeRules) -> BTreeMap<u32, u8> {
    let mut least = BTreeMap::new();
    for (key, verdict) in &rules.verdicts {
        if verdict.flags & (CREATE | RECEIVE) != 0 {
            let floor = least.entry(key.class).or_insert(verdict.protection);
            *floor = verdict.protection.min(*floor);
        }
    }
    least
}

fn addresses_of(of: &[Ipv4Addr]) -> Addresses {
    let mut places = [0; NODE_ADDRESSES];
    for (place, address) in places.iter_mut().zip(of) {
        *place = u32::from(*address);
    }
    places
}
