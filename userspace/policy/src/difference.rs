//! What one policy allows and another does not, from the maps that nodes load.

mod facts;

use std::collections::{BTreeMap, HashMap};

use sigil_common::abi::policy::process::{EXECVE, FORK};
use sigil_common::abi::policy::{CREATE, CREATE_ALARM, RECEIVE, RECEIVE_ALARM};
use sigil_common::label::Label;

use crate::lower::{self, LowerError};
use crate::model::{ANY, Policy, Rule};
use crate::permission::Class;
pub(crate) use facts::Names;
use facts::facts;

/// Something that is so under one of two policies only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Gained; else lost.
    pub gained: bool,
    /// The peer, where it is about two labels.
    pub source: Option<Label>,
    /// The label whose node's map it is; nothing where it is about the cluster.
    pub target: Option<Label>,
    /// What: `admit` (the source's packets are let in), `open` (the target opens towards the source),
    /// `protection` (which changed; `gained` says that it is stronger), `alarm`, `socket` or
    /// `process` (local permissions), or the kind of element: `node`, `zone`, `port`, `perimeter`,
    /// `transition`, `relabel`, `signer`, `revoked`, `unsigned`.
    pub what: &'static str,
    /// In words, with names.
    pub text: String,
}

/// Flags and protection.
type Relation = (u32, u8);

/// One node's relations, of each pair.
type Relations = BTreeMap<(Label, u32), Relation>;

/// Changes, as many as are wanted.
struct Changes {
    limit: usize,
    listed: Vec<Change>,
    more: u64,
}

impl Changes {
    fn add(&mut self, make: impl FnOnce() -> Change) {
        if self.listed.len() < self.limit {
            self.listed.push(make());
        } else {
            self.more += 1;
        }
    }
}

/// All changes from `old` to `new`, first what is about the cluster, then node by node (of `only` one
/// node, where it is named): at most `limit` of them, and how many more there are. With no old policy,
/// everything is gained. Which rule decides, and the drop reason of what neither allows, is no change.
///
/// # Errors
/// A policy whose maps would be too large; see [`LowerError`].
pub fn difference(
    old: Option<&Policy>,
    new: &Policy,
    only: Option<u32>,
    limit: usize,
) -> Result<(Vec<Change>, u64), LowerError> {
    let mut changes = Changes { limit, listed: Vec::new(), more: 0 };
    let names = Names { new, old };
    let (had, has) = (old.map(facts).transpose()?.unwrap_or_default(), facts(new)?);
    let lost = had.difference(&has).map(|fact| (false, fact));
    for (gained, fact) in lost.chain(has.difference(&had).map(|fact| (true, fact))) {
        let (source, target, what) = (None, None, fact.kind());
        changes.add(|| Change { gained, source, target, what, text: names.fact(fact) });
    }
    let before = old.map(|old| old.nodes.as_slice()).unwrap_or_default();
    let mut snids: Vec<u32> = before.iter().chain(&new.nodes).map(|node| node.snid).collect();
    snids.retain(|snid| only.is_none_or(|only| only == *snid));
    snids.sort_unstable();
    snids.dedup();
    let (old, new) = (old.map(Rules::new), Rules::new(new));
    for snid in snids {
        locals(snid, old.as_ref(), &new, &names, &mut changes);
        relations(snid, old.as_ref(), &new, &names, &mut changes)?;
    }
    Ok((changes.listed, changes.more))
}

/// What a node's zones may do by themselves.
fn locals(snid: u32, old: Option<&Rules>, new: &Rules, names: &Names, changes: &mut Changes) {
    for class in [Class::Socket, Class::Process] {
        let had = old.map(|old| old.locals(snid, class)).unwrap_or_default();
        let has = new.locals(snid, class);
        let mut scids: Vec<u32> = had.keys().chain(has.keys()).copied().collect();
        scids.sort_unstable();
        scids.dedup();
        for scid in scids {
            let (was, was_loud) = had.get(&scid).copied().unwrap_or_default();
            let (is, loud) = has.get(&scid).copied().unwrap_or_default();
            let label = Label { snid, scid };
            let own = if class == Class::Socket { "socket" } else { "process" };
            let may = |mask| format!("{} may {}", names.label(label), class.names(mask).join(" "));
            let alarms = |mask| {
                let permissions = class.names(mask).join(" ");
                format!("{class} {permissions} of {} raises an alarm", names.label(label))
            };
            for (gained, mask) in [(false, was & !is), (true, is & !was)] {
                if mask != 0 {
                    let target = Some(label);
                    changes.add(|| Change {
                        gained,
                        source: None,
                        target,
                        what: own,
                        text: may(mask),
                    });
                }
            }
            for (gained, mask) in [(false, was_loud & !loud), (true, loud & !was_loud)] {
                if mask != 0 {
                    let (target, text) = (Some(label), alarms(mask));
                    changes.add(|| Change { gained, source: None, target, what: "alarm", text });
                }
            }
        }
    }
}

/// What pairs of labels may do, one of them a node's.
fn relations(
    snid: u32,
    old: Option<&Rules>,
    new: &Rules,
    names: &Names,
    changes: &mut Changes,
) -> Result<(), LowerError> {
    let had = old.map_or_else(|| Ok(Relations::new()), |old| old.relations(snid))?;
    let has = new.relations(snid)?;
    let mut pairs: Vec<_> = had.keys().chain(has.keys()).copied().collect();
    pairs.sort_unstable();
    pairs.dedup();
    for (source, scid) in pairs {
        let (was, was_protected) = had.get(&(source, scid)).copied().unwrap_or_default();
        let (is, protected) = has.get(&(source, scid)).copied().unwrap_or_default();
        let target = Label { snid, scid };
        let mut note = |gained, what, words: &dyn Fn(String, String) -> String| {
            changes.add(|| Change {
                gained,
                source: Some(source),
                target: Some(target),
                what,
                text: words(names.label(source), names.label(target)),
            });
        };
        if (was ^ is) & RECEIVE != 0 {
            note(is & RECEIVE != 0, "admit", &|source, target| format!("{target} admits {source}"));
        }
        if (was ^ is) & CREATE != 0 {
            note(is & CREATE != 0, "open", &|source, target| format!("{target} opens to {source}"));
        }
        for flag in [CREATE_ALARM, RECEIVE_ALARM] {
            if (was ^ is) & flag != 0 {
                let way = if flag == CREATE_ALARM { "opening to" } else { "packets of" };
                note(is & flag != 0, "alarm", &|source, target| {
                    format!("{way} {source} at {target}: alarm")
                });
            }
        }
        let both = was & (CREATE | RECEIVE) != 0 && is & (CREATE | RECEIVE) != 0;
        if both && was_protected != protected {
            note(protected > was_protected, "protection", &|source, target| {
                format!("protection between {source} and {target}")
            });
        }
    }
    Ok(())
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

    /// What zones may do of a class by themselves, and what raises an alarm, as masks; a zone that may
    /// do nothing too.
    fn locals(&self, snid: u32, class: Class) -> BTreeMap<u32, (u32, u32)> {
        let Some(node) = self.policy.node(snid) else { return BTreeMap::new() };
        let of = |snid| self.of_node.get(&snid).into_iter().flatten().copied();
        let mut rows =
            self.policy
                .local_entries(node, class, of(ANY).chain(of(snid)), |_, cell| Some(cell.masks()));
        if class == Class::Process && !self.policy.governs_processes() {
            for (_, (allow, _)) in &mut rows {
                *allow = FORK | EXECVE;
            }
        }
        rows.into_iter().collect()
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
        assert_eq!(difference(Some(&one), &other, None, 10).unwrap(), (Vec::new(), 0));
    }

    #[test]
    fn a_moved_rule_gains_and_loses() {
        let (changes, more) =
            difference(Some(&policy(&rule(7))), &policy(&rule(8)), None, 100).unwrap();
        assert_eq!(more, 0);
        let label = |snid, scid| Label { snid, scid };
        let seen = |source, target, gained, what| {
            let is = |one: &&Change| {
                (one.source, one.target) == (Some(source), Some(target)) && one.what == what
            };
            changes.iter().any(|one| is(&one) && one.gained == gained)
        };
        assert!(seen(label(1, 7), label(2, 8), true, "admit"), "{changes:?}");
        assert!(seen(label(1, 7), label(2, 7), false, "admit"), "{changes:?}");
        assert!(seen(label(2, 8), label(1, 7), true, "open"), "{changes:?}");
        let gained = changes.iter().filter(|change| change.gained).count();
        assert_eq!(gained * 2, changes.len(), "as much lost as gained: {changes:?}");
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let (all, _) = difference(None, &policy(&rule(7)), None, 100).unwrap();
        let (some, more) = difference(None, &policy(&rule(7)), None, 1).unwrap();
        assert_eq!(some.len() as u64 + more, all.len() as u64);
    }

    /// What a lock-out looks like before it is one.
    #[test]
    fn every_right_that_is_lost_is_told_with_names() {
        const OLD: &str = r#"<DSP cluster="lab" serial="1">
<node><SnID>1</SnID><name>one</name><address>10.0.0.1</address><default>web</default></node>
<zone><ScID>7</ScID><name>web</name></zone><zone><ScID>8</ScID><name>app</name></zone>
<port><SnID>1</SnID><protocol>tcp</protocol><number>80</number><ScID>web</ScID></port>
<perimeter><address>10.9.0.0/16</address><SnID>900</SnID><ScID>web</ScID></perimeter>
<SOCKET_class_rule><sSnID>*</sSnID><sScID>web</sScID><allow>BIND LISTEN</allow></SOCKET_class_rule>
<TRANSITION_class_rule><parentScID>web</parentScID><binaryScID>app</binaryScID><newScID>app</newScID></TRANSITION_class_rule>
</DSP>"#;
        let told = |new: &str| -> Vec<String> {
            let compiled = |text: &str| compile("p", text.as_bytes(), None).unwrap().policy;
            let (changes, _) = difference(Some(&compiled(OLD)), &compiled(new), None, 100).unwrap();
            let line = |one: Change| format!("{} {}", if one.gained { '+' } else { '-' }, one.text);
            changes.into_iter().map(line).collect()
        };
        let without = |begin: &str| {
            let lines = OLD.lines().filter(|line| !line.starts_with(begin));
            told(&lines.collect::<Vec<_>>().join("\n"))
        };
        assert!(told(OLD).is_empty());
        assert_eq!(without("<SOCKET"), ["- one:web may BIND LISTEN"]);
        assert_eq!(without("<port"), ["- port one tcp/80 is of zone web"]);
        assert_eq!(without("<perimeter"), ["- hosts 10.9.0.0/16 are 900:web"]);
        let becomes = "- a process of web that executes a file of app becomes app";
        assert_eq!(without("<TRANS"), [becomes]);
        let all = |verb: &str| {
            format!(
                "<PROCESS_class_rule><sSnID>*</sSnID><sScID>*</sScID><{verb}>FORK EXECVE</{verb}></PROCESS_class_rule></DSP>"
            )
        };
        let denied = told(&OLD.replace("</DSP>", &all("deny")));
        assert_eq!(
            denied,
            [
                "- one:web may FORK EXECVE",
                "- one:app may FORK EXECVE",
                "- one:kernel may FORK EXECVE"
            ]
        );
        let granted = told(&OLD.replace("</DSP>", &all("allow")));
        assert_eq!(granted, ["- one:kernel may FORK EXECVE"], "a wildcard is no grant to kernels");
        let loud = told(&OLD.replace("<allow>BIND", "<alarm>BIND</alarm><allow>BIND"));
        assert_eq!(loud, ["+ SOCKET BIND of one:web raises an alarm"]);
        let moved = told(&OLD.replace("10.0.0.1", "10.0.0.9"));
        let node = |address| {
            format!("node one (1) at {address}, kernel in zone kernel, what is in none in zone web")
        };
        assert_eq!(moved, [format!("- {}", node("10.0.0.1")), format!("+ {}", node("10.0.0.9"))]);
    }
}
