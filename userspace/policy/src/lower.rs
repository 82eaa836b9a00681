//! A policy to the rule maps of one node.
//!
//! Only rules that name the node, or `*`, on one side count. They are folded into *cells*, one for
//! each pattern of peers and each local zone, so that no step costs nodes × zones × rules. Peers
//! whose cells are the same share one row of verdicts, and one class.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sigil_common::abi::policy::{
    CREATE, CREATE_ALARM, CREATE_DENIED, PEER_ANY, PEER_DENIED, PEER_KERNEL, PEER_PERIMETER,
    PROTECTION_INTEGRITY, PROTECTION_LABEL, RECEIVE, RECEIVE_ALARM, RECEIVE_DENIED,
};
use sigil_common::label::{KERNEL_SCID, Label};

use crate::decide::Decision;
use crate::model::{ANY, KERNEL, Node, Pattern, Policy, Protection, Rule};
use crate::permission::{self, Class, IMPLIED, OPEN, OPEN_MASK};
use crate::rules::{
    NodeEntry, NodeRules, PeerEntry, PerimeterEntry, PortKey, ProcessEntry, SocketEntry,
    TransitionKey, VerdictEntry, VerdictKey, ZoneEntry,
};

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
        let relations = Relations::new(self, node)?;
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
            sockets: self
                .local_entries(node, Class::Socket, |allow, alarm| SocketEntry { allow, alarm }),
            processes: self
                .local_entries(node, Class::Process, |allow, alarm| ProcessEntry { allow, alarm }),
            transitions: self.transition_entries(snid)?,
        })
    }

    fn zone_entries(&self) -> Vec<ZoneEntry> {
        let entry = |scid, name: &str| ZoneEntry {
            scid,
            name: name.to_owned(),
            protection: self.protection(scid, scid).number(),
        };
        let own = |zone: &crate::Zone| ZoneEntry {
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

    fn local_entries<E>(
        &self,
        node: &Node,
        class: Class,
        entry: impl Fn(u32, u32) -> E,
    ) -> Vec<(u32, E)> {
        let mine = |rule: &&Rule| rule.class == class && is(rule.source.snid, node.snid);
        let mut patterns: BTreeMap<u32, LocalCell> = BTreeMap::new();
        for rule in self.rules.iter().filter(mine) {
            let cell = patterns.entry(rule.source.scid).or_default();
            if rule.target.is_none() {
                cell.add(class, rule);
            } else if rule.allow & permission::OPEN[0] != 0 {
                cell.implied |= IMPLIED;
            }
        }
        let zones = self.local_zones(node).into_iter();
        zones
            .filter_map(|scid| {
                let mut cell = patterns.get(&scid).cloned().unwrap_or_default();
                if let Some(any) = patterns.get(&ANY).filter(|_| self.zone(scid).is_some()) {
                    cell.merge(any);
                }
                let (allow, alarm) = cell.masks();
                (allow | alarm != 0).then(|| (scid, entry(allow, alarm)))
            })
            .collect()
    }

    fn transition_entries(&self, snid: u32) -> Result<Vec<(TransitionKey, u32)>, LowerError> {
        let expand = |id| match id {
            ANY => self.zones.iter().map(|zone| zone.scid).collect(),
            id => vec![id],
        };
        let mut rules: Vec<_> = self.transitions.iter().collect();
        rules.sort_by_key(|rule| {
            (u32::from(rule.parent != ANY) + u32::from(rule.binary != ANY), !rule.line)
        });
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

/// What a rule says, as a number that is greater the stronger the rule is: specificity, then
/// denial before allowance, then the earlier line. 0 is no rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Strength(u64);

impl Strength {
    const DENY: u64 = 1 << 32;

    fn of(rule: &Rule, bit: u32) -> Self {
        if (rule.allow | rule.deny) & bit == 0 {
            return Self::default();
        }
        let deny = if rule.deny & bit == 0 { 0 } else { Self::DENY };
        Self((u64::from(rule.specificity()) + 1) << 33 | deny | u64::from(!rule.line))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the line")]
    fn decision(self) -> Decision {
        match self.0 {
            0 => Decision::NoRule,
            word if word & Self::DENY != 0 => Decision::Deny(!(word as u32)),
            word => Decision::Allow(!(word as u32)),
        }
    }
}

/// The strongest rules between a pattern of peers and a local zone, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    /// Local to peer, for each permission of [`OPEN`].
    outward: [Strength; 4],
    /// Peer to local, the same.
    inward: [Strength; 4],
    /// Peer to local, class NETWORK.
    network: Strength,
    /// `CREATE_ALARM` and `RECEIVE_ALARM`.
    alarms: u32,
}

impl Cell {
    fn add(&mut self, rule: &Rule, outward: bool) {
        let strengths = OPEN.map(|bit| Strength::of(rule, bit));
        let receive_alarm = if outward { CREATE_ALARM } else { RECEIVE_ALARM };
        match rule.class {
            Class::Socket => {
                strongest(if outward { &mut self.outward } else { &mut self.inward }, strengths);
                self.alarms |= if rule.alarm & OPEN_MASK == 0 { 0 } else { receive_alarm };
            }
            Class::Network if !outward => {
                self.network = self.network.max(Strength::of(rule, permission::RECEIVE));
                self.alarms |=
                    if rule.alarm & permission::RECEIVE == 0 { 0 } else { RECEIVE_ALARM };
            }
            _ => {}
        }
    }

    fn merge(&mut self, other: &Self) {
        strongest(&mut self.outward, other.outward);
        strongest(&mut self.inward, other.inward);
        self.network = self.network.max(other.network);
        self.alarms |= other.alarms;
    }

    fn verdict(&self, protection: u8) -> VerdictEntry {
        let create = Decision::open(self.outward.map(Strength::decision));
        let receive =
            Decision::open(self.inward.map(Strength::decision)).or(self.network.decision());
        let flag = |decision, allowed, denied| match decision {
            Decision::Allow(_) => allowed,
            Decision::Deny(_) => denied,
            Decision::NoRule => 0,
        };
        VerdictEntry {
            flags: flag(create, CREATE, CREATE_DENIED)
                | flag(receive, RECEIVE, RECEIVE_DENIED)
                | self.alarms,
            protection,
            create_line: create.line().unwrap_or(0),
            receive_line: receive.line().unwrap_or(0),
        }
    }
}

fn strongest(ours: &mut [Strength; 4], theirs: [Strength; 4]) {
    for (our, their) in ours.iter_mut().zip(theirs) {
        *our = their.max(*our);
    }
}

/// The local rules of one pattern of local zones.
#[derive(Clone, Debug, Default)]
struct LocalCell {
    strengths: BTreeMap<u32, Strength>,
    alarm: u32,
    implied: u32,
}

impl LocalCell {
    fn add(&mut self, class: Class, rule: &Rule) {
        for permission in class.permissions() {
            let strength = self.strengths.entry(permission.bit).or_default();
            *strength = Strength::of(rule, permission.bit).max(*strength);
        }
        self.alarm |= rule.alarm;
    }

    fn merge(&mut self, other: &Self) {
        for (bit, theirs) in &other.strengths {
            let strength = self.strengths.entry(*bit).or_default();
            *strength = (*theirs).max(*strength);
        }
        self.alarm |= other.alarm;
        self.implied |= other.implied;
    }

    /// What is allowed, and what raises an alarm.
    fn masks(&self) -> (u32, u32) {
        let mut allow = self.implied;
        for (bit, strength) in &self.strengths {
            match strength.decision() {
                Decision::Allow(_) => allow |= bit,
                Decision::Deny(_) => allow &= !bit,
                Decision::NoRule => {}
            }
        }
        (allow, self.alarm)
    }
}

/// A pattern of peers, and a local zone or [`ANY`].
type CellKey = (Pattern, u32);
/// A label's verdicts by local zone, sorted.
type Row = Vec<(u32, VerdictEntry)>;
/// What a label's row depends on: the four patterns that may match it, and its protections.
type Signature = ([Option<usize>; 4], u64);

struct Relations {
    peers: Vec<(Label, PeerEntry)>,
    verdicts: Vec<(VerdictKey, VerdictEntry)>,
    integrity: bool,
}

impl Relations {
    fn new(policy: &Policy, node: &Node) -> Result<Self, LowerError> {
        let table = Table::new(policy, node);
        let mut classes = Classes::default();
        let mut memo: HashMap<Signature, u32> = HashMap::new();
        let mut peers = Vec::new();
        for label in table.labels()? {
            let patterns = table.patterns(label);
            let signature = (patterns, table.protections(label));
            let class = if let Some(class) = memo.get(&signature) {
                *class
            } else {
                let class = classes.of(table.row(label, patterns));
                memo.insert(signature, class);
                class
            };
            if class != 0 {
                peers.push((label, PeerEntry { class, flags: 0 }));
            }
        }
        let foreign = |label: &Label| label.snid != node.snid && policy.node(label.snid).is_some();
        let covered: BTreeSet<u32> = peers
            .iter()
            .filter(|(label, _)| foreign(label))
            .map(|(_, entry)| entry.class)
            .collect();
        let integrity = covered
            .iter()
            .any(|class| classes.row(*class).iter().any(|(_, entry)| covers_payload(entry)));
        add_synthetic(policy, &mut peers, &mut classes);
        for (label, entry) in &mut peers {
            let row = classes.row(entry.class);
            if policy.node(label.snid).is_none() {
                entry.flags |= PEER_PERIMETER;
            } else if policy.node(label.snid).is_some_and(|node| node.kernel_scid == label.scid) {
                entry.flags |= PEER_KERNEL;
            }
            if label.scid == ANY {
                entry.flags |= PEER_ANY;
            }
            if !row.is_empty() && !passes(row) {
                entry.flags |= PEER_DENIED;
            }
        }
        let verdicts = classes.into_rows(node.snid)?;
        Ok(Self { peers, verdicts, integrity })
    }
}

fn passes(row: &Row) -> bool {
    row.iter().any(|(_, entry)| entry.flags & (CREATE | RECEIVE) != 0)
}

fn covers_payload(entry: &VerdictEntry) -> bool {
    entry.flags & (CREATE | RECEIVE) != 0 && entry.protection == PROTECTION_INTEGRITY
}

/// Adds, for each node that may pass anything, its kernel's label and the label of "some zone".
fn add_synthetic(policy: &Policy, peers: &mut Vec<(Label, PeerEntry)>, classes: &mut Classes) {
    let mut memo: HashMap<BTreeSet<u32>, u32> = HashMap::new();
    let mut added = Vec::new();
    for same_node in peers.chunk_by(|(a, _), (b, _)| a.snid == b.snid) {
        let Some(node) = same_node.first().and_then(|(label, _)| policy.node(label.snid)) else {
            continue;
        };
        if !same_node.iter().any(|(_, entry)| passes(classes.row(entry.class))) {
            continue;
        }
        let snid = node.snid;
        if !same_node.iter().any(|(label, _)| label.scid == node.kernel_scid) {
            added.push((Label { snid, scid: node.kernel_scid }, PeerEntry::default()));
        }
        let zones = same_node.iter().filter(|(label, _)| policy.zone(label.scid).is_some());
        let rows: BTreeSet<u32> = zones.map(|(_, entry)| entry.class).collect();
        let class = if let Some(class) = memo.get(&rows) {
            *class
        } else {
            let class = classes.of(any_of(rows.iter().map(|class| classes.row(*class))));
            memo.insert(rows, class);
            class
        };
        if class != 0 {
            added.push((Label { snid, scid: ANY }, PeerEntry { class, flags: 0 }));
        }
    }
    peers.append(&mut added);
    peers.sort_unstable_by_key(|(label, _)| *label);
}

/// What at least one of the rows grants, with the strongest protection among those that grant.
/// Alarms stay with the exact labels: the target's node raises them.
fn any_of<'r>(rows: impl Iterator<Item = &'r Row>) -> Row {
    let mut union: BTreeMap<u32, VerdictEntry> = BTreeMap::new();
    let earlier = |ours: u32, theirs: u32| if ours == 0 { theirs } else { ours.min(theirs) };
    for (scid, entry) in rows.flatten().filter(|(_, entry)| entry.flags & (CREATE | RECEIVE) != 0) {
        let sum = union.entry(*scid).or_default();
        sum.flags |= entry.flags & (CREATE | RECEIVE);
        sum.protection = sum.protection.max(entry.protection);
        if entry.flags & CREATE != 0 {
            sum.create_line = earlier(sum.create_line, entry.create_line);
        }
        if entry.flags & RECEIVE != 0 {
            sum.receive_line = earlier(sum.receive_line, entry.receive_line);
        }
    }
    union.into_iter().collect()
}

/// The cells of a node, sorted, and what is needed to find those of a label.
struct Table<'p> {
    policy: &'p Policy,
    snid: u32,
    local: Vec<u32>,
    cells: Vec<(CellKey, Cell)>,
    /// Where each pattern's cells are.
    patterns: HashMap<Pattern, (usize, usize)>,
    /// Zones that some `<pair>` names.
    paired: BTreeSet<u32>,
}

impl<'p> Table<'p> {
    fn new(policy: &'p Policy, node: &Node) -> Self {
        let mut cells: Vec<(CellKey, Cell)> = Vec::new();
        let mut add = |rule: &Rule, local: Pattern, peer: Pattern, outward| {
            if is(local.snid, node.snid) {
                let mut cell = Cell::default();
                cell.add(rule, outward);
                if cell != Cell::default() {
                    cells.push(((peer, local.scid), cell));
                }
            }
        };
        for rule in &policy.rules {
            if let Some(target) = rule.target {
                add(rule, rule.source, target, true);
                add(rule, target, rule.source, false);
            }
        }
        cells.sort_unstable_by_key(|(key, _)| *key);
        cells.dedup_by(|(key, next), (kept_key, kept)| {
            let same = key == kept_key;
            if same {
                kept.merge(next);
            }
            same
        });
        let mut patterns = HashMap::new();
        let mut start = 0;
        for group in cells.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            if let Some(((pattern, _), _)) = group.first() {
                patterns.insert(*pattern, (start, start + group.len()));
            }
            start += group.len();
        }
        let paired = policy.pairs.keys().flat_map(|(a, b)| [*a, *b]).collect();
        Self { policy, snid: node.snid, local: policy.local_zones(node), cells, patterns, paired }
    }

    /// Every label that some pattern matches, sorted.
    fn labels(&self) -> Result<Vec<Label>, LowerError> {
        let too_large = LowerError::TooLarge { snid: self.snid, map: "peers", limit: MAX_PEERS };
        let (nodes, zones) = (&self.policy.nodes, &self.policy.zones);
        let everything = self.patterns.contains_key(&Pattern { snid: ANY, scid: ANY });
        let mut labels = Vec::new();
        if everything {
            if nodes.len().saturating_mul(zones.len()) > MAX_PEERS {
                return Err(too_large);
            }
            labels.extend(nodes.iter().flat_map(|node| {
                zones.iter().map(|zone| Label { snid: node.snid, scid: zone.scid })
            }));
        }
        for pattern in self.patterns.keys() {
            match *pattern {
                Pattern { snid: ANY, scid: ANY } => {}
                Pattern { snid: ANY, scid } => {
                    labels.extend(nodes.iter().map(|node| Label { snid: node.snid, scid }))
                }
                Pattern { snid, scid: ANY } => {
                    labels.extend(zones.iter().map(|zone| Label { snid, scid: zone.scid }));
                }
                Pattern { snid, scid } => labels.push(Label { snid, scid }),
            }
            if labels.len() > 2 * MAX_PEERS {
                labels.sort_unstable();
                labels.dedup();
                if labels.len() > MAX_PEERS {
                    return Err(too_large);
                }
            }
        }
        labels.sort_unstable();
        labels.dedup();
        let perimeter: BTreeSet<Label> =
            self.policy.perimeter.iter().map(|host| host.label).collect();
        labels.retain(|label| match self.policy.node(label.snid) {
            Some(_) => self.policy.exists(*label),
            None => perimeter.contains(label),
        });
        if labels.len() > MAX_PEERS { Err(too_large) } else { Ok(labels) }
    }

    /// The patterns that match a label, by where their cells start.
    fn patterns(&self, label: Label) -> [Option<usize>; 4] {
        let Label { snid, scid } = label;
        let start =
            |snid, scid| self.patterns.get(&Pattern { snid, scid }).map(|(start, _)| *start);
        let is_node = self.policy.node(snid).is_some();
        let is_zone = self.policy.zone(scid).is_some();
        [
            start(snid, scid),
            start(snid, ANY).filter(|_| is_zone),
            start(ANY, scid).filter(|_| is_node),
            start(ANY, ANY).filter(|_| is_zone && is_node),
        ]
    }

    /// A number that is equal for labels whose protections with all local zones are equal.
    fn protections(&self, label: Label) -> u64 {
        if self.policy.node(label.snid).is_none() {
            u64::MAX
        } else if self.paired.contains(&label.scid) {
            256 + u64::from(label.scid)
        } else {
            u64::from(
                self.policy
                    .zone(label.scid)
                    .map_or(Protection::default(), |zone| zone.protection)
                    .number(),
            )
        }
    }

    fn row(&self, label: Label, patterns: [Option<usize>; 4]) -> Row {
        let groups: Vec<&[(CellKey, Cell)]> =
            patterns.into_iter().flatten().filter_map(|start| self.group(start)).collect();
        let mut row: BTreeMap<u32, Cell> = BTreeMap::new();
        let mut default: Option<Cell> = None;
        for ((_, scid), cell) in groups.iter().copied().flatten() {
            if *scid == ANY {
                default.get_or_insert_default().merge(cell);
            } else if self.local.binary_search(scid).is_ok() {
                row.entry(*scid).or_default().merge(cell);
            }
        }
        if let Some(default) = default {
            for zone in &self.policy.zones {
                row.entry(zone.scid).or_default().merge(&default);
            }
        }
        let perimeter = self.policy.node(label.snid).is_none();
        row.into_iter()
            .map(|(scid, cell)| {
                let needed = if perimeter {
                    PROTECTION_LABEL
                } else {
                    self.policy.protection(scid, label.scid).number()
                };
                (scid, cell.verdict(needed))
            })
            .filter(|(_, entry)| entry.flags != 0)
            .collect()
    }

    fn group(&self, start: usize) -> Option<&[(CellKey, Cell)]> {
        let ((pattern, _), _) = self.cells.get(start)?;
        let (start, end) = self.patterns.get(pattern)?;
        self.cells.get(*start..*end)
    }
}

/// The distinct rows; a row's index is its class.
struct Classes {
    rows: Vec<Row>,
    index: HashMap<Row, u32>,
}

impl Default for Classes {
    fn default() -> Self {
        Self { rows: vec![Row::new()], index: HashMap::from([(Row::new(), 0)]) }
    }
}

impl Classes {
    fn of(&mut self, row: Row) -> u32 {
        let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let class = *self.index.entry(row.clone()).or_insert(next);
        if class == next {
            self.rows.push(row);
        }
        class
    }

    fn row(&self, class: u32) -> &Row {
        static EMPTY: Row = Row::new();
        self.rows.get(class as usize).unwrap_or(&EMPTY)
    }

    fn into_rows(self, snid: u32) -> Result<Vec<(VerdictKey, VerdictEntry)>, LowerError> {
        if self.rows.iter().map(Vec::len).sum::<usize>() > MAX_ROWS {
            return Err(LowerError::TooLarge { snid, map: "verdicts", limit: MAX_ROWS });
        }
        let numbered = self.rows.into_iter().zip(0u32..);
        Ok(numbered
            .flat_map(|(row, class)| {
                row.into_iter().map(move |(scid, entry)| (VerdictKey { class, scid }, entry))
            })
            .collect())
    }
}
