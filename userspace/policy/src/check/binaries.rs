//! What is odd about labels on files; nothing of it stops a document.

use std::collections::HashSet;

use crate::diagnostic::{Diagnostic, Findings};
use crate::model::{ANY, Policy};

pub(super) fn check(policy: &Policy, found: &mut Findings) {
    revoked_signers(policy, found);
    overruled(policy, found);
    signed_code_of_nobody(policy, found);
    if policy.signers.is_empty() {
        if let Some(one) = policy.unsigned.first() {
            let message = "no signer is declared, so that every file is unsigned";
            let hint =
                "declare one: <signer><name> … </name><key> … </key><ScID> * </ScID></signer>";
            found.push(Diagnostic::warning("dsp::unsigned", one.span, message).hint(hint));
        }
        return;
    }
    // The zones that say nothing.
    let open = policy.zones.iter().find(|zone| policy.unsigned_for(zone.scid).is_none());
    if let (Some(zone), Some(signer)) = (open, policy.signers.first()) {
        let message = format!(
            "nothing says what unsigned files count as for `{}`: its processes execute any and stay in their zone",
            zone.name
        );
        let hint = "refuse them, <unsigned><deny> EXECVE </deny></unsigned>, or name a zone for them in <binaryScID>";
        found.push(Diagnostic::warning("dsp::unsigned", signer.span, message).hint(hint));
    }
}

fn revoked_signers(policy: &Policy, found: &mut Findings) {
    for signer in &policy.signers {
        if policy.revoked_keys.binary_search(&signer.key).is_ok() {
            let message =
                format!("the key of `{}` is revoked: no label of theirs counts", signer.name);
            found.push(
                Diagnostic::warning("dsp::revoked-signer", signer.span, message).hint(
                    "delete the <signer>; keep the <revoked>, so that nobody puts the key back",
                ),
            );
        }
    }
}

fn signed_code_of_nobody(policy: &Policy, found: &mut Findings) {
    let strict = policy.zones.iter().find(|zone| zone.signed_code);
    if let Some(zone) = strict.filter(|_| policy.signers.is_empty()) {
        let message = format!(
            "`{}` demands signed code and no signer is declared: nothing runs there",
            zone.name
        );
        let hint = "declare one: <signer><name> … </name><key> … </key><ScID> * </ScID></signer>";
        found.push(Diagnostic::warning("dsp::code", zone.span, message).hint(hint));
    }
}

fn overruled(policy: &Policy, found: &mut Findings) {
    let named: HashSet<u32> = policy.unsigned.iter().map(|one| one.parent).collect();
    let Some(any) = policy.unsigned.iter().find(|one| one.parent == ANY) else { return };
    if policy.zones.iter().all(|zone| named.contains(&zone.scid)) {
        let message = "this <unsigned> decides nothing: others decide for every zone";
        found.push(Diagnostic::warning("dsp::overruled", any.span, message).hint("delete it"));
    }
}
