//! BPF LSM: what the rules refuse fails with EPERM, before it happens. Loaded only where the kernel
//! runs LSM programs; the other programs decide alike without them, and end what they cannot refuse.
//!
//! A program at a hook can only refuse: it is asked where all others allow. Processes that are in no
//! zone are never refused a fork, nor an exec that leaves them so. What is allowed here is counted where
//! it takes effect, if it is.

mod code;
mod control;
mod own;
mod socket;

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::lsm, programs::LsmContext};
use sigil_common::{
    abi::process::Entering,
    decide::{self, Refusal},
    verdict::{DropReason, Hook},
};

use crate::{
    code as signed, exec,
    maps::ENTERING,
    report::{self, Fate, Flow, Process},
    rules::{Between as _, Rules},
    task::{self, member, offsets},
};

const ALLOW: i32 = 0;
const EPERM: i32 = -1;

/// `task_alloc(task, clone_flags)`: `fork(2)` fails, and no child is born that would have to be killed.
#[lsm(hook = "task_alloc")]
pub fn lsm_fork(ctx: LsmContext) -> i32 {
    const CLONE_THREAD: u64 = 0x1_0000;
    let flags: u64 = ctx.arg(1);
    let parent = task::current();
    if parent.is_doomed() {
        return EPERM;
    }
    let scid = parent.scid();
    if scid == 0 || flags & CLONE_THREAD != 0 || Rules::observing() {
        return ALLOW;
    }
    match task::fork_permitted(scid) {
        Ok(_) => ALLOW,
        Err(refusal) => refuse(Hook::Process, refusal, scid, scid),
    }
}

/// `bprm_creds_from_file(bprm, file)`: the last moment at which `execve(2)` can fail. The program and its
/// interpreter are known, nothing of the old one is gone.
#[lsm(hook = "bprm_creds_from_file")]
pub fn lsm_exec(ctx: LsmContext) -> i32 {
    /// `LSM_UNSAFE_PTRACE`
    const TRACED: u32 = 2;
    let bprm: *const u8 = ctx.arg(0);
    let process = task::current();
    if process.is_doomed() {
        return EPERM;
    }
    let parent = process.scid();
    // No rules: labels stay, as sockets' do.
    let Ok(rules) = Rules::now() else { return ALLOW };
    if Rules::observing() {
        return ALLOW;
    }
    let thread = bpf_get_current_pid_tgid() as u32;
    let binary = exec::program(thread, bprm, false).scid;
    match decide::process::exec(&exec::facts(&rules, parent, binary), rules.process(parent)) {
        Ok((scid, _)) => {
            let traced = member::<u32>(bprm, offsets().binprm_unsafe).unwrap_or(TRACED) & TRACED;
            if scid != parent && traced != 0 {
                // Whoever traces it would have a process of that zone in its hands.
                return refuse(Hook::Process, DropReason::Confined.into(), parent, scid);
            }
            if let Err(refusal) = signed::may_run(&rules, scid, bprm) {
                return refuse(Hook::Process, refusal, parent, scid);
            }
            enter(&rules, parent, scid, bprm)
        }
        Err(refusal) => refuse(Hook::Process, refusal, parent, binary),
    }
}

/// Takes note of where an exec leads to, for what the kernel maps before its label is there.
#[inline(always)]
fn enter(rules: &Rules, parent: u32, scid: u32, bprm: *const u8) -> i32 {
    let demands = |scid| decide::process::demands_signed_code(rules.process(scid));
    if demands(parent) == demands(scid) {
        return ALLOW;
    }
    let Ok(mm) = member::<u64>(bprm, offsets().binprm_mm) else { return EPERM };
    let entering = Entering { mm, scid, pad: 0 };
    if ENTERING.insert(task::current_tgid(), entering, 0).is_err() {
        return refuse(Hook::Process, DropReason::NoMemory.into(), parent, scid);
    }
    ALLOW
}

/// Refuses what no process of a zone may do.
#[inline(always)]
fn confined(hook: Hook) -> i32 {
    let task = task::current();
    if task.is_doomed() {
        return EPERM;
    }
    match decide::process::outside(task.scid()) {
        Ok(()) => ALLOW,
        Err(refusal) => refuse(hook, refusal, task.scid(), 0),
    }
}

/// Counts and reports what is refused.
#[inline(always)]
fn refuse(hook: Hook, refusal: Refusal, source: u32, target: u32) -> i32 {
    report::seen(hook);
    let refused = refusal.between(task::label(source), task::label(target));
    let process = Process::current(task::current_tgid());
    match report::refuse(hook, &refused, &Flow::default(), &process) {
        Fate::Drop => EPERM,
        Fate::Pass => ALLOW,
    }
}
