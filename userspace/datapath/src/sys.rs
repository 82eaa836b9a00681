//! The few calls of bpf(2) and statfs(2) that aya does not offer.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

#[repr(C)]
struct CreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
}

#[repr(C)]
struct UpdateAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The head of `struct bpf_link_info`, up to what XDP and TCX links tell.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    interface: u32,
    attach: u32,
    rest: [u64; 8],
}

#[repr(C)]
#[derive(Default)]
struct GetAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[expect(clippy::cast_possible_truncation, reason = "88")]
const LINK_INFO_LEN: u32 = size_of::<LinkInfo>() as u32;

/// Waits until every program is through that runs now, for one RCU grace period: the kernel does that
/// whenever a map of maps was written to (`maybe_wait_bpf_programs`), here one that nobody reads. `map`
/// is any array.
pub(crate) fn wait_for_programs(map: BorrowedFd<'_>) -> io::Result<()> {
    const ARRAY_OF_MAPS: u32 = 12;
    let inner = map.as_raw_fd().cast_unsigned();
    let (kind, word) = (ARRAY_OF_MAPS, 4);
    let attr =
        CreateAttr { kind, key_size: word, value_size: word, max_entries: 1, flags: 0, inner };
    // SAFETY: the attribute has the layout that this command reads.
    let outer = opened(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateAttr>())
    })?;
    let (key, value) = ((&raw const WORD) as u64, (&raw const inner) as u64);
    let map = outer.as_raw_fd().cast_unsigned();
    let attr = UpdateAttr { map, pad: 0, key, value, flags: 0 };
    // SAFETY: as above; key and value are words that outlive the call.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const attr, size_of::<UpdateAttr>())
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The only key of that map.
static WORD: u32 = 0;

/// Opens a pinned link.
fn open_link(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = GetAttr { path: path.as_ptr() as u64, ..GetAttr::default() };
    // SAFETY: the attribute has the layout that this command reads; the path is terminated.
    opened(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<GetAttr>())
    })
}

/// The descriptor that a call returned, if it did.
fn opened(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel just gave us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Detaches a pinned link at once. Removing the pin would do so some time later, and not while any
/// process holds the link. Kinds that cannot be detached so (tracing) are left to that.
pub(crate) fn detach_link(pin: &Path) -> io::Result<()> {
    let link = open_link(pin)?;
    let attr = link.as_raw_fd().cast_unsigned();
    // SAFETY: this command reads the descriptor alone.
    let failed =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attr, size_of::<u32>()) };
    match io::Error::last_os_error() {
        error if failed < 0 && error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
        _ => Ok(()),
    }
}

/// The interface that a pinned XDP or TCX link is attached to; 0 if it is gone.
pub(crate) fn link_interface(pin: &Path) -> io::Result<u32> {
    let link = open_link(pin)?;
    let mut info = LinkInfo::default();
    let attr = InfoAttr {
        fd: link.as_raw_fd().cast_unsigned(),
        len: LINK_INFO_LEN,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute has the layout that this command reads, and `info` has room.
    let failed = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attr, size_of::<InfoAttr>())
    };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(info.interface) }
}

/// Whether a directory lies on a bpffs.
pub(crate) fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a value of this plain struct.
    let mut info: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string, and room for the answer.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut info) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info.f_type == BPF_FS_MAGIC)
}

/// Effective capabilities of this process, a bit each.
pub(crate) fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}
