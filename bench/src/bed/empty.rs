//! Programs that do nothing where Sigil has programs.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;
use nix::net::if_::if_nametoindex;
use sigil_harness::Node;

use super::INTERFACE;
use crate::kernel::{program, sys};
use crate::mode::Hooks;

/// Attached programs.
pub(crate) struct Attached {
    /// The programs, in the order of [`Hooks`]: XDP, TC in and out, the control group's.
    pub(crate) programs: Vec<OwnedFd>,
    /// What holds them in place.
    pub(crate) links: Vec<OwnedFd>,
}

/// Attaches them to a node until the links are dropped.
pub(crate) fn attach(node: &Node, hooks: Hooks) -> Result<Attached> {
    let mut attached = Attached { programs: Vec::new(), links: Vec::new() };
    let mut add = |program: OwnedFd, hook: fn(u32) -> sys::Hook<'static>| {
        attached.links.push(
            node.netns()
                .enter(|| Ok(sys::attach(program.as_fd(), hook(if_nametoindex(INTERFACE)?))?))?,
        );
        attached.programs.push(program);
        Ok::<_, anyhow::Error>(())
    };
    if hooks != Hooks::Tc {
        add(program::empty_xdp()?, sys::Hook::Xdp)?;
    }
    if hooks != Hooks::XdpAlone {
        add(program::empty_tc()?, sys::Hook::Ingress)?;
        add(program::empty_tc()?, sys::Hook::Egress)?;
        let (program, group) = (program::empty_cgroup()?, File::open(node.cgroup())?);
        attached.links.push(sys::attach(program.as_fd(), sys::Hook::Cgroup(group.as_fd()))?);
        attached.programs.push(program);
    }
    Ok(attached)
}
