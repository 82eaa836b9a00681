//! `cgroup_skb` ingress: the exact check, source label against the socket's ScID.
//!
//! The verifier has put the source's handle and protection into `skb->mark`. A mark of 0 is a
//! packet that passed no verifier: from an interface Sigil does not guard, or from an unlabelled
//! process of this node. It reaches sockets that have no ScID of their own and no others, unless
//! the perimeter vouches for its address.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use sigil_common::{
    abi::{
        policy::{PEER_KERNEL, PROTECTION_INTEGRITY},
        rule::{Peer, mark},
        socket::{Conversation, ConversationKey, SocketState, socket_flag},
    },
    decide::{self, Arrival, protocol},
    label::Label,
    verdict::{DropReason, Hook},
    wire::ipv4::Ipv4,
};

use crate::{
    maps::{CONVERSATIONS, SOCKETS},
    owner,
    packet::{Source, ports},
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
    stamp::{CLOSE, read, write},
    trouble,
};

/// A class that the compiler gives to no label.
const NO_CLASS: u32 = u32::MAX;
pub(crate) const ALLOW: i32 = 1;
pub(crate) const DENY: i32 = 0;
const LISTEN: u32 = 10;
pub(crate) const ETH_P_IP_BE: u32 = 0x0008;

#[cgroup_skb(ingress)]
pub fn skb_deliver(ctx: SkBuffContext) -> i32 {
    report::seen(Hook::Deliver);
    // SAFETY: the context's own field; the verifier knows it may be null.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    let full = if sk.is_null() {
        sk
    } else {
        // SAFETY: not null.
        unsafe { bpf_sk_fullsock(sk) }
    };
    let mut none = None;
    let outcome = if full.is_null() {
        Err(DropReason::NoScid.into())
    } else {
        none = SOCKETS.of(full);
        judge(&ctx, full, none.as_deref_mut())
    };
    match outcome {
        Ok(()) => {
            report::accepted(Hook::Deliver);
            ALLOW
        }
        Err(refused) => {
            let flow = Flow::of(Source::SkbNetwork(ctx.skb.skb));
            let process = Process::of(none.as_deref());
            match report::refuse(Hook::Deliver, &refused, &flow, &process) {
                Fate::Drop => DENY,
                Fate::Pass => ALLOW,
            }
        }
    }
}

#[inline(always)]
fn judge(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    state: Option<&mut SocketState>,
) -> Result<(), Refused> {
    let rules = Rules::now()?;
    if let Some(state) = state.as_deref() {
        owner::usable(state)?;
    }
    let (guarded, mark) = mark_of(ctx, &rules);
    let control = state.as_deref().is_some_and(|state| state.flags & socket_flag::CONTROL != 0);
    if control || mark == mark::CONTROL {
        return line(ctx, &rules, control);
    }
    let word = u64::from(mark) << 32 | u64::from(rules.number());
    // A packet from outside the guarded interfaces, for a socket with no ScID of its own: one that
    // is older than enforcement, the kernel's, or an unlabelled process's.
    if mark == 0 && state.as_deref().is_none_or(|state| state.scid == 0) {
        return Ok(());
    }
    if mark != 0 && state.as_deref().is_some_and(|state| read(&state.ingress) == word) {
        return Ok(());
    }
    slow(ctx, &rules, sk, state, mark, guarded, word)
}

/// The agent's line to a server takes what comes from there, and nothing else takes that: TLS tells
/// whether it is the server's.
#[inline(always)]
fn line(ctx: &SkBuffContext, rules: &Rules, control: bool) -> Result<(), Refused> {
    let facts = Facts::of(ctx, Source::SkbNetwork(ctx.skb.skb));
    if control
        && facts.protocol == protocol::TCP
        && rules.is_server(facts.address, facts.remote_port)
    {
        return Ok(());
    }
    Err(DropReason::Unlabelled.between(Label::default(), rules.own(0)))
}

/// Whether the packet came in where Sigil stands guard, and then the mark that it set.
#[inline(always)]
fn mark_of(ctx: &SkBuffContext, rules: &Rules) -> (bool, u32) {
    // SAFETY: the context's own fields.
    let (mark, interface) = unsafe { ((*ctx.skb.skb).mark, (*ctx.skb.skb).ifindex) };
    let guarded = rules.config.guards(interface);
    (guarded, if guarded { mark } else { 0 })
}

/// Asks the rules, and remembers the verdict for this mark where it may be.
#[inline(always)]
fn slow(
    ctx: &SkBuffContext,
    rules: &Rules,
    sk: *mut bpf_sock,
    state: Option<&mut SocketState>,
    mark: u32,
    guarded: bool,
    word: u64,
) -> Result<(), Refused> {
    let packet = Source::SkbNetwork(ctx.skb.skb);
    let facts = Facts::of(ctx, packet);
    let own = rules.scid_or_default(state.as_deref().map_or(0, |state| state.scid));
    let target = rules.own(own);
    let (source, protection) = if mark == 0 {
        // On a guarded interface it would have a mark, were it anyone's that the perimeter knows: what
        // has none comes from an unlabelled process of this node, whatever its address.
        let vouched = rules.perimeter(facts.address).unwrap_or_default();
        if guarded || !facts.v4 || vouched.snid == 0 || rules.node_at(facts.address).is_some() {
            return Err(DropReason::Unlabelled.between(Label::default(), target));
        }
        (vouched, PROTECTION_INTEGRITY)
    } else {
        let known = Rules::label_of(mark::handle(mark)).ok_or(DropReason::NotVerified);
        (known.map_err(|r| r.between(Label::default(), target))?, mark::protection(mark))
    };
    // This node's kernel answers its own unlabelled processes too: a reset, an echo reply.
    let own_kernel = source == rules.own(rules.generation.kernel_scid);
    if own == 0 {
        return if own_kernel { Ok(()) } else { Err(DropReason::NoScid.between(source, target)) };
    }
    let peer = match rules.peer(source) {
        Some(peer) => *peer,
        None if own_kernel => Peer { class: NO_CLASS, flags: PEER_KERNEL, ..Peer::default() },
        None => return Err(DropReason::NoRule.between(source, target)),
    };
    let kernel = own_kernel || peer.flags & PEER_KERNEL != 0;
    let verdict = rules.verdict(&peer, own);
    // SAFETY: a full socket.
    let tcp_state = unsafe { (*sk).state };
    let (listener, connected) = (tcp_state == LISTEN, tcp_state != LISTEN && tcp_state != CLOSE);

    // A declared port belongs to its zone, whoever listens on it.
    if facts.local_port != 0
        && let Some(zone) = rules.port(rules.config.snid, facts.protocol, facts.local_port)
        && zone != own
        && (listener || !connected)
    {
        let target = rules.own(zone);
        decide::receive(&rules.verdict(&peer, zone))
            .map_err(|refusal| refusal.between(source, target))?;
    }

    let mut conversation = None;
    let mut arrival = Arrival {
        source: source.word(),
        kernel,
        protection,
        pinned: 0,
        listener,
        connected,
        opened: false,
    };
    if let Some(state) = state.as_deref() {
        if connected {
            arrival.pinned = state.peer;
            arrival.opened = state.flags & socket_flag::OPENED != 0;
        } else if !listener {
            conversation = facts.conversation(ctx);
            if let Some(conversation) = &conversation {
                // SAFETY: plain data of the map.
                let held = unsafe { **conversation };
                arrival.opened = held.opened != 0;
                arrival.pinned = held.peer;
            }
        }
    }
    // A socket that changed hands brings its conversation along, to the label that it has now.
    let before = Label::from_word(arrival.pinned);
    if before.snid == source.snid
        && before.scid != source.scid
        && rules.relabels(before.scid, source.scid)
    {
        arrival.pinned = 0;
    }
    let delivery =
        decide::deliver(&arrival, &verdict).map_err(|refusal| refusal.between(source, target))?;
    if delivery.alarm_line != 0 {
        let used =
            Refused { reason: DropReason::Denied, line: delivery.alarm_line, source, target };
        report::alarm(Hook::Deliver, &used, &Flow::of(packet), &Process::of(state.as_deref()));
    }
    if let Some(conversation) = conversation
        && arrival.pinned == 0
    {
        // SAFETY: plain data of the map.
        unsafe { (*conversation).peer = source.word() };
    }
    let Some(state) = state else { return Ok(()) };
    // What a host of the perimeter began may be answered, and to it alone: every one of them is noted.
    let began = !connected
        && !listener
        && facts.v4
        && decide::open(&verdict).is_err()
        && rules.perimeter(facts.address).is_ok_and(|label| label == source);
    if began && conversation.is_none() {
        let new = Conversation { peer: source.word(), opened: 0 };
        trouble::expect(CONVERSATIONS.insert(facts.key(ctx), new, 0));
    }
    if delivery.pin {
        state.peer = source.word();
        // Who answers is more exact than what its port told: judge the next packet out anew.
        write(&mut state.egress, 0);
    }
    if delivery.cache && mark != 0 && !began {
        let ingress = &raw mut state.ingress;
        owner::remember(rules, state, ingress, word, own);
    }
    Ok(())
}

/// What the packet says of its conversation.
#[derive(Clone, Copy, Default)]
struct Facts {
    v4: bool,
    /// The remote address; of an IPv6 address (loopback only) the last four bytes.
    address: u32,
    protocol: u8,
    remote_port: u16,
    local_port: u16,
}

impl Facts {
    #[inline(always)]
    fn of(ctx: &SkBuffContext, packet: Source) -> Self {
        // SAFETY: the context's own field.
        let v4 = unsafe { (*ctx.skb.skb).protocol } == ETH_P_IP_BE;
        let (address, protocol, at) = if v4 {
            let ip = Ipv4(packet.load(0).unwrap_or_default());
            (ip.source(), ip.protocol(), if ip.first_fragment() { ip.header_len() } else { 0 })
        } else {
            let header = packet.load::<[u32; 10]>(0).unwrap_or_default();
            (u32::from_be(header[5]), header[1].to_ne_bytes()[2], 40)
        };
        let transport = if at == 0 { 0 } else { u32::from_be(packet.load(at).unwrap_or(0)) };
        let (remote_port, local_port) = match protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => ports(transport),
            _ => (0, 0),
        };
        Self { v4, address, protocol, remote_port, local_port }
    }

    /// The conversation of this unconnected socket with the sender, if there is one.
    #[inline(always)]
    fn conversation(&self, ctx: &SkBuffContext) -> Option<*mut Conversation> {
        CONVERSATIONS.get_ptr_mut(self.key(ctx))
    }

    #[inline(always)]
    fn key(&self, ctx: &SkBuffContext) -> ConversationKey {
        // SAFETY: the context's own skb.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
        ConversationKey {
            cookie,
            address: self.address,
            port: self.remote_port,
            protocol: u16::from(self.protocol),
        }
    }
}
