//! The cgroup socket hooks: a socket learns whose it is, and what it may not do fails with an errno
//! (EPERM) that the application sees, before any packet is made.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::bpf_get_current_comm,
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use sigil_common::{
    abi::{
        policy::socket::{BIND, CONNECT, CREATE},
        rule::NO_NODE,
        socket::SocketState,
    },
    decide,
    label::Label,
    verdict::{DropReason, Hook},
};

use crate::{
    maps::SOCKETS,
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
    stamp::{egress_word, read, write},
    task,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// `socket(2)`: the socket gets its maker's ScID.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    let mut state = SocketState {
        pid: task::current_tgid(),
        comm: bpf_get_current_comm().unwrap_or_default(),
        ..SocketState::default()
    };
    let outcome = create(&ctx, &mut state);
    finish(outcome, Flow::default(), &Process::of(Some(&state)))
}

#[inline(always)]
fn create(ctx: &SockContext, state: &mut SocketState) -> Result<(), Refused> {
    state.scid = task::current_scid().ok_or(DropReason::TaskRange)?;
    if state.scid != 0 {
        permitted(&Rules::now()?, state.scid, CREATE)?;
    }
    SOCKETS.of_new(ctx.sock, state).map(drop).ok_or(DropReason::NoMemory.into())
}

#[cgroup_sock_addr(bind4)]
pub fn sock_bind4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, bind)
}

#[cgroup_sock_addr(bind6)]
pub fn sock_bind6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, bind)
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, connect)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, connect)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, sendmsg)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, sendmsg)
}

/// What an application asks for.
#[derive(Clone, Copy)]
struct Asked {
    /// The IPv4 address, if it is or wraps one.
    address: Option<u32>,
    /// Host order.
    port: u16,
    protocol: u8,
}

impl Asked {
    #[inline(always)]
    fn v4(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context's own fields.
        let (address, port, protocol) = unsafe {
            let asked = &*ctx.sock_addr;
            (asked.user_ip4, asked.user_port, asked.protocol)
        };
        Self { address: Some(u32::from_be(address)), port: u16::from_be(port as u16), protocol: protocol as u8 }
    }

    #[inline(always)]
    fn v6(ctx: &SockAddrContext) -> Self {
        // SAFETY: the context's own fields.
        let (a, b, c, d, port, protocol) = unsafe {
            let asked = &*ctx.sock_addr;
            let [a, b, c, d] = asked.user_ip6;
            (a, b, c, d, asked.user_port, asked.protocol)
        };
        let mapped = a == 0 && b == 0 && c == 0xffff_u32.to_be();
        Self {
            address: mapped.then_some(u32::from_be(d)),
            port: u16::from_be(port as u16),
            protocol: protocol as u8,
        }
    }

    #[inline(always)]
    fn loopback(&self) -> bool {
        self.address.is_none_or(|address| address >> 24 == 127 || address == 0)
    }
}

#[inline(always)]
fn hook(
    ctx: &SockAddrContext,
    asked: Asked,
    judge: impl Fn(&Rules, &mut SocketState, u32, Asked) -> Result<(), Refused>,
) -> i32 {
    // SAFETY: the context's own field.
    let sk: *mut bpf_sock = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    let flow = Flow {
        target_address: asked.address.unwrap_or(0),
        target_port: asked.port,
        protocol: u32::from(asked.protocol),
        ..Flow::default()
    };
    if sk.is_null() {
        return finish(Err(DropReason::NoScid.into()), flow, &Process::default());
    }
    // A socket older than enforcement has no state; its packets carry the node's default ScID.
    let Some(state) = SOCKETS.of(sk) else {
        return finish(Ok(()), flow, &Process::default());
    };
    let outcome = match Rules::now() {
        Ok(rules) => {
            let scid = rules.scid_or_default(state.scid);
            judge(&rules, state, scid, asked)
        }
        Err(_) if state.scid == 0 => Ok(()),
        Err(reason) => Err(reason.into()),
    };
    finish(outcome, flow, &Process::of(Some(state)))
}

/// `bind(2)`: a declared port belongs to its zone.
#[inline(always)]
fn bind(rules: &Rules, state: &mut SocketState, scid: u32, asked: Asked) -> Result<(), Refused> {
    if state.scid != 0 {
        permitted(rules, scid, BIND)?;
    }
    match rules.port(rules.config.snid, asked.protocol, asked.port) {
        Some(zone) if zone != scid && asked.port != 0 => {
            Err(DropReason::SocketPermission.between(rules.own(scid), rules.own(zone)))
        }
        _ => Ok(()),
    }
}

/// `connect(2)`: a new conversation, with a peer of its own.
#[inline(always)]
fn connect(rules: &Rules, state: &mut SocketState, scid: u32, asked: Asked) -> Result<(), Refused> {
    state.peer = 0;
    state.flags = 0;
    write(&mut state.ingress, 0);
    write(&mut state.egress, 0);
    if state.scid != 0 {
        permitted(rules, scid, CONNECT)?;
    }
    reach(rules, state.scid, scid, asked, true)
}

/// `sendto(2)` on a socket that is connected to nobody.
#[inline(always)]
fn sendmsg(rules: &Rules, state: &mut SocketState, scid: u32, asked: Asked) -> Result<(), Refused> {
    if let Some(address) = asked.address
        && read(&state.egress) == egress_word(address, asked.port, rules.number())
    {
        return Ok(());
    }
    reach(rules, state.scid, scid, asked, false)
}

/// May a process send there? `given` is the ScID it was given, `scid` what it counts as.
#[inline(always)]
fn reach(
    rules: &Rules,
    given: u32,
    scid: u32,
    asked: Asked,
    opens: bool,
) -> Result<(), Refused> {
    let own = rules.own(scid);
    // Same-node traffic is judged where it is delivered, against the very socket.
    let Some(address) = asked.address.filter(|_| !asked.loopback()) else {
        return Ok(());
    };
    let route = match rules.route(address, asked.protocol, asked.port) {
        Ok(route) => route,
        // Beyond the cluster: none of our business for processes that were given no ScID.
        Err(_) if given == 0 => return Ok(()),
        Err(reason) => return Err(reason.between(own, Label::default())),
    };
    if route.peer.snid == rules.config.snid {
        return Ok(());
    }
    if scid == 0 {
        return if route.node == NO_NODE {
            Ok(())
        } else {
            Err(DropReason::NoScid.between(own, route.peer))
        };
    }
    let verdict = rules.between(route.peer, scid);
    let sending = if opens { decide::open(verdict) } else { decide::send(verdict) };
    sending.map(drop).map_err(|refusal| refusal.between(own, route.peer))
}

#[inline(always)]
fn permitted(rules: &Rules, scid: u32, permission: u32) -> Result<(), Refused> {
    if rules.socket(scid).is_some_and(|rule| rule.allow & permission == permission) {
        Ok(())
    } else {
        Err(DropReason::SocketPermission.between(rules.own(scid), Label::default()))
    }
}

#[inline(always)]
fn finish(outcome: Result<(), Refused>, flow: Flow, process: &Process) -> i32 {
    report::seen(Hook::Socket);
    match outcome {
        Ok(()) => {
            report::accepted(Hook::Socket);
            ALLOW
        }
        Err(refused) => match report::refuse(Hook::Socket, &refused, &flow, process) {
            Fate::Drop => DENY,
            Fate::Pass => ALLOW,
        },
    }
}
