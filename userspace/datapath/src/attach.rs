//! Attaching the programs and pinning their links; taking all of it away again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr,
    Program, ProgramError, SchedClassifier, Xdp,
};
use sigil_common::abi::{generation_flag, name};

use crate::error::Error;
use crate::load::{Datapath, Origin, build, links};
use crate::net::{Interface, Netlink, gso_limit, name_of};
use crate::options::{Mode, Options};
use crate::persist::State;
use crate::sys;

/// A cluster NIC and how its packets are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// [`Mode::Xdp`] or [`Mode::Tc`].
    pub mode: Mode,
}

const LOOPBACK: &str = "lo";

/// Links always share a cgroup with other programs; the flag that says so is refused for them.
const SHARED: CgroupAttachMode = CgroupAttachMode::Single;

const SOCK_ADDR: [&str; 6] = [
    name::SOCK_BIND4,
    name::SOCK_BIND6,
    name::SOCK_CONNECT4,
    name::SOCK_CONNECT6,
    name::SOCK_SENDMSG4,
    name::SOCK_SENDMSG6,
];

impl Datapath {
    /// Attaches everything that is not attached yet and pins it. Processes come first and NICs last,
    /// so that whatever a NIC lets through has a label.
    ///
    /// # Errors
    /// Every variant of [`Error`].
    pub fn attach(&mut self) -> Result<Vec<Attached>, Error> {
        let fresh = self.origin == Origin::Fresh;
        let outcome = self.attach_all();
        if outcome.is_err() && fresh {
            // Nothing was enforced before: half of it would be worse than none.
            let _ = Self::detach(&self.options);
        }
        outcome
    }

    fn attach_all(&mut self) -> Result<Vec<Attached>, Error> {
        let dir = links(&self.options);
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        let mut netlink = Netlink::open()?;
        let interfaces = self.interfaces(&mut netlink)?;

        self.attach_fork()?;
        self.attach_sockets()?;
        self.attach_tc(LOOPBACK, name::LO_STAMP, TcAttachType::Egress)?;
        self.attach_tc(LOOPBACK, name::LO_VERIFY, TcAttachType::Ingress)?;
        let mut attached = Vec::new();
        for (interface, found) in &interfaces {
            let mode = self.attach_nic(interface, found)?;
            attached.push(Attached { interface: interface.clone(), mode });
        }
        self.maintain()?;
        let mut config = self.config()?;
        config.build = build();
        self.set_config(config)?;
        self.origin = Origin::Adopted;
        Ok(attached)
    }

    /// Keeps room for the label on routes that came since, and looks whether everything is still
    /// in place. To be called every few seconds.
    ///
    /// # Errors
    /// [`Error::Tampered`], [`Error::Interface`], [`Error::Netlink`].
    pub fn maintain(&mut self) -> Result<(), Error> {
        let integrity = self.generation()?.flags & generation_flag::INTEGRITY != 0;
        let mut netlink = Netlink::open()?;
        for (name, found) in self.interfaces(&mut netlink)? {
            let mut reserved = self.state.reserved(&name);
            let limit = gso_limit(integrity);
            reserved.gso_max_segs.get_or_insert(found.gso_max_segs);
            let changed = found.gso_max_segs != limit;
            // What will be changed is on disk before it is.
            self.state.set_reserved(&name, Some(reserved.clone()))?;
            if changed {
                netlink.set_gso_max_segs(found.index, limit)?;
            }
            netlink.reserve(&found, &mut reserved)?;
            self.state.set_reserved(&name, Some(reserved))?;
            if changed {
                // Sockets read the limit when they look up their route.
                netlink.flush_routes(&found)?;
            }
            self.in_place(&name, &found)?;
        }
        Ok(())
    }

    /// Takes everything away: links, pins, reserved room. Whether there was anything.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Netlink`].
    pub fn detach(options: &Options) -> Result<bool, Error> {
        let mut state = State::open(&options.state)?;
        let mut found = false;
        for pin in fs::read_dir(links(options)).into_iter().flatten().flatten() {
            // What is already gone with its interface needs no detaching.
            let _ = sys::detach_link(&pin.path());
        }
        for dir in [links(options), options.pins.join("maps")] {
            if dir.exists() {
                found = true;
                fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
            }
        }
        let mut netlink = Netlink::open()?;
        for name in state.interfaces() {
            let reserved = state.reserved(&name);
            if let Ok(interface) = netlink.interface(&name) {
                netlink.release(&interface, &reserved)?;
                if let Some(segments) = reserved.gso_max_segs {
                    netlink.set_gso_max_segs(interface.index, segments)?;
                }
            }
            state.set_reserved(&name, None)?;
        }
        // Where the agent mounted the bpffs it stays, empty.
        let _ = fs::remove_dir(&options.pins);
        Ok(found)
    }

    fn interfaces(&self, netlink: &mut Netlink) -> Result<Vec<(String, Interface)>, Error> {
        let mut interfaces = Vec::new();
        for name in &self.options.interfaces {
            let found = netlink.interface(name)?;
            if let Some(master) = found.master {
                return Err(Error::Enslaved { name: name.clone(), master: name_of(master) });
            }
            interfaces.push((name.clone(), found));
        }
        Ok(interfaces)
    }

    /// Attaches a NIC; which mode it came to.
    fn attach_nic(&mut self, interface: &str, found: &Interface) -> Result<Mode, Error> {
        self.attach_tc(interface, name::TC_STAMP, TcAttachType::Egress)?;
        match self.options.mode {
            Mode::Xdp => self.verify_in_xdp(interface, found)?,
            Mode::Auto if !found.virtual_link => match self.verify_in_xdp(interface, found) {
                // No native XDP here, or not at this MTU.
                Err(Error::Program { .. }) => {}
                outcome => return outcome.map(|()| Mode::Xdp),
            },
            Mode::Tc | Mode::Auto => {}
        }
        if self.options.mode == Mode::Xdp {
            return Ok(Mode::Xdp);
        }
        self.verify_in_tc(interface)?;
        Ok(Mode::Tc)
    }

    /// Where the mode changed, the new verifier is in place before the old one goes; in between a
    /// packet may be dropped for having lost its label to the first, and none may pass.
    fn verify_in_xdp(&mut self, interface: &str, found: &Interface) -> Result<(), Error> {
        self.attach_tc(interface, name::TC_HANDOVER, TcAttachType::Ingress)?;
        self.attach_xdp(interface, found)?;
        unpin(&self.pin_of(name::TC_VERIFY, interface))
    }

    fn verify_in_tc(&mut self, interface: &str) -> Result<(), Error> {
        self.attach_tc(interface, name::TC_VERIFY, TcAttachType::Ingress)?;
        unpin(&self.pin_of(name::XDP_VERIFY, interface))?;
        unpin(&self.pin_of(name::TC_HANDOVER, interface))
    }

    fn pin_of(&self, program: &str, interface: &str) -> PathBuf {
        // A bpffs takes no dots in names, VLAN interfaces have them.
        links(&self.options).join(format!("{program}-{}", interface.replace('.', "%")))
    }

    fn attach_xdp(&mut self, interface: &str, found: &Interface) -> Result<(), Error> {
        let name = name::XDP_VERIFY;
        let pin = self.pin_of(name, interface);
        let held = live(&pin, interface)?;
        if held.is_some() && self.origin == Origin::Adopted {
            return Ok(());
        }
        let program: &mut Xdp = self.program(name)?;
        load_once(name, program.fd().is_ok(), || program.load())?;
        if let Some(link) = held {
            let link = XdpLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
            program.attach_to_link(link).map_err(Error::program(name))?;
            return Ok(());
        }
        let id = program.attach_to_if_index(found.index, XdpMode::Driver).map_err(|error| {
            if busy(&error) {
                return Error::HookTaken { name: interface.to_owned(), hook: "XDP" };
            }
            Error::program(name)(error)
        })?;
        let link = program.take_link(id).map_err(Error::program(name))?;
        let link = FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
        pin_link(link, &pin)
    }

    fn attach_tc(
        &mut self,
        interface: &str,
        name: &'static str,
        at: TcAttachType,
    ) -> Result<(), Error> {
        let pin = self.pin_of(name, interface);
        let held = live(&pin, interface)?;
        if held.is_some() && self.origin == Origin::Adopted {
            return Ok(());
        }
        let program: &mut SchedClassifier = self.program(name)?;
        load_once(name, program.fd().is_ok(), || program.load())?;
        if let Some(link) = held {
            let link =
                SchedClassifierLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
            program.attach_to_link(link).map_err(Error::program(name))?;
            return Ok(());
        }
        // First on the way in, last on the way out: others see packets without labels.
        let order = if at == TcAttachType::Egress { LinkOrder::last() } else { LinkOrder::first() };
        let id = program
            .attach_with_options(interface, at, TcAttachOptions::TcxOrder(order))
            .map_err(|error| match &error {
                ProgramError::SyscallError(call)
                    if matches!(call.io_error.raw_os_error(), Some(libc::EINVAL)) =>
                {
                    Error::Feature { feature: "TCX links", remedy: "boot Linux 6.6 or later" }
                }
                _ => Error::program(name)(error),
            })?;
        let link = program.take_link(id).map_err(Error::program(name))?;
        let link = FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
        pin_link(link, &pin)
    }

    fn attach_fork(&mut self) -> Result<(), Error> {
        let name = name::TASK_FORK;
        let btf = aya::Btf::from_sys_fs()
            .map_err(|_| Error::Feature { feature: "BTF", remedy: "boot a kernel with BTF" })?;
        self.attach_process(name, |bpf, name| {
            let program: &mut BtfTracePoint = program(bpf, name)?;
            load_once(name, program.fd().is_ok(), || program.load(name::TASK_FORK_POINT, &btf))?;
            let id = program.attach().map_err(Error::program(name))?;
            program.take_link(id).map(FdLink::from).map_err(Error::program(name))
        })
    }

    fn attach_sockets(&mut self) -> Result<(), Error> {
        let path = self.options.cgroup.clone();
        let cgroup = File::open(&path).map_err(Error::io(&path))?;
        self.attach_process(name::SOCK_CREATE, |bpf, name| {
            let program: &mut CgroupSock = program(bpf, name)?;
            load_once(name, program.fd().is_ok(), || program.load())?;
            let id = program.attach(&cgroup, SHARED).map_err(Error::program(name))?;
            let link = program.take_link(id).map_err(Error::program(name))?;
            FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
        })?;
        for hook in SOCK_ADDR {
            self.attach_process(hook, |bpf, name| {
                let program: &mut CgroupSockAddr = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load())?;
                let id = program.attach(&cgroup, SHARED).map_err(Error::program(name))?;
                let link = program.take_link(id).map_err(Error::program(name))?;
                FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
            })?;
        }
        self.attach_process(name::SKB_DELIVER, |bpf, name| {
            let program: &mut CgroupSkb = program(bpf, name)?;
            load_once(name, program.fd().is_ok(), || program.load())?;
            let id = program
                .attach(&cgroup, CgroupSkbAttachType::Ingress, SHARED)
                .map_err(Error::program(name))?;
            let link = program.take_link(id).map_err(Error::program(name))?;
            FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
        })
    }

    /// Attaches a program that watches processes. Their links cannot change their program: a new
    /// link is there before the old one goes, and both decide alike.
    fn attach_process(
        &mut self,
        name: &'static str,
        attach: impl FnOnce(&mut aya::Ebpf, &'static str) -> Result<FdLink, Error>,
    ) -> Result<(), Error> {
        let pin = links(&self.options).join(name);
        if pin.exists() && self.origin == Origin::Adopted {
            return Ok(());
        }
        let link = attach(&mut self.bpf, name)?;
        let beside = self.pin_of(name, "new");
        unpin(&beside)?;
        pin_link(link, &beside)?;
        unpin(&pin)?;
        fs::rename(&beside, &pin).map_err(Error::io(&pin))
    }

    /// Whether every link of an interface is still attached to it.
    fn in_place(&self, name: &str, found: &Interface) -> Result<(), Error> {
        let dir = links(&self.options);
        if !dir.exists() {
            return Ok(());
        }
        for program in [name::TC_STAMP, name::XDP_VERIFY, name::TC_HANDOVER, name::TC_VERIFY] {
            let pin = self.pin_of(program, name);
            if pin.exists() && sys::link_interface(&pin).map_err(Error::io(&pin))? != found.index {
                return Err(Error::Tampered { what: format!("{program} on {name}") });
            }
        }
        Ok(())
    }

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        program(&mut self.bpf, name)
    }
}

fn program<'a, P>(bpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = bpf.program_mut(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
    program.try_into().map_err(Error::program(name))
}

fn load_once(
    name: &str,
    loaded: bool,
    load: impl FnOnce() -> Result<(), ProgramError>,
) -> Result<(), Error> {
    if loaded { Ok(()) } else { load().map_err(Error::program(name)) }
}

/// The pinned link, if it is still attached to this interface; a dead one is removed.
fn live(pin: &Path, interface: &str) -> Result<Option<FdLink>, Error> {
    if !pin.exists() {
        return Ok(None);
    }
    let index = nix::net::if_::if_nametoindex(interface)
        .map_err(|_| Error::Interface { name: interface.to_owned() })?;
    if sys::link_interface(pin).map_err(Error::io(pin))? == index {
        return Ok(Some(FdLink::from(open_pin(pin)?)));
    }
    unpin(pin)?;
    Ok(None)
}

fn open_pin(pin: &Path) -> Result<PinnedLink, Error> {
    PinnedLink::from_pin(pin)
        .map_err(|error| Error::Io { path: pin.to_owned(), source: std::io::Error::other(error) })
}

fn pin_link(link: FdLink, pin: &Path) -> Result<(), Error> {
    link.pin(pin)
        .map(drop)
        .map_err(|error| Error::Io { path: pin.to_owned(), source: std::io::Error::other(error) })
}

fn unpin(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { path: pin.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn busy(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(call)
        if matches!(call.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}
