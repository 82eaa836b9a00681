//! Runs a command for which the kernel answers a system call with an error, as one that lacks it would:
//! all calls, or those with this first argument. Whatever the command starts inherits it.
//!
//!     sigil-without bpf|mount[:FIRST] ERRNO COMMAND…

use anyhow::{Context, Result, bail};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};
use std::env::consts::ARCH;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [call, errno, program, rest @ ..] = arguments.as_slice() else {
        bail!("usage: sigil-without bpf|mount[:FIRST] ERRNO COMMAND…")
    };
    let (call, first) =
        call.split_once(':').map_or((&**call, None), |(call, first)| (call, Some(first)));
    let call = match call {
        "bpf" => libc::SYS_bpf,
        "mount" => libc::SYS_mount,
        _ => bail!("{call} is not known here"),
    };
    let errno = match &**errno {
        "EINVAL" => libc::EINVAL,
        "ENODEV" => libc::ENODEV,
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        _ => bail!("{errno} is not known here"),
    };
    let mut rules = Vec::new();
    if let Some(first) = first {
        let equal =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, first.parse()?)?;
        rules.push(SeccompRule::new(vec![equal])?);
    }
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let filter =
        SeccompFilter::new([(call, rules)].into(), SeccompAction::Allow, refuse, ARCH.try_into()?)?;
    let filter: BpfProgram = filter.try_into()?;
    apply_filter(&filter)?;
    Err(Command::new(program).args(rest).exec()).context(program.clone())
}
