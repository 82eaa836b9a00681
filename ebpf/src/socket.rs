//! The cgroup socket hooks: a socket learns whose it is, and what it may not do fails with an errno
//! (EPERM) that the application sees, before any packet is made.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::bpf_get_socket_cookie,
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use sigil_common::{
    abi::{
        policy::socket::{BIND, CONNECT, CREATE},
        rule::{NO_NODE, Verdict},
        socket::{ConversationKey, SocketState, socket_flag},
    },
    decide::{self, Refusal, Sending, protocol},
    label::Label,
    verdict::{DropReason, Hook},
};

use crate::{
    maps::{CONVERSATIONS, SOCKETS},
    owner,
    report::{self, Fate, Flow, Process},
    rules::{Refused, Rules},
    source::SOCK_RAW,
    stamp::{egress_word, read, write},
    task, trouble,
};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const IPPROTO_SMC: u32 = 256;
const IPPROTO_MPTCP: u32 = 262;

/// `socket(2)`: the socket gets its maker's ScID.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    let mut state = SocketState {
        pid: task::current_tgid(),
        comm: task::current_comm(),
        ..SocketState::default()
    };
    let outcome = create(&ctx, &mut state);
    finish(outcome, state.scid, Flow::default(), &Process::of(Some(&state)))
}

#[inline(always)]
fn create(ctx: &SockContext, state: &mut SocketState) -> Result<(), Refusal> {
    state.scid = task::current_scid().ok_or(DropReason::TaskRange)?;
    if state.scid != 0 {
        permitted(&Rules::now()?, state.scid, CREATE)?;
        // SAFETY: the context's own fields.
        let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
        // Of SMC and MPTCP the kernel makes subflows, and nobody would know whose they are. A raw socket
        // of a transport protocol gets a copy of every zone's packets.
        let copies = matches!(
            protocol as u8,
            protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP | protocol::DCCP
        );
        if matches!(protocol, IPPROTO_SMC | IPPROTO_MPTCP) || kind == SOCK_RAW && copies {
            return Err(DropReason::SocketPermission.into());
        }
    }
    if SOCKETS.of_new(ctx.sock, state).is_none() {
        trouble::tell(trouble::NO_STATE, 0);
        return Err(DropReason::NoMemory.into());
    }
    Ok(())
}

#[cgroup_sock_addr(bind4)]
pub fn sock_bind4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, Call::Bind)
}

#[cgroup_sock_addr(bind6)]
pub fn sock_bind6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, Call::Bind)
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, Call::Connect)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, Call::Connect)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v4(&ctx);
    hook(&ctx, asked, Call::Sendmsg)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    let asked = Asked::v6(&ctx);
    hook(&ctx, asked, Call::Sendmsg)
}

/// What an application asks for.
#[derive(Clone, Copy)]
struct Asked {
    /// The IPv4 address, or the last four bytes of an IPv6 one.
    address: u32,
    /// It is an IPv4 address, or an IPv6 one that wraps it.
    v4: bool,
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
        Self {
            address: u32::from_be(address),
            v4: true,
            port: u16::from_be(port as u16),
            protocol: protocol as u8,
        }
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
            address: u32::from_be(d),
            v4: mapped,
            port: u16::from_be(port as u16),
            protocol: protocol as u8,
        }
    }

    #[inline(always)]
    fn loopback(&self) -> bool {
        !self.v4 || self.address >> 24 == 127 || self.address == 0
    }
}

/// The system call that asks.
#[derive(Clone, Copy)]
enum Call {
    Bind,
    Connect,
    Sendmsg,
}

#[inline(always)]
fn hook(ctx: &SockAddrContext, asked: Asked, call: Call) -> i32 {
    // SAFETY: the context's own field.
    let sk: *mut bpf_sock = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    let flow = Flow {
        target_address: asked.address,
        target_port: asked.port,
        protocol: u32::from(asked.protocol),
        ..Flow::default()
    };
    if sk.is_null() {
        return finish(Err(DropReason::NoScid.into()), 0, flow, &Process::default());
    }
    // A socket older than enforcement has no state; its packets carry the node's default ScID. Nor has one
    // that the kernel makes: a zone may have none made for it, as AF_SMC and AF_RXRPC do.
    let Some(state) = SOCKETS.of(sk) else {
        let outside = task::current_scid() == Some(0);
        let outcome = if outside { Ok(()) } else { Err(DropReason::SocketLabel.into()) };
        return finish(outcome, 0, flow, &Process::default());
    };
    let owned = owner::claim(state);
    let process = Process::of(Some(state));
    let given = state.scid;
    // Before the rules are asked, not among their answers: Linux 6.1 takes what is then not used for read.
    if !owned {
        return finish(Err(DropReason::SocketLabel.into()), given, flow, &process);
    }
    let outcome = match Rules::now() {
        Ok(rules) => judge(ctx, &rules, state, given, asked, call),
        Err(_) if given == 0 => Ok(()),
        Err(reason) => Err(reason.into()),
    };
    finish(outcome, given, flow, &process)
}

#[inline(always)]
fn judge(
    ctx: &SockAddrContext,
    rules: &Rules,
    state: &mut SocketState,
    given: u32,
    asked: Asked,
    call: Call,
) -> Result<(), Refusal> {
    let scid = rules.scid_or_default(given);
    match call {
        Call::Bind => bind(rules, given, scid, asked),
        Call::Connect => connect(rules, state, given, scid, asked),
        Call::Sendmsg => sendmsg(ctx, rules, state, given, scid, asked),
    }
}

/// `bind(2)`: a declared port belongs to its zone.
#[inline(always)]
fn bind(rules: &Rules, given: u32, scid: u32, asked: Asked) -> Result<(), Refusal> {
    if given != 0 {
        permitted(rules, scid, BIND)?;
    }
    match rules.port(rules.config.snid, asked.protocol, asked.port) {
        Some(zone) if zone != scid && asked.port != 0 => Err(DropReason::SocketPermission.into()),
        _ => Ok(()),
    }
}

/// `connect(2)`: a new conversation, with a peer of its own.
#[inline(always)]
fn connect(
    rules: &Rules,
    state: &mut SocketState,
    given: u32,
    scid: u32,
    asked: Asked,
) -> Result<(), Refusal> {
    state.peer = 0;
    state.flags &= socket_flag::FOREIGN | socket_flag::CONTROL;
    write(&mut state.ingress, 0);
    write(&mut state.egress, 0);
    if given != 0 {
        permitted(rules, scid, CONNECT)?;
    }
    if state.flags & socket_flag::CONTROL != 0 && rules.is_server(asked.address, asked.port) {
        return Ok(());
    }
    reach(rules, given, scid, asked, decide::open, decide::open)
}

/// `sendto(2)` on a socket that is connected to nobody.
#[inline(always)]
fn sendmsg(
    ctx: &SockAddrContext,
    rules: &Rules,
    state: &SocketState,
    given: u32,
    scid: u32,
    asked: Asked,
) -> Result<(), Refusal> {
    let word = egress_word(asked.address, asked.port, rules.number());
    if asked.v4 && read(&state.egress) == word {
        return Ok(());
    }
    let out = |verdict: &Verdict| {
        // SAFETY: the context's own address.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
        let spoken = CONVERSATIONS.get_ptr(ConversationKey {
            cookie,
            address: asked.address,
            port: asked.port,
            protocol: u16::from(asked.protocol),
        });
        decide::send_out(verdict, spoken.is_some())
    };
    reach(rules, given, scid, asked, decide::send, out)
}

/// May a process send there? `given` is the ScID it was given, `scid` what it counts as; to a node it may
/// what `to` says, to the perimeter what `out` says.
#[inline(always)]
fn reach(
    rules: &Rules,
    given: u32,
    scid: u32,
    asked: Asked,
    to: impl Fn(&Verdict) -> Result<Sending, Refusal>,
    out: impl Fn(&Verdict) -> Result<Sending, Refusal>,
) -> Result<(), Refusal> {
    // Same-node traffic is judged where it is delivered, against the very socket.
    if asked.loopback() {
        return Ok(());
    }
    let route = match rules.route(asked.address, asked.protocol, asked.port) {
        Ok(route) => route,
        // Beyond the cluster: none of our business for processes that were given no ScID.
        Err(_) if given == 0 => return Ok(()),
        Err(reason) => return Err(reason.into()),
    };
    if route.peer.snid == rules.config.snid {
        return Ok(());
    }
    if scid == 0 {
        return if route.node == NO_NODE { Ok(()) } else { Err(DropReason::NoScid.into()) };
    }
    let verdict = rules.between(route.peer, scid);
    let sending = if route.node == NO_NODE { out(&verdict) } else { to(&verdict) };
    sending.map(drop)
}

#[inline(always)]
pub(crate) fn permitted(rules: &Rules, scid: u32, permission: u32) -> Result<(), Refusal> {
    if rules.socket(scid).is_some_and(|rule| rule.allow & permission == permission) {
        Ok(())
    } else {
        Err(DropReason::SocketPermission.into())
    }
}

/// Counts, and reports a refusal with the labels it is about, which are looked up again.
#[inline(always)]
fn finish(outcome: Result<(), Refusal>, scid: u32, flow: Flow, process: &Process) -> i32 {
    report::seen(Hook::Socket);
    let Err(refusal) = outcome else {
        report::accepted(Hook::Socket);
        return ALLOW;
    };
    let mut refused = Refused {
        reason: refusal.reason,
        line: refusal.line,
        source: Label::default(),
        target: Label::default(),
    };
    if let Ok(rules) = Rules::now() {
        refused.source = rules.own(rules.scid_or_default(scid));
        if let Ok(route) = rules.route(flow.target_address, flow.protocol as u8, flow.target_port) {
            refused.target = route.peer;
        }
    }
    match report::refuse(Hook::Socket, &refused, &flow, process) {
        Fate::Drop => DENY,
        Fate::Pass => ALLOW,
    }
}
