//! Names to ids, texts to numbers: a [`Document`] becomes a [`Policy`].
//!
//! Declarations first, then what refers to them, so their order in the document does not matter.

mod binaries;
mod hosts;
mod ids;
mod rules;
mod words;
mod zones;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::Ipv4Addr;

use sigil_common::label::KERNEL_SCID;

use crate::diagnostic::{Diagnostic, Findings, Source, Span};
use crate::model::{KERNEL, Policy};
use crate::parse::{Document, Element, Kind, Text};
use ids::{Also, Ids};
use words::{bad_name, bad_number, decimal, is_name};

/// The policy; some of it may be missing, but then an error was found.
pub(crate) fn resolve(
    document: &Document<'_>,
    source: &Source,
    in_force: Option<u64>,
    found: &mut Findings,
) -> Policy {
    let mut resolver = Resolver {
        source,
        found,
        nodes: Ids::new("SnID", "node"),
        zones: Ids::new("ScID", "zone"),
        addresses: HashMap::new(),
    };
    let mut policy = Policy {
        cluster: resolver.cluster(document.cluster),
        serial: resolver.serial(document.serial, in_force),
        ..Policy::default()
    };
    resolver.zones(document, &mut policy);
    resolver.nodes(document, &mut policy);
    resolver.perimeter(document, &mut policy);
    resolver.pairs(document, &mut policy);
    resolver.ports(document, &mut policy);
    resolver.rules(document, &mut policy);
    resolver.signers(document, &mut policy);
    resolver.revocations(document, &mut policy);
    resolver.unsigned(document, &mut policy);
    policy
}

struct Resolver<'s, 'f, 'd> {
    source: &'s Source,
    found: &'f mut Findings,
    nodes: Ids<'d>,
    zones: Ids<'d>,
    /// Whose each address is.
    addresses: HashMap<Ipv4Addr, Span>,
}

impl<'d> Resolver<'_, '_, 'd> {
    fn cluster(&mut self, text: Option<Text<'d>>) -> String {
        let Some(text) = text else { return String::new() };
        if !is_name(text.text) {
            self.found.push(bad_name(text));
        }
        text.text.to_owned()
    }

    fn serial(&mut self, text: Option<Text<'d>>, in_force: Option<u64>) -> u64 {
        let Some(text) = text else { return 0 };
        let Some(serial) = self.number(text, "a serial", u64::MAX) else { return 0 };
        if let Some(in_force) = in_force.filter(|in_force| serial <= *in_force) {
            let message =
                format!("serial {serial} is not above {in_force}, the highest put in force so far");
            let hint = format!(r#"set serial="{}""#, in_force.saturating_add(1));
            self.found.push(Diagnostic::error("dsp::serial", text.span, message).hint(hint));
        }
        serial
    }

    /// The id of a node or of a perimeter host.
    fn snid(&mut self, text: Text<'d>, also: Also) -> Option<u32> {
        self.nodes.find(text, also, None, self.found)
    }

    /// The id of a zone.
    fn scid(&mut self, text: Text<'d>, also: Also) -> Option<u32> {
        let kernel = self.zones.names.get(KERNEL).and_then(|(id, _)| *id).unwrap_or(KERNEL_SCID);
        let id = self.zones.find(text, also, Some(kernel), self.found)?;
        if also == Also::Nothing && !self.zones.declared.contains_key(&id) {
            let message = format!(
                "the predeclared zone `{KERNEL}` is what kernels send; nothing else may have it"
            );
            let hint = "name a zone that the document declares";
            self.found.push(Diagnostic::error("dsp::kernel", text.span, message).hint(hint));
            return None;
        }
        Some(id)
    }

    fn id(&mut self, text: Text<'d>, what: &str) -> Option<u32> {
        let id = self.number(text, what, u64::from(u32::MAX))?;
        u32::try_from(id).ok()
    }

    /// A number from 1 to `most`.
    fn number(&mut self, text: Text<'d>, what: &str, most: u64) -> Option<u64> {
        match decimal(text.text) {
            Some(number) if (1..=most).contains(&number) => Some(number),
            parsed => {
                self.found.push(bad_number(text, parsed, what, most));
                None
            }
        }
    }
}

/// Whether nothing of this key came before; what comes again is reported.
fn once<K: Eq + Hash>(
    found: &mut Findings,
    taken: &mut HashMap<K, Span>,
    key: K,
    at: Span,
    what: impl FnOnce(&K) -> String,
) -> bool {
    match taken.entry(key) {
        Entry::Vacant(free) => {
            free.insert(at);
            true
        }
        Entry::Occupied(first) => {
            found.push(duplicate(&what(first.key()), at, *first.get()));
            false
        }
    }
}

fn duplicate(what: &str, at: Span, first: Span) -> Diagnostic {
    Diagnostic::error("dsp::duplicate", at, format!("{what} is declared twice"))
        .here("again here")
        .also(first, "first here")
        .hint("delete one, or change it")
}

fn of<'x, 'd>(document: &'x Document<'d>, kind: Kind) -> impl Iterator<Item = &'x Element<'d>> {
    document.elements.iter().filter(move |element| element.shape.kind == kind)
}
