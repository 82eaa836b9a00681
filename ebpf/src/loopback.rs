//! The loopback device: same-node traffic carries its sender's label in `skb->mark`, and the
//! delivery check judges it like any other. What no socket will judge is judged on arrival.
//!
//! `tc_index` proves that the mark is ours: nothing but a TC program can set it, while `SO_MARK`
//! and a packet socket that bypasses the queueing layer could forge a mark.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use sigil_common::{
    abi::{
        policy::PROTECTION_INTEGRITY,
        rule::mark,
        socket::{SocketState, socket_flag},
    },
    decide::{self, Refusal, Taker},
    label::Label,
    verdict::{DropReason, Hook},
    wire::ipv4::Ipv4,
};

use crate::{
    packet::{self, ETH_LEN, ETH_P_IP, ETH_P_IPV6, Source, Window, ports},
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Rules},
    source::{Kind, Sender},
    stamp::{open_conversation, unconnected},
};

const STAMPED: u32 = 0x5c1d;
/// In place of [`STAMPED`]: its sender's zone is not in the policy any more.
const ZONELESS: u32 = STAMPED + 1;

#[classifier]
pub fn lo_stamp(ctx: TcContext) -> i32 {
    let (mark, stamped) = stamp(&ctx);
    ctx.skb.set_mark(mark);
    // SAFETY: the context's own field.
    unsafe { (*ctx.skb.skb).tc_index = stamped };
    TC_ACT_UNSPEC
}

#[classifier]
pub fn lo_verify(ctx: TcContext) -> i32 {
    report::seen(Hook::Loopback);
    let Err(refusal) = arrive(&ctx) else {
        report::accepted(Hook::Loopback);
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the context's own field.
    let mark = unsafe { (*ctx.skb.skb).mark };
    let source = Rules::label_of(mark::handle(mark)).unwrap_or_default();
    let flow = Flow::of(Source::Skb(ctx.skb.skb));
    let refused = refusal.between(source, Label::default());
    match report::refuse(Hook::Loopback, &refused, &flow, &Process::default()) {
        Fate::Drop => TC_ACT_SHOT as i32,
        Fate::Pass => {
            ctx.skb.set_mark(0);
            TC_ACT_UNSPEC
        }
    }
}

/// The sender's mark, 0 for a sender without ScID, and [`STAMPED`]; 0 instead for a packet socket, which
/// may send nothing here.
#[inline(always)]
fn stamp(ctx: &TcContext) -> (u32, u32) {
    let Ok(rules) = Rules::now() else { return (0, STAMPED) };
    let window = Window::of_skb(ctx);
    let v4 = window.ethertype().is_ok_and(|kind| kind == ETH_P_IP);
    let mut ip = Ipv4([0; 5]);
    if v4 && let Ok(header) = packet::ipv4(window, ctx.len()) {
        ip = header;
    }
    let transport = if v4 { packet::transport(window, ip) } else { 0 };
    let sender = Sender::of(ctx, &rules, ip, transport);
    if sender.kind == Kind::Packet {
        return (0, 0);
    }
    let control = |state: &mut SocketState| state.flags & socket_flag::CONTROL != 0;
    if sender.state().is_some_and(control) {
        return (0, STAMPED);
    }
    let Ok(scid) = sender.scid() else { return (0, STAMPED) };
    // Which zone of this node it goes to is known on delivery, where answers are judged exactly.
    if let Some(state) = sender.state()
        && decide::open(&rules.between(rules.own(0), scid)).is_ok()
    {
        state.flags |= socket_flag::OPENED;
        if v4 && unconnected(sender.sk) {
            open_conversation(ctx.skb.skb, ip, ports(transport).1);
        }
    }
    let handle = rules.socket(scid).map_or(0, |rule| rule.handle);
    if handle != 0 {
        return (mark::pack(handle, PROTECTION_INTEGRITY), STAMPED);
    }
    // The mark of an unlabelled process is not for one whose zone the policy dropped.
    let in_zone = scid != rules.generation.default_scid && scid != rules.generation.kernel_scid;
    (0, if in_zone { ZONELESS } else { STAMPED })
}

/// May it reach this node's stack? A process may not pass for another node, nor, having a ScID, for
/// this node's kernel.
#[inline(always)]
fn arrive(ctx: &TcContext) -> Result<(), Refusal> {
    // SAFETY: the context's own fields.
    let (index, mark) = unsafe { ((*ctx.skb.skb).tc_index, (*ctx.skb.skb).mark) };
    match index {
        STAMPED => {}
        ZONELESS => return Err(DropReason::NoScid.into()),
        _ => return Err(DropReason::PacketSocket.into()),
    }
    let Ok(rules) = Rules::now() else { return Ok(()) };
    let window = Window::of_skb(ctx);
    let taker = match window.ethertype()? {
        ETH_P_IP => {
            let ip = packet::ipv4(window, ctx.len())?;
            if rules.node_at(ip.source()).is_some_and(|node| node.snid != rules.config.snid) {
                return Err(DropReason::AddressMismatch.into());
            }
            if ip.first_fragment() {
                let icmp_type = (packet::transport(window, ip) >> 24) as u8;
                decide::taker(ip.protocol(), icmp_type)
            } else {
                Taker::Socket
            }
        }
        ETH_P_IPV6 => {
            let protocol = window.read::<u16>(ETH_LEN + 6)?.to_ne_bytes()[0];
            let icmp_type = window.read::<u16>(ETH_LEN + 40).map_or(0, |w| w.to_ne_bytes()[0]);
            decide::taker_v6(protocol, icmp_type)
        }
        _ => Taker::Socket,
    };
    if taker == Taker::Socket || mark == 0 {
        return Ok(());
    }
    let kernel = rules.own(rules.generation.kernel_scid);
    let source = Rules::label_of(mark::handle(mark)).unwrap_or_default();
    if source == kernel {
        Ok(())
    } else if taker == Taker::Errors {
        Err(DropReason::NoRule.into())
    } else {
        decide::receive(&rules.between(source, kernel.scid)).map(drop)
    }
}
