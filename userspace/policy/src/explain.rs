//! Why a decision is what it is.

use serde::Serialize;
use sigil_common::abi::policy::socket;
use sigil_common::label::Label;

use crate::decide::{Decision, Outcome};
use crate::difference::Names;
use crate::model::Policy;
use crate::permission::{Class, OPEN_MASK, Permission};

/// What opening a conversation needs of the local rules.
const LOCAL: [u32; 3] = [socket::CREATE, socket::CONNECT, socket::SEND];

/// A question about one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The class to ask.
    pub class: Class,
    /// Who acts; for TRANSITION, the process before the exec; for RELABEL, the label of the socket.
    pub source: Label,
    /// On whom; for TRANSITION, its ScID is that of the program's file; for RELABEL, that of the
    /// process that uses the socket. None for local SOCKET permissions and for PROCESS.
    pub target: Option<Label>,
    /// What; none for TRANSITION and RELABEL.
    pub permission: Option<Permission>,
}

/// The answer, as `labelctl policy explain -o json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The rule that decided.
    pub rule: Option<RuleLine>,
    /// Why, in one line.
    pub reason: String,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RuleLine {
    /// From 1.
    pub line: u32,
}

impl Explanation {
    /// Whether the operation is allowed.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.verdict == "allow"
    }

    fn new(allows: bool, line: Option<u32>, reason: String) -> Self {
        let verdict = if allows { "allow" } else { "deny" };
        Self { verdict, rule: line.map(|line| RuleLine { line }), reason }
    }
}

impl Policy {
    /// Answers a question, and says which rule decided.
    #[must_use]
    pub fn explain(&self, question: Question) -> Explanation {
        let Question { class, source, target, permission } = question;
        for label in [Some(source), target].into_iter().flatten() {
            if let Some(reason) = self.stranger(label) {
                return Explanation::new(false, None, reason);
            }
        }
        if class == Class::Relabel {
            return self.explain_relabel(source, target);
        }
        let Some(permission) = permission.filter(|_| class != Class::Transition) else {
            return self.explain_transition(source, target);
        };
        let names = Names { new: self, old: None };
        let named = |label| names.label(label);
        let what = match target {
            Some(target) => {
                format!("{} from {} to {}", permission.name, named(source), named(target))
            }
            None => format!("{} for {}", permission.name, named(source)),
        };
        let none = format!("no rule of class {class} grants {what}");
        match (class, target) {
            (Class::Socket, Some(target)) if permission.bit & OPEN_MASK != 0 => {
                let local = LOCAL.map(|bit| self.local(source, bit).decision);
                let denial = local.into_iter().find(|one| matches!(one, Decision::Deny(_)));
                match denial {
                    Some(denial) if self.open(source, target).decision.allows() => {
                        let line = denial.line();
                        let reason = format!(
                            "denied by {}: {} may not use sockets so at all",
                            self.rule_at(line),
                            named(source)
                        );
                        Explanation::new(false, line, reason)
                    }
                    // What is sent may yet be refused where it arrives.
                    None if self.node(target.snid).is_some()
                        && self.open(source, target).decision.allows()
                        && !self.receive(source, target).decision.allows() =>
                    {
                        self.answer(self.receive(source, target), &what, &none)
                    }
                    _ => self.answer(self.open(source, target), &what, &none),
                }
            }
            (Class::Socket, Some(_)) => {
                let reason =
                    format!("{} is a local permission: ask without a target", permission.name);
                Explanation::new(false, None, reason)
            }
            (Class::Socket, None) => self.answer(self.local(source, permission.bit), &what, &none),
            (Class::Network, Some(target)) => {
                let none = format!(
                    "no rule of class NETWORK or SOCKET admits packets from {} to {}",
                    named(source),
                    named(target)
                );
                self.answer(self.receive(source, target), &what, &none)
            }
            (Class::Network, None) => Explanation::new(
                false,
                None,
                "class NETWORK is about a source and a target: name both".to_owned(),
            ),
            (Class::Process | Class::Transition | Class::Relabel, _) => {
                self.answer(self.process(source, permission.bit), &what, &none)
            }
        }
    }

    fn answer(&self, outcome: Outcome, what: &str, none: &str) -> Explanation {
        let line = outcome.decision.line();
        let alarm = if outcome.alarm { "; it raises an alarm" } else { "" };
        match outcome.decision {
            Decision::Allow(_) => Explanation::new(
                true,
                line,
                format!("{what} is allowed by {}{alarm}", self.rule_at(line)),
            ),
            Decision::Deny(_) => Explanation::new(
                false,
                line,
                format!("{what} is denied by {}{alarm}", self.rule_at(line)),
            ),
            Decision::NoRule => Explanation::new(false, None, format!("{none}{alarm}")),
        }
    }

    fn explain_transition(&self, source: Label, target: Option<Label>) -> Explanation {
        let Some(binary) = target else {
            let reason =
                "class TRANSITION is about a process and a program's file: name both".to_owned();
            return Explanation::new(false, None, reason);
        };
        let Some(rule) = self.transition(source.scid, binary.scid) else {
            let own = source.scid == binary.scid;
            let outcome = if own { "it stays in its zone" } else { "the exec is refused" };
            let reason = format!(
                "no rule of class TRANSITION covers parent {} and binary {}: {outcome}",
                source.scid, binary.scid
            );
            return Explanation::new(own, None, reason);
        };
        let reason = format!(
            "a process of {} that executes a file of {} becomes {}",
            self.zone_text(source.scid),
            self.zone_text(binary.scid),
            self.zone_text(rule.new)
        );
        Explanation::new(true, Some(rule.line), reason)
    }

    fn explain_relabel(&self, socket: Label, user: Option<Label>) -> Explanation {
        let Some(user) = user.filter(|user| user.snid == socket.snid) else {
            let reason = "class RELABEL is about a socket and a process of its node: name both";
            return Explanation::new(false, None, reason.to_owned());
        };
        let (owner, by) = (self.zone_text(socket.scid), self.zone_text(user.scid));
        if socket.scid == user.scid {
            let reason = format!("a socket of {owner} is its processes' own");
            return Explanation::new(true, None, reason);
        }
        let Some(rule) = self.relabel(socket.scid, user.scid) else {
            let reason = format!(
                "no rule of class RELABEL hands sockets of {owner} to {by}: their use is refused"
            );
            return Explanation::new(false, None, reason);
        };
        let line = Some(rule.line);
        if !self.local(user, socket::CREATE).decision.allows() {
            let reason = format!("{by} may have no sockets: no rule of class SOCKET grants CREATE");
            return Explanation::new(false, line, reason);
        }
        let reason = format!("a socket of {owner} that a process of {by} uses becomes {by}");
        Explanation::new(true, line, reason)
    }

    /// Why nothing can have this label, if so.
    fn stranger(&self, label: Label) -> Option<String> {
        if self.exists(label) {
            return None;
        }
        let host = self.perimeter.iter().find(|host| host.label.snid == label.snid);
        Some(match (self.node(label.snid), host) {
            (Some(node), _) if label.scid == self.kernel_scid() => {
                format!(
                    "{label} does not exist: the kernel of SnID {} has ScID {}",
                    node.snid, node.kernel_scid
                )
            }
            (Some(_), _) => format!("{label} does not exist: no zone {} is declared", label.scid),
            (None, Some(host)) => {
                format!(
                    "{label} does not exist: the perimeter host {} has ScID {}",
                    label.snid, host.label.scid
                )
            }
            (None, None) => format!("{label} does not exist: no node {} is declared", label.snid),
        })
    }

    fn rule_at(&self, line: Option<u32>) -> String {
        let class = self
            .rules
            .iter()
            .find(|rule| Some(rule.line) == line)
            .map_or("", |rule| rule.class.name());
        format!("the {class} rule at line {}", line.unwrap_or(0))
    }

    fn zone_text(&self, scid: u32) -> String {
        match self.zone(scid) {
            Some(zone) if zone.name != scid.to_string() => format!("{scid} ({})", zone.name),
            _ => scid.to_string(),
        }
    }
}
