//! Room for the label: routes get an MTU that leaves it free, and super-frames a size that it can
//! count. Both are given back on detach.
//!
//! The device keeps its own MTU: received packets are that long. TCP takes the route's MTU for its
//! segments and its MSS, UDP for fragments and EMSGSIZE.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use serde::{Deserialize, Serialize};
use sigil_common::wire::option::{AUTH_LEN, SEGMENTS_MAX};

use crate::error::Error;

/// Bytes that a label takes at most.
#[expect(clippy::cast_possible_truncation, reason = "40")]
const ROOM: u32 = AUTH_LEN as u32;

/// The longest packet of one segment that the kernel lets a program lengthen: 16 KiB less its own
/// bookkeeping (`SKB_MAX_ALLOC`), Ethernet and VLAN headers, and the label; rounded down.
const LENGTHENED_MAX: u32 = 16_000;

/// The local table: addresses of this node, which no label travels to.
const TABLE_LOCAL: u32 = 255;

/// What was changed on an interface, and how it was before.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reserved {
    /// The device's `gso_max_segs` before.
    pub(crate) gso_max_segs: Option<u32>,
    /// Whether the device merged received packets before.
    pub(crate) gro: Option<bool>,
    /// Route → its MTU metrics.
    pub(crate) routes: BTreeMap<String, RouteMtu>,
    /// The agent made the clsact qdisc.
    pub(crate) clsact: bool,
}

/// MTU metrics of a route (0: none).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteMtu {
    /// What it had before.
    before: u32,
    /// What it was given.
    given: u32,
}

/// A route that needs another MTU.
#[derive(Debug)]
pub(crate) struct Change {
    key: String,
    route: RouteMessage,
    /// It had room before.
    undone: bool,
}

/// What is known of an interface.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) gso_max_segs: u32,
    pub(crate) master: Option<u32>,
    /// A link between namespaces of this machine, where super-frames cross whole.
    pub(crate) virtual_link: bool,
}

impl Interface {
    /// The MTU that leaves room for the label.
    fn room(&self) -> u32 {
        self.mtu.saturating_sub(ROOM).min(LENGTHENED_MAX)
    }
}

/// A connection to the kernel's routing tables.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| failed("open netlink", source))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Looks an interface up by name.
    pub(crate) fn interface(&mut self, name: &str) -> Result<Interface, Error> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answers = self
            .ask(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST)
            .map_err(|_| Error::Interface { name: name.to_owned() })?;
        for answer in answers {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                return Ok(describe(&link));
            }
        }
        Err(Error::Interface { name: name.to_owned() })
    }

    /// Looks a cluster NIC up by name: packets must leave through it itself.
    pub(crate) fn nic(&mut self, name: &str) -> Result<Interface, Error> {
        let found = self.interface(name)?;
        match found.master {
            Some(master) => Err(Error::Enslaved { name: name.to_owned(), master: name_of(master) }),
            None => Ok(found),
        }
    }

    /// Limits the segments of a super-frame.
    pub(crate) fn set_gso_max_segs(&mut self, index: u32, segments: u32) -> Result<(), Error> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        request.attributes.push(LinkAttribute::GsoMaxSegs(segments));
        self.ask(RouteNetlinkMessage::SetLink(request), NLM_F_REQUEST | NLM_F_ACK)
            .map(drop)
            .map_err(|source| failed("limit the segments of super-frames", source))
    }

    /// Every unicast route that may lead out of an interface, with its MTU metric (0: none).
    fn routes(&mut self, index: u32) -> Result<Vec<(RouteMessage, u32)>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let answers = self
            .ask(RouteNetlinkMessage::GetRoute(request), NLM_F_REQUEST | NLM_F_DUMP)
            .map_err(|source| failed("read the routes", source))?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        Ok(routes
            .filter(|route| {
                route.header.kind == RouteType::Unicast
                    && table(route) != TABLE_LOCAL
                    && leads_out_of(route, index)
            })
            .map(|route| {
                let mtu = mtu(&route);
                (route, mtu)
            })
            .collect())
    }

    /// Which routes out of an interface need another MTU to leave room for the label. What they have
    /// is noted in `reserved`, to be on disk before [`Netlink::reserve`] changes them.
    ///
    /// A route with hops over several NICs has one MTU, the least that any of them needs. What it got
    /// for one of the `others` is nobody's own.
    pub(crate) fn without_room(
        &mut self,
        of: &Interface,
        reserved: &mut Reserved,
        others: &[Reserved],
    ) -> Result<Vec<Change>, Error> {
        let room = of.room();
        let mut changes = Vec::new();
        for (route, mtu) in self.routes(of.index)? {
            let key = key(&route);
            let other = others.iter().filter_map(|other| other.routes.get(&key));
            let other = other.copied().find(|noted| noted.given == mtu);
            match reserved.routes.get_mut(&key) {
                // Changed, and the agent ended before it was noted.
                Some(noted) if mtu == room => noted.given = room,
                // The device has another MTU since.
                Some(noted) if mtu == noted.given => {
                    changes.push(Change { key, route, undone: false });
                }
                // An operator's own.
                _ if mtu != 0 && mtu <= room => {}
                _ => {
                    let before = other.map_or(mtu, |noted| noted.before);
                    let first = RouteMtu { before, given: room };
                    let noted = reserved.routes.insert(key.clone(), first).is_some();
                    changes.push(Change { key, route, undone: noted && other.is_none() });
                }
            }
        }
        Ok(changes)
    }

    /// Changes routes that [`Netlink::without_room`] found. Those that it had changed before, and
    /// somebody else since. Where one cannot be changed, the others are all the same.
    pub(crate) fn reserve(
        &mut self,
        of: &Interface,
        changes: Vec<Change>,
        reserved: &mut Reserved,
    ) -> Result<Vec<String>, Error> {
        let room = of.room();
        let (mut again, mut outcome) = (Vec::new(), Ok(()));
        for Change { key, route, undone } in changes {
            // The kernel takes no route with a hop over an interface that is down.
            if let Err(error) = self.replace(with_mtu(route, room)) {
                outcome = Err(error);
                continue;
            }
            if let Some(held) = reserved.routes.get_mut(&key) {
                held.given = room;
            }
            again.extend(undone.then_some(key));
        }
        outcome.map(|()| again)
    }

    /// Gives back what [`Netlink::reserve`] took; routes that have another MTU by now keep it.
    pub(crate) fn release(&mut self, of: &Interface, reserved: &Reserved) -> Result<(), Error> {
        for (route, mtu) in self.routes(of.index)? {
            if let Some(held) = reserved.routes.get(&key(&route))
                && (mtu == held.given || mtu == of.room())
            {
                self.replace(with_mtu(route, held.before))?;
            }
        }
        Ok(())
    }

    /// Makes every socket look its route up again, by replacing a route with itself.
    pub(crate) fn flush_routes(&mut self, of: &Interface) -> Result<(), Error> {
        match self.routes(of.index)?.into_iter().next() {
            Some((route, mtu)) => self.replace(with_mtu(route, mtu)),
            None => Ok(()),
        }
    }

    fn replace(&mut self, route: RouteMessage) -> Result<(), Error> {
        let name = key(&route);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewRoute(route), flags)
            .map(drop)
            .map_err(|source| failed(&format!("change the MTU of route {name}"), source))
    }

    /// One request and all its answers.
    pub(crate) fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                let length = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return if error.code.is_none() { Ok(answers) } else { Err(error.to_io()) };
                    }
                    NetlinkPayload::InnerMessage(inner) => {
                        answers.push(inner);
                        if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// An interface's name by its index.
fn name_of(index: u32) -> String {
    nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| index.to_string())
}

/// The most segments that a label counts, or one where payloads must be covered.
pub(crate) const fn gso_limit(integrity: bool) -> u32 {
    if integrity { 1 } else { SEGMENTS_MAX }
}

fn describe(link: &LinkMessage) -> Interface {
    let mut found = Interface {
        index: link.header.index,
        mtu: 1500,
        gso_max_segs: 65535,
        master: None,
        virtual_link: false,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::GsoMaxSegs(segments) => found.gso_max_segs = *segments,
            LinkAttribute::Controller(master) if *master != 0 => found.master = Some(*master),
            LinkAttribute::LinkInfo(infos) => {
                found.virtual_link |= infos.iter().any(|info| {
                    matches!(info, LinkInfo::Kind(InfoKind::Veth))
                        || matches!(info, LinkInfo::Kind(InfoKind::Other(kind)) if kind == "netkit")
                });
            }
            _ => {}
        }
    }
    found
}

/// Whether packets on a route may leave through an interface. Where all that a route tells is a nexthop
/// object's id (`nexthop_compat_mode` 0), they may.
fn leads_out_of(route: &RouteMessage, index: u32) -> bool {
    let mut told = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(out) if *out == index => return true,
            RouteAttribute::MultiPath(hops) if hops.iter().any(|h| h.interface_index == index) => {
                return true;
            }
            RouteAttribute::Oif(_) | RouteAttribute::MultiPath(_) => told = true,
            _ => {}
        }
    }
    !told && by_object(route)
}

/// Whether a route has its hops from a nexthop object (`ip nexthop`).
fn by_object(route: &RouteMessage) -> bool {
    const RTA_NH_ID: u16 = 30;
    route.attributes.iter().any(|attribute| attribute.kind() == RTA_NH_ID)
}

fn table(route: &RouteMessage) -> u32 {
    let long = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or_else(|| u32::from(route.header.table))
}

fn mtu(route: &RouteMessage) -> u32 {
    let metrics = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics
        .into_iter()
        .flatten()
        .find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
        .unwrap_or(0)
}

/// The route with another MTU metric; 0 takes it away. What the kernel only tells goes: the states of
/// hops, and what a nexthop object says beside its id.
fn with_mtu(mut route: RouteMessage, mtu: u32) -> RouteMessage {
    let by_object = by_object(&route);
    route.header.flags &= RouteFlags::Onlink;
    let mut metrics = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Metrics(held) = attribute {
            metrics.extend(held.iter().filter(|m| !matches!(m, RouteMetric::Mtu(_))).cloned());
        }
    }
    // Without any metric, a route by an object gets those of another route by it (seen on 6.18).
    if mtu != 0 || by_object {
        metrics.push(RouteMetric::Mtu(mtu));
    }
    route.attributes.retain(|attribute| match attribute {
        RouteAttribute::Metrics(_) | RouteAttribute::CacheInfo(_) => false,
        RouteAttribute::Oif(_)
        | RouteAttribute::Gateway(_)
        | RouteAttribute::Via(_)
        | RouteAttribute::MultiPath(_)
        | RouteAttribute::EncapType(_)
        | RouteAttribute::Encap(_) => !by_object,
        _ => true,
    });
    for attribute in &mut route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            for hop in hops {
                hop.flags &= RouteNextHopFlags::Onlink;
            }
        }
    }
    if !metrics.is_empty() {
        route.attributes.push(RouteAttribute::Metrics(metrics));
    }
    route
}

/// Names a route: table, destination, gateways, priority. What a nexthop object says is the object's.
fn key(route: &RouteMessage) -> String {
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut priority) = (String::new(), String::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                gateway = format!(" via {}", IpAddr::V4(*address));
            }
            RouteAttribute::MultiPath(hops) => {
                for gateway_of in hops.iter().flat_map(|hop| &hop.attributes) {
                    if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = gateway_of {
                        let _ = write!(gateway, " via {address}");
                    }
                }
            }
            RouteAttribute::Priority(value) => priority = format!(" metric {value}"),
            _ => {}
        }
    }
    if by_object(route) {
        gateway.clear();
    }
    let length = route.header.destination_prefix_length;
    format!("{destination}/{length}{gateway}{priority} table {}", table(route))
}

pub(crate) fn failed(action: &str, source: io::Error) -> Error {
    Error::Netlink { action: action.to_owned(), source }
}

/// Tells when an interface or an IPv4 route came, went or changed.
#[derive(Debug)]
pub struct NetworkWatch {
    socket: Socket,
}

impl NetworkWatch {
    /// Starts to listen.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn open() -> Result<Self, Error> {
        const RTNLGRP_LINK: u32 = 1;
        const RTNLGRP_IPV4_ROUTE: u32 = 7;
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.add_membership(RTNLGRP_LINK)?;
            socket.add_membership(RTNLGRP_IPV4_ROUTE)?;
            // Which messages did not fit is of no interest: the caller looks for itself.
            socket.set_no_enobufs(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| failed(WATCH, source))?;
        Ok(Self { socket })
    }

    /// Waits for a change; several at once are one.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn wait(&mut self) -> Result<(), Error> {
        let mut ignored = [0u8; 1];
        self.socket.recv(&mut &mut ignored[..], 0).map_err(|source| failed(WATCH, source))?;
        while self.socket.recv(&mut &mut ignored[..], libc::MSG_DONTWAIT).is_ok() {}
        Ok(())
    }
}

const WATCH: &str = "watch the interfaces and routes";
