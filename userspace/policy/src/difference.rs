//! What one policy allows and another does not: pairs of labels, from the maps that nodes load.

use std::collections::{BTreeMap, HashMap};

use sigil_common::abi::policy::{CREATE, RECEIVE};
use sigil_common::label::Label;

use crate::lower::{self, LowerError};
use crate::model::{ANY, Policy, Rule};

/// A pair of labels that gained or lost something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The peer.
    pub source: Label,
    /// The label of the node whose map it is.
    pub target: Label,
    /// Gained; else lost.
    pub gained: bool,
    /// What: `admit` (the source's packets are let in), `open` (the target opens towards the source),
    /// or `protection` (which changed; `gained` says that it is stronger).
    pub what: &'static str,
}

/// Flags and protection.
type Relation = (u32, u8);

/// One node's relations, of each pair.
type Relations = BTreeMap<(Label, u32), Relation>;

/// All changes from `old` to `new`, node by node, at most `limit` of them, and how many more there
/// are. With no old policy, everything is gained.
///
/// # Errors
/// A policy whose maps would be too large; see [`LowerError`].
pub fn difference(
    old: Option<&Policy>,
    new: &Policy,
    limit: usize,
) -> Result<(Vec<Change>, u64), LowerError> {
    let mut changes = Vec::new();
    let mut more = 0;
    let before = old.map(|old| old.nodes.as_slice()).unwrap_or_default();
    let mut snids: Vec<u32> = before.iter().chain(&new.nodes).map(|node| node.snid).collect();
    snids.sort_unstable();
    snids.dedup();
    let (old, new) = (old.map(Rules::new), Rules::new(new));
    for snid in snids {
        let had = old.as_ref().map_or_else(|| Ok(Relations::new()), |old| old.relations(snid))?;
        let has = new.relations(snid)?;
        let mut pairs: Vec<_> = had.keys().chain(has.keys()).copied().collect();
        pairs.sort_unstable();
        pairs.dedup();
        for (source, scid) in pairs {
            let (was, was_protected) = had.get(&(source, scid)).copied().unwrap_or_default();
            let (is, protected) = has.get(&(source, scid)).copied().unwrap_or_default();
            let target = Label { snid, scid };
            let mut note = |gained, what| {
                if changes.len() < limit {
                    changes.push(Change { source, target, gained, what });
                } else {
                    more += 1;
                }
            };
            for (flag, what) in [(RECEIVE, "admit"), (CREATE, "open")] {
                if (was ^ is) & flag != 0 {
                    note(is & flag != 0, what);
                }
            }
            let both = was & (CREATE | RECEIVE) != 0 && is & (CREATE | RECEIVE) != 0;
            if both && was_protected != protected {
                note(protected > was_protected, "protection");
            }
        }
    }
    Ok((changes, more))
}

/// A policy's rules by the nodes that they are about.
struct Rules<'p> {
    policy: &'p Policy,
    of_node: HashMap<u32, Vec<&'p Rule>>,
}

impl<'p> Rules<'p> {
    fn new(policy: &'p Policy) -> Self {
        let mut of_node = HashMap::<u32, Vec<&Rule>>::new();
        for rule in &policy.rules {
            let (source, target) = (rule.source.snid, rule.target.map(|target| target.snid));
            of_node.entry(source).or_default().push(rule);
            if let Some(target) = target.filter(|target| *target != source) {
                of_node.entry(target).or_default().push(rule);
            }
        }
        Self { policy, of_node }
    }

    fn relations(&self, snid: u32) -> Result<Relations, LowerError> {
        let Some(node) = self.policy.node(snid) else { return Ok(Relations::new()) };
        let of = |snid| self.of_node.get(&snid).into_iter().flatten().copied();
        let lower::Relations { peers, verdicts, .. } =
            lower::Relations::new(self.policy, node, of(ANY).chain(of(snid)))?;
        let mut of_class = BTreeMap::<u32, Vec<(u32, Relation)>>::new();
        for (key, verdict) in &verdicts {
            let row = (key.scid, (verdict.flags, verdict.protection));
            of_class.entry(key.class).or_default().push(row);
        }
        let rows = peers.iter().flat_map(|(label, peer)| {
            let rows = of_class.get(&peer.class).map(Vec::as_slice).unwrap_or_default();
            rows.iter().map(|(scid, row)| ((*label, *scid), *row))
        });
        // ScID 0 stands for "some zone", and repeats what the zones say.
        Ok(rows.filter(|((label, _), _)| label.scid != 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile;

    fn policy(rules: &str) -> Policy {
        let text = format!(
            r#"<DSP cluster="lab" serial="1">
<node><SnID>1</SnID><address>10.0.0.1</address></node>
<node><SnID>2</SnID><address>10.0.0.2</address></node>
<zone><ScID>7</ScID></zone><zone><ScID>8</ScID></zone>{rules}</DSP>"#
        );
        compile("p", text.as_bytes(), None).unwrap().policy
    }

    fn rule(target: u32) -> String {
        format!(
            "<SOCKET_class_rule><sSnID>1</sSnID><sScID>7</sScID><tSnID>2</tSnID><tScID>{target}</tScID><allow>CREATE</allow></SOCKET_class_rule>"
        )
    }

    #[test]
    fn what_is_written_otherwise_is_no_change() {
        let one = policy(&format!("{}{}", rule(7), rule(8)));
        let other = policy(&format!("{}\n<!-- order -->{}", rule(8), rule(7)));
        assert_eq!(difference(Some(&one), &other, 10).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn a_moved_rule_gains_and_loses() {
        let (changes, more) = difference(Some(&policy(&rule(7))), &policy(&rule(8)), 100).unwrap();
        assert_eq!(more, 0);
        let label = |snid, scid| Label { snid, scid };
        let seen = |source, target, gained, what| {
            changes.contains(&Change { source, target, gained, what })
        };
        assert!(seen(label(1, 7), label(2, 8), true, "admit"), "{changes:?}");
        assert!(seen(label(1, 7), label(2, 7), false, "admit"), "{changes:?}");
        assert!(seen(label(2, 8), label(1, 7), true, "open"), "{changes:?}");
        let gained = changes.iter().filter(|change| change.gained).count();
        assert_eq!(gained * 2, changes.len(), "as much lost as gained: {changes:?}");
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let (all, _) = difference(None, &policy(&rule(7)), 100).unwrap();
        let (some, more) = difference(None, &policy(&rule(7)), 1).unwrap();
        assert_eq!(some.len() as u64 + more, all.len() as u64);
    }
}
