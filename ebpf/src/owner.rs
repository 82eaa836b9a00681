//! Sockets follow processes: who uses a socket has its ScID, or nobody uses it any more.
//!
//! A descriptor may come to a process with another ScID: over an exec that led elsewhere, by a fork
//! whose child went on so, through `SCM_RIGHTS`. Where a RELABEL rule hands sockets of the one zone to
//! the other, the socket then has the ScID of who uses it; everywhere else that is refused. Calls that
//! name an address are refused in the socket hooks, before anything happens. Here every other transfer
//! of data is seen in its own task, also by way of sendfile, splice and io_uring: writes to TCP before it
//! takes any data (Linux 6.16 on), all others just after the first one. From then on the socket carries
//! nothing, in either direction. Beside LSM programs, which refuse before the first one, only reads are
//! watched that they are not asked about.

use aya_ebpf::{bindings::bpf_sock, macros::btf_tracepoint, programs::BtfTracePointContext};
use sigil_common::{
    abi::{
        policy::socket::CREATE,
        socket::{SocketState, socket_flag},
    },
    decide,
    label::Label,
    verdict::{DropReason, Hook},
};

use crate::{
    atomic,
    maps::SOCKETS,
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Rules},
    socket::permitted,
    task,
};

/// `tcp_sendmsg_locked(sk, msg, skb, size_goal)`
#[btf_tracepoint(function = "tcp_sendmsg_locked")]
pub fn sock_tcp_send(ctx: BtfTracePointContext) -> i32 {
    used(ctx.arg(0), true)
}

/// `tcp_rcv_space_adjust(sk)`: data was taken out of a stream, also where no message is received: by
/// splice, by `TCP_ZEROCOPY_RECEIVE`.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn sock_tcp_read(ctx: BtfTracePointContext) -> i32 {
    used(ctx.arg(0), true)
}

/// `sock_send_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_send_length")]
pub fn sock_sent(ctx: BtfTracePointContext) -> i32 {
    moved(&ctx)
}

/// `sock_recv_length(sk, ret, flags)`
#[btf_tracepoint(function = "sock_recv_length")]
pub fn sock_received(ctx: BtfTracePointContext) -> i32 {
    moved(&ctx)
}

/// What was refused or failed moved nothing.
#[inline(always)]
fn moved(ctx: &BtfTracePointContext) -> i32 {
    let length: i32 = ctx.arg(1);
    if length < 0 { 0 } else { used(ctx.arg(0), false) }
}

#[inline(always)]
fn used(sk: *mut bpf_sock, tcp: bool) -> i32 {
    // Sockets of other families have no state.
    if let Some(state) = SOCKETS.of(sk)
        && state.flags & (socket_flag::FOREIGN | socket_flag::LOCAL) == 0
        && !is_own(state)
        && !is_kernels(sk, state.scid)
        && !(tcp && is_tls_at_work(sk))
        && !take_over(state)
        && refuse(state) == Fate::Drop
    {
        state.flags |= socket_flag::FOREIGN;
    }
    0
}

/// Whether it is the kernel's own socket, which it uses in any process: a network file system sends from
/// whichever one asks for a file. `owner` is the socket's ScID.
///
/// Drivers of disks make theirs as processes do, or are given them (NVMe, NBD, iSCSI), and keep them from waiting
/// for file systems when memory is short, which no process can ask for. Such a one of a zone serves that zone
/// and threads of the kernel alone, lest a zone that may give its sockets to drivers lends others its label.
#[inline(always)]
pub(crate) fn is_kernels(sk: *mut bpf_sock, owner: u32) -> bool {
    /// `__GFP_FS`
    const WAITS_FOR_FILES: u32 = 0x80;
    let offsets = task::offsets();
    let bit = offsets.sock_kernel;
    let made: Result<u8, _> = of_sock(sk, bit / 8);
    if made.is_ok_and(|byte| byte >> (bit % 8) & 1 != 0) {
        return true;
    }
    let protocol: Result<u16, _> = of_sock(sk, offsets.sock_protocol);
    let allocation: Result<u32, _> = of_sock(sk, offsets.sock_allocation);
    protocol == Ok(u16::from(decide::protocol::TCP))
        && allocation.is_ok_and(|flags| flags & WAITS_FOR_FILES == 0)
        && (owner == 0 || task::is_kernel_thread())
}

/// Whether TLS of the kernel works on a TCP socket in no process of anybody's: in a thread of the kernel, or
/// in a softirq, which has whatever process it interrupted. What it reads, a process must receive, and is seen
/// then. With user data the socket is another one's as well: KCM's, which gives it to whom it likes.
#[inline(always)]
fn is_tls_at_work(sk: *mut bpf_sock) -> bool {
    let offsets = task::offsets();
    let (ulp, data) =
        (of_sock::<u64>(sk, offsets.tcp_ulp), of_sock::<u64>(sk, offsets.sock_user_data));
    let softirq = || of_sock::<i32>(sk, offsets.sock_owned) == Ok(0);
    ulp.is_ok_and(|ulp| ulp != 0) && data == Ok(0) && (task::is_kernel_thread() || softirq())
}

#[inline(always)]
fn of_sock<T>(sk: *mut bpf_sock, offset: u32) -> Result<T, i32> {
    task::member(sk.cast_const().cast(), offset)
}

/// Whether the current process may use the socket: it has its ScID, or takes it over.
#[inline(always)]
pub(crate) fn claim(state: &mut SocketState) -> bool {
    is_own(state) || take_over(state)
}

/// Gives the socket the current process's ScID, where a rule says so. A line to a server stays the
/// agent's.
#[inline(never)]
fn take_over(state: &mut SocketState) -> bool {
    let task = task::current();
    let user = task.scid();
    if task.is_doomed() || state.flags & (socket_flag::FOREIGN | socket_flag::CONTROL) != 0 {
        return false;
    }
    let Ok(rules) = Rules::now() else { return false };
    let creates = permitted(&rules, user, CREATE).is_ok();
    if decide::process::take_over(user, rules.relabels(state.scid, user), creates).is_err() {
        return false;
    }
    state.pid = task::current_tgid();
    state.comm = task::current_comm();
    // What is remembered was judged for who had it before; see `remember` for the order.
    // SAFETY: aligned words of the socket's storage.
    unsafe {
        (&raw mut state.scid).write_volatile(user);
        atomic::exchange(&raw mut state.ingress, 0);
        atomic::exchange(&raw mut state.egress, 0);
    }
    true
}

/// Puts a verdict into a cache word of a socket, unless the socket has changed hands since it was judged
/// as one of `scid`: either that is seen here, or this is cleared there.
#[inline(always)]
pub(crate) fn remember(
    rules: &Rules,
    state: *mut SocketState,
    word: *mut u64,
    new: u64,
    scid: u32,
) {
    // SAFETY: aligned words of the socket's storage.
    unsafe {
        atomic::exchange(word, new);
        if rules.scid_or_default((&raw const (*state).scid).read_volatile()) != scid {
            atomic::exchange(word, 0);
        }
    }
}

/// Whether the current process has the socket's ScID.
#[inline(always)]
pub(crate) fn is_own(state: &SocketState) -> bool {
    let task = task::current();
    task.scid() == state.scid && !task.is_doomed()
}

/// Whether the socket may still carry anything.
#[inline(always)]
pub(crate) fn usable(state: &SocketState) -> Result<(), DropReason> {
    if state.flags & socket_flag::FOREIGN == 0 { Ok(()) } else { Err(DropReason::SocketLabel) }
}

/// Counts and reports the use of a socket by a process that has another ScID.
#[inline(never)]
fn refuse(state: &SocketState) -> Fate {
    report::seen(Hook::Socket);
    let mut user = Label { snid: 0, scid: task::current().scid() };
    let mut owner = Label { snid: 0, scid: state.scid };
    if let Ok(rules) = Rules::now() {
        (user, owner) = (rules.own(user.scid), rules.own(owner.scid));
    }
    let refused = DropReason::SocketLabel.between(user, owner);
    let process = Process::current(task::current_tgid());
    report::refuse(Hook::Socket, &refused, &Flow::default(), &process)
}
