//! Keeping in place what was set up, while the agent runs.
//!
//! An interface may be deleted and made again, links may be detached by force: what is missing is
//! attached again as soon as it can be, and until then it is said what is missing. What others took
//! away is put back, and said too.

use std::path::Path;

use sigil_common::abi::{generation_flag, name};

use crate::attach::{Attached, LOOPBACK, ON_LOOPBACK, SOCKETS, TcHook, unpin};
use crate::error::Error;
use crate::load::{Datapath, PINNED, links};
use crate::net::{Interface, Netlink, gso_limit};
use crate::options::Mode;
use crate::sys;

/// What a look over the datapath found.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Where packets are verified now.
    pub attached: Vec<Attached>,
    /// What others had taken away or changed, and is as it was.
    pub repaired: Vec<String>,
    /// What is not as it should be.
    pub problems: Vec<Error>,
}

impl Datapath {
    /// Looks whether everything is still in place, attaches again what is not, and keeps room for the
    /// label on routes that came since. To be called every few seconds, and when [`crate::NetworkWatch`] tells.
    pub fn maintain(&mut self) -> Upkeep {
        let mut upkeep = Upkeep::default();
        upkeep.problems.extend(self.settle().err());
        let mut netlink = match Netlink::open() {
            Ok(netlink) => netlink,
            Err(error) => {
                upkeep.problems.push(error);
                return upkeep;
            }
        };
        let moved = self.moved();
        if moved {
            upkeep.problems.extend(self.configure().err());
        }
        for interface in self.options.interfaces.clone() {
            match self.keep(&mut netlink, &interface, moved, &mut upkeep.repaired) {
                Ok(mode) => {
                    upkeep.attached.push(Attached { interface, mode, hook: self.hook });
                }
                // There when the agent started, so it went since.
                Err(Error::Interface { name }) => upkeep.problems.push(Error::Gone { name }),
                Err(error) => upkeep.problems.push(error),
            }
        }
        let restored = self.restore(&mut netlink, &mut upkeep.repaired);
        upkeep.problems.extend(restored.err());
        upkeep
    }

    /// Whether an interface of a configured name came or went since [`Self::attach`] or
    /// [`Self::maintain`].
    #[must_use]
    pub(crate) fn moved(&self) -> bool {
        self.config().is_ok_and(|config| config.interfaces != self.guarded())
    }

    /// Makes room for the label on every interface that is there.
    pub(crate) fn reserve_all(&mut self) -> Result<(), Error> {
        let mut netlink = Netlink::open()?;
        for name in self.options.interfaces.clone() {
            match netlink.nic(&name) {
                Ok(found) => self.reserve(&mut netlink, &name, &found).map(drop)?,
                Err(Error::Interface { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes room for the label on an interface and on the routes out of it. The routes whose room
    /// somebody took away.
    pub(crate) fn reserve(
        &mut self,
        netlink: &mut Netlink,
        name: &str,
        found: &Interface,
    ) -> Result<Vec<String>, Error> {
        let integrity = self.generation()?.flags & generation_flag::INTEGRITY != 0;
        let mut reserved = self.state.reserved(name);
        let limit = gso_limit(integrity);
        reserved.gso_max_segs.get_or_insert(found.gso_max_segs);
        let changed = found.gso_max_segs != limit;
        let routes = netlink.without_room(found, &mut reserved, &self.state.others(name))?;
        // What will be changed is on disk before it is.
        self.state.set_reserved(name, Some(reserved.clone()))?;
        if changed {
            netlink.set_gso_max_segs(found.index, limit)?;
        }
        let again = netlink.reserve(found, routes, &mut reserved);
        self.state.set_reserved(name, Some(reserved))?;
        let again = again?;
        if changed {
            // Sockets read the limit when they look up their route.
            netlink.flush_routes(found)?;
        }
        Ok(again)
    }

    /// Whether a program is attached to an interface through what is pinned.
    pub(crate) fn in_place(
        &self,
        program: &str,
        name: &str,
        found: &Interface,
    ) -> Result<bool, Error> {
        if self.hook == TcHook::Clsact && program != name::XDP_VERIFY {
            return self.filtered(program, name, found.index);
        }
        let pin = self.pin_of(program, name);
        Ok(pin.exists() && sys::link_interface(&pin).map_err(Error::io(&pin))? == found.index)
    }

    fn keep(
        &mut self,
        netlink: &mut Netlink,
        name: &str,
        moved: bool,
        repaired: &mut Vec<String>,
    ) -> Result<Mode, Error> {
        let found = netlink.nic(name)?;
        let mode = if let Some(mode) = self.verified_in(name, &found)? {
            mode
        } else {
            if moved && !self.in_place(name::TC_STAMP, name, &found)? {
                // Another interface of the same name: what was changed on the old one went with it.
                self.state.set_reserved(name, None)?;
            }
            let mode = self.attach_nic(name, &found)?;
            if !moved {
                repaired.push(format!("programs on {name}"));
            }
            mode
        };
        let routes = self.reserve(netlink, name, &found)?;
        repaired.extend(routes.into_iter().map(|route| format!("the MTU of route {route}")));
        Ok(mode)
    }

    /// Where the packets of an interface are verified, if it is guarded both ways.
    fn verified_in(&self, name: &str, found: &Interface) -> Result<Option<Mode>, Error> {
        let there = |program| self.in_place(program, name, found);
        Ok(if !there(name::TC_STAMP)? {
            None
        } else if there(name::TC_VERIFY)? {
            Some(Mode::Tc)
        } else if there(name::XDP_VERIFY)? && there(name::TC_HANDOVER)? {
            Some(Mode::Xdp)
        } else {
            None
        })
    }

    /// Puts back what others took from loopback, from processes and from the pins.
    fn restore(&mut self, netlink: &mut Netlink, repaired: &mut Vec<String>) -> Result<(), Error> {
        let loopback = netlink.interface(LOOPBACK)?;
        for (program, at) in ON_LOOPBACK {
            if !self.in_place(program, LOOPBACK, &loopback)? {
                self.attach_tc(LOOPBACK, program, at)?;
                repaired.push(format!("{program} on {LOOPBACK}"));
            }
        }
        let dir = links(&self.options);
        let sockets = gone(&dir, SOCKETS, true)?;
        let tasks = gone(&dir, self.watching.iter().copied(), false)?;
        let hooks = gone(&dir, self.hooked.iter().copied(), false)?;
        if !tasks.is_empty() {
            self.attach_tasks(|program| tasks.contains(&program))?;
        }
        if !sockets.is_empty() {
            self.attach_sockets()?;
        }
        if !hooks.is_empty() {
            self.attach_hooks()?;
        }
        repaired.extend([tasks, sockets, hooks].into_iter().flatten().map(str::to_owned));
        let maps = self.options.pins.join("maps");
        for name in PINNED {
            let pin = maps.join(name);
            if pin.exists() {
                continue;
            }
            let what = || format!("the pin of map {name}");
            // A few are with their readers.
            let map = self.bpf.map(name).ok_or_else(|| Error::Tampered { what: what() })?;
            map.pin(&pin).map_err(|_| Error::Tampered { what: what() })?;
            repaired.push(what());
        }
        Ok(())
    }
}

/// Links that are not pinned any more, or, of cgroups, not attached. What is left of those goes.
fn gone<'a>(
    dir: &Path,
    names: impl IntoIterator<Item = &'a str>,
    of_cgroups: bool,
) -> Result<Vec<&'a str>, Error> {
    let mut gone = Vec::new();
    for name in names {
        let pin = dir.join(name);
        // Where an interface's index would be stands part of the cgroup's id.
        let there = pin.exists()
            && (!of_cgroups || sys::link_interface(&pin).map_err(Error::io(&pin))? != 0);
        if !there {
            unpin(&pin)?;
            gone.push(name);
        }
    }
    Ok(gone)
}
