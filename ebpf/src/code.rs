//! Code of zones that demand signed code: which files it may come from. `lsm::code` asks whenever memory
//! becomes executable, exec when a program starts.

use sigil_common::{
    abi::{config_flag, process::binary_flag},
    decide::{self, Refusal},
};

use crate::{
    exec,
    maps::BINARIES,
    rules::Rules,
    task::{current_task, member, offsets},
};

/// Of `personality(2)`: what may be read may be executed, and nobody is asked.
const READ_IMPLIES_EXEC: u32 = 0x0040_0000;

/// Whether a file is signed, has not changed since that was found out, and root alone may change it.
#[inline(always)]
pub(crate) fn is_signed(file: *const u8) -> bool {
    let Ok(key) = exec::key_of(file) else { return false };
    // SAFETY: plain data; the agent replaces entries whole.
    unsafe { BINARIES.get(key) }.is_some_and(|binary| binary.flags & binary_flag::CODE != 0)
}

/// May the file that an exec maps be code in a zone? Of a script that is its interpreter.
#[inline(always)]
pub(crate) fn may_run(rules: &Rules, scid: u32, bprm: *const u8) -> Result<(), Refusal> {
    let rule = rules.process(scid);
    if !decide::process::demands_signed_code(rule) {
        return Ok(());
    }
    let file = member::<*const u8>(bprm, offsets().binprm_file).unwrap_or(core::ptr::null());
    let kept = rules.config.flags & config_flag::LSM != 0;
    decide::process::code(rule, is_signed(file) && !reads_are_executes(), kept)
}

/// Whether the current thread has the kernel make all its readable memory executable.
#[inline(always)]
pub(crate) fn reads_are_executes() -> bool {
    let task = current_task();
    let personality = member::<u32>(task, offsets().task_personality).unwrap_or(READ_IMPLIES_EXEC);
    personality & READ_IMPLIES_EXEC != 0
}
