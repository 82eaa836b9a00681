//! Giving a file a label, and signing it.
//!
//! A label in a note is written to a copy, which takes the file's place at once with its owner, mode and
//! attributes: a program that runs keeps running, and nobody ever sees half a file. Its times are new, for
//! its content is.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tempfile::{Builder, NamedTempFile};
use thiserror::Error;

use crate::attach::{attach, is_elf};
use crate::key::PrivateKey;
use crate::place::{Place, XATTR};
use crate::record::{Form, Record};
use crate::sys;
use crate::unsigned::Unsigned;
use crate::verify::{Found, find, measure};

/// A label cannot be written.
#[derive(Debug, Error)]
#[error("{}", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub problem: Problem,
}

/// Why a label cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The system refused.
    #[error("cannot {action} it")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The last part of the path is a link.
    #[error("it is a symbolic link; name the file itself")]
    Symlink,
    /// A directory, a device, a pipe.
    #[error("it is no regular file")]
    NotRegular,
    /// Who runs it gets rights of others.
    #[error("it is setuid, setgid or has capabilities; label it all the same with --privileged")]
    Privileged,
    /// Other names would keep the old content.
    #[error("it has {links} names (hard links), and only one would get the label; copy it first")]
    HardLinks {
        /// How many.
        links: u64,
    },
    /// The ELF file cannot take a note.
    #[error("it cannot take an ELF note: {0}")]
    Elf(&'static str),
    /// Signing needs a label.
    #[error("it has no label to sign; labelctl binary label gives it one")]
    NoLabel,
    /// What is there is no label.
    #[error("{0}")]
    Label(Unsigned),
    /// fs-verity keeps a file as it is.
    #[error(
        "fs-verity keeps it as it is, with the label in it; sign it before fs-verity is turned on"
    )]
    Verity,
    /// A label of none.
    #[error("ScID 0 is no label")]
    Zero,
    /// No right to write the attribute.
    #[error(
        "its label belongs in the attribute {XATTR}, which takes CAP_SYS_ADMIN: run this as root"
    )]
    NotPermitted,
    /// The file system has no attributes.
    #[error("its label belongs in the attribute {XATTR}, which its file system does not have")]
    NoAttributes,
    /// Somebody else was at work.
    #[error("it was changed meanwhile; nothing was written, try again")]
    Changed,
}

impl From<Unsigned> for Problem {
    fn from(unsigned: Unsigned) -> Self {
        match unsigned {
            Unsigned::NotRegular => Self::NotRegular,
            Unsigned::Changed => Self::Changed,
            Unsigned::Unreadable { errno } => Self::Io { action: "read", source: errno.into() },
            other => Self::Label(other),
        }
    }
}

/// An I/O error of this action.
pub(crate) fn io<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> Problem {
    move |source| Problem::Io { action, source: source.into() }
}

/// How to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Write nothing, and tell what would be written.
    pub dry_run: bool,
    /// Also to setuid and setgid files, and to those with capabilities.
    pub privileged: bool,
}

/// Gives a file a label, in place of the one it has, signed if there is a key.
///
/// # Errors
/// Why not; the file is as it was.
pub fn label(
    path: impl AsRef<Path>,
    scid: u32,
    serial: u64,
    key: Option<&PrivateKey>,
    how: How,
) -> Result<Found, WriteError> {
    let record = Record::unsigned(scid, serial);
    write(path.as_ref(), Some(record), key, how)
}

/// Signs the label that a file has.
///
/// # Errors
/// Why not; the file is as it was.
pub fn sign(path: impl AsRef<Path>, key: &PrivateKey, how: How) -> Result<Found, WriteError> {
    write(path.as_ref(), None, Some(key), how)
}

fn write(
    path: &Path,
    record: Option<Record>,
    key: Option<&PrivateKey>,
    how: How,
) -> Result<Found, WriteError> {
    changed(path, record, key, how).map_err(|problem| WriteError { path: path.to_owned(), problem })
}

fn changed(
    path: &Path,
    record: Option<Record>,
    key: Option<&PrivateKey>,
    how: How,
) -> Result<Found, Problem> {
    let file = open(path, how)?;
    let present = match find(&file) {
        Ok(found) => Some(found),
        Err(Unsigned::NoLabel) => None,
        Err(unsigned) => return Err(unsigned.into()),
    };
    let record = match (record, present) {
        (Some(record), _) if record.scid == 0 => return Err(Problem::Zero),
        (Some(record), _) => record,
        (None, Some(found)) => Record::unsigned(found.record.scid, found.record.serial),
        (None, None) => return Err(Problem::NoLabel),
    };
    let verity = sys::verity(&file).map_err(io("read"))?.is_some();
    let in_note = match present.map(|found| found.place) {
        Some(Place::Note(_)) if verity => return Err(Problem::Verity),
        Some(Place::Note(_)) => true,
        Some(Place::Xattr) => false,
        None => !verity && is_elf(&file).map_err(io("read"))?,
    };
    if in_note {
        return replace(path, &file, present, record, key, how);
    }
    let form = if verity { Form::Verity } else { Form::Content };
    let found = signed(&file, Record { form, ..record }, Place::Xattr, key)?;
    if !how.dry_run {
        fsetxattr(&file, XATTR, &found.record.emit(), XattrFlags::empty()).map_err(|errno| {
            match errno {
                Errno::PERM => Problem::NotPermitted,
                Errno::OPNOTSUPP => Problem::NoAttributes,
                errno => io("write")(errno),
            }
        })?;
    }
    Ok(found)
}

fn open(path: &Path, how: How) -> Result<File, Problem> {
    // O_NONBLOCK, for a pipe would have us wait for a writer.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => Problem::Symlink,
        _ => io("open")(source),
    })?;
    let metadata = file.metadata().map_err(io("read"))?;
    if !metadata.is_file() {
        return Err(Problem::NotRegular);
    }
    let capable = match fgetxattr(&file, "security.capability", &mut [0; 64]) {
        Ok(_) | Err(Errno::RANGE) => true,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => false,
        Err(errno) => return Err(io("read")(errno)),
    };
    if !how.privileged && (capable || metadata.mode() & 0o6000 != 0) {
        return Err(Problem::Privileged);
    }
    Ok(file)
}

/// The record as it has to be for this content.
fn signed(
    file: &File,
    mut record: Record,
    place: Place,
    key: Option<&PrivateKey>,
) -> Result<Found, Problem> {
    if let Some(key) = key {
        record.length = file.metadata().map_err(io("read"))?.len();
        record.key = key.id();
        record.digest = measure(file, &record, place)?;
        record.signature = key.sign(&record.message(place.signed()));
    }
    Ok(Found { place, record })
}

fn replace(
    path: &Path,
    file: &File,
    present: Option<Found>,
    record: Record,
    key: Option<&PrivateKey>,
    how: How,
) -> Result<Found, Problem> {
    let before = file.metadata().map_err(io("read"))?;
    if before.nlink() > 1 {
        return Err(Problem::HardLinks { links: before.nlink() });
    }
    if how.dry_run {
        return fill(file, &tempfile::tempfile().map_err(io("copy"))?, present, record, key);
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let copy = Builder::new().prefix(".sigil-").tempfile_in(directory).map_err(io("copy"))?;
    let found = fill(file, copy.as_file(), present, record, key)?;
    dress(file, &before, copy.as_file())?;
    copy.as_file().sync_all().map_err(io("write"))?;
    let after = fs::symlink_metadata(path).map_err(io("read"))?;
    let state = |of: &fs::Metadata| (of.dev(), of.ino(), of.ctime(), of.ctime_nsec(), of.len());
    if state(&before) != state(&after) {
        return Err(Problem::Changed);
    }
    take_place(copy, path, directory)?;
    Ok(found)
}

fn take_place(copy: NamedTempFile, path: &Path, directory: &Path) -> Result<(), Problem> {
    copy.persist(path).map_err(|error| io("replace")(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("replace"))
}

/// Fills a copy with the file's content and its label.
fn fill(
    file: &File,
    copy: &File,
    present: Option<Found>,
    record: Record,
    key: Option<&PrivateKey>,
) -> Result<Found, Problem> {
    io::copy(&mut &*file, &mut &*copy).map_err(io("copy"))?;
    let at = match present.map(|found| found.place) {
        Some(Place::Note(at)) => at,
        _ => attach(copy)?.ok_or(Problem::Changed)?,
    };
    let place = Place::Note(at);
    // All but the gap is part of what is digested, and so has to be there first.
    let mut record = Record { digest: [0; 32], signature: [0; 64], ..record };
    if let Some(key) = key {
        record.length = copy.metadata().map_err(io("read"))?.len();
        record.key = key.id();
    }
    let put = |record: &Record| copy.write_all_at(&record.emit(), at).map_err(io("write"));
    put(&record)?;
    let found = signed(copy, record, place, key)?;
    put(&found.record)?;
    Ok(found)
}

/// Gives the copy what the file has beside its content.
fn dress(file: &File, metadata: &fs::Metadata, copy: &File) -> Result<(), Problem> {
    let owner = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    fchown(copy, Some(owner.0), Some(owner.1)).map_err(io("give its owner to the copy of"))?;
    // After the owner: a change of owner takes setuid bits and capabilities off.
    fchmod(copy, Mode::from_raw_mode(metadata.mode() & 0o7777)).map_err(io("copy the mode of"))?;
    let attributes = io("copy the attributes of");
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(attributes(errno)),
    };
    let mut value = vec![0; 64 << 10];
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        // These speak of the old content.
        if name.is_empty() || [b"security.ima".as_slice(), b"security.evm"].contains(&name) {
            continue;
        }
        let length = fgetxattr(file, name, value.as_mut_slice()).map_err(&attributes)?;
        let value = value.get(..length).unwrap_or_default();
        fsetxattr(copy, name, value, XattrFlags::empty()).map_err(&attributes)?;
    }
    Ok(())
}
