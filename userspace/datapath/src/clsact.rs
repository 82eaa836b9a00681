//! Filters on the clsact qdisc, for kernels without TCX links (before Linux 6.6).
//!
//! A filter holds its program and stays without any process, as a pinned link does. Each program has
//! a place of its own, and what is there under the program's name is the agent's to replace and to
//! remove; whatever else is on the qdisc is never touched. A pin beside the links tells whether
//! the place still has the very program that the agent put there.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::programs::{ProgramInfo, SchedClassifier};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Nla,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use sigil_common::abi::name;

use crate::attach::{load_once, program, unpin};
use crate::error::Error;
use crate::load::{Datapath, Origin, filters};
use crate::net::{Netlink, failed};

/// Where the programs hang, as `tc` would write it.
const QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };

const ETH_P_ALL: u16 = 3;

/// `TCA_BPF_*` of the kernel's `pkt_cls.h`.
mod option {
    pub(super) const FD: u16 = 6;
    pub(super) const NAME: u16 = 7;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const ID: u16 = 11;
    pub(super) const DIRECT_ACTION: u32 = 1;
}

/// Where a program's filter is: first on the way in, last on the way out, so that others see
/// packets without labels. Two verifiers are in place while one replaces the other.
fn place(program: &str) -> TcMessage {
    const BASE: u16 = 0x5161;
    let (parent, priority, minor) = match program {
        name::TC_STAMP | name::LO_STAMP => (EGRESS, u16::MAX, 0),
        name::TC_HANDOVER => (INGRESS, FIRST, 1),
        _ => (INGRESS, FIRST, 0),
    };
    let mut message = TcMessage::default();
    message.header.parent = parent;
    message.header.handle = TcHandle { major: 0, minor: BASE + minor };
    message.header.info = u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}

/// The priority that nothing comes before.
const FIRST: u16 = 1;

/// A filter that runs a BPF program.
struct Filter {
    /// The program's.
    id: u32,
    name: String,
}

impl Netlink {
    /// Makes sure that an interface has a clsact qdisc; whether this call made it.
    fn add_clsact(&mut self, index: u32) -> Result<bool, Error> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.ask(request, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(failed("make a clsact qdisc (kernel module sch_ingress)", error)),
        }
    }

    /// Removes an interface's clsact qdisc, if nothing is left on it.
    pub(crate) fn remove_clsact(&mut self, index: u32) -> Result<(), Error> {
        for parent in [INGRESS, EGRESS] {
            // What cannot be read is there.
            if !matches!(self.filters(index, parent), Ok(list) if list.is_empty()) {
                return Ok(());
            }
        }
        let request = RouteNetlinkMessage::DelQueueDiscipline(clsact(index));
        match self.ask(request, NLM_F_REQUEST | NLM_F_ACK) {
            Err(error) if !absent(&error) => Err(failed("remove the clsact qdisc", error)),
            _ => Ok(()),
        }
    }

    /// Puts a program in its place: a new filter, or another program in the filter that is there.
    fn set_filter(
        &mut self,
        index: u32,
        program: &str,
        fd: BorrowedFd<'_>,
        replace: bool,
    ) -> io::Result<()> {
        let mut message = at(place(program), index);
        let options = [
            (option::FD, fd.as_raw_fd().to_ne_bytes().to_vec()),
            (option::NAME, [program.as_bytes(), b"\0"].concat()),
            (option::FLAGS, option::DIRECT_ACTION.to_ne_bytes().to_vec()),
        ];
        message.attributes.push(TcAttribute::Options(
            options.map(|(kind, bytes)| TcOption::Other(DefaultNla::new(kind, bytes))).to_vec(),
        ));
        let how = if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.ask(request, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | how).map(drop)
    }

    /// What is in a program's place, whoever's it is.
    fn filter(&mut self, index: u32, program: &str) -> Result<Option<Filter>, Error> {
        let request = RouteNetlinkMessage::GetTrafficFilter(at(place(program), index));
        match self.ask(request, NLM_F_REQUEST) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(filter) => describe(filter),
                _ => None,
            })),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(failed("read a clsact filter", error)),
        }
    }

    /// Takes a program's filter away.
    fn remove_filter(&mut self, index: u32, program: &str) -> Result<(), Error> {
        if self.filter(index, program)?.is_none_or(|filter| filter.name != program) {
            return Ok(());
        }
        let request = RouteNetlinkMessage::DelTrafficFilter(at(place(program), index));
        match self.ask(request, NLM_F_REQUEST | NLM_F_ACK) {
            Err(error) if !absent(&error) => Err(failed("remove a clsact filter", error)),
            _ => Ok(()),
        }
    }

    fn filters(&mut self, index: u32, parent: TcHandle) -> io::Result<Vec<TcMessage>> {
        let mut message = at(TcMessage::default(), index);
        message.header.parent = parent;
        let answers =
            self.ask(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_REQUEST | NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter),
                _ => None,
            })
            .collect())
    }

    /// Whether somebody else's filter would see packets before the verifier, and might let them pass.
    fn preceded(&mut self, index: u32) -> Result<bool, Error> {
        let ours = [name::TC_VERIFY, name::TC_HANDOVER].map(|name| place(name).header.handle);
        let filters = self
            .filters(index, INGRESS)
            .map_err(|error| failed("read the filters of ingress", error))?;
        Ok(filters.iter().map(|filter| &filter.header).any(|filter| {
            let whole = filter.handle == TcHandle::default();
            filter.info >> 16 <= u32::from(FIRST) && !whole && !ours.contains(&filter.handle)
        }))
    }
}

fn clsact(index: u32) -> TcMessage {
    let mut message = at(TcMessage::default(), index);
    message.header.handle = QDISC;
    message.header.parent = CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn at(mut message: TcMessage, index: u32) -> TcMessage {
    message.header.index = index.cast_signed();
    message
}

/// No such filter, or no clsact qdisc that it could be on.
fn absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV))
}

/// The program of a filter, if it has one.
fn describe(filter: &TcMessage) -> Option<Filter> {
    let options = filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    // Options of a kind that the library does not know come as one attribute, unparsed.
    let TcOption::Other(options) = options else { return None };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let of = |kind| NlasIterator::new(bytes.as_slice()).flatten().find(|nla| nla.kind() == kind);
    let id = u32::from_ne_bytes(of(option::ID)?.value().try_into().ok()?);
    let name = of(option::NAME)?;
    let name = String::from_utf8_lossy(name.value()).trim_end_matches('\0').to_owned();
    Some(Filter { id, name })
}

impl Datapath {
    /// Attaches a TC program as a filter, or puts it into the filter that another agent left.
    pub(crate) fn attach_filter(
        &mut self,
        interface: &str,
        name: &'static str,
    ) -> Result<(), Error> {
        let mut netlink = Netlink::open()?;
        let index = netlink.interface(interface)?.index;
        if self.origin == Origin::Adopted && self.filtered(name, interface, index)? {
            return Ok(());
        }
        let mut reserved = self.state.reserved(interface);
        if netlink.add_clsact(index)? && !reserved.clsact {
            reserved.clsact = true;
            self.state.set_reserved(interface, Some(reserved))?;
        }
        let (ingress, way) = match place(name).header.parent {
            INGRESS => (true, "ingress"),
            _ => (false, "egress"),
        };
        let taken = || Error::HookTaken {
            name: interface.to_owned(),
            hook: "the agent's place among the clsact filters",
            remedy: format!("tc filter show dev {interface} {way}"),
        };
        if ingress && netlink.preceded(index)? {
            return Err(taken());
        }
        let held = netlink.filter(index, name)?;
        let classifier: &mut SchedClassifier = program(&mut self.bpf, name)?;
        load_once(name, classifier.fd().is_ok(), || classifier.load())?;
        let fd = classifier.fd().map_err(Error::program(name))?.as_fd();
        let replace = held.is_some_and(|filter| filter.name == name);
        netlink.set_filter(index, name, fd, replace).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EEXIST) => taken(),
                _ => failed(&format!("attach {name} as a clsact filter"), error),
            }
        })?;
        let pin = pin_of(&filters(&self.options), name, interface);
        unpin(&pin)?;
        classifier
            .pin(&pin)
            .map_err(|error| Error::Io { path: pin.clone(), source: io::Error::other(error) })
    }

    /// Whether a program's filter is on an interface, with the program that the agent put there.
    pub(crate) fn filtered(&self, program: &str, name: &str, index: u32) -> Result<bool, Error> {
        let pin = pin_of(&filters(&self.options), program, name);
        let running = Netlink::open()?.filter(index, program)?;
        Ok(running.is_some_and(|filter| {
            ProgramInfo::from_pin(&pin).is_ok_and(|pinned| pinned.id() == filter.id)
        }))
    }

    pub(crate) fn remove_filter(&self, program: &str, interface: &str) -> Result<(), Error> {
        let pin = pin_of(&filters(&self.options), program, interface);
        if pin.exists() { remove(&mut Netlink::open()?, &pin) } else { Ok(()) }
    }
}

fn pin_of(dir: &Path, program: &str, interface: &str) -> PathBuf {
    // A bpffs takes no dots in names, VLAN interfaces have them.
    dir.join(format!("{program}-{}", interface.replace('.', "%")))
}

/// Takes the filter of a pin away, and the pin.
pub(crate) fn remove(netlink: &mut Netlink, pin: &Path) -> Result<(), Error> {
    let file = pin.file_name().unwrap_or_default().to_string_lossy();
    if let Some((program, interface)) = file.split_once('-')
        // A filter is gone with its interface.
        && let Ok(found) = netlink.interface(&interface.replace('%', "."))
    {
        netlink.remove_filter(found.index, program)?;
    }
    unpin(pin)
}
