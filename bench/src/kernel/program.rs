//! Programs that do nothing, to compare with, and one that gives a test packet a socket.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use sigil_common::abi::socket::SocketState;

use super::sys;

/// `enum bpf_prog_type`.
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SKB: u32 = 8;
const RAW_TRACEPOINT: u32 = 17;

/// `enum bpf_map_type`.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
/// `BPF_F_NO_PREALLOC`, as the rule maps have it.
const NO_PREALLOC: u32 = 1;

/// `XDP_PASS`.
pub(crate) const XDP_PASS: u32 = 2;
/// `TC_ACT_UNSPEC`: go on.
pub(crate) const TC_GO_ON: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
const TC_DROP: i32 = 2;

/// A program that passes every packet, at XDP.
///
/// # Errors
/// The kernel's.
pub(crate) fn empty_xdp() -> io::Result<OwnedFd> {
    sys::load(XDP, &[set(0, XDP_PASS.cast_signed()), EXIT])
}

/// A program that passes every packet, at TC.
///
/// # Errors
/// The kernel's.
pub(crate) fn empty_tc() -> io::Result<OwnedFd> {
    sys::load(SCHED_CLS, &[set(0, TC_GO_ON.cast_signed()), EXIT])
}

/// A program that passes every packet, at a control group's sockets.
///
/// # Errors
/// The kernel's.
pub(crate) fn empty_cgroup() -> io::Result<OwnedFd> {
    sys::load(CGROUP_SKB, &[set(0, 1), EXIT])
}

/// A program that does nothing, at a tracepoint.
///
/// # Errors
/// The kernel's.
pub(crate) fn empty_tracepoint() -> io::Result<OwnedFd> {
    sys::load(RAW_TRACEPOINT, &[set(0, 0), EXIT])
}

/// A TC program that gives the test packet's socket a state and goes on with another program.
///
/// `BPF_PROG_TEST_RUN` makes an anonymous socket for each packet, which no hook has seen. This
/// program does for it what `sock_create` and the first packet do for a real one, goes on with the
/// program under test by a tail call, and is measured with it. What that costs is measured by having it
/// end in an empty program.
#[derive(Debug)]
pub(crate) struct WithSocket {
    program: OwnedFd,
    state: sys::Map,
    /// Holds the program that it ends in.
    _next: sys::Map,
}

impl WithSocket {
    /// Goes on with `next`, whose socket storage is `sockets`.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(sockets: BorrowedFd, next: BorrowedFd) -> io::Result<Self> {
        let state = sys::Map::new::<u32, SocketState>(ARRAY, 1, 0)?;
        let array = sys::Map::new::<u32, RawFd>(PROG_ARRAY, 1, 0)?;
        array.set(&0_u32, &next.as_raw_fd())?;
        let [state_low, state_high] = load_map(1, state.as_fd());
        let [sockets_low, sockets_high] = load_map(1, sockets);
        let [array_low, array_high] = load_map(2, array.as_fd());
        let program = [
            copy(6, 1),
            load64(1, 6, SKB_SOCKET),
            if_zero(1, 21),
            call(SK_FULLSOCK),
            if_zero(0, 19),
            copy(7, 0),
            // Element 0 of the map with the state.
            store32(10, -4, 0),
            state_low,
            state_high,
            copy(2, 10),
            add(2, -4),
            call(MAP_LOOKUP),
            if_zero(0, 11),
            copy(3, 0),
            sockets_low,
            sockets_high,
            copy(2, 7),
            set(4, 1),
            call(SK_STORAGE_GET),
            copy(1, 6),
            array_low,
            array_high,
            set(3, 0),
            call(TAIL_CALL),
            // Nothing of this should ever fail.
            set(0, TC_DROP),
            EXIT,
        ];
        Ok(Self { program: sys::load(SCHED_CLS, &program)?, state, _next: array })
    }

    /// The state that sockets get from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_state(&self, state: &SocketState) -> io::Result<()> {
        self.state.set(&0_u32, state)
    }

    /// The program.
    #[must_use]
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// A TC program that looks one key up in a hash map: the yardstick of a first packet's cost.
#[derive(Debug)]
pub(crate) struct Lookup {
    program: OwnedFd,
    key: sys::Map,
    entries: u32,
    _hash: sys::Map,
}

impl Lookup {
    /// A hash map of so many entries, as large as those of `PEERS`, and the program.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let hash = sys::Map::new::<u64, [u32; 4]>(HASH, entries, NO_PREALLOC)?;
        for entry in 0..entries {
            hash.set(&u64::from(entry), &[entry; 4])?;
        }
        let key = sys::Map::new::<u32, u64>(ARRAY, 1, 0)?;
        let [key_low, key_high] = load_map(1, key.as_fd());
        let [hash_low, hash_high] = load_map(1, hash.as_fd());
        let program = [
            store32(10, -4, 0),
            key_low,
            key_high,
            copy(2, 10),
            add(2, -4),
            call(MAP_LOOKUP),
            if_zero(0, 7),
            copy(2, 0),
            hash_low,
            hash_high,
            call(MAP_LOOKUP),
            if_zero(0, 2),
            set(0, TC_GO_ON.cast_signed()),
            EXIT,
            set(0, TC_DROP),
            EXIT,
        ];
        Ok(Self { program: sys::load(SCHED_CLS, &program)?, key, entries, _hash: hash })
    }

    /// Chooses the key of the runs to come.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn choose(&self, shuffle: &mut Shuffle) -> io::Result<()> {
        self.key.set(&0_u32, &u64::from(shuffle.below(self.entries)))
    }

    /// The program.
    #[must_use]
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
#[derive(Debug)]
pub(crate) struct Shuffle(pub u64);

impl Shuffle {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 33) % u64::from(limit.max(1))).unwrap_or_default()
    }
}

/// Helper functions by number.
const MAP_LOOKUP: i32 = 1;
const TAIL_CALL: i32 = 12;
const SK_FULLSOCK: i32 = 95;
const SK_STORAGE_GET: i32 = 107;

/// `offsetof(struct __sk_buff, sk)`.
const SKB_SOCKET: i16 = 168;

const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

const fn set(register: u8, value: i32) -> u64 {
    instruction(0xb7, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

const fn add(register: u8, value: i32) -> u64 {
    instruction(0x07, register, 0, 0, value)
}

const fn load64(to: u8, at: u8, offset: i16) -> u64 {
    instruction(0x79, to, at, offset, 0)
}

const fn store32(at: u8, offset: i16, value: i32) -> u64 {
    instruction(0x62, at, 0, offset, value)
}

const fn if_zero(register: u8, skip: i16) -> u64 {
    instruction(0x15, register, 0, skip, 0)
}

const fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

fn load_map(register: u8, map: BorrowedFd) -> [u64; 2] {
    const PSEUDO_MAP_FD: u8 = 1;
    [instruction(0x18, register, PSEUDO_MAP_FD, 0, map.as_raw_fd()), 0]
}

/// `struct bpf_insn` as a word.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [v0, v1, v2, v3] = value.to_le_bytes();
    u64::from_le_bytes([code, to | from << 4, o0, o1, v0, v1, v2, v3])
}
