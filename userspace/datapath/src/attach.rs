//! Attaching the programs and pinning their links; taking all of it away again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr,
    Program, ProgramError, SchedClassifier, Xdp,
};
use sigil_common::abi::name::{self, Tracepoint};

use crate::clsact;
use crate::error::{Error, errno};
use crate::gro;
use crate::load::{Datapath, Origin, build, filters, links};
use crate::net::{Interface, Netlink};
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
    /// How its TC programs are attached.
    pub hook: TcHook,
}

/// How TC programs are attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcHook {
    /// TCX links (Linux 6.6): cheaper, and ordered among other programs.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl TcHook {
    /// The better one that the running kernel has.
    pub(crate) fn probe() -> Self {
        match SchedClassifier::query_tcx(LOOPBACK, TcAttachType::Ingress) {
            Ok(_) => Self::Tcx,
            Err(_) => Self::Clsact,
        }
    }

    /// Its name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

pub(crate) const LOOPBACK: &str = "lo";

/// What judges the node's own traffic.
pub(crate) const ON_LOOPBACK: [(&str, TcAttachType); 2] =
    [(name::LO_STAMP, TcAttachType::Egress), (name::LO_VERIFY, TcAttachType::Ingress)];

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

const SKB: [(&str, CgroupSkbAttachType); 2] = [
    (name::SKB_DELIVER, CgroupSkbAttachType::Ingress),
    (name::SKB_LEAVE, CgroupSkbAttachType::Egress),
];

/// Programs on the control group, each with a link of its own name.
pub(crate) const SOCKETS: [&str; 9] = {
    let [a, b, c, d, e, f] = SOCK_ADDR;
    let [(deliver, _), (leave, _)] = SKB;
    [name::SOCK_CREATE, a, b, c, d, e, f, deliver, leave]
};

impl Datapath {
    /// Attaches everything that is not attached yet and pins it. Processes come first and NICs last,
    /// so that whatever a NIC lets through has a label.
    ///
    /// # Errors
    /// Every variant of [`Error`]. What this attached is taken off again, what was attached stays.
    pub fn attach(&mut self) -> Result<Vec<Attached>, Error> {
        let before = self.config()?;
        let pinned = pins(&links(&self.options));
        let filtered = pins(&filters(&self.options));
        let outcome = self.attach_all();
        if outcome.is_err() {
            if self.origin == Origin::Fresh {
                // Nothing was enforced before: half of it would be worse than none.
                let _ = Self::detach(&self.options);
            } else {
                for pin in pins(&links(&self.options)).difference(&pinned) {
                    let _ = sys::detach_link(pin);
                    let _ = unpin(pin);
                }
                for pin in pins(&filters(&self.options)).difference(&filtered) {
                    let _ =
                        Netlink::open().and_then(|mut netlink| clsact::remove(&mut netlink, pin));
                }
                let _ = self.set_config(before);
            }
        }
        outcome
    }

    fn attach_all(&mut self) -> Result<Vec<Attached>, Error> {
        let dir = links(&self.options);
        fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        if self.hook == TcHook::Clsact {
            let dir = filters(&self.options);
            fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
        }
        let mut netlink = Netlink::open()?;
        let mut interfaces = Vec::new();
        for name in self.options.interfaces.clone() {
            interfaces.push((netlink.nic(&name)?, name));
        }

        self.configure()?;
        self.attach_tasks(|_| true)?;
        self.attach_sockets()?;
        self.attach_lsm()?;
        self.thin_out()?;
        for (program, at) in ON_LOOPBACK {
            self.attach_tc(LOOPBACK, program, at)?;
        }
        let mut attached = Vec::new();
        for (found, interface) in interfaces {
            let mode = self.attach_nic(&interface, &found)?;
            // A route without room is no reason to guard nothing: the upkeep tells of it.
            match self.reserve(&mut netlink, &interface, &found) {
                Ok(_) | Err(Error::Netlink { .. }) => {}
                Err(error) => return Err(error),
            }
            attached.push(Attached { interface, mode, hook: self.hook });
        }
        let mut config = self.config()?;
        config.build = build();
        self.set_config(config)?;
        self.origin = Origin::Adopted;
        Ok(attached)
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
        let mut netlink = Netlink::open()?;
        for pin in pins(&filters(options)) {
            clsact::remove(&mut netlink, &pin)?;
        }
        for dir in [links(options), filters(options), options.pins.join("maps")] {
            if dir.exists() {
                found = true;
                fs::remove_dir_all(&dir).map_err(Error::io(&dir))?;
            }
        }
        for name in state.interfaces() {
            give_back(&mut netlink, &mut state, &name)?;
        }
        // Where the agent mounted the bpffs it stays, empty.
        let _ = fs::remove_dir(&options.pins);
        Ok(found)
    }

    /// Takes everything off the NICs that are attached and not among the configured ones any more: their
    /// programs, and what was changed on them. Which they were. To be called when the configured ones
    /// are attached: those lose nothing by it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Netlink`].
    pub fn leave_others(&mut self) -> Result<Vec<String>, Error> {
        let dirs = [links(&self.options), filters(&self.options)];
        let mut others: BTreeSet<_> = self.state.interfaces().into_iter().collect();
        let pinned: Vec<_> = dirs.iter().flat_map(|dir| pins(dir)).collect();
        others.extend(pinned.iter().filter_map(|pin| nic_of(pin)));
        others.retain(|name| !self.options.interfaces.contains(name) && name != LOOPBACK);
        let mut netlink = Netlink::open()?;
        for name in &others {
            for pin in pinned.iter().filter(|pin| nic_of(pin).as_ref() == Some(name)) {
                if pin.starts_with(filters(&self.options)) {
                    clsact::remove(&mut netlink, pin)?;
                } else {
                    let _ = sys::detach_link(pin);
                    unpin(pin)?;
                }
            }
            give_back(&mut netlink, &mut self.state, name)?;
        }
        if !others.is_empty() {
            // A route may have hops over one of them and over one that stays.
            match self.reserve_all() {
                Ok(()) | Err(Error::Netlink { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(others.into_iter().collect())
    }

    /// Attaches a NIC; which mode it came to.
    pub(crate) fn attach_nic(&mut self, interface: &str, found: &Interface) -> Result<Mode, Error> {
        self.attach_tc(interface, name::TC_STAMP, TcAttachType::Egress)?;
        match self.options.mode {
            Mode::Xdp => self.verify_in_xdp(interface, found)?,
            Mode::Auto if !found.virtual_link => match self.verify_in_xdp(interface, found) {
                Err(Error::NativeXdp { .. }) => {}
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
        let verified = self.in_place(name::TC_VERIFY, interface, found)?;
        if !verified {
            // Should XDP be refused, nothing comes up that nobody verified.
            self.attach_tc(interface, name::TC_HANDOVER, TcAttachType::Ingress)?;
        }
        self.attach_xdp(interface, found)?;
        if verified {
            self.attach_tc(interface, name::TC_HANDOVER, TcAttachType::Ingress)?;
        }
        self.merge_received(interface)?;
        self.remove_tc(name::TC_VERIFY, interface)
    }

    /// Has packets of one flow and label merged between XDP and the stack: virtual links do not by
    /// themselves, and then carry less than half as much. Done once, so that an operator may undo it.
    fn merge_received(&mut self, interface: &str) -> Result<(), Error> {
        let mut reserved = self.state.reserved(interface);
        if reserved.gro.is_some() {
            return Ok(());
        }
        // A device that cannot is slower, and guarded all the same.
        let Ok(before) = gro::is_on(interface) else { return Ok(()) };
        reserved.gro = Some(before);
        self.state.set_reserved(interface, Some(reserved))?;
        if !before {
            let _ = gro::set(interface, true);
        }
        Ok(())
    }

    fn verify_in_tc(&mut self, interface: &str) -> Result<(), Error> {
        self.attach_tc(interface, name::TC_VERIFY, TcAttachType::Ingress)?;
        unpin(&self.pin_of(name::XDP_VERIFY, interface))?;
        self.remove_tc(name::TC_HANDOVER, interface)
    }

    pub(crate) fn pin_of(&self, program: &str, interface: &str) -> PathBuf {
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
            let name = interface.to_owned();
            if busy(&error) {
                let remedy = format!("ip link set {name} xdp off; or use mode = \"tc\"");
                return Error::HookTaken { name, hook: "XDP", remedy };
            }
            Error::NativeXdp { name, source: Box::new(error) }
        })?;
        let link = program.take_link(id).map_err(Error::program(name))?;
        let link = FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
        pin_link(link, &pin)
    }

    pub(crate) fn attach_tc(
        &mut self,
        interface: &str,
        name: &'static str,
        at: TcAttachType,
    ) -> Result<(), Error> {
        if self.hook == TcHook::Clsact {
            return self.attach_filter(interface, name);
        }
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
            .map_err(Error::program(name))?;
        let link = program.take_link(id).map_err(Error::program(name))?;
        let link = FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))?;
        pin_link(link, &pin)
    }

    /// Takes a TC program off an interface, if it is there.
    fn remove_tc(&self, name: &str, interface: &str) -> Result<(), Error> {
        if self.hook == TcHook::Tcx {
            return unpin(&self.pin_of(name, interface));
        }
        self.remove_filter(name, interface)
    }

    /// Attaches the programs of tracepoints that are wanted, and takes note of them.
    pub(crate) fn attach_tasks(&mut self, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        let btf = aya::Btf::from_sys_fs()
            .map_err(|_| Error::Feature { feature: "BTF", remedy: "boot a kernel with BTF" })?;
        for Tracepoint { program: name, point, optional } in name::TRACEPOINTS {
            if !wanted(name) {
                continue;
            }
            let attached = self.attach_process(name, |bpf, name| {
                let program: &mut BtfTracePoint = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load(point, &btf))?;
                let remedy = "boot a kernel with CONFIG_BPF_EVENTS, as every Debian kernel has";
                let id = program.attach().map_err(Error::attaching(
                    name,
                    "programs on tracepoints",
                    remedy,
                ))?;
                program.take_link(id).map(FdLink::from).map_err(Error::program(name))
            });
            match attached {
                Err(Error::Program { source, .. })
                    if optional && matches!(*source, ProgramError::Btf(_)) =>
                {
                    continue;
                }
                outcome => outcome?,
            }
            self.watching.insert(name);
        }
        Ok(())
    }

    pub(crate) fn attach_sockets(&mut self) -> Result<(), Error> {
        let path = self.options.cgroup.clone();
        let cgroup = File::open(&path).map_err(Error::io(&path))?;
        self.attach_process(name::SOCK_CREATE, |bpf, name| {
            let program: &mut CgroupSock = program(bpf, name)?;
            load_once(name, program.fd().is_ok(), || program.load())?;
            let id = program.attach(&cgroup, SHARED).map_err(cgroup_links(name))?;
            let link = program.take_link(id).map_err(Error::program(name))?;
            FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
        })?;
        for hook in SOCK_ADDR {
            self.attach_process(hook, |bpf, name| {
                let program: &mut CgroupSockAddr = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load())?;
                let id = program.attach(&cgroup, SHARED).map_err(cgroup_links(name))?;
                let link = program.take_link(id).map_err(Error::program(name))?;
                FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
            })?;
        }
        for (hook, at) in SKB {
            self.attach_process(hook, |bpf, name| {
                let program: &mut CgroupSkb = program(bpf, name)?;
                load_once(name, program.fd().is_ok(), || program.load())?;
                let id = program.attach(&cgroup, at, SHARED).map_err(cgroup_links(name))?;
                let link = program.take_link(id).map_err(Error::program(name))?;
                FdLink::try_from(link).map_err(|_| Error::Missing(name.to_owned()))
            })?;
        }
        Ok(())
    }

    /// Attaches a program that watches processes. Their links cannot change their program: a new
    /// link is there before the old one goes, and both decide alike.
    pub(crate) fn attach_process(
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

    fn program<'a, P>(&'a mut self, name: &str) -> Result<&'a mut P, Error>
    where
        &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        program(&mut self.bpf, name)
    }
}

pub(crate) fn program<'a, P>(bpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = bpf.program_mut(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
    program.try_into().map_err(Error::program(name))
}

pub(crate) fn load_once(
    name: &str,
    loaded: bool,
    load: impl FnOnce() -> Result<(), ProgramError>,
) -> Result<(), Error> {
    if loaded { Ok(()) } else { load().map_err(Error::program(name)) }
}

/// Gives back what was changed on an interface, and forgets it.
fn give_back(netlink: &mut Netlink, state: &mut State, name: &str) -> Result<(), Error> {
    let reserved = state.reserved(name);
    if let Ok(interface) = netlink.interface(name) {
        netlink.release(&interface, &reserved)?;
        if let Some(segments) = reserved.gso_max_segs {
            netlink.set_gso_max_segs(interface.index, segments)?;
        }
        if reserved.gro == Some(false) {
            gro::set(name, false).map_err(|source| Error::Netlink {
                action: format!("turn off GRO of {name}"),
                source,
            })?;
        }
        if reserved.clsact {
            netlink.remove_clsact(interface.index)?;
        }
    }
    state.set_reserved(name, None)
}

/// The interface of a pinned link or filter; none where it is of no interface. See
/// [`Datapath::pin_of`].
fn nic_of(pin: &Path) -> Option<String> {
    const ON_NICS: [&str; 4] =
        [name::TC_STAMP, name::TC_VERIFY, name::TC_HANDOVER, name::XDP_VERIFY];
    let (program, interface) = pin.file_name()?.to_str()?.split_once('-')?;
    ON_NICS.contains(&program).then(|| interface.replace('%', "."))
}

/// What is pinned in a directory.
fn pins(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
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

pub(crate) fn unpin(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { path: pin.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn cgroup_links(name: &str) -> impl FnOnce(ProgramError) -> Error + '_ {
    let remedy = "boot Linux 6.1 or later with CONFIG_CGROUP_BPF, as every Debian kernel has it";
    Error::attaching(name, "links to control groups", remedy)
}

fn busy(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}
