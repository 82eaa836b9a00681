//! What keeps a file as it is while it is read, and where change times do not tell, afterwards.

use std::fs::File;
use std::io;

use rustix::fs::fstatfs;

use crate::sys;
use crate::unsigned::Unsigned;

/// A read lease on a file: nobody has it open for writing, shared writable mappings included, and who
/// opens it so has to wait until the lease is dropped (45 s at most, `/proc/sys/fs/lease-break-time`).
#[derive(Debug)]
pub(crate) struct Lease(File);

impl Lease {
    /// Takes it on the open file itself, so that a lease of one caller ends no other's.
    pub(crate) fn take(file: &File) -> Result<Self, Unsigned> {
        let file = file.try_clone()?;
        match sys::lease(&file, true) {
            Ok(()) => Ok(Self(file)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Unsigned::Busy),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it was held all the time and nobody waits for its end.
    pub(crate) fn holds(&self) -> bool {
        sys::lease_holds(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The kernel may have ended it already, and closing the file ends it in any case.
        let _ = sys::lease(&self.0, false);
    }
}

/// How a file system tells that a file changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// By the change time, for writes through mappings too: pages are write-protected until touched.
    ChangeTime,
    /// Not by the change time: a mapping that was read first is written without a fault.
    Nothing,
}

const EXT: i64 = 0xef53;
const XFS: i64 = 0x5846_5342;
const F2FS: i64 = 0xf2f5_2010;
const SQUASHFS: i64 = 0x7371_7368;
const EROFS: i64 = 0xe0f5_e1e2;
const ISO9660: i64 = 0x9660;
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// What the file's file system tells.
///
/// Those that are not listed cannot be vouched for. A server or a daemon changes files of NFS, CIFS and
/// FUSE beneath us; who owns an overlay's upper directory writes there past the overlay's own inode;
/// `stat(2)` of a btrfs subvolume tells another device than the kernel's programs see.
pub(crate) fn tells(file: &File) -> Result<Tells, Unsigned> {
    match fstatfs(file)?.f_type {
        EXT | XFS | F2FS | SQUASHFS | EROFS | ISO9660 => Ok(Tells::ChangeTime),
        TMPFS | RAMFS => Ok(Tells::Nothing),
        magic => Err(Unsigned::FileSystem { magic }),
    }
}
