//! An application's own IPv4 options: they stay, unless one of them might be taken for a label.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
    macros::btf_map,
};
use sigil_common::{
    verdict::DropReason,
    wire::ipv4::{OPTIONS_MAX, Scan, Scanner},
};

use crate::{
    bound::within_64,
    packet::{ETH_LEN, IP_LEN},
};

/// A walk over the options. In a map, where the verifier need not follow its values.
#[repr(C)]
struct Walk {
    options: [u8; ROOM],
    scanner: Scanner,
}

/// A power of two, so that a mask bounds the index.
const ROOM: usize = 64;

const _: () = assert!(OPTIONS_MAX as usize <= ROOM);

#[btf_map]
static OWN_OPTIONS: PerCpuArray<Walk, 1> = PerCpuArray::new();

/// Refuses `len` bytes of options that hold a label, or lengths that do not add up.
#[inline(never)]
pub(crate) fn scan(skb: *mut __sk_buff, len: u32) -> Result<(), DropReason> {
    let Some(walk) = OWN_OPTIONS.get_ptr_mut(0) else { return Err(DropReason::NoMemory) };
    if len == 0 || len > OPTIONS_MAX {
        return Err(DropReason::BadHeader);
    }
    let len = within_64(len);
    // SAFETY: this CPU's own element, and there is room for as much.
    let run = unsafe {
        (*walk).scanner = Scanner::new();
        let to = (&raw mut (*walk).options).cast();
        if bpf_skb_load_bytes(skb.cast(), (ETH_LEN + IP_LEN) as u32, to, len) != 0 {
            return Err(DropReason::Truncated);
        }
        // The helper hands on pointers to the stack only.
        let mut context = walk;
        bpf_loop(len, step as *mut c_void, (&raw mut context).cast(), 0)
    };
    if run < 0 {
        return Err(DropReason::Truncated);
    }
    // SAFETY: as above.
    match unsafe { (*walk).scanner }.end() {
        Scan::Clear => Ok(()),
        Scan::Foreign => Err(DropReason::ForeignOption),
        Scan::Malformed => Err(DropReason::BadHeader),
    }
}

/// Takes one byte.
unsafe extern "C" fn step(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: what `scan` passed; the mask keeps the index within the array.
    unsafe {
        let walk = *context.cast::<*mut Walk>();
        let byte =
            (&raw const (*walk).options).cast::<u8>().add(index as usize & (ROOM - 1)).read();
        (*walk).scanner.take(byte);
    }
    0
}
