//! Memory that becomes code, in zones that demand signed code. Attached only while there are such zones.
//!
//! Executable is what comes unchanged from a signed file, and nothing else: no anonymous memory, no file
//! that is in memory only, nothing that is writable too, and no private copy that was ever written.

use aya_ebpf::{
    macros::{fexit, lsm},
    programs::{FExitContext, LsmContext},
};
use sigil_common::{
    abi::generation_flag,
    decide,
    verdict::{DropReason, Hook},
};

use super::{ALLOW, EPERM, refuse};
use crate::{
    code::{is_signed, reads_are_executes},
    maps::ENTERING,
    rules::Rules,
    task::{self, current_task, member, offsets},
};

const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;

/// `mmap_file(file, reqprot, prot, flags)`: also the kernel's own, of an exec's program and loader.
#[lsm(hook = "mmap_file")]
pub fn lsm_mmap(ctx: LsmContext) -> i32 {
    becomes_code(ctx.arg(0), ctx.arg(2), false)
}

/// `file_mprotect(vma, reqprot, prot)`
#[lsm(hook = "file_mprotect")]
pub fn lsm_mprotect(ctx: LsmContext) -> i32 {
    let (vma, prot): (*const u8, u64) = (ctx.arg(0), ctx.arg(2));
    if prot & PROT_EXEC == 0 {
        return ALLOW;
    }
    let none = core::ptr::null();
    let file = member::<*const u8>(vma, offsets().vma_file).unwrap_or(none);
    // Pages of its own: written, and no longer the file's.
    let copied = member::<u64>(vma, offsets().vma_anon).unwrap_or(1) != 0;
    becomes_code(file, prot, copied)
}

/// `file_open(file)`: no zone writes to what is code, for what runs changes with its file; and nobody of
/// such a zone writes where the kernel does not ask about protections.
#[lsm(hook = "file_open")]
pub fn lsm_open(ctx: LsmContext) -> i32 {
    /// `FMODE_WRITE`
    const WRITE: u32 = 2;
    let file: *const u8 = ctx.arg(0);
    let scid = task::current().scid();
    if scid == 0 || member::<u32>(file, offsets().file_mode).unwrap_or(WRITE) & WRITE == 0 {
        return ALLOW;
    }
    let Ok(rules) = Rules::now() else { return ALLOW };
    if rules.generation.flags & generation_flag::SIGNED_CODE == 0 {
        return ALLOW;
    }
    if is_signed(file) {
        return refuse(Hook::Process, DropReason::Confined.into(), scid, scid);
    }
    match decide::process::code(rules.process(scid), !is_memory(file), true) {
        Ok(()) => ALLOW,
        Err(refusal) => refuse(Hook::Process, refusal, scid, scid),
    }
}

/// When `personality(2)` has ended: whoever has the kernel make memory executable unasked ends with it.
#[fexit(function = "__x64_sys_personality")]
pub fn lsm_persona(_ctx: FExitContext) -> i32 {
    after_personality()
}

/// The same, called as 32-bit programs do.
#[fexit(function = "__ia32_sys_personality")]
pub fn lsm_persona32(_ctx: FExitContext) -> i32 {
    after_personality()
}

#[inline(always)]
fn after_personality() -> i32 {
    let scid = task::current().scid();
    if scid != 0
        && reads_are_executes()
        && let Ok(rules) = Rules::now()
        && let Err(refusal) = decide::process::code(rules.process(scid), false, true)
        && refuse(Hook::Process, refusal, scid, scid) == EPERM
    {
        task::kill_current();
    }
    0
}

/// May memory of the current process be executable? `copied`: it is not the file's any more.
#[inline(always)]
fn becomes_code(file: *const u8, prot: u64, copied: bool) -> i32 {
    if prot & PROT_EXEC == 0 {
        return ALLOW;
    }
    let scid = zone();
    if scid == 0 {
        return ALLOW;
    }
    let Ok(rules) = Rules::now() else { return ALLOW };
    let rule = rules.process(scid);
    if !decide::process::demands_signed_code(rule) {
        return ALLOW;
    }
    let signed = !copied && prot & PROT_WRITE == 0 && is_signed(file);
    match decide::process::code(rule, signed, true) {
        Ok(()) => ALLOW,
        Err(refusal) => refuse(Hook::Process, refusal, scid, scid),
    }
}

/// The zone that what is mapped now belongs to: within an exec that of the new program.
#[inline(always)]
fn zone() -> u32 {
    // SAFETY: plain data of this process's own exec.
    if let Some(entering) = unsafe { ENTERING.get(task::current_tgid()) }
        && member::<u64>(current_task(), offsets().task_mm) == Ok(entering.mm)
    {
        return entering.scid;
    }
    task::current().scid()
}

/// Whether it is some process's memory, as `/proc` has it.
#[inline(always)]
fn is_memory(file: *const u8) -> bool {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    const MEM: u32 = u32::from_ne_bytes(*b"mem\0");
    let at = offsets();
    let magic = member::<*const u8>(file, at.file_inode)
        .and_then(|inode| member::<*const u8>(inode, at.inode_sb))
        .and_then(|sb| member::<u64>(sb, at.sb_magic));
    if magic.is_ok_and(|magic| magic != PROC_SUPER_MAGIC) {
        return false;
    }
    let name = member::<*const u8>(file, at.file_dentry)
        .and_then(|dentry| member::<*const u8>(dentry, at.dentry_name))
        .and_then(|name| member::<u32>(name, 0));
    name.unwrap_or(MEM) == MEM
}
