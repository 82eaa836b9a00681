//! What is wrong with rules taken together: contradictions, and rules that decide nothing.

mod binaries;

use std::collections::{BTreeSet, HashMap, HashSet};

use sigil_common::abi::policy::socket;
use sigil_common::label::Label;

use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::model::{ANY, Pattern, Policy, Rule, Transition};
use crate::permission::{Class, OPEN_MASK};

/// How many look-ups the search for overruled rules may cost; beyond, it is given up silently.
const BUDGET: usize = 4_000_000;

/// Reports them all.
pub(crate) fn check(policy: &Policy, found: &mut Findings) {
    let checker = Checker::new(policy);
    let groups = checker.contradictions(found);
    checker.transitions(found);
    if found.has_errors() {
        return;
    }
    binaries::check(policy, found);
    let mut budget = BUDGET;
    for rule in &policy.rules {
        if let Some(hint) = checker.why_never(rule) {
            found.push(
                Diagnostic::warning(
                    "dsp::never-matches",
                    rule.span,
                    format!("this {} rule can never match", rule.class),
                )
                .hint(hint),
            );
        } else if let Some(stronger) = checker.overruled(rule, &groups, &mut budget) {
            let message = format!(
                "this {} rule decides nothing: stronger rules decide all that it covers",
                rule.class
            );
            found.push(
                Diagnostic::warning("dsp::overruled", rule.span, message)
                    .also(stronger, "one of the stronger rules")
                    .hint("delete it, or delete the rules that are in its way"),
            );
        }
    }
    checker.without_effect(found);
}

/// Everything that rules on the same ids say.
struct Group<'p> {
    allow: u32,
    deny: u32,
    alarm: u32,
    first: &'p Rule,
    rules: Vec<&'p Rule>,
}

type Ids = (Class, Pattern, Option<Pattern>);

fn ids(rule: &Rule) -> Ids {
    (rule.class, rule.source, rule.target)
}

struct Checker<'p> {
    policy: &'p Policy,
    perimeter: HashSet<Label>,
    /// A ScID of each host of the perimeter.
    hosts: HashMap<u32, u32>,
    /// The ids of kernels that are no declared zones.
    kernels: BTreeSet<u32>,
}

impl<'p> Checker<'p> {
    fn new(policy: &'p Policy) -> Self {
        let kernels = policy
            .nodes
            .iter()
            .map(|node| node.kernel_scid)
            .filter(|scid| policy.zone(*scid).is_none());
        Self {
            policy,
            perimeter: policy.perimeter.iter().map(|host| host.label).collect(),
            hosts: policy.perimeter.iter().map(|host| (host.label.snid, host.label.scid)).collect(),
            kernels: kernels.collect(),
        }
    }

    fn contradictions(&self, found: &mut Findings) -> HashMap<Ids, Group<'p>> {
        let mut groups: HashMap<Ids, Group<'p>> = HashMap::with_capacity(self.policy.rules.len());
        for rule in &self.policy.rules {
            let group = groups.entry(ids(rule)).or_insert_with(|| Group {
                allow: 0,
                deny: 0,
                alarm: 0,
                first: rule,
                rules: Vec::new(),
            });
            let contrary = (rule.allow & group.deny) | (rule.deny & group.allow);
            let other = |bits: u32, of: fn(&Rule) -> u32| {
                group.rules.iter().find(|other| of(other) & bits != 0)
            };
            if contrary != 0 {
                let earlier = other(rule.allow & contrary, |rule| rule.deny)
                    .or_else(|| other(rule.deny & contrary, |rule| rule.allow));
                let names = rule.class.names(contrary).join(", ");
                let (here, there) = if rule.allow & contrary != 0 {
                    ("allowed here", "denied here")
                } else {
                    ("denied here", "allowed here")
                };
                found.push(
                    Diagnostic::error(
                        "dsp::contradiction",
                        rule.span,
                        format!("two {} rules on the same ids contradict each other about {names}", rule.class),
                    )
                    .here(here)
                    .also(earlier.map_or(group.first.span, |earlier| earlier.span), there)
                    .hint("delete one of them, or make one more specific: the rule with fewer `*` wins"),
                );
            } else if !group.rules.is_empty()
                && (rule.allow & !group.allow)
                    | (rule.deny & !group.deny)
                    | (rule.alarm & !group.alarm)
                    == 0
            {
                let message = format!(
                    "this {} rule says nothing that the rule at line {} does not",
                    rule.class, group.first.line
                );
                found.push(
                    Diagnostic::warning("dsp::repeated-rule", rule.span, message)
                        .here("again here")
                        .also(group.first.span, "first here")
                        .hint("delete one of them"),
                );
            }
            group.allow |= rule.allow;
            group.deny |= rule.deny;
            group.alarm |= rule.alarm;
            group.rules.push(rule);
        }
        groups
    }

    /// Why nothing can ever match the rule.
    fn why_never(&self, rule: &Rule) -> Option<String> {
        let acts = !matches!(rule.class, Class::Network) && rule.target.is_none();
        if acts && rule.source.snid != ANY && self.policy.node(rule.source.snid).is_none() {
            return Some(format!(
                "SnID {} is a perimeter host: none of its processes are ours",
                rule.source.snid
            ));
        }
        [Some(rule.source), rule.target]
            .into_iter()
            .flatten()
            .find_map(|pattern| self.why_empty(pattern))
    }

    /// Why no label can match the pattern.
    fn why_empty(&self, pattern: Pattern) -> Option<String> {
        let Pattern { snid, scid } = pattern;
        let policy = self.policy;
        if snid == ANY && policy.nodes.is_empty() {
            return Some("`*` stands for declared nodes, and there is none".to_owned());
        }
        if scid == ANY && policy.zones.is_empty() {
            return Some("`*` stands for declared zones, and there is none".to_owned());
        }
        let kernel_elsewhere =
            "no such node's kernel has this ScID: their <kernel> says otherwise".to_owned();
        match (snid, policy.node(snid)) {
            (ANY, _) => {
                let kernel = self.kernels.contains(&scid);
                (scid != ANY && policy.zone(scid).is_none() && !kernel).then_some(kernel_elsewhere)
            }
            (_, Some(node)) => {
                let kernel = node.kernel_scid == scid;
                (scid != ANY && policy.zone(scid).is_none() && !kernel).then_some(kernel_elsewhere)
            }
            (_, None) if scid == ANY || self.perimeter.contains(&Label { snid, scid }) => None,
            (_, None) => Some(match self.hosts.get(&snid) {
                Some(host) => format!("the perimeter host {snid} has ScID {host}"),
                None => format!("no node {snid} is declared"),
            }),
        }
    }

    /// A stronger rule, when stronger rules decide all that this one covers.
    fn overruled(
        &self,
        rule: &Rule,
        groups: &HashMap<Ids, Group<'p>>,
        budget: &mut usize,
    ) -> Option<Span> {
        let bits = rule.allow | rule.deny;
        let complete = if rule.target.is_some() { 4 } else { 2 };
        if bits == 0 || rule.alarm != 0 || rule.specificity() == complete {
            return None;
        }
        let mut stronger = None;
        for source in self.labels(rule.source) {
            let mut targets = rule.target.map(|target| self.labels(target));
            loop {
                let target = match &mut targets {
                    Some(targets) => match targets.next() {
                        Some(target) => Some(target),
                        None => break,
                    },
                    None => None,
                };
                let mut left = bits;
                for ids in self.covering(rule.class, source, target) {
                    *budget = budget.checked_sub(1)?;
                    let Some(group) = groups.get(&ids) else { continue };
                    let beaten = match group.first.specificity().cmp(&rule.specificity()) {
                        std::cmp::Ordering::Greater => group.allow | group.deny,
                        std::cmp::Ordering::Equal => group.deny & rule.allow,
                        std::cmp::Ordering::Less => 0,
                    };
                    if beaten & left != 0 {
                        stronger.get_or_insert(group.first.span);
                        left &= !beaten;
                    }
                }
                if left != 0 {
                    return None;
                }
                if targets.is_none() {
                    break;
                }
            }
        }
        stronger
    }

    /// The labels that a pattern stands for.
    fn labels(&self, pattern: Pattern) -> Box<dyn Iterator<Item = Label> + '_> {
        let zones = self.policy.zones.iter().map(|zone| zone.scid);
        let nodes = self.policy.nodes.iter().map(|node| node.snid);
        match pattern {
            Pattern { snid: ANY, scid: ANY } => Box::new(
                nodes.flat_map(move |snid| zones.clone().map(move |scid| Label { snid, scid })),
            ),
            Pattern { snid: ANY, scid } => Box::new(
                nodes.map(move |snid| Label { snid, scid }).filter(|label| self.exists(*label)),
            ),
            Pattern { snid, scid: ANY } => Box::new(
                zones.map(move |scid| Label { snid, scid }).filter(|label| self.exists(*label)),
            ),
            Pattern { snid, scid } => Box::new(std::iter::once(Label { snid, scid })),
        }
    }

    fn exists(&self, label: Label) -> bool {
        match self.policy.node(label.snid) {
            Some(_) => self.policy.exists(label),
            None => self.perimeter.contains(&label),
        }
    }

    /// The ids of all rules that would cover these labels.
    fn covering(
        &self,
        class: Class,
        source: Label,
        target: Option<Label>,
    ) -> impl Iterator<Item = Ids> + use<> {
        let sources = self.patterns(source);
        let targets = target
            .map_or(vec![None], |target| self.patterns(target).into_iter().map(Some).collect());
        sources.into_iter().flat_map(move |source| {
            targets.clone().into_iter().map(move |target| (class, source, target))
        })
    }

    fn patterns(&self, label: Label) -> Vec<Pattern> {
        let snids = [Some(label.snid), self.policy.node(label.snid).map(|_| ANY)];
        let scids = [Some(label.scid), self.policy.zone(label.scid).map(|_| ANY)];
        let pairs = snids
            .into_iter()
            .flatten()
            .flat_map(|snid| scids.into_iter().flatten().map(move |scid| Pattern { snid, scid }));
        pairs.collect()
    }

    fn without_effect(&self, found: &mut Findings) {
        let targeted = || {
            self.policy
                .rules
                .iter()
                .filter(|rule| rule.class == Class::Socket && rule.target.is_some())
        };
        let denied = targeted().fold(0, |mask, rule| mask | rule.deny);
        for rule in targeted() {
            let local = (rule.allow | rule.deny | rule.alarm) & !OPEN_MASK;
            if local != 0 {
                let names = rule.class.names(local).join(", ");
                let message = format!(
                    "with a target, {names} has no effect: it is about a process's own sockets"
                );
                let hint = "move it to a SOCKET rule without <tSnID> and <tScID>";
                found.push(Diagnostic::warning("dsp::no-effect", rule.span, message).hint(hint));
            }
            let steps = rule.allow & OPEN_MASK;
            if steps != 0 && steps & (socket::CREATE | denied) == 0 {
                let names = rule.class.names(steps).join(", ");
                let message = format!("{names} alone opens no conversation");
                let hint =
                    "allow CREATE: it is the permission to open a conversation and to send on it";
                found.push(Diagnostic::warning("dsp::no-effect", rule.span, message).hint(hint));
            }
        }
    }

    fn transitions(&self, found: &mut Findings) {
        let mut rules: HashMap<(u32, u32), &Transition> = HashMap::new();
        for rule in &self.policy.transitions {
            let Some(first) = rules.get(&(rule.parent, rule.binary)) else {
                rules.insert((rule.parent, rule.binary), rule);
                continue;
            };
            found.push(if first.new == rule.new {
                Diagnostic::warning(
                    "dsp::repeated-rule",
                    rule.span,
                    "this TRANSITION rule says nothing new",
                )
                .here("again here")
                .also(first.span, "first here")
                .hint("delete one of them")
            } else {
                let message =
                    format!("one exec cannot lead both to {} and to {}", first.new, rule.new);
                Diagnostic::error("dsp::contradiction", rule.span, message)
                    .here("again here")
                    .also(first.span, "first here")
                    .hint("delete one of the two TRANSITION rules")
            });
        }
        let any_binary = || {
            self.policy.transitions.iter().filter(|rule| rule.binary == ANY && rule.parent != ANY)
        };
        let any_parent = || {
            self.policy.transitions.iter().filter(|rule| rule.parent == ANY && rule.binary != ANY)
        };
        let mut budget = BUDGET;
        for one in any_binary() {
            for other in any_parent() {
                let Some(left) = budget.checked_sub(1) else { return };
                budget = left;
                if one.new != other.new && !rules.contains_key(&(one.parent, other.binary)) {
                    let message = format!(
                        "a process of {} that executes a file of {} could become {} or {}",
                        one.parent, other.binary, one.new, other.new
                    );
                    let hint = format!(
                        "add a rule with <parentScID> {} </parentScID> and <binaryScID> {} </binaryScID>",
                        one.parent, other.binary
                    );
                    found.push(
                        Diagnostic::error("dsp::contradiction", one.span.max(other.span), message)
                            .also(one.span.min(other.span), "the other rule")
                            .hint(hint),
                    );
                }
            }
        }
        for rule in any_binary().chain(any_parent()) {
            let decided = |zone: &crate::Zone| {
                let ids = if rule.binary == ANY {
                    (rule.parent, zone.scid)
                } else {
                    (zone.scid, rule.binary)
                };
                rules.contains_key(&ids)
            };
            if self.policy.zones.iter().all(decided) {
                let message = "this TRANSITION rule decides nothing: stronger rules decide all that it covers";
                found.push(
                    Diagnostic::warning("dsp::overruled", rule.span, message).hint("delete it"),
                );
            }
        }
    }
}
