//! Zones, and how what goes between them is protected.

use std::collections::HashMap;

use sigil_common::label::KERNEL_SCID;

use super::ids::Also;
use super::words::shown;
use super::{Resolver, of, once};
use crate::diagnostic::{Diagnostic, Span};
use crate::model::{KERNEL, Policy, Protection, Zone};
use crate::parse::{Document, Kind, Text};
use crate::suggest::closest;

impl<'d> Resolver<'_, '_, 'd> {
    pub(super) fn zones(&mut self, document: &Document<'d>, policy: &mut Policy) {
        for element in of(document, Kind::Zone) {
            let scid =
                element.one("ScID").and_then(|text| Some((self.id(text, "a ScID")?, text.span)));
            let scid = scid.and_then(|(id, at)| self.zones.declare(id, at, self.found));
            self.zones.name(element.one("name"), scid, self.found);
            let protection = element.one("protection").map(|text| self.protection(text));
            let signed_code = element.one("code").is_some_and(|text| self.signed_code(text));
            let Some(scid) = scid else { continue };
            let name =
                element.one("name").map_or_else(|| scid.to_string(), |name| name.text.to_owned());
            let protection = protection.unwrap_or_default();
            policy.zones.push(Zone { scid, name, protection, signed_code, span: element.span });
        }
        policy.zones.sort_by_key(|zone| zone.scid);
        if self.zones.names.contains_key(KERNEL) {
            return;
        }
        if let Some(span) = self.zones.declared.get(&KERNEL_SCID) {
            let message = format!("ScID {KERNEL_SCID} belongs to the predeclared zone `{KERNEL}`");
            let hint = format!("choose another ScID, or name this zone `{KERNEL}`");
            self.found.push(Diagnostic::error("dsp::duplicate", *span, message).hint(hint));
        }
        self.zones.names.insert(KERNEL, (Some(KERNEL_SCID), Span::default()));
    }

    pub(super) fn pairs(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut taken: HashMap<(u32, u32), Span> = HashMap::new();
        for element in of(document, Kind::Pair) {
            let ids: Vec<u32> =
                element.all("ScID").filter_map(|text| self.scid(text, Also::Implicit)).collect();
            let protection = element.one("protection").map(|text| self.protection(text));
            let (&[a, b], Some(protection)) = (ids.as_slice(), protection) else { continue };
            let pair = (a.min(b), a.max(b));
            let what = |_: &_| format!("the pair of zones {} and {}", pair.0, pair.1);
            if once(self.found, &mut taken, pair, element.span, what) {
                policy.pairs.insert(pair, protection);
            }
        }
    }

    fn protection(&mut self, text: Text<'d>) -> Protection {
        if let Some(protection) = Protection::ALL.into_iter().find(|one| one.name() == text.text) {
            return protection;
        }
        let diagnostic = if text.text == "encrypt" {
            Diagnostic::error("dsp::encrypt", text.span, "`encrypt` needs a tunnel below, and none is there")
                .hint("use `integrity`, or run the cluster's network over WireGuard or IPsec and keep `integrity`")
        } else {
            let names = Protection::ALL.map(Protection::name);
            let hint = closest(text.text, names).map_or_else(
                || format!("there are: {}", names.join(", ")),
                |close| format!("did you mean `{close}`?"),
            );
            let message = format!("there is no protection `{}`", shown(text.text));
            Diagnostic::error("dsp::protection", text.span, message).hint(hint)
        };
        self.found.push(diagnostic);
        Protection::default()
    }
}
