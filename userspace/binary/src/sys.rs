//! The two calls that have no safe binding: leases and fs-verity.
#![expect(unsafe_code, reason = "raw system calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `_IOWR('f', 134, struct fsverity_digest)`.
const FS_IOC_MEASURE_VERITY: libc::Ioctl = 0xc004_6686_u32 as libc::Ioctl;
const SHA256: u16 = 1;
/// Of `asm-generic/fcntl.h`.
const F_SETSIG: libc::c_int = 10;

/// `struct fsverity_digest` with room for SHA-256.
#[repr(C)]
struct VerityDigest {
    algorithm: u16,
    size: u16,
    digest: [u8; 32],
}

/// What fs-verity measured, if it did so with SHA-256.
///
/// # Errors
/// What the system says; longer digests are `EOVERFLOW`.
pub(crate) fn verity(file: &File) -> io::Result<Option<[u8; 32]>> {
    let mut digest = VerityDigest { algorithm: 0, size: 32, digest: [0; 32] };
    // SAFETY: the kernel writes the header and at most `size` bytes behind it, which are there.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_MEASURE_VERITY, &raw mut digest) };
    if done == 0 {
        let usual = digest.algorithm == SHA256 && digest.size == 32;
        return Ok(usual.then_some(digest.digest));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::ENOTTY | libc::EOPNOTSUPP | libc::EOVERFLOW) => Ok(None),
        _ => Err(error),
    }
}

/// Takes or gives back a read lease; whoever breaks it sends a signal that does nothing.
///
/// # Errors
/// `EAGAIN` if the file is open for writing, `EACCES` without `CAP_LEASE` on somebody else's file.
pub(crate) fn lease(file: &File, take: bool) -> io::Result<()> {
    let fd = file.as_raw_fd();
    if take {
        // SIGIO would end a process that has no handler for it; SIGURG is ignored by default.
        // SAFETY: integers only.
        check(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) })?;
    }
    let kind = if take { libc::F_RDLCK } else { libc::F_UNLCK };
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) })?;
    Ok(())
}

/// Whether the lease is held and nobody waits for its end.
pub(crate) fn lease_holds(file: &File) -> bool {
    // SAFETY: integers only.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
