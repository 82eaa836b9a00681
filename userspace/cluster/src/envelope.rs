//! A node's part of the policy, signed by the cluster. A server that lies about it is found out, and
//! so is an old one that comes again.

use prost::Message as _;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::proto::{Envelope, SignedPolicy};

/// Separates these signatures from any others of the key.
const DOMAIN: &[u8] = b"sigil policy envelope v1\0";

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not this cluster's key, or other bytes than were signed.
    #[error("the policy's signature does not hold: it is not from this cluster, or was changed")]
    Signature,
    /// The signed bytes are no envelope.
    #[error("the signed policy cannot be read")]
    Malformed,
    /// Signed for another cluster.
    #[error("the policy is for cluster `{theirs}`, and this is `{ours}`")]
    Cluster {
        /// The envelope's.
        theirs: String,
        /// The node's.
        ours: String,
    },
    /// Another node's part.
    #[error("the policy is node {theirs}'s part, and this is node {ours}")]
    Node {
        /// The envelope's.
        theirs: u32,
        /// The node's.
        ours: u32,
    },
    /// An older one, played again.
    #[error("the policy has revision {theirs}, and revision {held} was here already")]
    Old {
        /// The envelope's.
        theirs: u64,
        /// What the node has seen.
        held: u64,
    },
}

/// Signs an envelope.
#[must_use]
pub fn sign(envelope: &Envelope, key: &Ed25519KeyPair) -> SignedPolicy {
    let envelope = envelope.encode_to_vec();
    let signature = key.sign(&signed(&envelope)).as_ref().to_vec();
    SignedPolicy { envelope, signature }
}

/// The public key, for [`open`].
#[must_use]
pub fn public_key(key: &Ed25519KeyPair) -> Vec<u8> {
    key.public_key().as_ref().to_vec()
}

/// Whose envelopes a node takes.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The cluster's name.
    pub cluster: String,
    /// The node.
    pub snid: u32,
    /// The cluster's public key.
    pub key: Vec<u8>,
}

/// Checks an envelope: signature first, then cluster and node. Whether its revision is new is for
/// [`newer`].
///
/// # Errors
/// See [`EnvelopeError`].
pub fn open(policy: &SignedPolicy, to: &Recipient) -> Result<Envelope, EnvelopeError> {
    UnparsedPublicKey::new(&ED25519, &to.key)
        .verify(&signed(&policy.envelope), &policy.signature)
        .map_err(|_| EnvelopeError::Signature)?;
    let envelope =
        Envelope::decode(policy.envelope.as_slice()).map_err(|_| EnvelopeError::Malformed)?;
    if envelope.cluster != to.cluster {
        return Err(EnvelopeError::Cluster { theirs: envelope.cluster, ours: to.cluster.clone() });
    }
    if envelope.snid != to.snid {
        return Err(EnvelopeError::Node { theirs: envelope.snid, ours: to.snid });
    }
    Ok(envelope)
}

/// Whether a revision may follow: it is above the one in force, and none that is older than any
/// seen.
///
/// # Errors
/// [`EnvelopeError::Old`].
pub const fn newer(revision: u64, in_force: u64, highest: u64) -> Result<(), EnvelopeError> {
    if revision <= in_force {
        return Err(EnvelopeError::Old { theirs: revision, held: in_force });
    }
    if revision < highest {
        return Err(EnvelopeError::Old { theirs: revision, held: highest });
    }
    Ok(())
}

fn signed(envelope: &[u8]) -> Vec<u8> {
    [DOMAIN, envelope].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn envelope() -> Envelope {
        Envelope {
            cluster: "lab".into(),
            revision: 7,
            serial: 3,
            snid: 2,
            document: b"<DSP/>".to_vec(),
            ..Envelope::default()
        }
    }

    fn recipient() -> Recipient {
        Recipient { cluster: "lab".into(), snid: 2, key: public_key(&key(1)) }
    }

    #[test]
    fn what_was_signed_is_opened_by_its_node_alone() {
        let signed = sign(&envelope(), &key(1));
        assert_eq!(open(&signed, &recipient()), Ok(envelope()));
        let other = Recipient { snid: 3, ..recipient() };
        assert_eq!(open(&signed, &other), Err(EnvelopeError::Node { theirs: 2, ours: 3 }));
        let other = Recipient { cluster: "prod".into(), ..recipient() };
        assert!(matches!(open(&signed, &other), Err(EnvelopeError::Cluster { .. })));
    }

    #[test]
    fn every_bit_is_signed() {
        let good = sign(&envelope(), &key(1));
        for bit in 0..good.envelope.len() * 8 {
            let mut bad = good.clone();
            bad.envelope[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bad, &recipient()), Err(EnvelopeError::Signature), "{bit}");
        }
        for bit in 0..good.signature.len() * 8 {
            let mut bad = good.clone();
            bad.signature[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&bad, &recipient()), Err(EnvelopeError::Signature), "{bit}");
        }
        assert_eq!(open(&sign(&envelope(), &key(2)), &recipient()), Err(EnvelopeError::Signature));
        assert_eq!(open(&SignedPolicy::default(), &recipient()), Err(EnvelopeError::Signature));
    }

    #[test]
    fn a_signature_of_the_bare_bytes_does_not_hold() {
        let bytes = envelope().encode_to_vec();
        let signature = key(1).sign(&bytes).as_ref().to_vec();
        let bare = SignedPolicy { envelope: bytes, signature };
        assert_eq!(open(&bare, &recipient()), Err(EnvelopeError::Signature));
    }

    #[test]
    fn revisions_only_rise_but_one_that_was_undone_may_come_again() {
        // revision, in force, highest
        for (revision, in_force, highest, good) in
            [(8, 7, 7, true), (7, 7, 7, false), (6, 7, 7, false), (9, 7, 9, true), (8, 7, 9, false)]
        {
            assert_eq!(newer(revision, in_force, highest).is_ok(), good, "{revision}");
        }
    }
}
