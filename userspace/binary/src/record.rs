//! The 128 bytes of a label, in an ELF note and in an extended attribute alike. Numbers are big endian.
//!
//! ```text
//!   0       1       2               4               8
//!   +-------+-------+---------------+---------------+
//!   |version| form  |       0       |     ScID      |
//!   +-------+-------+---------------+---------------+
//!   |                    serial                     |
//!   +-----------------------------------------------+
//!   |              length of the content            |
//!   +-----------------------------------------------+
//!   |  key id: SHA-256 of the public key, 8 bytes   |
//!   +-----------------------------------------------+ 32
//!   |             digest, 32 bytes                  |
//!   +-----------------------------------------------+ 64
//!   |             signature, 64 bytes               |
//!   +-----------------------------------------------+ 128
//! ```
//!
//! Signed are [`DOMAIN`], the first 64 bytes, and the place of the record as 8 bytes (its offset in the
//! file; all ones in an extended attribute). The digest of [`Form::Content`] is SHA-256 over the whole
//! content, bytes 32..128 of a record within it read as zero. That of [`Form::Verity`] is what the
//! kernel measures by fs-verity with SHA-256.
//!
//! A label that nobody has signed yet has a key id, a digest and a signature of zeros.

use std::fmt;
use std::ops::Range;

use ring::digest::{SHA256, digest};

/// Bytes of a record.
pub const LEN: usize = 128;
/// What the digest leaves out of a record that lies in the content.
pub const GAP: Range<u64> = 32..128;
/// Keeps these signatures apart from all others made with the same key.
pub const DOMAIN: &[u8; 24] = b"sigil: label of a file\0\0";
/// The only version.
pub const VERSION: u8 = 1;

/// Names a key that signs: the first 8 bytes of the public key's SHA-256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// The id of an Ed25519 public key.
    #[must_use]
    pub fn of(public: &[u8; 32]) -> Self {
        let digest = digest(&SHA256, public);
        let mut id = [0; 8];
        id.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Names a signature: its SHA-256. Revocations use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignatureId(pub [u8; 32]);

impl SignatureId {
    fn of(signature: &[u8; 64]) -> Self {
        let mut id = [0; 32];
        id.iter_mut().zip(digest(&SHA256, signature).as_ref()).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

impl fmt::Display for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What the digest is taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The content, read.
    Content,
    /// The kernel's fs-verity measurement: nothing need be read.
    Verity,
}

impl Form {
    /// Its word in messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "sha256",
            Self::Verity => "fs-verity",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Content => 1,
            Self::Verity => 2,
        }
    }
}

/// A label as a file holds it; whether it is true is another question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the digest is taken of.
    pub form: Form,
    /// The file's ScID, never 0.
    pub scid: u32,
    /// The signer's number of this release.
    pub serial: u64,
    /// Bytes of content.
    pub length: u64,
    /// The signer's key; zeros in a label that is not signed.
    pub key: KeyId,
    /// See [`Form`].
    pub digest: [u8; 32],
    /// Ed25519; zeros in a label that is not signed.
    pub signature: [u8; 64],
}

impl Record {
    /// A label that nobody has signed.
    #[must_use]
    pub const fn unsigned(scid: u32, serial: u64) -> Self {
        Self {
            form: Form::Content,
            scid,
            serial,
            length: 0,
            key: KeyId([0; 8]),
            digest: [0; 32],
            signature: [0; 64],
        }
    }

    /// Whether somebody signed it, rightly or not.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signature != [0; 64]
    }

    /// The signature's name.
    #[must_use]
    pub fn signature_id(&self) -> SignatureId {
        SignatureId::of(&self.signature)
    }

    /// Reads a record of exactly [`LEN`] bytes.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const LENGTH: &str = "it must have 128 bytes";
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or(LENGTH)?;
        let (serial, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
        let (length, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
        let (key, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
        let (digest, rest) = rest.split_first_chunk().ok_or(LENGTH)?;
        let signature = <[u8; 64]>::try_from(rest).map_err(|_| LENGTH)?;
        let [version, form, 0, 0, scid @ ..] = *head else {
            return Err("bytes 2 and 3 must be 0");
        };
        if version != VERSION {
            return Err("its version is unknown");
        }
        let form = match form {
            1 => Form::Content,
            2 => Form::Verity,
            _ => return Err("its form is unknown"),
        };
        let scid = u32::from_be_bytes(scid);
        if scid == 0 {
            return Err("ScID 0 is no label");
        }
        Ok(Self {
            form,
            scid,
            serial: u64::from_be_bytes(*serial),
            length: u64::from_be_bytes(*length),
            key: KeyId(*key),
            digest: *digest,
            signature,
        })
    }

    /// What [`Record::parse`] reads.
    #[must_use]
    pub fn emit(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let fields: [&[u8]; 8] = [
            &[VERSION, self.form.number(), 0, 0],
            &self.scid.to_be_bytes(),
            &self.serial.to_be_bytes(),
            &self.length.to_be_bytes(),
            &self.key.0,
            &self.digest,
            &self.signature,
            &[],
        ];
        let from = fields.into_iter().flatten();
        bytes.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// What is signed, for a record at this place; see [`Place::signed`](crate::Place::signed).
    pub(crate) fn message(&self, place: u64) -> Vec<u8> {
        let record = self.emit();
        let (covered, _signature) = record.split_at(64);
        [DOMAIN.as_slice(), covered, &place.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            form: Form::Verity,
            scid: 0x0102_0304,
            serial: 7,
            length: 9,
            key: KeyId([8; 8]),
            digest: [0xdd; 32],
            signature: [0x55; 64],
        }
    }

    #[test]
    fn the_layout_is_as_drawn() {
        let bytes = record().emit();
        assert_eq!(bytes[..8], [1, 2, 0, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[8..24], [0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(bytes[24..32], [8; 8]);
        assert_eq!(bytes[32..64], [0xdd; 32]);
        assert_eq!(bytes[64..], [0x55; 64]);
        let message = record().message(0x1122);
        assert_eq!(message.len(), 24 + 64 + 8);
        assert_eq!(message[24..88], bytes[..64]);
        assert_eq!(message[88..], [0, 0, 0, 0, 0, 0, 0x11, 0x22]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = record().emit();
        for (at, value) in [(0, 0), (0, 2), (1, 0), (1, 3), (2, 1), (3, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Record::parse(&bad).is_err(), "byte {at} = {value}");
        }
        let mut none = good;
        none[4..8].fill(0);
        assert!(Record::parse(&none).is_err());
        assert!(Record::parse(&good[..127]).is_err());
        assert!(Record::parse(&[good.as_slice(), &[0]].concat()).is_err());
        assert!(!Record::unsigned(1, 1).is_signed() && record().is_signed());
    }

    proptest! {
        #[test]
        fn what_parses_emits_as_itself(bytes in proptest::collection::vec(any::<u8>(), 0..140), fix in any::<bool>()) {
            let mut bytes = bytes;
            if fix && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[1, 1, 0, 0]);
            }
            if let Ok(record) = Record::parse(&bytes) {
                prop_assert_eq!(record.emit().to_vec(), bytes);
            }
        }
    }
}
