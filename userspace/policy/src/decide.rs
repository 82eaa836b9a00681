//! The reference decisions: every rule is read, the strongest wins.
//!
//! Slow and plain on purpose: the lowered maps are held against these functions.

use std::cmp::Reverse;

use sigil_common::label::Label;

use crate::model::{ANY, Policy, Relabel, Rule, Transition};
use crate::permission::{Class, IMPLIED, OPEN, OPEN_MASK, RECEIVE};

/// What the rules say about one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The rule at this line allows it.
    Allow(u32),
    /// The rule at this line denies it.
    Deny(u32),
    /// No rule speaks of it, so it is denied.
    #[default]
    NoRule,
}

impl Decision {
    /// Whether it may happen.
    #[must_use]
    pub const fn allows(self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The line of the rule that decided.
    #[must_use]
    pub const fn line(self) -> Option<u32> {
        match self {
            Self::Allow(line) | Self::Deny(line) => Some(line),
            Self::NoRule => None,
        }
    }

    /// Either class may grant; a denial of either wins.
    #[must_use]
    pub(crate) const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Deny(_), _) => self,
            (_, Self::Deny(_)) => other,
            (Self::Allow(_), _) => self,
            _ => other,
        }
    }

    /// Opening needs the first permission granted and none of them denied.
    pub(crate) fn open(permissions: [Self; 4]) -> Self {
        let [create, ..] = permissions;
        permissions.into_iter().find(|one| matches!(one, Self::Deny(_))).unwrap_or(create)
    }
}

/// A decision, and whether the attempt raises an alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// Whether an `<alarm>` rule covers it.
    pub alarm: bool,
}

impl Policy {
    /// May `source` open a conversation with `target` and send on it?
    #[must_use]
    pub fn open(&self, source: Label, target: Label) -> Outcome {
        if !self.exists(source) || !self.exists(target) {
            return Outcome::default();
        }
        Outcome {
            decision: Decision::open(
                OPEN.map(|bit| self.winner(Class::Socket, bit, source, Some(target))),
            ),
            alarm: self.alarms(Class::Socket, OPEN_MASK, source, Some(target)),
        }
    }

    /// Does `target`'s node admit packets of `source` to `target`?
    #[must_use]
    pub fn receive(&self, source: Label, target: Label) -> Outcome {
        let open = self.open(source, target);
        if !self.exists(source) || !self.exists(target) {
            return open;
        }
        Outcome {
            decision: open.decision.or(self.winner(Class::Network, RECEIVE, source, Some(target))),
            alarm: open.alarm || self.alarms(Class::Network, RECEIVE, source, Some(target)),
        }
    }

    /// May a process of `label` use its own sockets so? The permission to open any conversation
    /// brings CREATE, CONNECT and SEND with it, unless a local rule denies them.
    #[must_use]
    pub fn local(&self, label: Label, permission: u32) -> Outcome {
        if !self.exists(label) {
            return Outcome::default();
        }
        let own = self.winner(Class::Socket, permission, label, None);
        let decision = match own {
            Decision::NoRule if permission & IMPLIED != 0 => self.opens_any(label),
            own => own,
        };
        Outcome { decision, alarm: self.alarms(Class::Socket, permission, label, None) }
    }

    /// May a process of `label` fork or execute?
    #[must_use]
    pub fn process(&self, label: Label, permission: u32) -> Outcome {
        if !self.exists(label) {
            return Outcome::default();
        }
        Outcome {
            decision: self.winner(Class::Process, permission, label, None),
            alarm: self.alarms(Class::Process, permission, label, None),
        }
    }

    /// What a process of `parent` becomes when it executes a file of `binary`. The checker refuses
    /// two rules of equal specificity that disagree.
    #[must_use]
    pub fn transition(&self, parent: u32, binary: u32) -> Option<&Transition> {
        let covers = |id, scid| if id == ANY { self.zone(scid).is_some() } else { id == scid };
        self.transitions
            .iter()
            .filter(|rule| covers(rule.parent, parent) && covers(rule.binary, binary))
            .max_by_key(|rule| {
                (u32::from(rule.parent != ANY) + u32::from(rule.binary != ANY), Reverse(rule.line))
            })
    }

    /// The rule by which a socket of `owner` becomes that of a process of `user` which uses it. Without
    /// one the use is refused.
    #[must_use]
    pub fn relabel(&self, owner: u32, user: u32) -> Option<&Relabel> {
        self.relabels.iter().find(|rule| (rule.owner, rule.user) == (owner, user))
    }

    /// The targeted rule that grants CREATE to `label`, if there is one.
    fn opens_any(&self, label: Label) -> Decision {
        let grants = |rule: &&Rule| {
            rule.class == Class::Socket
                && rule.target.is_some()
                && rule.allow & OPEN[0] != 0
                && self.covers(rule.source, label)
        };
        self.rules
            .iter()
            .filter(grants)
            .map(|rule| rule.line)
            .min()
            .map_or(Decision::NoRule, Decision::Allow)
    }

    fn matching(
        &self,
        class: Class,
        source: Label,
        target: Option<Label>,
    ) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| {
            let targets = match (rule.target, target) {
                (Some(pattern), Some(target)) => self.covers(pattern, target),
                (None, None) => true,
                _ => false,
            };
            rule.class == class && targets && self.covers(rule.source, source)
        })
    }

    /// The most specific rule that speaks of the permission; a denial before an allowance, the
    /// first in the document before the others.
    fn winner(&self, class: Class, bit: u32, source: Label, target: Option<Label>) -> Decision {
        self.matching(class, source, target)
            .filter(|rule| (rule.allow | rule.deny) & bit != 0)
            .max_by_key(|rule| (rule.specificity(), rule.deny & bit, Reverse(rule.line)))
            .map_or(Decision::NoRule, |rule| {
                if rule.deny & bit != 0 {
                    Decision::Deny(rule.line)
                } else {
                    Decision::Allow(rule.line)
                }
            })
    }

    fn alarms(&self, class: Class, mask: u32, source: Label, target: Option<Label>) -> bool {
        self.matching(class, source, target).any(|rule| rule.alarm & mask != 0)
    }
}
