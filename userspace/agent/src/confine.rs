//! What the agent denies itself.

use std::fs;

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// The kernel's programs know processes by their ids in the first pid namespace; the agent has to
/// speak of the same ids.
pub(crate) fn refuse_foreign_pid_namespace() -> Result<()> {
    const PROC_PID_INIT_INO: &str = "pid:[4026531836]";
    let own = fs::read_link("/proc/self/ns/pid").context("/proc/self/ns/pid: mount /proc")?;
    ensure!(
        own.as_os_str() == PROC_PID_INIT_INO,
        "sigild runs in a pid namespace of its own and would label the wrong processes: \
         start it on the host, or its container with the host's pid namespace (--pid=host)"
    );
    Ok(())
}

/// Keys must not end up in a core dump, a debugger or the swap.
pub(crate) fn hide_memory() {
    // Either may be refused in a container; the agent is worth running still.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("the agent's memory may be dumped: {error}");
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!("the agent's memory may be swapped out: {error}");
    }
}

/// What is left after the programs are attached.
const KEPT: [Capability; 7] = [
    // New generations of rules, and reading the maps.
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    // Routes that appear later get their MTU.
    Capability::CAP_NET_ADMIN,
    // A reload reads files that belong to others.
    Capability::CAP_DAC_READ_SEARCH,
    // A child that no rule allows is killed.
    Capability::CAP_KILL,
    // A file is held as it is while it is judged.
    Capability::CAP_LEASE,
    // Memory that is allocated later is locked as well, and the limit is low for others.
    Capability::CAP_IPC_LOCK,
];

/// Gives up all capabilities but [`KEPT`], for this thread and those it will start.
pub(crate) fn drop_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true).context("no_new_privs")?;
    let held = caps::read(None, CapSet::Permitted).context("capabilities")?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|one| held.contains(one)).collect();
    if held.contains(&Capability::CAP_SETPCAP) {
        for one in caps::all().difference(&kept) {
            // Capabilities that this kernel does not know are refused, and need no dropping.
            let _ = caps::drop(None, CapSet::Bounding, *one);
        }
    }
    caps::clear(None, CapSet::Ambient).context("ambient capabilities")?;
    let none = CapsHashSet::new();
    for (set, left) in
        [(CapSet::Inheritable, &none), (CapSet::Effective, &kept), (CapSet::Permitted, &kept)]
    {
        caps::set(None, set, left).with_context(|| format!("capabilities ({set:?})"))?;
    }
    Ok(())
}
