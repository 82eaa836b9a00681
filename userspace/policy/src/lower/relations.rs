//! Who may talk with the node's zones: the maps `peers` and `verdicts`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use sigil_common::abi::policy::{
    CREATE, PEER_ANY, PEER_DENIED, PEER_KERNEL, PEER_PERIMETER, PROTECTION_INTEGRITY,
    PROTECTION_LABEL, RECEIVE,
};
use sigil_common::label::Label;

use super::cells::Cell;
use super::{LowerError, MAX_PEERS, MAX_ROWS, is};
use crate::model::{ANY, Node, Pattern, Policy, Protection, Rule};
use crate::rules::{PeerEntry, VerdictEntry, VerdictKey};

/// A pattern of peers, and a local zone or [`ANY`].
type CellKey = (Pattern, u32);
/// A label's verdicts by local zone, sorted.
type Row = Rc<[(u32, VerdictEntry)]>;
/// What a label's row depends on: the four patterns that may match it, and its protections.
type Signature = ([Option<usize>; 4], u64);

/// The node's part of the rules with targets.
pub(crate) struct Relations {
    pub(crate) peers: Vec<(Label, PeerEntry)>,
    pub(crate) verdicts: Vec<(VerdictKey, VerdictEntry)>,
    pub(super) integrity: bool,
}

impl Relations {
    /// `rules`: at least those that may be about the node.
    pub(crate) fn new<'r>(
        policy: &Policy,
        node: &Node,
        rules: impl Iterator<Item = &'r Rule>,
    ) -> Result<Self, LowerError> {
        let table = Table::new(policy, node, rules);
        let mut classes = Classes::new(node.snid);
        let mut memo: HashMap<Signature, u32> = HashMap::new();
        let mut peers = Vec::new();
        for label in table.labels()? {
            let patterns = table.patterns(label);
            let signature = (patterns, table.protections(label));
            let known = memo.get(&signature).filter(|_| patterns[0].is_none());
            let class = match known {
                Some(class) => *class,
                None => classes.of(table.row(label, patterns))?,
            };
            if known.is_none() && patterns[0].is_none() {
                memo.insert(signature, class);
            }
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
        add_synthetic(policy, &mut peers, &mut classes)?;
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
        Ok(Self { peers, verdicts: classes.into_rows(), integrity })
    }
}

fn passes(row: &[(u32, VerdictEntry)]) -> bool {
    row.iter().any(|(_, entry)| entry.flags & (CREATE | RECEIVE) != 0)
}

fn covers_payload(entry: &VerdictEntry) -> bool {
    entry.flags & (CREATE | RECEIVE) != 0 && entry.protection == PROTECTION_INTEGRITY
}

/// Adds, for each node that may pass anything, its kernel's label and the label of "some zone".
fn add_synthetic(
    policy: &Policy,
    peers: &mut Vec<(Label, PeerEntry)>,
    classes: &mut Classes,
) -> Result<(), LowerError> {
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
            let class = classes.of(any_of(rows.iter().map(|class| classes.row(*class))))?;
            memo.insert(rows, class);
            class
        };
        if class != 0 {
            added.push((Label { snid, scid: ANY }, PeerEntry { class, flags: 0 }));
        }
    }
    peers.append(&mut added);
    peers.sort_unstable_by_key(|(label, _)| *label);
    Ok(())
}

/// What at least one of the rows grants, with the strongest protection among those that grant.
/// Alarms stay with the exact labels: the target's node raises them.
fn any_of<'r>(rows: impl Iterator<Item = &'r [(u32, VerdictEntry)]>) -> Row {
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
    fn new<'r>(policy: &'p Policy, node: &Node, rules: impl Iterator<Item = &'r Rule>) -> Self {
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
        for rule in rules {
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
                    labels.extend(nodes.iter().map(|node| Label { snid: node.snid, scid }));
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
        let groups = || patterns.iter().flatten().filter_map(|start| self.group(*start));
        let cells = || groups().flatten();
        let mut row: Vec<(u32, Cell)> = Vec::new();
        let mut default: Option<Cell> = None;
        for ((_, scid), cell) in cells() {
            if *scid == ANY {
                default.get_or_insert_default().merge(cell);
            } else if self.local.binary_search(scid).is_ok() {
                row.push((*scid, *cell));
            }
        }
        if let Some(default) = default {
            row.extend(self.policy.zones.iter().map(|zone| (zone.scid, default)));
        }
        row.sort_unstable_by_key(|(scid, _)| *scid);
        row.dedup_by(|(scid, next), (kept_scid, kept)| {
            let same = scid == kept_scid;
            if same {
                kept.merge(next);
            }
            same
        });
        let perimeter = self.policy.node(label.snid).is_none();
        let entry = |(scid, cell): (u32, Cell)| {
            let protection = || self.policy.protection(scid, label.scid).number();
            (scid, cell.verdict(if perimeter { PROTECTION_LABEL } else { protection() }))
        };
        row.into_iter().map(entry).filter(|(_, entry)| entry.flags != 0).collect()
    }

    fn group(&self, start: usize) -> Option<&[(CellKey, Cell)]> {
        let ((pattern, _), _) = self.cells.get(start)?;
        let (start, end) = self.patterns.get(pattern)?;
        self.cells.get(*start..*end)
    }
}

/// The distinct rows; a row's index is its class.
struct Classes {
    snid: u32,
    rows: Vec<Row>,
    index: HashMap<Row, u32>,
    entries: usize,
}

impl Classes {
    /// Class 0 is the empty row's.
    fn new(snid: u32) -> Self {
        let empty = Row::from([]);
        let index = HashMap::from([(Rc::clone(&empty), 0)]);
        Self { snid, rows: vec![empty], index, entries: 0 }
    }

    fn of(&mut self, row: Row) -> Result<u32, LowerError> {
        let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let class = *self.index.entry(Rc::clone(&row)).or_insert(next);
        if class == next {
            self.entries += row.len();
            self.rows.push(row);
        }
        if self.entries > MAX_ROWS {
            return Err(LowerError::TooLarge { snid: self.snid, map: "verdicts", limit: MAX_ROWS });
        }
        Ok(class)
    }

    fn row(&self, class: u32) -> &[(u32, VerdictEntry)] {
        self.rows.get(class as usize).map_or(&[], |row| row)
    }

    fn into_rows(self) -> Vec<(VerdictKey, VerdictEntry)> {
        let mut verdicts = Vec::with_capacity(self.entries);
        for (row, class) in self.rows.iter().zip(0u32..) {
            verdicts.extend(
                row.iter().map(|(scid, entry)| (VerdictKey { class, scid: *scid }, *entry)),
            );
        }
        verdicts
    }
}
