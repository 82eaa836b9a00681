//! Whose signatures count, and for what.

use std::collections::{BTreeMap, BTreeSet};

use sigil_policy::{NodeRules, SignerEntry};

use crate::record::{KeyId, Record, SignatureId};
use crate::unsigned::Unsigned;

/// The zones that a signer speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scids {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<u32>),
}

/// Somebody whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The Ed25519 public key.
    pub key: [u8; 32],
    /// What its labels may say.
    pub scids: Scids,
    /// Labels with a lower serial count no more.
    pub least_serial: u64,
}

/// Whose signatures count. The default trusts nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    signers: BTreeMap<KeyId, Signer>,
    revoked_keys: BTreeSet<KeyId>,
    revoked_signatures: BTreeSet<SignatureId>,
}

impl Trust {
    /// These signers, but for what is revoked.
    #[must_use]
    pub fn new(
        signers: impl IntoIterator<Item = Signer>,
        revoked_keys: impl IntoIterator<Item = KeyId>,
        revoked_signatures: impl IntoIterator<Item = SignatureId>,
    ) -> Self {
        Self {
            signers: signers.into_iter().map(|one| (KeyId::of(&one.key), one)).collect(),
            revoked_keys: revoked_keys.into_iter().collect(),
            revoked_signatures: revoked_signatures.into_iter().collect(),
        }
    }

    /// Those of a policy's rows: signers, revoked public keys, revoked signatures.
    #[must_use]
    pub fn of(signers: &[SignerEntry], keys: &[[u8; 32]], signatures: &[[u8; 32]]) -> Self {
        let signer = |one: &SignerEntry| Signer {
            key: one.key,
            scids: Scids::Only(one.scids.iter().copied().collect()),
            least_serial: one.least_serial,
        };
        let signatures = signatures.iter().map(|id| SignatureId(*id));
        Self::new(signers.iter().map(signer), keys.iter().map(KeyId::of), signatures)
    }

    /// Those of a node's rules.
    #[must_use]
    pub fn of_rules(rules: &NodeRules) -> Self {
        Self::of(&rules.signers, &rules.revoked_keys, &rules.revoked_signatures)
    }

    /// Whether the policy takes a signature back, by name or with its key. One that merely counts no more,
    /// because its signer went, is not taken back.
    #[must_use]
    pub fn revokes(&self, key: KeyId, signature: SignatureId) -> bool {
        self.revoked_keys.contains(&key) || self.revoked_signatures.contains(&signature)
    }

    /// The signer that a label names, if it may say what the label says. Says nothing of the signature.
    pub(crate) fn signer(&self, record: &Record) -> Result<&Signer, Unsigned> {
        let key = record.key;
        if self.revoked_keys.contains(&key) {
            return Err(Unsigned::RevokedKey { key });
        }
        let signer = self.signers.get(&key).ok_or(Unsigned::UnknownKey { key })?;
        let signature = record.signature_id();
        if self.revoked_signatures.contains(&signature) {
            return Err(Unsigned::RevokedSignature { signature });
        }
        match &signer.scids {
            Scids::Only(scids) if !scids.contains(&record.scid) => {
                return Err(Unsigned::Scid { key, scid: record.scid });
            }
            _ => {}
        }
        if record.serial < signer.least_serial {
            let (serial, least) = (record.serial, signer.least_serial);
            return Err(Unsigned::Serial { serial, least });
        }
        Ok(signer)
    }
}
