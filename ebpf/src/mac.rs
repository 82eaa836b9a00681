//! The kernel's side of the ICV: working memory, and payload read block by block.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes, bpf_xdp_load_bytes},
    macros::btf_map,
};
use sigil_common::{
    icv::{
        self, BLOCK_LEN, ChecksumField, FIRST_LEN, HEADER_LEN, Header, Icv, MacKey, PAYLOAD_MAX,
        Scratch, Suite, blocks,
    },
    verdict::DropReason,
};

use crate::{bound::within_64, packet::Source};

/// XDP and TC run with softirqs off, so on a CPU one message ends before the next begins.
#[btf_map]
static MAC_WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// One message at work. In a map, because the stack has no room for it, and because the functions
/// that work on it take no pointers.
#[repr(C)]
struct Work {
    scratch: Scratch,
    header: Header,
    key: MacKey,
    payload: Payload,
    /// A [`Suite`].
    suite: u32,
    icv: Icv,
    walk: Walk,
}

/// What of a packet the ICV covers besides its header.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Payload {
    /// Where the transport header begins, in the terms of the [`Source`].
    pub(crate) at: u32,
    /// Bytes from there to the packet's end.
    pub(crate) len: u32,
    /// Which of them are read as 0.
    pub(crate) field: ChecksumField,
}

/// Puts a header where [`icv`] takes it from: it would be a tenth of the stack.
#[inline(always)]
pub(crate) fn stage(header: Header) -> Result<&'static Header, DropReason> {
    // SAFETY: this CPU's own element, and no other reference to it lives meanwhile.
    let work = unsafe { &mut *MAC_WORK.get_ptr_mut(0).ok_or(DropReason::NoMemory)? };
    work.header = header;
    Ok(&work.header)
}

/// Puts the ICV that a packet claims beside the header that was staged.
#[inline(always)]
pub(crate) fn claim(icv: Icv) -> Result<(), DropReason> {
    // SAFETY: as above.
    let work = unsafe { &mut *MAC_WORK.get_ptr_mut(0).ok_or(DropReason::NoMemory)? };
    work.icv = icv;
    Ok(())
}

/// What was staged and claimed.
#[inline(always)]
pub(crate) fn claimed() -> Option<(&'static Header, &'static Icv)> {
    // SAFETY: as above.
    let work = unsafe { &*MAC_WORK.get_ptr(0)? };
    Some((&work.header, &work.icv))
}

/// The ICV of a packet: over the header that was staged alone, or over the payload as well.
///
/// SipHash over a header is worth being inlined; all else is a call, for the stack's sake.
#[inline(always)]
pub(crate) fn icv(
    source: Source,
    suite: Suite,
    key: &MacKey,
    header: &'static Header,
    payload: Option<Payload>,
) -> Result<Icv, DropReason> {
    if payload.is_none() && suite == Suite::SipHash24 {
        return Ok(icv::siphash_of_header(key, header));
    }
    // SAFETY: as in `stage`; the header is not looked at any more.
    let work = unsafe { &mut *MAC_WORK.get_ptr_mut(0).ok_or(DropReason::NoMemory)? };
    work.key = *key;
    work.suite = suite as u32;
    let status = match payload {
        None => mac_of_header(),
        Some(payload) => {
            work.payload = payload;
            match source {
                Source::Skb(skb) | Source::SkbNetwork(skb) => mac_of_skb(skb),
                Source::Xdp(xdp) => mac_of_xdp(xdp),
            }
        }
    };
    match DropReason::try_from(status) {
        Ok(reason) => Err(reason),
        Err(_) => Ok(work.icv),
    }
}

/// What the functions below return when the ICV is in [`Work`], else a [`DropReason`].
const DONE: u32 = 0;

// Functions with external linkage are verified once, for any caller and any argument. As part of
// their callers they would be verified again for every state that reaches them, and there are
// thousands of instructions in a hash.

/// The ICV of a header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mac_of_header() -> u32 {
    let Some(work) = MAC_WORK.get_ptr_mut(0) else { return DropReason::NoMemory as u32 };
    // SAFETY: as in `icv`, which waits for this function.
    let work = unsafe { &mut *work };
    let Ok(suite) = Suite::try_from(work.suite as u8) else { return DropReason::NoKey as u32 };
    work.icv = icv::of_header(suite, &work.key, &work.header, &mut work.scratch);
    DONE
}

/// The ICV of a packet and its payload, at TC.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mac_of_skb(skb: *mut __sk_buff) -> u32 {
    of_packet(Skb(skb))
}

/// The ICV of a packet and its payload, at XDP.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mac_of_xdp(xdp: *mut xdp_md) -> u32 {
    of_packet(Xdp(xdp))
}

#[inline(always)]
fn of_packet<P: Load>(packet: P) -> u32 {
    let Some(work) = MAC_WORK.get_ptr_mut(0) else { return DropReason::NoMemory as u32 };
    // SAFETY: as in `icv`, which waits for this function.
    let work = unsafe { &mut *work };
    let Ok(suite) = Suite::try_from(work.suite as u8) else { return DropReason::NoKey as u32 };
    if work.payload.len > PAYLOAD_MAX {
        return DropReason::TooBig as u32;
    }
    work.scratch.begin(suite, &work.key, &work.header);
    match cover(packet, suite, work) {
        Ok(icv) => {
            work.icv = icv;
            DONE
        }
        Err(reason) => reason as u32,
    }
}

/// One type for each kind of context: a callback that might call the other kind's helper does not
/// load.
trait Load: Copy {
    /// Copies `len` bytes at `offset` of the packet to `to`; 0 on success.
    ///
    /// # Safety
    /// `to` has room for `len` bytes.
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> i64;
}

#[derive(Clone, Copy)]
struct Skb(*mut __sk_buff);

impl Load for Skb {
    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> i64 {
        // SAFETY: the program's own context; the helper checks the packet's bounds.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to, len) }
    }
}

#[derive(Clone, Copy)]
struct Xdp(*mut xdp_md);

impl Load for Xdp {
    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut c_void, len: u32) -> i64 {
        // SAFETY: the program's own context; the helper checks the packet's bounds.
        unsafe { bpf_xdp_load_bytes(self.0, offset, to, len) }
    }
}

/// How far a walk over the payload is.
#[repr(C)]
struct Walk {
    offset: u32,
    left: u32,
    /// Bytes of the block that are the packet's.
    len: u32,
}

/// What the walk's steps are given: the helper hands on pointers to the stack only.
#[repr(C)]
struct Step<P> {
    packet: P,
    work: *mut Work,
    suite: Suite,
}

#[inline(always)]
fn cover<P: Load>(packet: P, suite: Suite, work: &mut Work) -> Result<Icv, DropReason> {
    let Payload { at, len, field } = work.payload;
    work.walk = Walk { offset: at, left: len, len: 0 };
    work.load(packet, HEADER_LEN, FIRST_LEN).ok_or(DropReason::Truncated)?;
    work.scratch.clear(field);

    let mut context = Step { packet, work, suite };
    // SAFETY: the callback has the kernel's signature and gets `context`, which outlives the loop.
    let run = unsafe {
        let context = core::ptr::from_mut(&mut context).cast();
        bpf_loop(blocks(len) - 1, step::<P> as *mut c_void, context, 0)
    };
    if run < 0 || work.walk.left != 0 {
        return Err(DropReason::Truncated);
    }
    Ok(work.scratch.finish(suite, work.walk.len))
}

/// Takes the block at hand and loads the next one. 1 stops the loop.
unsafe extern "C" fn step<P: Load>(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: what `cover` passed.
    let (packet, work, suite) = unsafe {
        let context = &*context.cast::<Step<P>>();
        (context.packet, &mut *context.work, context.suite)
    };
    work.scratch.absorb(suite);
    work.scratch.wipe();
    i64::from(work.load(packet, 0, BLOCK_LEN).is_none())
}

impl Work {
    /// Loads what is left, `room` bytes at most, to byte `at` of the block.
    #[inline(always)]
    fn load<P: Load>(&mut self, packet: P, at: u32, room: u32) -> Option<()> {
        let len = self.walk.left.min(room);
        self.walk.len = at + len;
        if len == 0 {
            return Some(());
        }
        const { assert!(BLOCK_LEN == 64) };
        let len = within_64(len);
        // SAFETY: `at + room` is a block.
        let failed = unsafe {
            let to = self.scratch.block.as_mut_ptr().byte_add(at as usize).cast();
            packet.load(self.walk.offset, to, len)
        };
        if failed != 0 {
            return None;
        }
        self.walk.offset += len;
        self.walk.left -= len;
        Some(())
    }
}
