//! The calls of bpf(2) that measuring needs: loading tiny programs, running programs on single
//! packets, and reading the kernel's run-time statistics.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const LINK_CREATE: libc::c_long = 28;
const ENABLE_STATS: libc::c_long = 32;

/// Attributes of bpf(2): plain words, in the layout of the command they are for.
trait Attr {}

/// Calls bpf(2); what it returns is 0 or a descriptor.
fn bpf<A: Attr>(command: libc::c_long, attr: &mut A) -> io::Result<i32> {
    let size = size_of::<A>();
    // SAFETY: `attr` has the layout that the command reads, its size is told, and whatever it points
    // to outlives the call: every caller keeps it in a variable of its own.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(io::Error::other)
}

fn descriptor<A: Attr>(command: libc::c_long, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: a descriptor that the kernel just gave us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn size(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}
impl Attr for Load {}

/// Loads a program of type `kind` (`enum bpf_prog_type`).
///
/// # Errors
/// The kernel's, with the verifier's last words.
pub(crate) fn load(kind: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0_u8; 1 << 16];
    let mut name = [0; 16];
    for (to, byte) in name.iter_mut().zip(b"sigil_bench") {
        *to = *byte;
    }
    let mut attr = Load {
        kind,
        count: size(instructions.len()),
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: size(log.len()),
        log: log.as_mut_ptr() as u64,
        kernel: 0,
        flags: 0,
        name,
        interface: 0,
        attach: 0,
    };
    descriptor(PROG_LOAD, &mut attr).map_err(|error| {
        let text = String::from_utf8_lossy(&log);
        io::Error::other(format!("{error}: {}", text.trim_end_matches('\0')))
    })
}

#[repr(C)]
struct NewMap {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}
impl Attr for NewMap {}

/// A map.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
}

impl Map {
    /// Makes a map of type `kind` (`enum bpf_map_type`) of keys `K` and values `V`.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new<K, V>(kind: u32, entries: u32, flags: u32) -> io::Result<Self> {
        let (key, value) = (size_of::<K>(), size_of::<V>());
        let mut attr = NewMap { kind, key: size(key), value: size(value), entries, flags };
        Ok(Self { fd: descriptor(MAP_CREATE, &mut attr)?, key, value })
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// Key or value have another size than the map's, or the kernel's.
    pub(crate) fn set<K: Copy, V: Copy>(&self, key: &K, value: &V) -> io::Result<()> {
        if (size_of::<K>(), size_of::<V>()) != (self.key, self.value) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (key, value) = (core::ptr::from_ref(key), core::ptr::from_ref(value));
        let map = raw(self.fd.as_fd());
        let mut attr = Element { map, pad: 0, key: key as u64, value: value as u64, flags: 0 };
        bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
impl Attr for Element {}

/// A map in an array of maps; none where the element has none.
#[must_use]
pub(crate) fn inner(outer: BorrowedFd, index: u32) -> Option<OwnedFd> {
    let (key, mut id) = (core::ptr::from_ref(&index) as u64, 0_u32);
    let value = (&raw mut id) as u64;
    let mut attr = Element { map: raw(outer), pad: 0, key, value, flags: 0 };
    bpf(MAP_LOOKUP_ELEM, &mut attr).ok()?;
    descriptor(MAP_GET_FD_BY_ID, &mut Ids { id, next: 0, flags: 0 }).ok()
}

#[repr(C)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}
impl Attr for Get {}

/// Opens what is pinned.
///
/// # Errors
/// The kernel's.
pub(crate) fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    descriptor(OBJ_GET, &mut Get { path: path.as_ptr() as u64, fd: 0, flags: 0 })
}

#[repr(C)]
struct Ids {
    id: u32,
    next: u32,
    flags: u32,
}
impl Attr for Ids {}

/// The programs that the kernel holds; those that go meanwhile are left out.
///
/// # Errors
/// The kernel's.
pub(crate) fn programs() -> io::Result<Vec<OwnedFd>> {
    let mut programs = Vec::new();
    let mut ids = Ids { id: 0, next: 0, flags: 0 };
    while bpf(PROG_GET_NEXT_ID, &mut ids).is_ok() {
        ids.id = ids.next;
        let mut get = Ids { id: ids.id, next: 0, flags: 0 };
        if let Ok(program) = descriptor(PROG_GET_FD_BY_ID, &mut get) {
            programs.push(program);
        }
    }
    if programs.is_empty() { Err(io::Error::last_os_error()) } else { Ok(programs) }
}

#[repr(C)]
struct InfoOf {
    fd: u32,
    len: u32,
    info: u64,
}
impl Attr for InfoOf {}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: u64,
    jited: u32,
    translated: u32,
    code: [u64; 2],
    loaded: u64,
    user: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
    between: [u64; 14],
    run_time_ns: u64,
    run_count: u64,
    missed: u64,
    verified: u32,
    object: u32,
}
const _: () = assert!(core::mem::offset_of!(ProgramInfo, run_time_ns) == 192);

/// What the kernel knows of a program.
#[derive(Clone, Debug)]
pub(crate) struct Info {
    /// Its name.
    pub(crate) name: String,
    /// The maps it uses.
    pub(crate) maps: Vec<u32>,
}

/// The kernel's run-time statistics of a program. Each run includes the two clock readings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    /// Nanoseconds.
    pub(crate) time: u64,
    /// How often it ran.
    pub(crate) count: u64,
}

impl Runs {
    /// What happened since `before`.
    #[must_use]
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            time: self.time.wrapping_sub(before.time),
            count: self.count.wrapping_sub(before.count),
        }
    }
}

fn program_info(program: BorrowedFd, maps: &mut [u32]) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo {
        maps: size(maps.len()),
        map_ids: if maps.is_empty() { 0 } else { maps.as_mut_ptr() as u64 },
        ..ProgramInfo::default()
    };
    let mut attr = InfoOf {
        fd: raw(program),
        len: size(size_of::<ProgramInfo>()),
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// A program's name and maps.
///
/// # Errors
/// The kernel's.
pub(crate) fn info(program: BorrowedFd) -> io::Result<Info> {
    let mut maps = [0; 64];
    let info = program_info(program, &mut maps)?;
    let name: Vec<u8> = info.name.into_iter().take_while(|byte| *byte != 0).collect();
    let count = usize::try_from(info.maps).unwrap_or(0);
    Ok(Info {
        name: String::from_utf8_lossy(&name).into_owned(),
        maps: maps.into_iter().take(count).collect(),
    })
}

/// A program's statistics.
///
/// # Errors
/// The kernel's.
pub(crate) fn runs(program: BorrowedFd) -> io::Result<Runs> {
    let info = program_info(program, &mut [])?;
    Ok(Runs { time: info.run_time_ns, count: info.run_count })
}

/// A map's id.
///
/// # Errors
/// The kernel's.
pub(crate) fn map_id(map: BorrowedFd) -> io::Result<u32> {
    let mut info = [0_u32; 32];
    let mut attr =
        InfoOf { fd: raw(map), len: size(size_of_val(&info)), info: info.as_mut_ptr() as u64 };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [_, id, ..] = info;
    Ok(id)
}

#[repr(C)]
#[derive(Default)]
struct Test {
    program: u32,
    answer: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    pad: u32,
}
impl Attr for Test {}

/// Runs a program once on a packet, and returns what it returned. The packet is copied in and not out.
///
/// # Errors
/// The kernel's.
pub(crate) fn run(program: BorrowedFd, packet: &[u8]) -> io::Result<u32> {
    let mut attr = Test {
        program: raw(program),
        size_in: size(packet.len()),
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ..Test::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.answer)
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook<'a> {
    /// An interface's native XDP hook.
    Xdp(u32),
    /// An interface's TCX ingress.
    Ingress(u32),
    /// An interface's TCX egress.
    Egress(u32),
    /// The sockets' ingress of a control group.
    Cgroup(BorrowedFd<'a>),
}

#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
    rest: [u64; 2],
}
impl Attr for Link {}

/// Attaches a program until the link is dropped. Interfaces are those of the thread's namespace.
///
/// # Errors
/// The kernel's.
pub(crate) fn attach(program: BorrowedFd, hook: Hook) -> io::Result<OwnedFd> {
    const NATIVE: u32 = 4;
    let (attach, target, flags) = match hook {
        Hook::Xdp(interface) => (37, interface, NATIVE),
        Hook::Ingress(interface) => (46, interface, 0),
        Hook::Egress(interface) => (47, interface, 0),
        Hook::Cgroup(directory) => (0, raw(directory), 0),
    };
    descriptor(
        LINK_CREATE,
        &mut Link { program: raw(program), target, attach, flags, rest: [0; 2] },
    )
}

#[repr(C)]
struct Tracepoint {
    name: u64,
    program: u32,
    pad: u32,
}
impl Attr for Tracepoint {}

/// Attaches a program to a tracepoint until the link is dropped.
///
/// # Errors
/// The kernel's.
pub(crate) fn attach_tracepoint(program: BorrowedFd, name: &CStr) -> io::Result<OwnedFd> {
    let mut attr = Tracepoint { name: name.as_ptr() as u64, program: raw(program), pad: 0 };
    descriptor(RAW_TRACEPOINT_OPEN, &mut attr)
}

#[repr(C)]
struct Stats {
    kind: u32,
}
impl Attr for Stats {}

/// Has the kernel measure every run of every program until the descriptor is dropped.
///
/// # Errors
/// The kernel's.
pub(crate) fn statistics() -> io::Result<OwnedFd> {
    descriptor(ENABLE_STATS, &mut Stats { kind: 0 })
}
