//! Where a file's label is.

use std::fs::File;
use std::ops::Range;

use rustix::fs::fgetxattr;
use rustix::io::Errno;

use crate::elf;
use crate::record::{GAP, LEN};
use crate::unsigned::Unsigned;

/// The extended attribute of files that are not ELF, and of those with an fs-verity label.
pub const XATTR: &str = "security.sigil";

/// Where a file's label is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In an ELF note; its record begins at this byte of the file.
    Note(u64),
    /// In [`XATTR`].
    Xattr,
}

impl Place {
    /// As it is signed.
    pub(crate) const fn signed(self) -> u64 {
        match self {
            Self::Note(at) => at,
            Self::Xattr => u64::MAX,
        }
    }

    /// The bytes of the content that its digest leaves out.
    pub(crate) const fn gap(self) -> Range<u64> {
        match self {
            Self::Note(at) => at.saturating_add(GAP.start)..at.saturating_add(GAP.end),
            Self::Xattr => 0..0,
        }
    }
}

/// The one label's place and its bytes.
pub(crate) fn find(file: &File) -> Result<(Place, Vec<u8>), Unsigned> {
    let note = elf::find(file)?;
    match (note, attribute(file)?) {
        (None, None) => Err(Unsigned::NoLabel),
        (Some(_), Some(_)) => Err(Unsigned::TwoLabels),
        (None, Some(bytes)) => Ok((Place::Xattr, bytes)),
        (Some(at), None) => {
            let mut bytes = vec![0; LEN];
            let read = elf::read_most(file, &mut bytes, at)?;
            bytes.truncate(read);
            Ok((Place::Note(at), bytes))
        }
    }
}

fn attribute(file: &File) -> Result<Option<Vec<u8>>, Unsigned> {
    let mut bytes = vec![0; LEN];
    match fgetxattr(file, XATTR, bytes.as_mut_slice()) {
        Ok(read) => {
            bytes.truncate(read);
            Ok(Some(bytes))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(Errno::RANGE) => Err(Unsigned::Malformed("it must have 128 bytes")),
        Err(errno) => Err(errno.into()),
    }
}
