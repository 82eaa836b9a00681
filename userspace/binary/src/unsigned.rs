//! Why a file counts as unsigned.

use rustix::io::Errno;
use thiserror::Error;

use crate::CONTENT_MAX;
use crate::record::{KeyId, SignatureId};

/// Why a file counts as unsigned: it has no label that anybody trusted vouches for.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsigned {
    /// Most files.
    #[error("it has no label")]
    NoLabel,
    /// More than one label: nobody can say which one holds.
    #[error("it has two labels; one file has one label")]
    TwoLabels,
    /// What should be a label is none.
    #[error("its label is malformed: {0}")]
    Malformed(&'static str),
    /// A label that waits for its signature.
    #[error("its label is not signed")]
    NotSigned,
    /// Nobody of the policy's signers.
    #[error("key {key} belongs to no signer of the policy")]
    UnknownKey {
        /// The key that the label names.
        key: KeyId,
    },
    /// A key that the policy revokes.
    #[error("key {key} is revoked")]
    RevokedKey {
        /// The key.
        key: KeyId,
    },
    /// A signature that the policy revokes.
    #[error("this signature ({signature}) is revoked")]
    RevokedSignature {
        /// The signature.
        signature: SignatureId,
    },
    /// The signer does not speak for this zone.
    #[error("key {key} may not sign for ScID {scid}")]
    Scid {
        /// The signer's key.
        key: KeyId,
        /// The label's.
        scid: u32,
    },
    /// An old release put back.
    #[error("serial {serial} is below {least}, the least that the policy takes from this signer")]
    Serial {
        /// The label's.
        serial: u64,
        /// The policy's.
        least: u64,
    },
    /// Cut, or something was appended.
    #[error("it has {length} bytes, and {signed} were signed")]
    Length {
        /// The file's.
        length: u64,
        /// The label's.
        signed: u64,
    },
    /// The label was not signed by this key, or not for this place.
    #[error("the label's signature is wrong")]
    Signature,
    /// The label is somebody's, but of another content.
    #[error("its content is not what was signed")]
    Content,
    /// The label speaks of an fs-verity measurement, and the file has none with SHA-256.
    #[error("its label needs fs-verity with SHA-256, which the file does not have")]
    NoVerity,
    /// Nobody waits for so many bytes.
    #[error("it has {length} bytes; a signed file has at most {CONTENT_MAX}")]
    TooLarge {
        /// The file's length.
        length: u64,
    },
    /// A directory, a device, a pipe.
    #[error("it is no regular file")]
    NotRegular,
    /// Somebody has it open for writing, or opened it so meanwhile.
    #[error("it is open for writing, so that what was verified could change unseen")]
    Busy,
    /// It changed while it was verified.
    #[error("it changed while it was read")]
    Changed,
    /// A file system that can change a file without telling.
    #[error("its file system (magic {magic:#x}) cannot vouch that a file stays as it was read")]
    FileSystem {
        /// `statfs(2)`'s `f_type`.
        magic: i64,
    },
    /// The system refused.
    #[error("it cannot be read: {errno}")]
    Unreadable {
        /// Why.
        errno: Errno,
    },
}

impl From<std::io::Error> for Unsigned {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable { errno: Errno::from_io_error(&error).unwrap_or(Errno::IO) }
    }
}

impl From<Errno> for Unsigned {
    fn from(errno: Errno) -> Self {
        Self::Unreadable { errno }
    }
}
