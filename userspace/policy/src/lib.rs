//! The compiler of the distributed security policy (DSP).
//!
//! ```text
//! bytes ─ scan ─ parse ─ resolve ─ check ─▶ Policy ─ lower ─▶ NodeRules (what one node loads)
//!   └──────── diagnostics with line, column and hint   └─ decide, explain (the reference)
//! ```
//!
//! Pure: no I/O, no clock, no privilege. [`compile`] takes a document's bytes and gives a [`Policy`]
//! or every error it found; [`Policy::rules_for`] lowers it to one node's sorted maps; the
//! reference decisions ([`Policy::open`], [`Policy::receive`]) read the rules one by one, and the
//! tests hold the maps against them. Callers: `sigild`, `sigil-server`, `labelctl policy`.
#![expect(clippy::similar_names, reason = "SnID and ScID are the domain's own words")]

mod check;
mod decide;
mod diagnostic;
mod difference;
mod explain;
mod key;
mod lower;
mod model;
mod parse;
mod permission;
mod resolve;
mod rules;
mod scan;
mod slice;
mod suggest;

pub use decide::{Decision, Outcome};
pub use diagnostic::{Diagnostic, Report, Severity, Source, Span};
pub use difference::{Change, difference};
pub use explain::{Explanation, Question, RuleLine};
pub use key::{PublicKeyError, public_key};
pub use lower::LowerError;
pub use model::{
    ANY, Node, Pattern, Perimeter, Policy, Port, Protection, Protocol, Relabel, Rule, Signer,
    Transition, Unsigned, Zone,
};
pub use permission::{Class, Permission};
pub use rules::{
    NodeEntry, NodeRules, PeerEntry, PerimeterEntry, PortKey, ProcessEntry, RelabelEntry,
    SignerEntry, SocketEntry, TransitionKey, UnsignedEntry, VerdictEntry, VerdictKey, ZoneEntry,
};
pub use scan::{MAX_BYTES, MAX_DEPTH};
pub use slice::Slicer;
pub use suggest::instead;

/// The schema of the document, for editors and `xmllint --schema`.
pub const XSD: &str = include_str!("../dsp.xsd");

/// A policy without errors, and the warnings about it.
#[derive(Debug)]
pub struct Compiled {
    /// What the document says.
    pub policy: Policy,
    /// Rules that can never match and the like.
    pub warnings: Report,
}

/// Compiles a document: `name` is what diagnostics call it, `in_force` the serial it must exceed.
///
/// # Errors
/// Every error found in the document, and the warnings beside them, in the order of their lines.
pub fn compile(name: &str, bytes: &[u8], in_force: Option<u64>) -> Result<Compiled, Report> {
    let source = Source::new(name, bytes);
    let mut found = diagnostic::Findings::default();
    let policy = scan::scan(bytes, &mut found)
        .and_then(|text| parse::parse(text, &mut found))
        .map(|document| resolve::resolve(&document, &source, in_force, &mut found));
    if let Some(policy) = &policy {
        check::check(policy, &mut found);
    }
    let failed = found.has_errors();
    let report = found.into_report(&source);
    match policy {
        Some(policy) if !failed => Ok(Compiled { policy, warnings: report }),
        _ => Err(report),
    }
}
