//! The label that a file carries: a ScID and a serial, bound to the file's content by an Ed25519
//! signature.
//!
//! An ELF file holds its label in a note, in the section `.note.sigil`; a script or any other file in
//! the extended attribute `security.sigil`, which only `CAP_SYS_ADMIN` may write, so that the users who
//! may edit a script cannot take its label off or swap it for an older one. Both hold the same 128
//! bytes, see [`record`].
//!
//! What is signed covers every byte of the file: the digest is that of the whole content, with nothing
//! left out but the bytes of digest and signature themselves, whose place in the file is signed too. So
//! a copied note, a moved or second one, a cut or longer file and a changed program header are all
//! seen, without a rule for each. A file may hold one label; one with two is unsigned.
//!
//! [`verify`] judges a file as it is at this moment. An agent that acts on the answer later asks
//! [`Verdicts`], which makes sure that nobody can change the file in between unseen.
//!
//! No I/O but on the file given, no state but in [`Verdicts`]; what is read from a file is never
//! believed: no panic, bounded memory, at most [`CONTENT_MAX`] bytes read.

mod attach;
mod digest;
mod elf;
mod key;
mod lease;
mod place;
pub mod record;
mod sys;
mod trust;
mod unsigned;
mod verdicts;
mod verify;
mod write;

pub use digest::CONTENT_MAX;
pub use key::{KeyProblem, PrivateKey, PrivateKeyError};
pub use place::{Place, XATTR};
pub use record::{Form, KeyId, Record, SignatureId};
pub use trust::{Scids, Signer, Trust};
pub use unsigned::Unsigned;
pub use verdicts::{Clock, Evicted, Judgement, LEASES_MAX, SystemClock, Verdicts};
pub use verify::{Found, Verified, find, verify};
pub use write::{How, Problem, WriteError, label, sign};
