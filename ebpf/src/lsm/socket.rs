//! Sockets: which kinds there are in a zone, who uses them and who gets them, and sockets of the Unix
//! family, which no packet hook sees.

use aya_ebpf::{
    bindings::{bpf_sock, file},
    helpers::generated::bpf_sock_from_file,
    macros::lsm,
    programs::LsmContext,
};
use sigil_common::{
    abi::{
        policy::socket::{ACCEPT, LISTEN},
        socket::{SocketState, socket_flag},
    },
    decide,
    verdict::{DropReason, Hook},
};

use super::{ALLOW, EPERM, refuse};
use crate::{
    maps::SOCKETS,
    owner,
    rules::Rules,
    socket::permitted,
    task::{self, sk_offset},
    trouble,
};

const UNIX: i32 = 1;

/// `socket_create(family, type, protocol, kern)`: no socket whose traffic nobody judges. Packet and XDP
/// sockets read and write whole frames; SMC, VSOCK, KCM, CAN and what comes have other ways out.
#[lsm(hook = "socket_create")]
pub fn lsm_socket(ctx: LsmContext) -> i32 {
    const INET: i32 = 2;
    const INET6: i32 = 10;
    const NETLINK: i32 = 16;
    const ALG: i32 = 38;
    let (family, kernel): (i32, i32) = (ctx.arg(0), ctx.arg(3));
    let task = task::current();
    if kernel != 0 || matches!(family, UNIX | INET | INET6 | NETLINK | ALG) || task.scid() == 0 {
        return ALLOW;
    }
    refuse(Hook::Socket, DropReason::SocketPermission.into(), task.scid(), 0)
}

/// `socket_post_create(sock, family, type, protocol, kern)`: a Unix socket of a zone has its maker's ScID.
#[lsm(hook = "socket_post_create")]
pub fn lsm_created(ctx: LsmContext) -> i32 {
    let (family, kernel): (i32, i32) = (ctx.arg(1), ctx.arg(4));
    let scid = task::current().scid();
    if family != UNIX || kernel != 0 || scid == 0 {
        return ALLOW;
    }
    let mut state = SocketState {
        scid,
        pid: task::current_tgid(),
        comm: task::current_comm(),
        flags: socket_flag::LOCAL,
        ..SocketState::default()
    };
    let sk = sk_of(ctx.arg(0));
    if !sk.is_null() && SOCKETS.of_new(sk, &mut state).is_none() {
        trouble::tell(trouble::NO_STATE, 0);
        return refuse(Hook::Socket, DropReason::NoMemory.into(), scid, scid);
    }
    ALLOW
}

/// `socket_listen(sock, backlog)`
#[lsm(hook = "socket_listen")]
pub fn lsm_listen(ctx: LsmContext) -> i32 {
    using(ctx.arg(0), LISTEN)
}

/// `socket_accept(sock, newsock)`
#[lsm(hook = "socket_accept")]
pub fn lsm_accept(ctx: LsmContext) -> i32 {
    using(ctx.arg(0), ACCEPT)
}

/// `sock_graft(sk, parent)`: what is accepted is the acceptor's, also where its listener was another's when
/// the connection came. It cannot be refused here, and is then nobody's.
#[lsm(hook = "sock_graft")]
pub fn lsm_accepted(ctx: LsmContext) -> i32 {
    let sk: *mut bpf_sock = ctx.arg(0);
    if let Some(state) = SOCKETS.of(sk)
        && state.flags & (socket_flag::FOREIGN | socket_flag::LOCAL) == 0
        && !owner::claim(state)
        && !Rules::observing()
    {
        state.flags |= socket_flag::FOREIGN;
    }
    ALLOW
}

/// `socket_sendmsg(sock, msg, size)`: before any data moves, whichever call moves it: write, sendfile,
/// splice, io_uring.
#[lsm(hook = "socket_sendmsg")]
pub fn lsm_send(ctx: LsmContext) -> i32 {
    using(ctx.arg(0), 0)
}

/// `socket_recvmsg(sock, msg, size, flags)`
#[lsm(hook = "socket_recvmsg")]
pub fn lsm_recv(ctx: LsmContext) -> i32 {
    using(ctx.arg(0), 0)
}

/// `file_receive(file)`: a descriptor comes by `SCM_RIGHTS` or `pidfd_getfd`.
#[lsm(hook = "file_receive")]
pub fn lsm_receive(ctx: LsmContext) -> i32 {
    let file: *mut file = ctx.arg(0);
    // SAFETY: the hook's own argument.
    let socket = unsafe { bpf_sock_from_file(file) };
    if socket.is_null() {
        return ALLOW;
    }
    let sk = sk_of(socket.cast_const().cast());
    if sk.is_null() {
        return ALLOW;
    }
    let Some(state) = SOCKETS.of(sk) else { return ALLOW };
    let receiver = task::current().scid();
    let relabels = Rules::now().is_ok_and(|rules| rules.relabels(state.scid, receiver));
    match decide::process::receive(receiver, state.scid, relabels) {
        Ok(()) => ALLOW,
        Err(refusal) => refuse(Hook::Socket, refusal, receiver, state.scid),
    }
}

/// `unix_stream_connect(sock, other, newsk)`
#[lsm(hook = "unix_stream_connect")]
pub fn lsm_unix_conn(ctx: LsmContext) -> i32 {
    local(ctx.arg(1), false)
}

/// `unix_may_send(sock, other)`
#[lsm(hook = "unix_may_send")]
pub fn lsm_unix_send(ctx: LsmContext) -> i32 {
    local(sk_of(ctx.arg(1)), true)
}

/// May the current process talk to a Unix socket? As on loopback; an answer to a datagram is one.
#[inline(always)]
fn local(other: *mut bpf_sock, datagram: bool) -> i32 {
    let task = task::current();
    let scid = task.scid();
    if scid == 0 || other.is_null() {
        return ALLOW;
    }
    // What the host offers to everybody is guarded by its permissions: /dev/log, the agent itself.
    let Some(state) = SOCKETS.of(other) else { return ALLOW };
    let owner = state.scid;
    if task.is_doomed() {
        return EPERM;
    }
    if owner == scid {
        return ALLOW;
    }
    let Ok(rules) = Rules::now() else {
        return refuse(Hook::Socket, DropReason::NoPolicy.into(), scid, owner);
    };
    match decide::receive(&rules.between(rules.own(scid), owner)) {
        Ok(_) => ALLOW,
        Err(_) if datagram && decide::receive(&rules.between(rules.own(owner), scid)).is_ok() => {
            ALLOW
        }
        Err(refusal) => refuse(Hook::Socket, refusal, scid, owner),
    }
}

/// May the current process use a socket of the Internet families so?
#[inline(always)]
fn using(socket: *const u8, permission: u32) -> i32 {
    let sk = sk_of(socket);
    if sk.is_null() {
        return ALLOW;
    }
    // Older than enforcement, of another family, or the kernel's.
    let Some(state) = SOCKETS.of(sk) else { return ALLOW };
    if state.flags & socket_flag::LOCAL != 0 {
        return ALLOW;
    }
    if !owner::claim(state) {
        if owner::is_kernels(sk, state.scid) {
            return ALLOW;
        }
        let user = task::current().scid();
        return refuse(Hook::Socket, DropReason::SocketLabel.into(), user, state.scid);
    }
    let owner = state.scid;
    if permission == 0 || owner == 0 {
        return ALLOW;
    }
    let Ok(rules) = Rules::now() else {
        return refuse(Hook::Socket, DropReason::NoPolicy.into(), owner, owner);
    };
    match permitted(&rules, owner, permission) {
        Ok(()) => ALLOW,
        Err(refusal) => refuse(Hook::Socket, refusal, owner, owner),
    }
}

/// A socket's `sk`. A plain load, so that the verifier knows what it is.
#[inline(always)]
fn sk_of(socket: *const u8) -> *mut bpf_sock {
    // SAFETY: the verifier checks that the offset is that of a pointer to a socket.
    unsafe { socket.add(sk_offset() as usize).cast::<*mut bpf_sock>().read() }
}
