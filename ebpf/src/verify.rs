//! Ingress on a cluster NIC: option → key → replay → ICV → may this label come here at all → strip,
//! and the label's hand-over to the stack as `skb->mark`.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_adj_room_mode::BPF_ADJ_ROOM_NET, xdp_action,
    },
    helpers::generated::{
        bpf_csum_update, bpf_ktime_get_ns, bpf_skb_adjust_room, bpf_xdp_adjust_head,
        bpf_xdp_adjust_meta,
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use sigil_common::{
    abi::{
        key::{EPOCH_SLOTS, NODE_ADDRESSES, RxKey},
        policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL},
        rule::{Peer, Verdict, mark},
        socket::FragmentKey,
    },
    decide::{self, Refusal, Taker, protocol},
    icv::{self, ChecksumField, IcvInput, Suite},
    label::Label,
    replay::{self, Ring, WINDOW},
    verdict::{DropReason, Hook},
    wire::{
        ipv4::{self, Ipv4},
        option::{AUTH_LEN, AuthTag, KIND, LABEL_LEN, LabelTag, Words},
    },
};

use crate::{
    atomic,
    mac::{self, Payload},
    maps::{FRAGMENTS, NODES, RX_KEYS},
    packet::{self, ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IP_LEN, Source, Window, ports},
    recent::Recent,
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
    trouble,
};

/// What became of the frame's headers.
#[derive(Clone, Copy)]
struct Verified {
    /// For the stack; 0 for what is not IPv4.
    mark: u32,
    /// Bytes of option to take out.
    strip: usize,
}

/// What stays of a frame when the agent only observes: the option must go all the same.
const UNTOUCHED: Verified = Verified { mark: 0, strip: 0 };

#[xdp]
pub fn xdp_verify(ctx: XdpContext) -> u32 {
    report::seen(Hook::Ingress);
    let window = Window::of_xdp(&ctx);
    let len = (ctx.data_end() - ctx.data()) as u32;
    let mut verified = UNTOUCHED;
    let outcome = judge(window, Source::of_xdp(&ctx), len, false, &mut verified)
        .and_then(|()| xdp_finish(&ctx, verified).map_err(Refusal::from));
    match outcome {
        Ok(()) => {
            report::accepted(Hook::Ingress);
            xdp_action::XDP_PASS
        }
        Err(refusal) => match refuse(Source::of_xdp(&ctx), refusal) {
            Fate::Drop => xdp_action::XDP_DROP,
            Fate::Pass => {
                let _ = xdp_finish(&ctx, Verified { mark: 0, ..verified });
                xdp_action::XDP_PASS
            }
        },
    }
}

/// The kernel's copy of a multicast packet that leaves, for this node's own listeners: it came over no
/// wire, and has no Ethernet header.
const PACKET_LOOPBACK: u32 = 5;

#[classifier]
pub fn tc_verify(ctx: TcContext) -> i32 {
    report::seen(Hook::Ingress);
    let packet = Source::Skb(ctx.skb.skb);
    // SAFETY: the context's own fields.
    let (whole, tagged, looped) = unsafe {
        let skb = &*ctx.skb.skb;
        (skb.gso_size != 0, skb.vlan_present != 0, skb.pkt_type == PACKET_LOOPBACK)
    };
    let mut verified = UNTOUCHED;
    let outcome = if tagged {
        Err(DropReason::EtherType.into())
    } else if looped {
        Err(DropReason::NotVerified.into())
    } else {
        let window = Window::of_skb(&ctx);
        judge(window, packet, ctx.len(), whole, &mut verified)
            .and_then(|()| tc_finish(&ctx, verified).map_err(Refusal::from))
    };
    match outcome {
        Ok(()) => {
            report::accepted(Hook::Ingress);
            TC_ACT_UNSPEC
        }
        Err(refusal) => match refuse(packet, refusal) {
            Fate::Drop => TC_ACT_SHOT as i32,
            Fate::Pass => {
                let _ = tc_finish(&ctx, Verified { mark: 0, ..verified });
                TC_ACT_UNSPEC
            }
        },
    }
}

/// TC ingress behind [`xdp_verify`]: XDP's metadata does not reach sockets, the mark does. What did
/// not pass the verifier has no metadata.
#[classifier]
pub fn tc_handover(ctx: TcContext) -> i32 {
    report::seen(Hook::Handover);
    // SAFETY: the context's own fields; the metadata lies between the two pointers.
    let mark = unsafe {
        let meta = (*ctx.skb.skb).data_meta as usize;
        let data = (*ctx.skb.skb).data as usize;
        if meta + size_of::<u32>() > data { None } else { Some((meta as *const u32).read()) }
    };
    if let Some(mark) = mark {
        ctx.skb.set_mark(mark);
        report::accepted(Hook::Handover);
        return TC_ACT_UNSPEC;
    }
    ctx.skb.set_mark(0);
    let refused = Refused::from(DropReason::NotVerified);
    let packet = Source::Skb(ctx.skb.skb);
    let flow = Flow::of(packet);
    match report::refuse(Hook::Handover, &refused, &flow, &Process::default()) {
        Fate::Drop => TC_ACT_SHOT as i32,
        Fate::Pass => TC_ACT_UNSPEC,
    }
}

/// Counts and reports a refused packet. What it says of itself is read again: nothing of it is kept
/// on the stack for the packets that pass.
#[inline(never)]
fn refuse(packet: Source, refusal: Refusal) -> Fate {
    const OPTION_AT: u32 = (ETH_LEN + IP_LEN) as u32;
    let (source, target) = Rules::now().map_or((Label::default(), Label::default()), |rules| {
        let claimed = packet.load::<Words>(OPTION_AT).map(LabelTag::from_words);
        let source = match claimed {
            Some(Ok(tag)) => tag.label,
            _ => Label::default(),
        };
        (source, rules.own(0))
    });
    let refused = refusal.between(source, target);
    report::refuse_inline(Hook::Ingress, &refused, &Flow::of(packet), &Process::default())
}

/// Everything but the packet's change. `verified` says what to change even where the packet is
/// refused, for the agent may be told to observe.
#[inline(always)]
fn judge(
    window: Window,
    packet: Source,
    len: u32,
    whole: bool,
    verified: &mut Verified,
) -> Result<(), Refusal> {
    let rules = Rules::now()?;
    match window.ethertype()? {
        ETH_P_IP => {}
        ETH_P_ARP => return Ok(()),
        ETH_P_IPV6 => return Err(DropReason::Ipv6.into()),
        // Empty places of the list are 0.
        other if other != 0 && rules.config.pass_ethertypes.contains(&other) => return Ok(()),
        _ => return Err(DropReason::EtherType.into()),
    }
    let ip = packet::ipv4(window, len)?;
    let transport = packet::transport(window, ip);
    let own = ip.header_len() as usize - IP_LEN;
    let has_label = own >= LABEL_LEN && window.read::<u8>(ETH_LEN + IP_LEN)? == KIND;
    let (peer, protection) = if has_label {
        let words = window.words(ETH_LEN + IP_LEN)?;
        let tag = LabelTag::from_words(words).map_err(DropReason::from)?;
        if own < tag.len as usize {
            return Err(DropReason::BadOption.into());
        }
        verified.strip = tag.len as usize;
        if tag.label.snid == rules.config.snid {
            return Err(DropReason::UnknownNode.into());
        }
        if tag.doi != rules.config.doi {
            return Err(DropReason::BadDoi.into());
        }
        labelled(&rules, window, packet, ip, transport, tag, whole)?
    } else if from_server(&rules, window, ip, transport) {
        verified.mark = mark::CONTROL;
        return Ok(());
    } else {
        let label = unlabelled(&rules, ip)?;
        // The operator vouches for hosts of the perimeter: no protection can be asked of them.
        (rules.peer(label), PROTECTION_INTEGRITY)
    };
    let Some(peer) = peer else { return Err(DropReason::NoRule.into()) };
    let icmp_type = (transport >> 24) as u8;
    let taker =
        if ip.first_fragment() { decide::taker(ip.protocol(), icmp_type) } else { Taker::Socket };
    if taker == Taker::Socket {
        decide::arrive(taker, peer, &Verdict::NONE, protection)?;
    } else {
        arrive(taker, peer, protection)?;
    }
    let mark = mark::pack(peer.handle, protection);
    if ip.fragmented() {
        one_sender(ip, mark)?;
    }
    verified.mark = mark;
    Ok(())
}

/// May it come here, if no socket will judge it? A function of its own for the stack's sake.
#[inline(never)]
fn arrive(taker: Taker, peer: &Peer, protection: u8) -> Result<(), Refusal> {
    let rules = Rules::now()?;
    let kernel = rules.verdict(peer, rules.generation.kernel_scid);
    decide::arrive(taker, peer, &kernel, protection)
}

/// A packet with a label: is it true?
#[inline(always)]
fn labelled(
    rules: &Rules,
    window: Window,
    packet: Source,
    ip: Ipv4,
    transport: u32,
    tag: LabelTag,
    whole: bool,
) -> Result<(Option<&'static Peer>, u8), DropReason> {
    let mut recent = Recent::of(rules, tag.label);
    // A label without any rule still deserves its true reason: forged or merely not allowed.
    let node = match &recent {
        Some(recent) => recent.peer.node,
        None => rules.node_at(ip.source()).ok_or(DropReason::UnknownNode)?.node,
    };
    let node_state = NODES.get(node).ok_or(DropReason::UnknownNode)?;
    if node_state.snid != tag.label.snid {
        return Err(if recent.is_some() {
            DropReason::UnknownNode
        } else {
            DropReason::AddressMismatch
        });
    }
    if !owns(&node_state.addresses, ip.source()) {
        return Err(DropReason::AddressMismatch);
    }
    if tag.len as usize != AUTH_LEN {
        return Ok((recent.map(|recent| &recent.peer), PROTECTION_LABEL));
    }
    let words = window.words(ETH_LEN + IP_LEN + LABEL_LEN)?;
    let auth = AuthTag::from_words(words)?;
    let memory = recent.as_deref_mut();
    authentic(packet, ip, transport, tag.label, &auth, node, whole, memory)?;
    let protection =
        if auth.flags.payload_covered() { PROTECTION_INTEGRITY } else { PROTECTION_AUTHENTICATE };
    Ok((recent.map(|recent| &recent.peer), protection))
}

/// Check the replay window, check the ICV, then mark: never the other way round.
#[inline(always)]
fn authentic(
    packet: Source,
    ip: Ipv4,
    transport: u32,
    label: Label,
    auth: &AuthTag,
    node: u32,
    whole: bool,
    recent: Option<&mut Recent>,
) -> Result<(), DropReason> {
    let key_id = u32::from(auth.key_id);
    let slot = node.wrapping_mul(EPOCH_SLOTS) + key_id % EPOCH_SLOTS;
    let key = RX_KEYS.get_ptr_mut(slot).ok_or(DropReason::UnknownKey)?;
    // SAFETY: an entry of the map.
    let (suite, held) = unsafe { ((*key).suite, (*key).key_id) };
    if suite == 0 || held != key_id {
        return Err(DropReason::UnknownKey);
    }
    let suite = Suite::try_from(suite as u8).map_err(|_| DropReason::UnknownKey)?;
    // SAFETY: as above; written after an ICV held, read here as a hint.
    let (top, floor) = unsafe { ((&raw const (*key).top).read_volatile(), (*key).floor) };

    let segments = u32::from(auth.flags.segments());
    let super_frame = segments >= 2;
    let first = replay::infer(top, auth.seq_low, WINDOW);
    let (seq, count) = match (super_frame, whole) {
        (false, false) => (first, 1),
        // A super-frame that was never cut takes all its numbers at once.
        (true, true) => (first, u64::from(segments)),
        (true, false) => {
            let k = ip.id().wrapping_sub(auth.seq_low as u16);
            if u32::from(k) >= segments {
                return Err(DropReason::BadSegment);
            }
            (first + u64::from(k), 1)
        }
        (false, true) => return Err(DropReason::BadSegment),
    };
    if seq < floor {
        return Err(DropReason::ReplayTooOld);
    }
    let window = replay::Window(Held(key));
    if count == 1 { window.check(seq) } else { check_span(key, seq, count) }?;

    let header = mac::stage(
        IcvInput {
            key_id: auth.key_id,
            flags: auth.flags.byte(),
            protocol: ip.protocol(),
            label,
            seq: first,
            source: ip.source(),
            destination: ip.target(),
            total_len: if super_frame { 0 } else { ip.total_len() },
            id: if super_frame { 0 } else { ip.id() },
            fragment: ip.fragment(),
            transport,
        }
        .header(),
    )?;
    let payload = auth.flags.payload_covered().then(|| Payload {
        at: ETH_LEN as u32 + ip.header_len(),
        len: u32::from(ip.total_len()) - ip.header_len(),
        field: ChecksumField::of(ip.protocol(), ip.fragment()),
    });
    // SAFETY: an entry of the map; keys are not written to while they are in use.
    let (material, name) = unsafe { (&(*key).mac, (*key).name) };
    // All segments of a super-frame carry one ICV over one message.
    let cut = super_frame && !whole;
    let mut proven = false;
    if cut && let Some(recent) = &recent {
        mac::claim(auth.icv)?;
        proven = recent.proves(name);
    }
    if !proven {
        let expected = mac::icv(packet, suite, material, header, payload)?;
        if !icv::equal(&expected, &auth.icv) {
            return Err(DropReason::BadIcv);
        }
        if cut && let Some(recent) = recent {
            recent.held(name);
        }
    }
    if count == 1 { window.mark(seq) } else { mark_span(key, seq, count) }?;
    let newest = seq + count - 1;
    if newest > top {
        // SAFETY: an aligned word. Another CPU may put a smaller number over a larger one; the
        // inference of the high half needs no better, and the next packet mends it.
        unsafe { (&raw mut (*key).top).write_volatile(newest) };
    }
    Ok(())
}

/// The replay check of a whole super-frame; a function of its own for the stack's sake.
#[inline(never)]
fn check_span(key: *mut RxKey, seq: u64, count: u64) -> Result<(), DropReason> {
    replay::Window(Held(key)).check_span(seq, count)
}

/// See [`check_span`].
#[inline(never)]
fn mark_span(key: *mut RxKey, seq: u64, count: u64) -> Result<(), DropReason> {
    replay::Window(Held(key)).mark_span(seq, count)
}

/// An answer of a server, for the agent's line to it: nothing else takes it, see `deliver`. What
/// opens a connection is none.
#[inline(always)]
fn from_server(rules: &Rules, window: Window, ip: Ipv4, transport: u32) -> bool {
    const RST_ACK: u16 = 0x0014;
    let answer = || {
        // The mask bounds the offset for the verifier; read with the byte before it, see `stamp`.
        let at = ETH_LEN + (ip.header_len() & 0x3c) as usize + 12;
        window.read::<u16>(at).is_ok_and(|word| u16::from_be(word) & RST_ACK != 0)
    };
    ip.protocol() == protocol::TCP
        && !ip.fragmented()
        && rules.is_server(ip.source(), ports(transport).0)
        && answer()
}

/// A packet without a label: only hosts of the perimeter may send one.
#[inline(always)]
fn unlabelled(rules: &Rules, ip: Ipv4) -> Result<Label, DropReason> {
    if rules.node_at(ip.source()).is_some() {
        return Err(DropReason::Unlabelled);
    }
    rules.perimeter(ip.source()).map_err(|_| DropReason::Unlabelled)
}

#[inline(always)]
fn owns(addresses: &[u32; NODE_ADDRESSES], address: u32) -> bool {
    let [a, b, c, d] = *addresses;
    address != 0 && (a == address || b == address || c == address || d == address)
}

/// A datagram in pieces has one sender: no zone may slip a piece into another's. It counts as
/// protected as its first piece, whose mark the stack keeps: no other piece may have less. (It may
/// have more: without ports, its sender takes the strongest protection that might be asked for.)
///
/// What is remembered is the mark of the first piece, or until it comes, of the weakest one, for as
/// long as the stack may wait for the rest: identifications come again.
#[inline(always)]
fn one_sender(ip: Ipv4, mark: u32) -> Result<(), DropReason> {
    /// Set once the first piece was seen. Below it the mark, above it the time.
    const FIRST: u64 = 1 << 32;
    const TIME_SHIFT: u32 = 33;
    /// In units of 2^30 ns; twice the kernel's default `ipfrag_time`.
    const WAIT: u64 = 60;
    let key = FragmentKey {
        source: ip.source(),
        target: ip.target(),
        id: ip.id(),
        protocol: u16::from(ip.protocol()),
    };
    // SAFETY: no side effect.
    let now = unsafe { bpf_ktime_get_ns() } >> 30;
    let first = if ip.first_fragment() { FIRST } else { 0 };
    let new = now << TIME_SHIFT | first | u64::from(mark);
    // SAFETY: plain data.
    let mut held = unsafe { FRAGMENTS.get(key) }.copied().unwrap_or(new);
    if now.wrapping_sub(held >> TIME_SHIFT) > WAIT {
        held = new;
    }
    let had = held as u32;
    let (protection, least) = (mark::protection(mark), mark::protection(had));
    let fits = match (held & FIRST != 0, new & FIRST != 0) {
        (true, true) => protection == least,
        (true, false) => protection >= least,
        (false, true) => protection <= least,
        (false, false) => true,
    };
    if mark::handle(mark) != mark::handle(had) || !fits {
        return Err(DropReason::FragmentMismatch);
    }
    // A later piece changes nothing unless it is the first, or weaker while the first is missing.
    let keep = held & FIRST != 0 || new & FIRST == 0 && protection >= least;
    let _ = FRAGMENTS.insert(key, if keep { held } else { new }, 0);
    Ok(())
}

/// The window in its map value.
struct Held(*mut RxKey);

impl Ring for Held {
    #[inline(always)]
    fn load(&self, index: u32) -> u64 {
        // SAFETY: `index` is below the window's length, and masked once more for the verifier.
        unsafe { self.at(index).read_volatile() }
    }

    #[inline(always)]
    fn swap(&self, index: u32, old: u64, new: u64) -> bool {
        // SAFETY: as above; an aligned word of a map value.
        unsafe { atomic::swap(self.at(index), old, new) }
    }
}

impl Held {
    #[inline(always)]
    unsafe fn at(&self, index: u32) -> *mut u64 {
        const MASK: usize = replay::WORDS - 1;
        // SAFETY: the mask keeps it within the array.
        unsafe { (&raw mut (*self.0).window).cast::<u64>().add(index as usize & MASK) }
    }
}

/// Takes the option out of a frame at XDP and leaves the mark in the metadata.
#[inline(always)]
fn xdp_finish(ctx: &XdpContext, verified: Verified) -> Result<(), DropReason> {
    let xdp = ctx.as_ptr().cast();
    if verified.strip != 0 {
        let window = Window::of_xdp(ctx);
        let ethernet = window.read::<[u16; 7]>(0)?;
        let (ip, _) = without_option(window, verified.strip)?;
        // The two lengths are spelled out: offsets known to the verifier cost nothing.
        let by = if verified.strip == AUTH_LEN {
            move_headers::<AUTH_LEN>(window, ethernet, ip)?
        } else {
            move_headers::<LABEL_LEN>(window, ethernet, ip)?
        };
        // SAFETY: the program's own context; packet pointers are made anew afterwards.
        if unsafe { bpf_xdp_adjust_head(xdp, by) } != 0 {
            return Err(DropReason::Resize);
        }
    }
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_meta(xdp, -(size_of::<u32>() as i32)) } != 0 {
        return Err(DropReason::Resize);
    }
    let (meta, data) = (ctx.metadata(), ctx.metadata_end());
    if meta + size_of::<u32>() > data {
        return Err(DropReason::Resize);
    }
    // SAFETY: just checked.
    unsafe { (meta as *mut u32).write(verified.mark) };
    Ok(())
}

#[inline(always)]
fn move_headers<const BY: usize>(
    window: Window,
    ethernet: [u16; 7],
    ip: Ipv4,
) -> Result<i32, DropReason> {
    let to = window.at::<[u16; 7]>(BY).ok_or(DropReason::Resize)?;
    // SAFETY: within the packet.
    unsafe { to.write_unaligned(ethernet) };
    window.put(BY + ETH_LEN, ip.0)?;
    Ok(BY as i32)
}

/// Takes the option out of an skb and sets its mark.
#[inline(always)]
fn tc_finish(ctx: &TcContext, verified: Verified) -> Result<(), DropReason> {
    if verified.strip != 0 {
        let (ip, gone) = without_option(Window::now(ctx), verified.strip)?;
        let gone = u32::from(ipv4::fold(gone));
        // The kernel moves the 34 bytes of header in front over the gap. Over a shorter one it moves
        // words; over a longer one bytes, by an instruction that takes 45 ns to start (seen on 6.18):
        // two short steps are the faster way.
        shorten(ctx)?;
        if verified.strip == AUTH_LEN {
            shorten(ctx)?;
        }
        Window::now(ctx).put(ETH_LEN, ip.0)?;
        // A device that summed the whole packet (CHECKSUM_COMPLETE) counted header and option, which
        // add up to nothing; the kernel took the option out of the sum, and so does the new header.
        // Fails where there is no such sum.
        // SAFETY: the context's own skb.
        unsafe { bpf_csum_update(ctx.skb.skb, gone) };
    }
    ctx.skb.set_mark(verified.mark);
    Ok(())
}

/// Takes out 20 bytes behind the IPv4 header. Packet pointers are to be made anew afterwards.
#[inline(always)]
fn shorten(ctx: &TcContext) -> Result<(), DropReason> {
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
    let by = -(LABEL_LEN as i32);
    // SAFETY: the context's own skb.
    let failed = unsafe { bpf_skb_adjust_room(ctx.skb.skb, by, BPF_ADJ_ROOM_NET, flags) };
    if failed == 0 { Ok(()) } else { Err(unresized(failed)) }
}

/// The kernel did not change a packet's length.
#[inline(always)]
fn unresized(errno: i64) -> DropReason {
    trouble::tell(trouble::CLOSE_ROOM, errno);
    DropReason::Resize
}

/// The header as it was before it got the label, and the sum of what goes.
#[inline(always)]
fn without_option(window: Window, strip: usize) -> Result<(Ipv4, u64), DropReason> {
    let ip = Ipv4(window.words(ETH_LEN)?);
    let mut gone = ipv4::sum(0, window.words(ETH_LEN + IP_LEN)?);
    if strip == AUTH_LEN {
        gone = ipv4::sum(gone, window.words(ETH_LEN + IP_LEN + LABEL_LEN)?);
    }
    let total = ip.total_len().wrapping_sub(strip as u16);
    Ok((packet::rebuilt(ip, ip.header_len() - strip as u32, total, ip.id(), 0, gone), gone))
}
