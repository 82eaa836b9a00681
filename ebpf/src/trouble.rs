//! What should never happen, told to the agent's log: the kernel refuses a helper call that it has no
//! reason to refuse. Never on a path that good packets take, and never more than one record a second
//! of each kind, however many packets run into it.

use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_ktime_get_ns, macros::btf_map};
use aya_log_ebpf::error;
pub(crate) use sigil_common::abi::event::trouble::{CLOSE_ROOM, NO_STATE, OPEN_ROOM};
use sigil_common::abi::event::{TROUBLE_INTERVAL_NS, Trouble, trouble};

use crate::atomic;

#[btf_map]
static TROUBLES: Array<Trouble, { trouble::COUNT as usize }> = Array::new();

/// Tells of a trouble (see [`trouble`]); `errno` as the helper returned it.
#[cold]
#[inline(always)]
pub(crate) fn tell(what: u32, errno: i64) {
    trouble_told(what, errno as i32);
}

/// Tells of it when a map did not take an entry.
#[inline(always)]
pub(crate) fn expect(inserted: Result<(), i32>) {
    if let Err(errno) = inserted {
        trouble_told(trouble::TABLE_FULL, errno);
    }
}

/// With external linkage it is verified once, whoever calls it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn trouble_told(what: u32, errno: i32) -> u32 {
    let Some(seen) = TROUBLES.get_ptr_mut(what) else { return 0 };
    // SAFETY: aligned words of the map; no side effect.
    let (times, last, now) = unsafe {
        let times = atomic::fetch_add(&raw mut (*seen).times, 1) + 1;
        (times, (&raw const (*seen).told_ns).read_volatile(), bpf_ktime_get_ns())
    };
    if last != 0 && now.wrapping_sub(last) < TROUBLE_INTERVAL_NS {
        return 0;
    }
    // SAFETY: as above. Of several CPUs, one tells.
    if !unsafe { atomic::swap(&raw mut (*seen).told_ns, last, now) } {
        return 0;
    }
    let ctx = ();
    match what {
        trouble::OPEN_ROOM => {
            error!(
                &ctx,
                "a packet got no room for its label and was dropped: bpf_skb_adjust_room returns {}; {} times so far",
                errno,
                times
            );
        }
        trouble::CLOSE_ROOM => {
            error!(
                &ctx,
                "a label could not be taken out of a packet, which was dropped: error {}; {} times so far",
                errno,
                times
            );
        }
        trouble::TABLE_FULL => {
            error!(&ctx, "a kernel table took no entry: error {}; {} times so far", errno, times);
        }
        _ => {
            error!(
                &ctx,
                "the kernel had no memory for the state of a socket, which was refused: error {}; {} times so far",
                errno,
                times
            );
        }
    }
    0
}
