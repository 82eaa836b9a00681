//! Reading headers out of frames, the same way from XDP and from TC.

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use sigil_common::{
    verdict::DropReason,
    wire::{
        ipv4::{Ipv4, fold, update},
        option::Words,
    },
};

use crate::wide;

pub(crate) const ETH_LEN: usize = 14;
pub(crate) const IP_LEN: usize = 20;
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_ARP: u16 = 0x0806;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;

/// The part of a frame that the verifier lets programs touch.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    start: usize,
    end: usize,
}

impl Window {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// Makes sure the headers are linear, then opens the window.
    #[inline(always)]
    pub(crate) fn of_skb(ctx: &TcContext) -> Self {
        /// Ethernet, the longest IPv4 header, and the transport fields that are looked at.
        const HEADERS: u32 = 14 + 60 + 16;
        let linear = ctx.data_end() - ctx.data();
        let wanted = HEADERS.min(ctx.len());
        if linear < wanted as usize {
            // SAFETY: the context's own skb. On failure the window stays short, and reads fail.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
        }
        Self::now(ctx)
    }

    /// Opens the window anew after the skb changed.
    #[inline(always)]
    pub(crate) fn now(ctx: &TcContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// A pointer to a `T` at `offset`.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<*mut T> {
        let at = self.start + offset;
        (at + size_of::<T>() <= self.end).then_some(at as *mut T)
    }

    /// A copy of the `T` at `offset`.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(self, offset: usize) -> Result<T, DropReason> {
        let at = self.at::<T>(offset).ok_or(DropReason::Truncated)?;
        // SAFETY: `at` is within the packet.
        Ok(unsafe { at.read_unaligned() })
    }

    /// A copy of the five words at `offset`.
    #[inline(always)]
    pub(crate) fn words(self, offset: usize) -> Result<Words, DropReason> {
        let at = self.at::<Words>(offset).ok_or(DropReason::Truncated)?;
        // SAFETY: `at` is within the packet.
        Ok(unsafe { wide::load(at) })
    }

    /// Overwrites the five words at `offset`.
    #[inline(always)]
    pub(crate) fn put(self, offset: usize, words: Words) -> Result<(), DropReason> {
        let at = self.at::<Words>(offset).ok_or(DropReason::Truncated)?;
        // SAFETY: `at` is within the packet.
        unsafe { wide::store(at, words) };
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn ethertype(self) -> Result<u16, DropReason> {
        self.read::<u16>(12).map(u16::from_be)
    }
}

/// Reads and checks the IPv4 header; `len` is that of the frame.
#[inline(always)]
pub(crate) fn ipv4(window: Window, len: u32) -> Result<Ipv4, DropReason> {
    Ipv4(window.words(ETH_LEN)?).check(len - ETH_LEN as u32)
}

/// The first four bytes of the transport header as a number, 0 where there are none.
#[inline(always)]
pub(crate) fn transport(window: Window, ip: Ipv4) -> u32 {
    let header = ip.header_len();
    if !ip.first_fragment() || u32::from(ip.total_len()) < header + 4 {
        return 0;
    }
    // The mask changes nothing in a checked header; it bounds the offset for the verifier.
    match window.at::<u32>(ETH_LEN + (header & 0x3c) as usize) {
        // SAFETY: within the packet.
        Some(at) => u32::from_be(unsafe { wide::load_one(at) }),
        None => 0,
    }
}

/// The ports in those bytes: source, target.
#[inline(always)]
pub(crate) fn ports(transport: u32) -> (u16, u16) {
    ((transport >> 16) as u16, transport as u16)
}

/// The header with other lengths and another id, after options came that add up to `came` and
/// others went that add up to `gone`. All else stays as it was, an error in the checksum included.
#[inline(always)]
pub(crate) fn rebuilt(
    ip: Ipv4,
    header_len: u32,
    total: u16,
    id: u16,
    came: u64,
    gone: u64,
) -> Ipv4 {
    let Ipv4([first, second, third, source, target]) = ip;
    let first_new = first & 0xff00 | 0x40 | header_len / 4 | u32::from(total.to_be()) << 16;
    let second_new = second & 0xffff_0000 | u32::from(id.to_be());
    let old = fold(u64::from(first) + u64::from(second) + gone);
    let new = fold(u64::from(first_new) + u64::from(second_new) + came);
    let checksum = update((third >> 16) as u16, old, new);
    Ipv4([first_new, second_new, third & 0xffff | u32::from(checksum) << 16, source, target])
}

/// What the slow path reads packets through, when pointers are no longer at hand.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// From the Ethernet header on.
    Skb(*mut __sk_buff),
    /// From the network header on.
    SkbNetwork(*mut __sk_buff),
    Xdp(*mut aya_ebpf::bindings::xdp_md),
}

impl Source {
    #[inline(always)]
    pub(crate) fn of_xdp(ctx: &XdpContext) -> Self {
        Self::Xdp(ctx.as_ptr().cast())
    }

    /// Copies a `T` at `offset` of the frame (`Skb`, `Xdp`) or of the packet (`SkbNetwork`).
    #[inline(always)]
    pub(crate) fn load<T: Copy + Default>(self, offset: u32) -> Option<T> {
        let mut value = T::default();
        let to = core::ptr::from_mut(&mut value).cast();
        let size = size_of::<T>() as u32;
        // SAFETY: `to` has room for `size` bytes; the helpers check the packet's bounds.
        let failed = unsafe {
            match self {
                Self::Skb(skb) | Self::SkbNetwork(skb) => {
                    bpf_skb_load_bytes(skb.cast(), offset, to, size)
                }
                Self::Xdp(xdp) => bpf_xdp_load_bytes(xdp, offset, to, size),
            }
        };
        (failed == 0).then_some(value)
    }
}
