//! The rules about fork and exec, for the gate's answers: the kernel's programs decide alike.

use std::collections::{BTreeMap, BTreeSet};

use sigil_binary::Trust;
use sigil_common::abi::process::{ProcessRule, TransitionKey};
use sigil_common::decide::Refusal;
use sigil_common::decide::process::{Exec, code, exec};
use sigil_policy::NodeRules;

/// What the policy in force says of this node's processes.
#[derive(Debug, Default)]
pub(crate) struct ExecRules {
    /// Whose signatures count.
    pub(crate) trust: Trust,
    default_scid: u32,
    governed: bool,
    zones: Vec<u32>,
    processes: BTreeMap<u32, ProcessRule>,
    transitions: BTreeMap<TransitionKey, u32>,
    /// The zones whose processes run signed code alone.
    signed_code: BTreeSet<u32>,
    /// The node sees all that becomes code.
    kept: bool,
}

impl ExecRules {
    pub(crate) fn of(rules: &NodeRules, kept: bool) -> Self {
        let process = |entry: &sigil_policy::ProcessEntry| ProcessRule {
            allow: entry.allow,
            alarm: entry.alarm,
            fork_line: entry.fork_line,
            execve_line: entry.execve_line,
            demand: entry.demand,
        };
        Self {
            trust: Trust::of_rules(rules),
            default_scid: rules.default_scid,
            governed: rules.governs_processes,
            zones: rules.zones.iter().map(|zone| zone.scid).collect(),
            processes: rules.processes.iter().map(|(scid, of)| (*scid, process(of))).collect(),
            transitions: rules.execs(),
            signed_code: rules.signed_code_zones().collect(),
            kept,
        }
    }

    /// The ScID that a process of `parent` has once it runs a program of `binary`.
    pub(crate) fn exec(&self, parent: u32, binary: u32) -> Result<u32, Refusal> {
        let effective = if parent == 0 { self.default_scid } else { parent };
        let key = TransitionKey { parent: effective, binary };
        let facts = Exec {
            parent,
            binary,
            decided: self.transitions.contains_key(&key),
            transition: self.transitions.get(&key).copied().unwrap_or(0),
            governed: self.governed,
        };
        let (scid, _alarm) = exec(&facts, self.processes.get(&parent))?;
        // What runs a script is asked about where the exec commits.
        code(self.processes.get(&scid), binary != 0, self.kept)?;
        Ok(scid)
    }

    /// Whether a zone's processes run signed code alone.
    pub(crate) fn demands_signed_code(&self, scid: u32) -> bool {
        self.signed_code.contains(&scid)
    }

    /// Whether files matter that are code and no programs.
    pub(crate) fn needs_libraries(&self) -> bool {
        self.kept && !self.signed_code.is_empty()
    }

    /// Whether nobody is refused a program of `binary`: then nobody needs to be asked for.
    pub(crate) fn anybody_may(&self, binary: u32) -> bool {
        self.zones.iter().all(|zone| self.exec(*zone, binary).is_ok())
    }

    /// Whether a program's file matters at all.
    pub(crate) fn needs_files(&self) -> bool {
        !self.transitions.is_empty()
    }
}
