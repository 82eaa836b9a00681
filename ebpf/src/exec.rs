//! Exec: a program's file and the rules say which ScID its process has from its first instruction on.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sigil_common::{
    abi::{
        binary::BinaryKey,
        generation_flag,
        process::{Binary, Chain, Task, binary_flag},
    },
    decide::{self, process::Exec},
    verdict::Hook,
};

use crate::{
    code,
    maps::{BINARIES, CHAINS, ENTERING, GATE},
    report::{self, Fate, Process},
    rules::Rules,
    task::{self, member, offsets},
};

/// The queried bit of a multigrain timestamp (Linux 6.13 on) shares the word with the nanoseconds.
const NSEC_MASK: u32 = (1 << 30) - 1;

/// `sched_process_exec(task, old_pid, bprm)`: the exec has committed, the new program has not run. What
/// the gate should have refused, and what it was not asked about, ends here.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn task_exec(ctx: BtfTracePointContext) -> i32 {
    let thread: u32 = ctx.arg(1);
    let bprm: *const u8 = ctx.arg(2);
    let before = task::current();
    let tgid = task::current_tgid();
    if before.is_doomed() {
        task::kill_current();
        return 0;
    }
    let Ok(rules) = Rules::now() else {
        // No rules: labels stay, as sockets' do.
        return 0;
    };
    let program = program(thread, bprm, true);
    let binary = program.scid;
    let parent = before.scid();
    let facts = facts(&rules, parent, binary);
    if parent == 0 && facts.transition == 0 {
        task::set(tgid, Task::known(0));
        return 0;
    }
    report::seen(Hook::Process);
    let (source, target) = (rules.own(parent), rules.own(binary));
    let _ = ENTERING.remove(tgid);
    let decided = match decide::process::exec(&facts, rules.process(parent)) {
        Ok((scid, line)) => match code::may_run(&rules, scid, bprm) {
            Ok(()) => Ok((scid, line)),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    match decided {
        Ok((scid, line)) => {
            let after = if binary != 0 {
                Task::vouched(scid, program.voucher)
            } else if scid == parent {
                before
            } else {
                Task::known(scid)
            };
            task::set(tgid, after);
            if line != 0 {
                task::alarm(line, source, target, &Process::current(tgid));
            }
            report::accepted(Hook::Process);
        }
        Err(refusal) => {
            let process = Process::current(tgid);
            if task::refuse(refusal, source, target, &process) == Fate::Drop {
                task::set(tgid, Task::doomed(parent));
                task::kill_current();
            }
        }
    }
    0
}

/// What decides an exec of a file of `binary` by a process of `parent`.
#[inline(always)]
pub(crate) fn facts(rules: &Rules, parent: u32, binary: u32) -> Exec {
    let (decided, transition) = rules.transition(rules.scid_or_default(parent), binary);
    let governed = rules.generation.flags & generation_flag::PROCESSES != 0;
    Exec { parent, binary, decided, transition, governed }
}

/// What is known of the program that was asked for: the script, where an interpreter runs. Whoever asks
/// last forgets which script it was.
#[inline(always)]
pub(crate) fn program(thread: u32, bprm: *const u8, last: bool) -> Binary {
    let at = offsets();
    let none = Binary { scid: 0, flags: 0, voucher: 0 };
    let Ok(file) = member::<*const u8>(bprm, at.binprm_file) else { return none };
    let Ok(key) = key_of(file) else { return none };
    // SAFETY: plain data; the agent replaces entries whole.
    let Some(own) = (unsafe { BINARIES.get(key) }) else { return none };
    let own = *own;
    let filename = member::<u64>(bprm, at.binprm_filename).unwrap_or(0);
    let interp = member::<u64>(bprm, at.binprm_interp).unwrap_or(1);
    if filename == interp {
        return own;
    }
    // By a descriptor anything could have been asked for, also what the gate never sees.
    let by_descriptor = member::<u64>(bprm, at.binprm_fdpath).unwrap_or(1) != 0;
    // SAFETY: plain data of this thread's exec, which waited for the agent while it was written.
    let Some(chain) = (unsafe { CHAINS.get(thread) }) else { return none };
    let Chain { program, interpreter } = *chain;
    if last {
        let _ = CHAINS.remove(thread);
    }
    let gate = GATE.get(0).copied().unwrap_or(0);
    if by_descriptor || gate == 0 || interpreter != key {
        return none;
    }
    if own.flags & binary_flag::INTERPRETER == 0 {
        return none;
    }
    // SAFETY: plain data.
    match unsafe { BINARIES.get(program) } {
        Some(script) => *script,
        None => none,
    }
}

/// The state of a file, as user space names it too.
#[inline(always)]
pub(crate) fn key_of(file: *const u8) -> Result<BinaryKey, i32> {
    let at = offsets();
    let inode = member::<*const u8>(file, at.file_inode)?;
    let sb = member::<*const u8>(inode, at.inode_sb)?;
    Ok(BinaryKey {
        ino: member(inode, at.inode_ino)?,
        ctime: member(inode, at.inode_ctime)?,
        ctime_nsec: member::<u32>(inode, at.inode_ctime_nsec)? & NSEC_MASK,
        dev: member(sb, at.sb_dev)?,
    })
}
