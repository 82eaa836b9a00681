//! What can be seen of a file that is about to be executed, beside its label.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use sigil_common::abi::binary::{BinaryKey, kernel_dev};

/// What decides how an exec of a file goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// An ELF program of this machine, which the kernel runs itself.
    pub(crate) native: bool,
    /// One that needs no loader, as loaders do not.
    pub(crate) loader: bool,
    /// On a local file system, and nobody but root can change it.
    pub(crate) roots_alone: bool,
}

const HEADER: usize = 4096;
/// Writable by group or others.
const SHARED: u32 = 0o022;

impl Facts {
    pub(crate) fn of(file: &File) -> Self {
        let mut header = [0; HEADER];
        let length = file.read_at(&mut header, 0).unwrap_or(0);
        let header = header.get(..length).unwrap_or_default();
        let native = is_native(header);
        let roots_alone = file.metadata().is_ok_and(|of| {
            of.is_file() && of.uid() == 0 && of.mode() & SHARED == 0 && is_local(file)
        });
        Self { native, loader: native && is_loader(header), roots_alone }
    }
}

/// The file systems whose files change through this kernel alone.
fn is_local(file: &File) -> bool {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
        fstatfs,
    };
    const F2FS: i64 = 0xf2f5_2010;
    const SQUASHFS: i64 = 0x7371_7368;
    const EROFS: i64 = 0xe0f5_e1e2;
    fstatfs(file).is_ok_and(|of| {
        let kind = of.filesystem_type();
        [BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC]
            .contains(&kind)
            || [F2FS, SQUASHFS, EROFS].contains(&kind.0)
    })
}

/// `e_machine` of programs that this kernel runs without help.
#[cfg(target_arch = "x86_64")]
const MACHINES: [u16; 2] = [62, 3];
#[cfg(target_arch = "aarch64")]
const MACHINES: [u16; 2] = [183, 40];

fn is_native(header: &[u8]) -> bool {
    header.starts_with(b"\x7fELF")
        && half(header, 18).is_some_and(|machine| MACHINES.contains(&machine))
}

/// Whether an ELF file names no interpreter of its own, in its first page, and can be loaded anywhere.
fn is_loader(header: &[u8]) -> bool {
    const DYN: u16 = 3;
    const INTERP: u32 = 3;
    let (wide, kind) = (header.get(4) == Some(&2), half(header, 16));
    if kind != Some(DYN) {
        return false;
    }
    let (table, size, count) = if wide { (32, 54, 56) } else { (28, 42, 44) };
    let (Some(table), Some(size), Some(count)) =
        (word(header, table), half(header, size), half(header, count))
    else {
        return false;
    };
    let entries = (0..usize::from(count)).map(|at| table as usize + at * usize::from(size));
    entries.map(|at| word(header, at)).all(|kind| kind.is_some_and(|kind| kind != INTERP))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Which state of which file this is.
pub(crate) fn key_of(file: &File) -> Option<BinaryKey> {
    let of = file.metadata().ok()?;
    Some(BinaryKey {
        ino: of.ino(),
        ctime: of.ctime(),
        ctime_nsec: u32::try_from(of.ctime_nsec()).ok()?,
        dev: kernel_dev(of.dev())?,
    })
}

/// The last part of the file's path, as far as it is seen from here.
pub(crate) fn name_of(file: &File) -> Option<String> {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Names that the file of a script's interpreter may have: the one in its first line, and what that
/// leads to on this node. A hint, no more.
pub(crate) fn interpreter_names(script: &File) -> Vec<String> {
    let mut head = [0; 256];
    let length = script.read_at(&mut head, 0).unwrap_or(0);
    let first = head.get(..length).and_then(|head| head.strip_prefix(b"#!")).and_then(|line| {
        let line = line.split(|byte| *byte == b'\n').next()?;
        std::str::from_utf8(line).ok()?.split_whitespace().next()
    });
    let Some(interpreter) = first.map(Path::new) else { return Vec::new() };
    let real = fs::canonicalize(interpreter).ok();
    let names = [Some(interpreter), real.as_deref()].into_iter().flatten();
    names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

/// The process of a thread.
pub(crate) fn tgid_of(thread: u32) -> Option<u32> {
    const ENOUGH: u64 = 512;
    let mut status = String::new();
    let file = File::open(format!("/proc/{thread}/status")).ok()?;
    file.take(ENOUGH).read_to_string(&mut status).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_native_and_no_loader() {
        let own = Facts::of(&File::open("/proc/self/exe").unwrap());
        assert!(own.native && !own.loader);
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#!/bin/sh\n").unwrap();
        assert!(!Facts::of(script.as_file()).native);
    }

    #[test]
    fn the_loader_is_one() {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let loader = paths.find(|path| path.contains("/ld-")).expect("a loader");
        assert!(Facts::of(&File::open(loader).unwrap()).loader, "{loader}");
    }

    #[test]
    fn garbage_is_nothing() {
        for garbage in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01", &[0xff; 64]] {
            assert!(!is_native(garbage) && !is_loader(garbage));
        }
    }

    #[test]
    fn what_others_may_write_is_not_roots_alone() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Facts::of(file.as_file()).roots_alone, "tests run as root");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(!Facts::of(file.as_file()).roots_alone);
    }

    #[test]
    fn an_interpreter_goes_by_both_its_names() {
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), "#! /bin/sh -e\necho\n").unwrap();
        let names = interpreter_names(&File::open(script.path()).unwrap());
        assert!(names.contains(&"sh".to_owned()) && names.len() == 2, "{names:?}");
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(tgid_of(thread), Some(std::process::id()));
    }
}
