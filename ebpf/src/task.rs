//! Children have their parent's ScID, before they run their first instruction.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated::bpf_get_current_comm},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

use sigil_common::abi::socket::Comm;

use crate::maps::TASKS;

/// `offsetof(struct task_struct, tgid)`, set by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
static OFFSET_TGID: u32 = 0;

/// The current process's ScID, 0 for none. `None` if its id lies outside the table.
#[inline(always)]
pub(crate) fn current_scid() -> Option<u32> {
    TASKS.get(current_tgid()).copied()
}

#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current process's name.
#[inline(always)]
pub(crate) fn current_comm() -> Comm {
    let mut comm = Comm::default();
    // SAFETY: the helper writes at most the size it is given. Without a name, none.
    unsafe { bpf_get_current_comm((&raw mut comm).cast(), size_of::<Comm>() as u32) };
    comm
}

/// `sched_process_fork(parent, child)`: runs between the child's making and its waking, for threads
/// and kernel threads alike. It always writes, so that a reused id never keeps an old ScID.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn task_fork(ctx: BtfTracePointContext) -> i32 {
    let child: *const u8 = ctx.arg(1);
    // SAFETY: a global that the loader patches before the program is verified.
    let offset = unsafe { core::ptr::read_volatile(&raw const OFFSET_TGID) } as usize;
    // SAFETY: the helper checks the address.
    let Ok(tgid) = (unsafe { bpf_probe_read_kernel(child.wrapping_add(offset).cast::<u32>()) })
    else {
        return 0;
    };
    let scid = current_scid().unwrap_or(0);
    if let Some(entry) = TASKS.get_ptr_mut(tgid) {
        // SAFETY: an aligned word of the map.
        unsafe { entry.write_volatile(scid) };
    }
    0
}
