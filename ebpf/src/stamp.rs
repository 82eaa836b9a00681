//! TC egress on a cluster NIC: who sends, may it, and the label that says so.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_SHOT,
        TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_sock,
    },
    helpers::generated::{bpf_check_mtu, bpf_get_socket_cookie, bpf_skb_adjust_room},
    macros::classifier,
    programs::TcContext,
};
use sigil_common::{
    abi::{
        key::{EPOCH_SLOTS, TxKey},
        policy::{PROTECTION_INTEGRITY, PROTECTION_LABEL},
        rule::NO_NODE,
        socket::{Conversation, ConversationKey, socket_flag, way},
    },
    decide::{self, Refusal, Sending, protocol},
    icv::{ChecksumField, IcvInput, Suite},
    label::Label,
    verdict::{DropReason, Hook},
    wire::{
        ipv4::{self, Ipv4, OPTIONS_MAX},
        option::{AUTH_LEN, AuthTag, Flags, LABEL_LEN, LabelTag, SEGMENTS_MAX, Words},
    },
};

use crate::{
    atomic,
    mac::{self, Payload},
    maps::{CONVERSATIONS, NODES, TX_KEYS},
    own, owner,
    packet::{self, ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IP_LEN, Source, Window, ports},
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
    source::{self, Kind, SOCK_RAW, Sender, remember_closing},
    trouble,
};

/// The state of a socket that is connected to nothing.
pub(crate) const CLOSE: u32 = 7;

/// Packets longer than this are checked against the device's MTU.
const SURELY_FITS: u32 = 1200;

#[classifier]
pub fn tc_stamp(ctx: TcContext) -> i32 {
    report::seen(Hook::Egress);
    match egress(&ctx) {
        Ok(()) => {
            report::accepted(Hook::Egress);
            TC_ACT_UNSPEC
        }
        Err(refusal) => match refuse(&ctx, refusal) {
            Fate::Drop => TC_ACT_SHOT as i32,
            Fate::Pass => TC_ACT_UNSPEC,
        },
    }
}

/// Counts and reports a refused packet. Whose it was is found out again: nothing of it is kept on
/// the stack for the packets that pass.
#[inline(never)]
fn refuse(ctx: &TcContext, refusal: Refusal) -> Fate {
    let flow = Flow::of(Source::Skb(ctx.skb.skb));
    let (mut source, mut target) = (Label::default(), Label::default());
    let mut process = Process::default();
    if let Ok(rules) = Rules::now() {
        source = rules.own(0);
        // SAFETY: the context's own field; the verifier knows it may be null.
        let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
        if let Some(state) = source::state_of(sk) {
            source.scid = rules.scid_or_default(state.scid);
            process = Process::of(Some(state));
        }
        if let Ok(route) = rules.route(flow.target_address, flow.protocol as u8, flow.target_port) {
            target = route.peer;
        }
    }
    report::refuse_inline(Hook::Egress, &refusal.between(source, target), &flow, &process)
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Result<(), Refusal> {
    let window = Window::of_skb(ctx);
    let rules = Rules::now()?;
    // SAFETY: the context's own field.
    let tagged = unsafe { (*ctx.skb.skb).vlan_present } != 0;
    match window.ethertype()? {
        _ if tagged => return Err(DropReason::EtherType.into()),
        ETH_P_IP => {}
        ETH_P_ARP => return Ok(()),
        ETH_P_IPV6 => return Err(DropReason::Ipv6.into()),
        // Empty places of the list are 0.
        other if other != 0 && rules.config.pass_ethertypes.contains(&other) => return Ok(()),
        _ => return Err(DropReason::EtherType.into()),
    }
    let ip = packet::ipv4(window, ctx.len())?;
    let transport = packet::transport(window, ip);
    let sender = Sender::of(ctx, &rules, ip, transport);
    if sender.kind == Kind::Forwarded {
        return Ok(());
    }
    // The agent's line to a server does not depend on the rules that come over it.
    if ip.protocol() == protocol::TCP
        && ip.first_fragment()
        && rules.is_server(ip.target(), ports(transport).1)
        && sender.state().is_some_and(|state| state.flags & socket_flag::CONTROL != 0)
    {
        return Ok(());
    }
    let send = judge(ctx, &rules, ip, transport, &sender)?;
    if ip.protocol() == protocol::TCP && closes(window, ip) {
        remember_closing(ip, transport, send.label.scid);
    }
    if send.node != NO_NODE {
        stamp(ctx, ip, transport, &send, rules.config.doi)?;
    }
    Ok(())
}

/// A packet that may leave, and how.
struct Send {
    label: Label,
    node: u32,
    protection: u8,
}

/// May it leave? A socket's last verdict holds for the same address, port and generation.
#[inline(always)]
fn judge(
    ctx: &TcContext,
    rules: &Rules,
    ip: Ipv4,
    transport: u32,
    sender: &Sender,
) -> Result<Send, Refusal> {
    let port = match ip.protocol() {
        protocol::TCP | protocol::UDP | protocol::SCTP => ports(transport).1,
        _ => 0,
    };
    let scid = sender.scid()?;
    let label = rules.own(scid);
    let Some(state) = sender.state() else {
        let (_, node, sending) = ask(ctx, rules, ip, port, scid, sender, 0)?;
        return Ok(Send { label, node, protection: sending.protection });
    };
    let word = egress_word(ip.target(), port, rules.number());
    let mut send = Send { label, node: NO_NODE, protection: 0 };
    let way = read(&state.way);
    if read(&state.egress) == word && way::is_of(way, word) {
        (send.node, send.protection) = way::parts(way);
    } else {
        let (peer, node, sending) = ask(ctx, rules, ip, port, scid, sender, state.peer)?;
        if sending.alarm_line != 0 {
            let used = Refused {
                reason: DropReason::Denied,
                line: sending.alarm_line,
                source: label,
                target: peer,
            };
            let flow = Flow::of(Source::Skb(ctx.skb.skb));
            report::alarm(Hook::Egress, &used, &flow, &Process::of(Some(state)));
        }
        if sending.opens {
            state.flags |= socket_flag::OPENED;
        }
        write(&mut state.way, way::pack(word, node, sending.protection));
        let egress = &raw mut state.egress;
        owner::remember(rules, state, egress, word, scid);
        (send.node, send.protection) = (node, sending.protection);
    }
    if state.flags & socket_flag::OPENED != 0 && unconnected(sender.sk) {
        open_conversation(ctx.skb.skb, ip, port);
    }
    Ok(send)
}

/// The slow path: where does it go, and what do the rules say?
#[inline(always)]
fn ask(
    ctx: &TcContext,
    rules: &Rules,
    ip: Ipv4,
    port: u16,
    scid: u32,
    sender: &Sender,
    pinned: u64,
) -> Result<(Label, u32, Sending), Refusal> {
    let route = rules.route(ip.target(), ip.protocol(), port)?;
    let mut peer = route.peer;
    // Whoever answered on this conversation is more exact than what the port's number tells.
    if Label::from_word(pinned).snid == peer.snid {
        peer = Label::from_word(pinned);
    }
    let sending = match sender.kind {
        Kind::Packet if route.node != NO_NODE => {
            return Err(DropReason::PacketSocket.into());
        }
        Kind::Answer => rules.kernel_answer(peer, scid),
        Kind::Kernel if answers(ip) => rules.kernel_answer(peer, scid),
        _ => {
            let verdict = rules.between(peer, scid);
            if route.node == NO_NODE {
                decide::send_out(&verdict, spoken(ctx.skb.skb, sender.sk, ip, port))?
            } else {
                decide::send(&verdict)?
            }
        }
    };
    Ok((peer, route.node, sending))
}

/// What the kernel sends on its own account is an answer to what was let in: a reset, an error, an
/// echo reply.
#[inline(always)]
fn answers(ip: Ipv4) -> bool {
    matches!(ip.protocol(), protocol::TCP | protocol::ICMP)
}

/// Writes the label. All that can fail fails before the packet changes, but for the last step.
#[inline(always)]
fn stamp(
    ctx: &TcContext,
    ip: Ipv4,
    transport: u32,
    send: &Send,
    doi: [u8; 4],
) -> Result<(), DropReason> {
    let segments = segments(ctx)?;
    let added = if send.protection == PROTECTION_LABEL { LABEL_LEN } else { AUTH_LEN };
    own_options(ctx, ip, added as u32)?;
    fits(ctx, ip, added as u32)?;
    let total = ip.total_len().checked_add(added as u16).ok_or(DropReason::TooBig)?;

    let tag = LabelTag { len: added as u8, doi, label: send.label }.words();
    let mut auth = [0; 5];
    let mut id = ip.id();
    if added > LABEL_LEN {
        let (key, seq) = take(send.node, segments)?;
        let suite = Suite::try_from(key.suite as u8).map_err(|_| DropReason::NoKey)?;
        let covered = send.protection == PROTECTION_INTEGRITY;
        if covered && segments > 1 {
            return Err(DropReason::SuperFrame);
        }
        let super_frame = segments > 1;
        let flags = Flags::new(covered, if super_frame { segments as u8 } else { 0 });
        if super_frame {
            id = seq as u16;
        }
        let header = mac::stage(
            IcvInput {
                key_id: key.key_id as u8,
                flags: flags.byte(),
                protocol: ip.protocol(),
                label: send.label,
                seq,
                source: ip.source(),
                destination: ip.target(),
                total_len: if super_frame { 0 } else { total },
                id: if super_frame { 0 } else { id },
                fragment: ip.fragment(),
                transport,
            }
            .header(),
        )?;
        let payload = covered.then(|| Payload {
            at: ETH_LEN as u32 + ip.header_len(),
            len: u32::from(ip.total_len()) - ip.header_len(),
            field: ChecksumField::of(ip.protocol(), ip.fragment()),
        });
        let icv = mac::icv(Source::Skb(ctx.skb.skb), suite, &key.mac, header, payload)?;
        auth = AuthTag { key_id: key.key_id as u8, flags, seq_low: seq as u32, icv }.words();
    }
    write_option(ctx, ip, total, id, [tag, auth], added)
}

/// Packets that a super-frame becomes, 1 for any other.
#[inline(always)]
fn segments(ctx: &TcContext) -> Result<u32, DropReason> {
    // SAFETY: the context's own fields. To be read before the room is made, which clears them.
    let (size, segments) = unsafe { ((*ctx.skb.skb).gso_size, (*ctx.skb.skb).gso_segs) };
    match (size, segments) {
        (0, _) => Ok(1),
        (_, 1..=SEGMENTS_MAX) => Ok(segments),
        _ => Err(DropReason::SuperFrame),
    }
}

/// An application's own options stay, if there is room and none of them claims to be a label.
#[inline(always)]
fn own_options(ctx: &TcContext, ip: Ipv4, added: u32) -> Result<(), DropReason> {
    let own = ip.header_len() - IP_LEN as u32;
    if own == 0 {
        return Ok(());
    }
    own::scan(ctx.skb.skb, own)?;
    if own + added > OPTIONS_MAX { Err(DropReason::OptionSpace) } else { Ok(()) }
}

/// Whether the packet, or each segment of a super-frame, stays within the device's MTU.
#[inline(always)]
fn fits(ctx: &TcContext, ip: Ipv4, added: u32) -> Result<(), DropReason> {
    if ctx.len() <= SURELY_FITS {
        return Ok(());
    }
    let mut mtu = 0u32;
    // SAFETY: the context's own skb; interface 0 is the one at hand.
    let over = unsafe { bpf_check_mtu(ctx.skb.skb.cast(), 0, &raw mut mtu, added as i32, 0) };
    // SAFETY: the context's own field.
    let payload = unsafe { (*ctx.skb.skb).gso_size };
    // The helper passes every super-frame; its check of segments takes no account of what is added.
    let over = over != 0
        || payload != 0 && ip.header_len() + transport_len(ctx, ip)? + payload + added > mtu;
    if over { Err(DropReason::TooBig) } else { Ok(()) }
}

/// The transport header's length in a super-frame.
#[inline(always)]
fn transport_len(ctx: &TcContext, ip: Ipv4) -> Result<u32, DropReason> {
    const UDP: u32 = 8;
    if ip.protocol() != protocol::TCP {
        return Ok(UDP);
    }
    // Read with the byte behind it, see `closes`.
    let at = ETH_LEN + (ip.header_len() & 0x3c) as usize + 12;
    let word = u16::from_be(Window::now(ctx).read::<u16>(at)?);
    Ok(u32::from(word >> 12) * 4)
}

/// Takes sequence numbers for a packet to a node: none is ever given out twice.
#[inline(always)]
fn take(node: u32, segments: u32) -> Result<(&'static TxKey, u64), DropReason> {
    let key_id = NODES.get(node).ok_or(DropReason::NoKey)?.tx_key_id;
    let slot = node.wrapping_mul(EPOCH_SLOTS) + key_id % EPOCH_SLOTS;
    let key = TX_KEYS.get_ptr_mut(slot).ok_or(DropReason::NoKey)?;
    // SAFETY: an entry of the map; `seq` is touched by atomic operations alone.
    let (seq, key) = unsafe { (&raw mut (*key).seq, &*key) };
    if key.suite == 0 || key.key_id != key_id {
        return Err(DropReason::NoKey);
    }
    // SAFETY: an aligned word of the map.
    let first = unsafe { atomic::fetch_add(seq, u64::from(segments)) };
    if first.saturating_add(u64::from(segments)) > key.limit {
        return Err(DropReason::KeyExhausted);
    }
    Ok((key, first))
}

/// Opens the room and fills it. It is opened ahead of the IPv4 header, which then lies where the option
/// ends, and is written over: fewer bytes to move for the kernel than behind it.
#[inline(always)]
fn write_option(
    ctx: &TcContext,
    ip: Ipv4,
    total: u16,
    id: u16,
    [tag, auth]: [Words; 2],
    added: usize,
) -> Result<(), DropReason> {
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    // SAFETY: the context's own skb; every packet pointer is made anew afterwards.
    let failed = unsafe { bpf_skb_adjust_room(ctx.skb.skb, added as i32, BPF_ADJ_ROOM_MAC, flags) };
    if failed != 0 {
        trouble::tell(trouble::OPEN_ROOM, failed);
        return Err(DropReason::Resize);
    }
    let window = Window::now(ctx);
    let came = ipv4::sum(ipv4::sum(0, tag), auth);
    let header_len = ip.header_len() + added as u32;
    window.put(ETH_LEN, packet::rebuilt(ip, header_len, total, id, came, 0).0)?;
    window.put(ETH_LEN + IP_LEN, tag)?;
    if added == AUTH_LEN {
        window.put(ETH_LEN + IP_LEN + LABEL_LEN, auth)?;
    }
    Ok(())
}

/// Whether a TCP segment ends its connection.
#[inline(always)]
fn closes(window: Window, ip: Ipv4) -> bool {
    const FIN_RST: u16 = 0x0005;
    // Read with the byte before it: of a single byte the verifier does not see that it is there.
    let at = ETH_LEN + (ip.header_len() & 0x3c) as usize + 12;
    ip.first_fragment()
        && window.read::<u16>(at).is_ok_and(|word| u16::from_be(word) & FIN_RST != 0)
}

/// The cached verdict's key. Only 16 bits of the generation fit beside address and port: after
/// 65,536 policies an idle socket's verdict could be taken for a fresh one, here, at the sender,
/// while the receiver's check is exact.
#[inline(always)]
pub(crate) fn egress_word(address: u32, port: u16, generation: u32) -> u64 {
    u64::from(address) << 32 | u64::from(port) << 16 | u64::from(generation as u16)
}

#[inline(always)]
pub(crate) fn unconnected(sk: *mut bpf_sock) -> bool {
    // SAFETY: a full socket.
    unsafe { (*sk).state == CLOSE }
}

/// An unconnected socket wrote to someone: the answers are part of that conversation.
#[inline(always)]
pub(crate) fn open_conversation(skb: *mut __sk_buff, ip: Ipv4, port: u16) {
    let key = conversation(skb, ip, port);
    match CONVERSATIONS.get_ptr_mut(key) {
        // SAFETY: plain data of the map.
        Some(held) => unsafe { (*held).opened = 1 },
        None => trouble::expect(CONVERSATIONS.insert(key, Conversation { peer: 0, opened: 1 }, 0)),
    }
}

/// Whether the far end of a packet that leaves spoke first: an accepted connection is that, and one that
/// this side made was judged when it did. `sk` is a full socket, or null.
#[inline(always)]
pub(crate) fn spoken(skb: *mut __sk_buff, sk: *mut bpf_sock, ip: Ipv4, port: u16) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: a full socket.
    let raw = unsafe { (*sk).type_ } == SOCK_RAW;
    // The kernel made the later pieces of a datagram, which was judged when it was sent, unless the
    // application makes its own.
    !unconnected(sk)
        || !raw && !ip.first_fragment()
        || CONVERSATIONS.get_ptr(conversation(skb, ip, port)).is_some()
}

#[inline(always)]
fn conversation(skb: *mut __sk_buff, ip: Ipv4, port: u16) -> ConversationKey {
    // SAFETY: the context's own skb.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    ConversationKey { cookie, address: ip.target(), port, protocol: u16::from(ip.protocol()) }
}

#[inline(always)]
pub(crate) fn read(word: &u64) -> u64 {
    // SAFETY: an aligned word; caches are read and written whole.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

#[inline(always)]
pub(crate) fn write(word: &mut u64, value: u64) {
    // SAFETY: as above.
    unsafe { core::ptr::from_mut(word).write_volatile(value) }
}
