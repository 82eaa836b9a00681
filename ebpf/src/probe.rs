//! `icv_probe` and `icv_probe_tc` answer [`Probe`] packets. Only tests load them, to compare the code
//! that runs in the kernel, through either kind of context, with other implementations.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
    btf_maps::PerCpuArray,
    helpers::generated::{
        bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use sigil_common::{
    icv::{
        Icv, Suite,
        probe::{ICV_OFFSET, PROBE_LEN, Probe},
    },
    verdict::DropReason,
};

use crate::{
    mac::{self, Payload},
    packet::Source,
};

/// The question is too long for the stack.
#[btf_map]
static ICV_PROBE: PerCpuArray<Probe, 1> = PerCpuArray::new();

/// The ICV and the status behind it.
const ANSWER_LEN: u32 = (PROBE_LEN - ICV_OFFSET) as u32;

#[xdp(frags)]
pub fn icv_probe(ctx: XdpContext) -> u32 {
    if let Some(answer) = answer(Source::of_xdp(&ctx)) {
        // SAFETY: the helper checks the packet's bounds, and the answer is as long as it says.
        unsafe {
            let from = core::ptr::from_ref(answer).byte_add(ICV_OFFSET).cast_mut().cast();
            bpf_xdp_store_bytes(ctx.as_ptr().cast(), ICV_OFFSET as u32, from, ANSWER_LEN);
        }
    }
    XDP_PASS
}

#[classifier]
pub fn icv_probe_tc(ctx: TcContext) -> i32 {
    if let Some(answer) = answer(Source::Skb(ctx.skb.skb)) {
        // SAFETY: the helper checks the packet's bounds, and the answer is as long as it says.
        unsafe {
            let from = core::ptr::from_ref(answer).byte_add(ICV_OFFSET).cast();
            bpf_skb_store_bytes(ctx.skb.skb, ICV_OFFSET as u32, from, ANSWER_LEN, 0);
        }
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn answer(source: Source) -> Option<&'static Probe> {
    // SAFETY: this CPU's own element, and no other reference to it lives meanwhile.
    let probe = unsafe { &mut *ICV_PROBE.get_ptr_mut(0)? };
    let to = core::ptr::from_mut(probe).cast();
    // SAFETY: `to` has room for a question; the helpers check the packet's bounds.
    let failed = unsafe {
        match source {
            Source::Xdp(xdp) => bpf_xdp_load_bytes(xdp, 0, to, PROBE_LEN as u32),
            Source::Skb(skb) | Source::SkbNetwork(skb) => {
                bpf_skb_load_bytes(skb.cast(), 0, to, PROBE_LEN as u32)
            }
        }
    };
    if failed != 0 {
        return None;
    }
    match icv(source, probe) {
        Ok(icv) => (probe.icv, probe.status) = (icv, 1),
        Err(reason) => probe.status = reason as u32,
    }
    Some(probe)
}

#[inline(always)]
fn icv(source: Source, probe: &Probe) -> Result<Icv, DropReason> {
    let suite = Suite::try_from(probe.suite).map_err(|_| DropReason::UnknownKey)?;
    let payload = (probe.covered != 0).then(|| Payload {
        at: PROBE_LEN as u32,
        len: probe.len,
        field: probe.checksum.into(),
    });
    mac::icv(source, suite, &probe.key, mac::stage(probe.header)?, payload)
}
