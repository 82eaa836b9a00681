//! The four classes of rules, and RELABEL.

use std::collections::HashMap;

use super::ids::Also;
use super::words::shown;
use super::{Resolver, once};
use crate::diagnostic::{Diagnostic, Span};
use crate::model::{Pattern, Policy, Relabel, Rule, Transition};
use crate::parse::{Document, Element, Kind, Text};
use crate::permission::Class;
use crate::suggest::closest;

/// Owners and users of RELABEL rules, and where they stand.
type Relabels = HashMap<(u32, u32), Span>;

impl<'d> Resolver<'_, '_, 'd> {
    pub(super) fn rules(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut relabels = Relabels::new();
        for element in &document.elements {
            match element.shape.kind {
                Kind::Rule(Class::Transition) => {
                    policy.transitions.extend(self.transition(element));
                }
                Kind::Rule(Class::Relabel) => {
                    policy.relabels.extend(self.relabel(element, &mut relabels));
                }
                Kind::Rule(class) => policy.rules.extend(self.rule(class, element)),
                _ => {}
            }
        }
    }

    fn rule(&mut self, class: Class, element: &Element<'d>) -> Option<Rule> {
        let line = self.source.line(element.span.start);
        let source = self.pattern(element.one("sSnID"), element.one("sScID"));
        let (snid, scid) = (element.one("tSnID"), element.one("tScID"));
        let target = if snid.is_some() || scid.is_some() {
            if class == Class::Socket && (snid.is_none() || scid.is_none()) {
                let missing = if snid.is_none() { "tSnID" } else { "tScID" };
                self.found.push(
                    Diagnostic::error(
                        "dsp::missing-element",
                        element.span,
                        format!("this target has no <{missing}>"),
                    )
                    .hint(format!(
                        "add <{missing}> * </{missing}>, or delete the target for local permissions"
                    )),
                );
            }
            Some(self.pattern(snid, scid))
        } else {
            None
        };
        let masks = ["allow", "deny", "alarm"]
            .map(|list| element.one(list).map(|text| self.permissions(class, text)));
        if masks.iter().all(Option::is_none) {
            let message = format!("this {class} rule has neither <allow> nor <deny> nor <alarm>");
            let hint = format!(
                "add <allow> {} </allow>",
                class.permissions().first().map_or("", |one| one.name)
            );
            self.found
                .push(Diagnostic::error("dsp::missing-element", element.span, message).hint(hint));
        }
        let [allow, deny, alarm] = masks.map(Option::unwrap_or_default);
        if allow & deny != 0 {
            let names = class.names(allow & deny).join(", ");
            let (allows, denies) = (element.one("allow"), element.one("deny"));
            self.found.push(
                Diagnostic::error(
                    "dsp::contradiction",
                    denies.map_or(element.span, |text| text.span),
                    format!("this rule both allows and denies {names}"),
                )
                .here("denied here")
                .also(allows.map_or(element.span, |text| text.span), "allowed here")
                .hint("delete one of them"),
            );
        }
        let target = match target {
            Some(target) => Some(target?),
            None => None,
        };
        Some(Rule { class, source: source?, target, allow, deny, alarm, line, span: element.span })
    }

    fn transition(&mut self, element: &Element<'d>) -> Option<Transition> {
        let parent = element.one("parentScID").and_then(|text| self.scid(text, Also::Any));
        let binary = element.one("binaryScID").and_then(|text| self.scid(text, Also::Any));
        let new = element.one("newScID").and_then(|text| self.scid(text, Also::Nothing));
        let line = self.source.line(element.span.start);
        Some(Transition { parent: parent?, binary: binary?, new: new?, line, span: element.span })
    }

    /// Whose sockets become whose is said zone by zone: `*` would give sockets away unseen.
    fn relabel(&mut self, element: &Element<'d>, taken: &mut Relabels) -> Option<Relabel> {
        let owner = element.one("ownerScID").and_then(|text| self.scid(text, Also::Nothing));
        let user = element.one("userScID").and_then(|text| self.scid(text, Also::Nothing));
        let (owner, user) = (owner?, user?);
        if owner == user {
            let message = "a zone's sockets are its own already";
            let hint = "name two zones, or delete the rule";
            self.found.push(Diagnostic::error("dsp::relabel", element.span, message).hint(hint));
            return None;
        }
        let what =
            |_: &_| format!("what becomes of sockets of ScID {owner} in the hands of {user}");
        if !once(self.found, taken, (owner, user), element.span, what) {
            return None;
        }
        let line = self.source.line(element.span.start);
        Some(Relabel { owner, user, line, span: element.span })
    }

    fn pattern(&mut self, snid: Option<Text<'d>>, scid: Option<Text<'d>>) -> Option<Pattern> {
        let snid = snid.and_then(|text| self.snid(text, Also::Any));
        let scid = scid.and_then(|text| self.scid(text, Also::Any));
        Some(Pattern { snid: snid?, scid: scid? })
    }

    pub(super) fn permissions(&mut self, class: Class, list: Text<'d>) -> u32 {
        let mut mask = 0;
        let mut at = list.span.start as usize;
        for word in list.text.split(|c: char| c == ',' || c.is_ascii_whitespace()) {
            let span = Span::new(at, at + word.len());
            at += word.len() + 1;
            if word.is_empty() {
                continue;
            }
            if let Some(permission) = class.permission(word) {
                mask |= permission.bit;
                continue;
            }
            self.found.error(|| {
                let names = class.permissions().iter().map(|permission| permission.name);
                let hint = match closest(word, names.clone()) {
                    Some(close) => format!("did you mean {close}?"),
                    None => format!("class {class} has: {}", names.collect::<Vec<_>>().join(" ")),
                };
                let message = format!("class {class} has no permission `{}`", shown(word));
                Diagnostic::error("dsp::permission", span, message).hint(hint)
            });
        }
        if list.text.is_empty() {
            let hint = format!("class {class} has: {}", class.names(u32::MAX).join(" "));
            self.found.push(
                Diagnostic::error("dsp::permission", list.span, "this list is empty").hint(hint),
            );
        }
        mask
    }
}
