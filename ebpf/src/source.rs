//! Whose packet is it? The ScID of a packet that leaves, also where there is no full socket.

use aya_ebpf::{
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    },
    helpers::generated::{
        bpf_get_listener_sock, bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_release,
    },
    programs::TcContext,
};
use sigil_common::{
    abi::socket::{ClosingKey, SocketState},
    decide::protocol,
    verdict::DropReason,
    wire::ipv4::Ipv4,
};

use crate::{
    maps::{CLOSING, SOCKETS},
    owner,
    packet::ports,
    rules::Rules,
    trouble,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
pub(crate) const SOCK_RAW: u32 = 3;
/// `BPF_F_CURRENT_NETNS`: any negative id.
const CURRENT_NETNS: u64 = u64::MAX;

/// What kind of sender a packet has.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// A socket with the state it was given when it was made.
    Socket,
    /// The kernel, answering for a socket of this ScID that it no longer or not yet has.
    Answer,
    /// The kernel, speaking for itself.
    Kernel,
    /// A socket older than enforcement, or one the kernel opened for its own services.
    Unknown,
    /// An `AF_PACKET` socket, or one that nobody may use any more.
    Packet,
    /// Nobody here: the packet came in on another interface.
    Forwarded,
}

/// Who sends a packet. Every field is set for every kind: the verifier follows no enum.
pub(crate) struct Sender {
    pub(crate) kind: Kind,
    /// The ScID that the packet speaks for, 0 for none.
    scid: u32,
    /// Of [`Kind::Socket`], else null.
    state: *mut SocketState,
    /// Of [`Kind::Socket`], else null.
    pub(crate) sk: *mut bpf_sock,
}

impl Sender {
    /// Finds the sender of a packet at TC egress.
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext, rules: &Rules, ip: Ipv4, transport: u32) -> Self {
        // SAFETY: the context's own field; the verifier knows it may be null.
        let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
        if sk.is_null() {
            // SAFETY: as above.
            if unsafe { (*ctx.skb.skb).ingress_ifindex } != 0 {
                return Self::nobody(Kind::Forwarded, 0);
            }
            return Self::without_socket(ctx, rules, ip, transport);
        }
        // SAFETY: `sk` is not null.
        let full = unsafe { bpf_sk_fullsock(sk) };
        if full.is_null() {
            // A request socket answers for its listener.
            // SAFETY: `sk` is not null.
            let listener = unsafe { bpf_get_listener_sock(sk) };
            if !listener.is_null()
                && let Some(state) = SOCKETS.of(listener)
            {
                return Self::nobody(Kind::Answer, rules.scid_or_default(state.scid));
            }
            return Self::without_socket(ctx, rules, ip, transport);
        }
        if let Some(state) = SOCKETS.of(full) {
            if owner::usable(state).is_err() {
                return Self::nobody(Kind::Packet, 0);
            }
            let scid = rules.scid_or_default(state.scid);
            return Self { kind: Kind::Socket, scid, state, sk: full };
        }
        // SAFETY: `full` is a full socket.
        let (family, kind) = unsafe { ((*full).family, (*full).type_) };
        match (family, kind) {
            // The kernel's control sockets (ICMP, TCP resets) are made without the create hook.
            (AF_INET | AF_INET6, SOCK_RAW) => Self::without_socket(ctx, rules, ip, transport),
            (AF_INET | AF_INET6, _) => match SOCKETS.of_zeroed(full) {
                Some(state) => Self {
                    kind: Kind::Socket,
                    scid: rules.generation.default_scid,
                    state,
                    sk: full,
                },
                None => Self::nobody(Kind::Unknown, rules.generation.default_scid),
            },
            _ => Self::nobody(Kind::Packet, rules.generation.default_scid),
        }
    }

    /// The kernel made the packet. For TCP it answers on behalf of a connection: a listener's (SYN
    /// cookies), one that is closing (TIME_WAIT), or none (a reset).
    #[inline(always)]
    fn without_socket(ctx: &TcContext, rules: &Rules, ip: Ipv4, transport: u32) -> Self {
        if ip.protocol() != protocol::TCP {
            return Self::nobody(Kind::Kernel, rules.generation.kernel_scid);
        }
        let closing = closing_key(ip, transport);
        // SAFETY: plain data.
        if let Some(scid) = unsafe { CLOSING.get(closing) } {
            return Self::nobody(Kind::Answer, *scid);
        }
        let mut tuple = bpf_sock_tuple {
            __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 {
                ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                    saddr: ip.target().to_be(),
                    daddr: ip.source().to_be(),
                    sport: closing.remote_port.to_be(),
                    dport: closing.local_port.to_be(),
                },
            },
        };
        /// Size of the IPv4 half of the tuple: two addresses and two ports.
        const TUPLE_IPV4: u32 = 12;
        // SAFETY: the tuple outlives the call; the socket found is released below.
        let found = unsafe {
            bpf_sk_lookup_tcp(
                ctx.skb.skb.cast(),
                core::ptr::from_mut(&mut tuple),
                TUPLE_IPV4,
                CURRENT_NETNS,
                0,
            )
        };
        let mut scid = None;
        if !found.is_null() {
            scid = SOCKETS.of(found).map(|state| state.scid);
            // SAFETY: acquired above.
            unsafe { bpf_sk_release(found.cast()) };
        }
        let declared = || rules.port(rules.config.snid, protocol::TCP, closing.local_port);
        match scid.or_else(declared) {
            Some(scid) => Self::nobody(Kind::Answer, rules.scid_or_default(scid)),
            None => Self::nobody(Kind::Kernel, rules.generation.kernel_scid),
        }
    }

    #[inline(always)]
    const fn nobody(kind: Kind, scid: u32) -> Self {
        use core::ptr::null_mut;
        Self { kind, scid, state: null_mut(), sk: null_mut() }
    }

    /// The ScID that the packet speaks for.
    #[inline(always)]
    pub(crate) fn scid(&self) -> Result<u32, DropReason> {
        if self.scid == 0 { Err(DropReason::NoScid) } else { Ok(self.scid) }
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> Option<&'static mut SocketState> {
        // SAFETY: null, or the socket's own state, which lives as long as the packet's reference to
        // the socket.
        unsafe { self.state.as_mut() }
    }
}

/// The state of a packet's socket, if it is a full one.
#[inline(always)]
pub(crate) fn state_of(sk: *mut bpf_sock) -> Option<&'static mut SocketState> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: not null.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() { None } else { SOCKETS.of(full) }
}

/// The connection of a TCP segment that leaves.
#[inline(always)]
fn closing_key(ip: Ipv4, transport: u32) -> ClosingKey {
    let (local_port, remote_port) = ports(transport);
    ClosingKey { remote: ip.target(), local: ip.source(), remote_port, local_port }
}

/// Remembers whose connection this was, when its socket sends FIN or RST and may soon be gone.
#[inline(always)]
pub(crate) fn remember_closing(ip: Ipv4, transport: u32, scid: u32) {
    trouble::expect(CLOSING.insert(closing_key(ip, transport), scid, 0));
}
