//! The loopback device: same-node traffic carries its sender's label in `skb->mark`, and the
//! delivery check judges it like any other.
//!
//! `tc_index` proves that the mark is ours: nothing but a TC program can set it, while `SO_MARK`
//! and a packet socket that bypasses the queueing layer could forge a mark.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use sigil_common::{
    abi::{policy::PROTECTION_INTEGRITY, rule::mark},
    verdict::Hook,
    wire::ipv4::Ipv4,
};

use crate::{
    packet::{self, ETH_P_IP, Window},
    report,
    rules::Rules,
    source::{Kind, Sender},
};

const STAMPED: u32 = 0x5c1d;

#[classifier]
pub fn lo_stamp(ctx: TcContext) -> i32 {
    ctx.skb.set_mark(label_mark(&ctx).unwrap_or(0));
    // SAFETY: the context's own field.
    unsafe { (*ctx.skb.skb).tc_index = STAMPED };
    TC_ACT_UNSPEC
}

/// Counts what enters the loopback device; a mark that [`lo_stamp`] did not set becomes none.
#[classifier]
pub fn lo_verify(ctx: TcContext) -> i32 {
    report::seen(Hook::Loopback);
    // SAFETY: the context's own field.
    if unsafe { (*ctx.skb.skb).tc_index } != STAMPED {
        ctx.skb.set_mark(0);
    }
    report::accepted(Hook::Loopback);
    TC_ACT_UNSPEC
}

/// The sender's mark; none for a sender without ScID.
#[inline(always)]
fn label_mark(ctx: &TcContext) -> Option<u32> {
    let rules = Rules::now().ok()?;
    let window = Window::of_skb(ctx);
    let v4 = window.ethertype().is_ok_and(|kind| kind == ETH_P_IP);
    let ip = if v4 { packet::ipv4(window, ctx.len()).ok()? } else { Ipv4([0; 5]) };
    let transport = if v4 { packet::transport(window, ip) } else { 0 };
    let sender = Sender::of(ctx, &rules, ip, transport);
    if matches!(sender.kind, Kind::Packet | Kind::Forwarded) {
        return None;
    }
    let scid = sender.scid().ok()?;
    Some(mark::pack(rules.socket(scid)?.handle, PROTECTION_INTEGRITY))
}
