//! What is declared under which id and name, and what refers to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::words::{bad_name, bad_number, decimal, is_name};
use super::{duplicate, once};
use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::model::ANY;
use crate::parse::Text;
use crate::suggest::closest;

/// The ids of one kind, and their names.
pub(super) struct Ids<'d> {
    /// `SnID` or `ScID`.
    what: &'static str,
    /// The element that declares one.
    element: &'static str,
    /// Where each id was declared.
    pub(super) declared: HashMap<u32, Span>,
    /// What each name stands for; nothing when its declaration was wrong, and reported.
    pub(super) names: HashMap<&'d str, (Option<u32>, Span)>,
}

/// What a reference may be besides the id or the name of something declared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Also {
    /// Nothing.
    Nothing,
    /// The predeclared kernel zone or a perimeter host.
    Implicit,
    /// That, and `*`.
    Any,
}

impl<'d> Ids<'d> {
    pub(super) fn new(what: &'static str, element: &'static str) -> Self {
        Self { what, element, declared: HashMap::new(), names: HashMap::new() }
    }

    /// The id, if it is the first of its number.
    pub(super) fn declare(&mut self, id: u32, at: Span, found: &mut Findings) -> Option<u32> {
        once(found, &mut self.declared, id, at, |id| format!("{} {id}", self.what)).then_some(id)
    }

    pub(super) fn name(&mut self, name: Option<Text<'d>>, id: Option<u32>, found: &mut Findings) {
        let Some(name) = name else { return };
        if !is_name(name.text) {
            found.push(bad_name(name));
            return;
        }
        match self.names.entry(name.text) {
            Entry::Vacant(free) => {
                free.insert((id, name.span));
            }
            Entry::Occupied(first) => {
                let what = format!("the {} name `{}`", self.element, name.text);
                found.push(duplicate(&what, name.span, first.get().1));
            }
        }
    }

    /// The id that a reference means.
    pub(super) fn find(
        &self,
        text: Text<'_>,
        also: Also,
        implicit: Option<u32>,
        found: &mut Findings,
    ) -> Option<u32> {
        let (word, what) = (text.text, self.what);
        if word == "*" {
            if also == Also::Any {
                return Some(ANY);
            }
            let message = format!("`*` cannot stand here: this needs one {what}");
            let hint = "write the element again for each";
            found.push(Diagnostic::error("dsp::wildcard", text.span, message).hint(hint));
            return None;
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let id = match decimal(word) {
                Some(id) if (1..=u64::from(u32::MAX)).contains(&id) => u32::try_from(id).ok()?,
                parsed => {
                    let most = u64::from(u32::MAX);
                    found.push(bad_number(text, parsed, &format!("the {what}"), most));
                    return None;
                }
            };
            if self.declared.contains_key(&id) || implicit == Some(id) {
                return Some(id);
            }
        } else if !is_name(word) {
            found.push(bad_name(text));
            return None;
        } else if let Some((id, _)) = self.names.get(word) {
            return *id;
        }
        found.error(|| self.undeclared(text));
        None
    }

    fn undeclared(&self, text: Text<'_>) -> Diagnostic {
        let (word, what, element) = (text.text, self.what, self.element);
        let example = if word.starts_with(|c: char| c.is_ascii_digit()) { word } else { "…" };
        // A node has more than its id and its name.
        let rest = if element == "node" { " … " } else { "<name> … </name>" };
        let hint = match closest(word, self.names.keys().copied()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => {
                format!("declare it: <{element}><{what}> {example} </{what}>{rest}</{element}>")
            }
        };
        let message = format!("no {element} `{word}` is declared");
        Diagnostic::error("dsp::undeclared", text.span, message).hint(hint)
    }
}
