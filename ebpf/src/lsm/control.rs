//! One process in the hands of another: tracing, its memory, signals, its limits and its turn.

use aya_ebpf::{helpers::bpf_get_current_uid_gid, macros::lsm, programs::LsmContext};
use sigil_common::{
    abi::process::Task,
    decide,
    verdict::{DropReason, Hook},
};

use super::{ALLOW, EPERM, refuse};
use crate::{
    maps::TASKS,
    rules::Rules,
    task::{self, member, offsets},
};

/// `PTRACE_MODE_NOAUDIT`: the kernel only wants to know how much to show.
const QUIET: u32 = 4;

/// `PTRACE_MODE_ATTACH`: more than to look at it.
const ATTACH: u32 = 2;

/// `ptrace_access_check(child, mode)`: also `/proc/PID/mem`, `process_vm_writev`, `pidfd_getfd` and all
/// else that tells or changes what a process is.
#[lsm(hook = "ptrace_access_check")]
pub fn lsm_ptrace(ctx: LsmContext) -> i32 {
    let (child, mode): (*const u8, u32) = (ctx.arg(0), ctx.arg(1));
    let tracer = task::current();
    // Without a zone, root is the operator.
    let operator = bpf_get_current_uid_gid() as u32 == 0;
    let target = of(child);
    if mode & ATTACH != 0 && tracer.scid() == target.scid() && writes_code(target.scid()) {
        return refuse(
            Hook::Process,
            DropReason::UnsignedCode.into(),
            tracer.scid(),
            target.scid(),
        );
    }
    across(tracer, target, operator, mode & QUIET != 0)
}

/// `ptrace_traceme(parent)`: a child does not hand itself to a parent of another zone.
#[lsm(hook = "ptrace_traceme")]
pub fn lsm_traceme(ctx: LsmContext) -> i32 {
    let (parent, task) = (of(ctx.arg(0)), task::current());
    if parent.scid() == task.scid() && writes_code(task.scid()) {
        return refuse(Hook::Process, DropReason::UnsignedCode.into(), parent.scid(), task.scid());
    }
    across(parent, task, true, false)
}

/// Whether a tracer of the same zone would write code there that nobody signed.
#[inline(always)]
fn writes_code(scid: u32) -> bool {
    let strict = |rules: Rules| decide::process::demands_signed_code(rules.process(scid));
    scid != 0 && Rules::now().is_ok_and(strict)
}

/// `task_kill(task, info, signal, cred)`: signals that a process sends. Those of the kernel, such as a
/// child's end or an interrupt typed at a terminal, do not come here.
#[lsm(hook = "task_kill")]
pub fn lsm_kill(ctx: LsmContext) -> i32 {
    across(task::current(), of(ctx.arg(0)), true, false)
}

/// `task_setrlimit(task, resource, limit)`: one on CPU time ends a process as a signal does.
#[lsm(hook = "task_setrlimit")]
pub fn lsm_rlimit(ctx: LsmContext) -> i32 {
    across(task::current(), of(ctx.arg(0)), true, false)
}

/// `task_setscheduler(task)`
#[lsm(hook = "task_setscheduler")]
pub fn lsm_sched(ctx: LsmContext) -> i32 {
    across(task::current(), of(ctx.arg(0)), true, false)
}

/// `task_setnice(task, nice)`
#[lsm(hook = "task_setnice")]
pub fn lsm_nice(ctx: LsmContext) -> i32 {
    across(task::current(), of(ctx.arg(0)), true, false)
}

/// `file_fcntl(file, cmd, arg)`: whom a file's readiness is told to gets a signal of the caller's choice,
/// and the kernel sends it.
#[lsm(hook = "file_fcntl")]
pub fn lsm_fcntl(ctx: LsmContext) -> i32 {
    const F_SETOWN: u32 = 8;
    const F_SETOWN_EX: u32 = 15;
    let (command, owner): (u32, u64) = (ctx.arg(1), ctx.arg(2));
    match command {
        F_SETOWN if task::is_in_first_namespace() || owner as u32 == 0 => told(owner as u32),
        F_SETOWN => told(UNKNOWN),
        F_SETOWN_EX => told(UNKNOWN),
        _ => ALLOW,
    }
}

/// `file_ioctl(file, cmd, arg)`: the same of sockets and terminals.
#[lsm(hook = "file_ioctl")]
pub fn lsm_ioctl(ctx: LsmContext) -> i32 {
    owner_set(ctx.arg(1))
}

/// `file_ioctl_compat(file, cmd, arg)`: called as 32-bit programs do.
#[lsm(hook = "file_ioctl_compat")]
pub fn lsm_ioctl32(ctx: LsmContext) -> i32 {
    owner_set(ctx.arg(1))
}

#[inline(always)]
fn owner_set(command: u32) -> i32 {
    const FIOSETOWN: u32 = 0x8901;
    const SIOCSPGRP: u32 = 0x8902;
    if matches!(command, FIOSETOWN | SIOCSPGRP) { told(UNKNOWN) } else { ALLOW }
}

/// In the caller's memory, which may change once it was looked at; or a number of the caller's own
/// namespace of process ids, under which it may know another than the table does.
const UNKNOWN: u32 = u32::MAX;

/// May a process be told of a file's readiness? A group of processes may be anybody's.
#[inline(always)]
fn told(pid: u32) -> i32 {
    if pid == 0 || pid == task::current_tgid() {
        return ALLOW;
    }
    let target = TASKS.get(pid).copied().unwrap_or(Task::doomed(0));
    across(task::current(), target, true, false)
}

/// The word of a task's process.
#[inline(always)]
fn of(task: *const u8) -> Task {
    match member::<u32>(task, offsets().tgid) {
        Ok(tgid) => TASKS.get(tgid).copied().unwrap_or(Task::doomed(0)),
        Err(_) => Task::doomed(0),
    }
}

#[inline(always)]
fn across(actor: Task, target: Task, host: bool, quiet: bool) -> i32 {
    if actor.is_doomed() && actor.scid() != 0 {
        return EPERM;
    }
    match decide::process::control(actor.scid(), target.scid(), host) {
        Ok(()) => ALLOW,
        Err(_) if quiet && !Rules::observing() => EPERM,
        Err(refusal) => refuse(Hook::Process, refusal, actor.scid(), target.scid()),
    }
}
