//! Who runs: the labels of processes, and fork and exit. See `exec` for how they change.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{
            bpf_get_current_comm, bpf_get_current_task, bpf_ktime_get_boot_ns, bpf_ringbuf_output,
            bpf_send_signal,
        },
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use sigil_common::{
    abi::{
        event::Doom,
        generation_flag,
        process::{Offsets, Task},
        socket::Comm,
    },
    decide::{self, Refusal},
    label::Label,
    verdict::{DropReason, Hook},
};

use crate::{
    maps::{DOOMED, ENTERING, GATE, TASKS},
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Refused, Rules},
};

const SIGKILL: u32 = 9;

/// Set by the loader from the running kernel's BTF.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    tgid: 0,
    pid: 0,
    binprm_file: 0,
    binprm_filename: 0,
    binprm_interp: 0,
    binprm_fdpath: 0,
    binprm_unsafe: 0,
    file_inode: 0,
    inode_ino: 0,
    inode_sb: 0,
    inode_ctime: 0,
    inode_ctime_nsec: 0,
    sb_dev: 0,
    sb_magic: 0,
    mount_sb: 0,
    socket_sk: 0,
    sock_kernel: 0,
    sock_allocation: 0,
    sock_protocol: 0,
    sock_owned: 0,
    sock_user_data: 0,
    tcp_ulp: 0,
    task_flags: 0,
    binprm_mm: 0,
    task_mm: 0,
    task_personality: 0,
    task_signal: 0,
    signal_live: 0,
    vma_file: 0,
    vma_anon: 0,
    file_mode: 0,
    file_dentry: 0,
    dentry_name: 0,
    task_thread_pid: 0,
    pid_level: 0,
};

/// Where the running kernel keeps what the programs read.
#[inline(always)]
pub(crate) fn offsets() -> Offsets {
    // SAFETY: a global that the loader patches before the programs are verified.
    unsafe { core::ptr::read_volatile(&raw const OFFSETS) }
}

/// [`Offsets::socket_sk`] by itself, which the verifier then knows for a constant.
#[inline(always)]
pub(crate) fn sk_offset() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OFFSETS.socket_sk) }
}

/// [`Offsets::tgid`], in the same way.
#[inline(always)]
fn tgid_offset() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const OFFSETS.tgid) }
}

/// A member of a kernel struct.
#[inline(always)]
pub(crate) fn member<T>(structure: *const u8, offset: u32) -> Result<T, i32> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(structure.wrapping_add(offset as usize).cast::<T>()) }
}

/// The current process's word; one that may do nothing where its id lies outside the table.
#[inline(always)]
pub(crate) fn current() -> Task {
    TASKS.get(current_tgid()).copied().unwrap_or(Task::doomed(0))
}

/// The current process's ScID, 0 for none. `None` if its id lies outside the table, or if it may do
/// nothing any more.
#[inline(always)]
pub(crate) fn current_scid() -> Option<u32> {
    let task = current();
    if task.is_doomed() { None } else { Some(task.scid()) }
}

#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether the process ids that the current process uses are the first namespace's, as the table's are.
#[inline(always)]
pub(crate) fn is_in_first_namespace() -> bool {
    let offsets = offsets();
    let pid = member::<*const u8>(current_task(), offsets.task_thread_pid);
    pid.is_ok_and(|pid| member::<u32>(pid, offsets.pid_level) == Ok(0))
}

/// Whether the kernel works on its own account: a thread of its own, which acts for no process.
#[inline(always)]
pub(crate) fn is_kernel_thread() -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let flags = member::<u32>(current_task(), offsets().task_flags);
    flags.is_ok_and(|flags| flags & PF_KTHREAD != 0)
}

/// The current process's name.
#[inline(always)]
pub(crate) fn current_comm() -> Comm {
    let mut comm = Comm::default();
    // SAFETY: the helper writes at most the size it is given. Without a name, none.
    unsafe { bpf_get_current_comm((&raw mut comm).cast(), size_of::<Comm>() as u32) };
    comm
}

/// The current thread's `task_struct`.
#[inline(always)]
pub(crate) fn current_task() -> *const u8 {
    // SAFETY: no side effect.
    let task = unsafe { bpf_get_current_task() };
    task as *const u8
}

/// Writes a process's word.
#[inline(always)]
pub(crate) fn set(tgid: u32, task: Task) {
    if let Some(entry) = TASKS.get_ptr_mut(tgid) {
        // SAFETY: an aligned word of the map.
        unsafe { entry.write_volatile(task) };
    }
}

/// Ends the current process before it runs another instruction of its own.
#[inline(always)]
pub(crate) fn kill_current() {
    // SAFETY: no pointer is passed.
    unsafe { bpf_send_signal(SIGKILL) };
}

/// `sched_process_fork(parent, child)`: runs between the child's making and its waking, for kernel
/// threads too. It always writes, so that a reused id never keeps an old ScID. A fork cannot be
/// refused here: a child that must not be is born without any right and reported to the agent, which
/// kills it.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn task_fork(ctx: BtfTracePointContext) -> i32 {
    let child: *const u8 = ctx.arg(1);
    // A plain load of the hook's own argument, which cannot fail: no child goes without its word.
    // SAFETY: the verifier checks that the member is there.
    let tgid = unsafe { child.add(tgid_offset() as usize).cast::<u32>().read() };
    // A thread shares its process's word.
    if tgid == current_tgid() {
        return 0;
    }
    let parent = current();
    let mut born = parent;
    if parent.is_doomed() {
        kill_current();
    } else if parent.scid() != 0 && !may_fork(parent.scid(), tgid) {
        born = Task::doomed(parent.scid());
    }
    set(tgid, born);
    if ENTERING.get_ptr(tgid).is_some() {
        // Of a process of this id that ended within its exec.
        let _ = ENTERING.remove(tgid);
    }
    if born.is_doomed() {
        doom(tgid);
    }
    0
}

#[inline(always)]
fn may_fork(scid: u32, child: u32) -> bool {
    report::seen(Hook::Process);
    let own = label(scid);
    let outcome = fork_permitted(scid);
    let process = Process::current(child);
    match outcome {
        Ok(line) => {
            alarm(line, own, own, &process);
            report::accepted(Hook::Process);
            true
        }
        Err(refusal) => refuse(refusal, own, own, &process) == Fate::Pass,
    }
}

/// The line of an alarm, if a process of this ScID may make a child.
#[inline(always)]
pub(crate) fn fork_permitted(scid: u32) -> Result<u32, Refusal> {
    let rules = Rules::now()?;
    let governed = rules.generation.flags & generation_flag::PROCESSES != 0;
    decide::process::fork(scid, governed, rules.process(scid))
}

/// The label of a process of this node.
#[inline(always)]
pub(crate) fn label(scid: u32) -> Label {
    match Rules::now() {
        Ok(rules) => rules.own(scid),
        Err(_) => Label { snid: 0, scid },
    }
}

/// Counts and reports a refused fork or exec.
#[inline(always)]
pub(crate) fn refuse(refusal: Refusal, source: Label, target: Label, process: &Process) -> Fate {
    let refused = refusal.between(source, target);
    report::refuse(Hook::Process, &refused, &Flow::default(), process)
}

/// Reports the use of a rule that asks for an alarm, if `line` is one.
#[inline(always)]
pub(crate) fn alarm(line: u32, source: Label, target: Label, process: &Process) {
    if line != 0 {
        let used = Refused { reason: DropReason::Denied, line, source, target };
        report::alarm(Hook::Process, &used, &Flow::default(), process);
    }
}

/// Asks the agent to kill a process. Should the ring be full, it stays without any right.
#[inline(always)]
fn doom(tgid: u32) {
    let ring = core::ptr::from_ref(&DOOMED).cast_mut().cast();
    // SAFETY: no side effect.
    let mut doom = Doom { time_ns: unsafe { bpf_ktime_get_boot_ns() }, pid: tgid, pad: 0 };
    // SAFETY: the helper copies the entry.
    unsafe { bpf_ringbuf_output(ring, (&raw mut doom).cast(), size_of::<Doom>() as u64, 0) };
}

/// `sched_process_exit(task)`, of every thread: with the thread that answers execs the gate is open, and an
/// exec may end with its process.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn task_exit(_ctx: BtfTracePointContext) -> i32 {
    let thread = bpf_get_current_pid_tgid() as u32;
    if let Some(gate) = GATE.get_ptr_mut(0) {
        // SAFETY: an aligned word of the map.
        unsafe {
            if gate.read_volatile() == thread && thread != 0 {
                gate.write_volatile(0);
            }
        }
    }
    let tgid = current_tgid();
    // A leader ends within another thread's exec, too, and that goes on.
    if ENTERING.get_ptr(tgid).is_some() && was_last() {
        let _ = ENTERING.remove(tgid);
    }
    0
}

/// Whether no thread of the current process runs any more.
#[inline(always)]
fn was_last() -> bool {
    let signal = member::<*const u8>(current_task(), offsets().task_signal);
    signal.and_then(|signal| member::<i32>(signal, offsets().signal_live)) == Ok(0)
}
