//! What the rules say between a pattern and a zone, and how two such answers make one.

use std::collections::BTreeMap;

use sigil_common::abi::policy::{
    CREATE, CREATE_ALARM, CREATE_DENIED, RECEIVE, RECEIVE_ALARM, RECEIVE_DENIED,
};

use crate::decide::Decision;
use crate::model::Rule;
use crate::permission::{self, Class, IMPLIED, OPEN, OPEN_MASK};
use crate::rules::VerdictEntry;

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
pub(super) struct Cell {
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
    pub(super) fn add(&mut self, rule: &Rule, outward: bool) {
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

    pub(super) fn merge(&mut self, other: &Self) {
        strongest(&mut self.outward, other.outward);
        strongest(&mut self.inward, other.inward);
        self.network = self.network.max(other.network);
        self.alarms |= other.alarms;
    }

    pub(super) fn verdict(&self, protection: u8) -> VerdictEntry {
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
pub(crate) struct LocalCell {
    strengths: BTreeMap<u32, Strength>,
    alarm: u32,
    implied: u32,
}

impl LocalCell {
    /// Adds a rule of the class; one with a target only brings what opening implies.
    pub(super) fn add(&mut self, class: Class, rule: &Rule) {
        if rule.target.is_some() {
            let [create, ..] = OPEN;
            self.implied |= if rule.allow & create == 0 { 0 } else { IMPLIED };
            return;
        }
        for permission in class.permissions() {
            let strength = self.strengths.entry(permission.bit).or_default();
            *strength = Strength::of(rule, permission.bit).max(*strength);
        }
        self.alarm |= rule.alarm;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bit, theirs) in &other.strengths {
            let strength = self.strengths.entry(*bit).or_default();
            *strength = (*theirs).max(*strength);
        }
        self.alarm |= other.alarm;
        self.implied |= other.implied;
    }

    /// The line of the rule that decides a permission; of one that only asks for an alarm, or of
    /// none, 0.
    pub(super) fn line(&self, bit: u32) -> u32 {
        self.strengths.get(&bit).and_then(|strength| strength.decision().line()).unwrap_or(0)
    }

    /// What is allowed, and what raises an alarm.
    pub(crate) fn masks(&self) -> (u32, u32) {
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
