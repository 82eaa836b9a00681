//! Labels on files: who signs, what is revoked, what an unsigned file counts as.

use std::collections::HashMap;

use sigil_common::abi::policy::process::EXECVE;

use super::ids::Also;
use super::words::{bad_name, is_name, shown};
use super::{Resolver, of, once};
use crate::diagnostic::{Diagnostic, Span};
use crate::key::{PublicKeyError, bytes, public_key};
use crate::model::{ANY, Policy, Signer, Unsigned};
use crate::parse::{Document, Kind, Text};
use crate::permission::Class;

impl<'d> Resolver<'_, '_, 'd> {
    pub(super) fn signers(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut names: HashMap<&str, Span> = HashMap::new();
        let mut keys: HashMap<[u8; 32], Span> = HashMap::new();
        for element in of(document, Kind::Signer) {
            let name = element.one("name").filter(|name| self.signer_name(*name, &mut names));
            let key = element.one("key").and_then(|text| Some((self.key(text)?, text.span)));
            let mut scids: Vec<u32> =
                element.all("ScID").filter_map(|text| self.signed_scid(text)).collect();
            scids.sort_unstable();
            scids.dedup();
            // `*` covers all the others.
            if scids.first() == Some(&ANY) {
                scids.truncate(1);
            }
            let least = element
                .one("serial")
                .map_or(Some(0), |text| self.number(text, "a serial", u64::MAX));
            let (Some(name), Some((key, span)), Some(least_serial)) = (name, key, least) else {
                continue;
            };
            if once(self.found, &mut keys, key, span, |_| "this key".to_owned()) {
                let (name, span) = (name.text.to_owned(), element.span);
                policy.signers.push(Signer { name, key, scids, least_serial, span });
            }
        }
        policy.signers.sort_by_key(|signer| signer.key);
    }

    fn signer_name(&mut self, name: Text<'d>, names: &mut HashMap<&'d str, Span>) -> bool {
        if !is_name(name.text) {
            self.found.push(bad_name(name));
            return false;
        }
        let what = |name: &&str| format!("the signer name `{name}`");
        once(self.found, names, name.text, name.span, what)
    }

    /// What a zone's `<code>` says.
    pub(super) fn signed_code(&mut self, text: Text<'d>) -> bool {
        match text.text {
            "signed" => true,
            "any" => false,
            other => {
                let message = format!("there is no demand `{}` on code", shown(other));
                let hint = "there are: any (the default), signed";
                self.found.push(Diagnostic::error("dsp::code", text.span, message).hint(hint));
                true
            }
        }
    }

    fn signed_scid(&mut self, text: Text<'d>) -> Option<u32> {
        if text.text == "*" { Some(ANY) } else { self.scid(text, Also::Nothing) }
    }

    pub(super) fn revocations(&mut self, document: &Document<'d>, policy: &mut Policy) {
        for element in of(document, Kind::Revoked) {
            let (key, signature) = (element.one("key"), element.one("signature"));
            if key.is_none() && signature.is_none() {
                let message = "this <revoked> names neither a <key> nor a <signature>";
                let hint = "add the <key> of a signer, or the <signature> that labelctl binary show prints";
                self.found.push(
                    Diagnostic::error("dsp::missing-element", element.span, message).hint(hint),
                );
            }
            policy.revoked_keys.extend(key.and_then(|text| self.key(text)));
            policy.revoked_signatures.extend(signature.and_then(|text| self.signature(text)));
        }
        for list in [&mut policy.revoked_keys, &mut policy.revoked_signatures] {
            list.sort_unstable();
            list.dedup();
        }
    }

    pub(super) fn unsigned(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut parents: HashMap<u32, Span> = HashMap::new();
        for element in of(document, Kind::Unsigned) {
            let parent =
                element.one("parentScID").map_or(Some(ANY), |text| self.scid(text, Also::Any));
            let (binary, deny) = (element.one("binaryScID"), element.one("deny"));
            let binary = match (binary, deny) {
                (Some(binary), None) => self.scid(binary, Also::Nothing),
                (None, Some(deny)) => self.refusal(deny),
                _ => {
                    let message = "an <unsigned> has either a <binaryScID> or a <deny>";
                    let hint = "name the zone that unsigned files count as, or refuse them: <deny> EXECVE </deny>";
                    self.found
                        .push(Diagnostic::error("dsp::unsigned", element.span, message).hint(hint));
                    None
                }
            };
            let (Some(parent), Some(binary)) = (parent, binary) else { continue };
            let what = |parent: &u32| match *parent {
                ANY => "what unsigned files count as for `*`".to_owned(),
                parent => format!("what unsigned files count as for ScID {parent}"),
            };
            if once(self.found, &mut parents, parent, element.span, what) {
                policy.unsigned.push(Unsigned { parent, binary, span: element.span });
            }
        }
    }

    /// 0, for a list of EXECVE alone.
    fn refusal(&mut self, deny: Text<'d>) -> Option<u32> {
        let mask = self.permissions(Class::Process, deny);
        if mask & !EXECVE != 0 {
            let message = "an unsigned file can be denied EXECVE alone";
            self.found.push(
                Diagnostic::error("dsp::unsigned", deny.span, message)
                    .hint("write <deny> EXECVE </deny>; PROCESS rules deny the rest"),
            );
        }
        (mask == EXECVE).then_some(0)
    }

    fn key(&mut self, text: Text<'d>) -> Option<[u8; 32]> {
        let diagnostic = match public_key(text.text) {
            Ok(key) => return Some(key),
            Err(weak @ PublicKeyError::Weak) => {
                Diagnostic::error("dsp::key", text.span, weak.to_string())
                    .hint("make a key: labelctl binary keygen --out FILE")
            }
            Err(form) => {
                let message = format!("`{}` is no Ed25519 public key", shown(text.text));
                Diagnostic::error("dsp::key", text.span, message).hint(form.to_string())
            }
        };
        self.found.push(diagnostic);
        None
    }

    fn signature(&mut self, text: Text<'d>) -> Option<[u8; 32]> {
        let id = bytes(text.text);
        if id.is_none() {
            let message = format!("`{}` names no signature", shown(text.text));
            self.found.push(Diagnostic::error("dsp::signature", text.span, message).hint(
                "write the 64 hexadecimal digits that labelctl binary show prints as `signature`",
            ));
        }
        id
    }
}
