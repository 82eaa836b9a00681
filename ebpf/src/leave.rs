//! `cgroup_skb` egress: a zone does not leave the node where nobody stands guard.
//!
//! Every IPv4 and IPv6 packet of a socket comes by here, whatever device it was bound to; out of
//! a guarded interface and over loopback it is judged by others.

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_sk_fullsock, macros::cgroup_skb,
    programs::SkBuffContext,
};
use sigil_common::{
    abi::socket::{SocketState, socket_flag},
    decide,
    label::Label,
    verdict::{DropReason, Hook},
    wire::ipv4::Ipv4,
};

use crate::{
    deliver::{ALLOW, DENY, ETH_P_IP_BE},
    maps::{CONFIG, SOCKETS},
    owner,
    packet::{Source, ports},
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
    stamp::{open_conversation, spoken, unconnected},
};

#[cgroup_skb(egress)]
pub fn skb_leave(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context's own fields; the verifier knows that the socket may be null.
    let (interface, sk) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).__bindgen_anon_2.sk) };
    let guarded = CONFIG.get(0).is_some_and(|config| config.guards(interface));
    if guarded || sk.is_null() {
        return ALLOW;
    }
    // SAFETY: not null.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() {
        return ALLOW;
    }
    let Some(state) = SOCKETS.of(full) else { return ALLOW };
    // In a stranger's hands, a socket of nobody's zone carries nothing either.
    let outside = state.scid == 0 && state.flags & socket_flag::FOREIGN == 0;
    if outside || state.flags & socket_flag::CONTROL != 0 {
        return ALLOW;
    }
    let Err(refused) = judge(&ctx, full, state) else { return ALLOW };
    report::seen(Hook::Socket);
    let flow = Flow::of(Source::SkbNetwork(ctx.skb.skb));
    match report::refuse(Hook::Socket, &refused, &flow, &Process::of(Some(state))) {
        Fate::Drop => DENY,
        Fate::Pass => ALLOW,
    }
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, sk: *mut bpf_sock, state: &mut SocketState) -> Result<(), Refused> {
    let rules = Rules::now()?;
    let source = rules.own(state.scid);
    let nobody = |reason: DropReason| reason.between(source, Label::default());
    owner::usable(state).map_err(nobody)?;
    // SAFETY: the context's own field.
    if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP_BE {
        return Err(nobody(DropReason::Unguarded));
    }
    let packet = Source::SkbNetwork(ctx.skb.skb);
    let ip = Ipv4(packet.load(0).unwrap_or_default());
    // A node is reached through guarded interfaces only: here, anybody may answer for its address.
    let mut target = Label::default();
    if rules.node_at(ip.target()).is_none() {
        target = rules.perimeter(ip.target()).unwrap_or_default();
    }
    if target.snid == 0 {
        return Err(nobody(DropReason::Unguarded));
    }
    let transport = match ip.protocol() {
        decide::protocol::TCP | decide::protocol::UDP | decide::protocol::SCTP
            if ip.first_fragment() =>
        {
            u32::from_be(packet.load(ip.header_len()).unwrap_or(0))
        }
        _ => 0,
    };
    let (_, port) = ports(transport);
    let spoken = spoken(ctx.skb.skb, sk, ip, port);
    let sending = decide::send_out(&rules.between(target, state.scid), spoken)
        .map_err(|refusal| refusal.between(source, target))?;
    if sending.opens {
        state.flags |= socket_flag::OPENED;
        if unconnected(sk) {
            open_conversation(ctx.skb.skb, ip, port);
        }
    }
    Ok(())
}
