//! Nodes and hosts of the perimeter: who has which id, address and port.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use sigil_common::label::Label;

use super::ids::Also;
use super::words::{decimal, shown};
use super::{Resolver, of, once};
use crate::diagnostic::{Diagnostic, Span};
use crate::model::{Node, Perimeter, Policy, Port, Protocol};
use crate::parse::{Document, Kind, Text};

impl<'d> Resolver<'_, '_, 'd> {
    pub(super) fn nodes(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let kernel = policy.kernel_scid();
        for element in of(document, Kind::Node) {
            let snid =
                element.one("SnID").and_then(|text| Some((self.id(text, "an SnID")?, text.span)));
            let snid = snid.and_then(|(id, at)| self.nodes.declare(id, at, self.found));
            self.nodes.name(element.one("name"), snid, self.found);
            let mut addresses: Vec<Ipv4Addr> =
                element.all("address").filter_map(|text| self.address(text)).collect();
            addresses.sort_unstable();
            let kernel_scid =
                element.one("kernel").and_then(|text| self.scid(text, Also::Implicit));
            let default_scid =
                element.one("default").and_then(|text| self.scid(text, Also::Nothing));
            let Some(snid) = snid else { continue };
            policy.nodes.push(Node {
                snid,
                name: element
                    .one("name")
                    .map_or_else(|| snid.to_string(), |name| name.text.to_owned()),
                addresses,
                kernel_scid: kernel_scid.unwrap_or(kernel),
                default_scid: default_scid.unwrap_or(0),
            });
        }
        policy.nodes.sort_by_key(|node| node.snid);
    }

    fn address(&mut self, text: Text<'d>) -> Option<Ipv4Addr> {
        let hint = "a node has one address or more, each like 10.77.0.1, without a prefix length";
        let Ok(address) = text.text.parse::<Ipv4Addr>() else {
            let message = format!("`{}` is no IPv4 address", text.text);
            self.found.push(Diagnostic::error("dsp::address", text.span, message).hint(hint));
            return None;
        };
        let [first, ..] = address.octets();
        if first == 0 || address.is_loopback() || first >= 224 {
            let message = format!("{address} is no address that a node can have on a network");
            let hint = "unspecified, loopback, multicast and reserved addresses carry no labels between nodes";
            self.found.push(Diagnostic::error("dsp::address", text.span, message).hint(hint));
            return None;
        }
        let what = |address: &_| format!("address {address}");
        once(self.found, &mut self.addresses, address, text.span, what).then_some(address)
    }

    pub(super) fn perimeter(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut prefixes: HashMap<(Ipv4Addr, u8), Span> = HashMap::new();
        let mut hosts: HashMap<u32, Span> = HashMap::new();
        for element in of(document, Kind::Perimeter) {
            let prefix = element.one("address").and_then(|text| self.prefix(text, &mut prefixes));
            let snid = element.one("SnID").and_then(|text| {
                let snid = self.id(text, "an SnID")?;
                if policy.node(snid).is_some() {
                    let first = self.nodes.declared.get(&snid).copied().unwrap_or_default();
                    let message = format!("SnID {snid} belongs to a node, so a perimeter host cannot have it");
                    self.found.push(
                        Diagnostic::error("dsp::perimeter", text.span, message)
                            .also(first, "the node")
                            .hint("an unlabelled host could speak for that node; choose an SnID no node has"),
                    );
                    return None;
                }
                hosts.entry(snid).or_insert(text.span);
                Some(snid)
            });
            let scid = element.one("ScID").and_then(|text| self.scid(text, Also::Nothing));
            let name = element.one("name");
            match name.and_then(|name| self.nodes.names.get(name.text)) {
                Some((first, _)) if first.is_some() && *first == snid => {}
                _ => self.nodes.name(name, snid, self.found),
            }
            let (Some((prefix, prefix_len)), Some(snid), Some(scid)) = (prefix, snid, scid) else {
                continue;
            };
            let name = name.map(|name| name.text.to_owned());
            policy.perimeter.push(Perimeter {
                prefix,
                prefix_len,
                label: Label { snid, scid },
                name,
            });
        }
        policy.perimeter.sort();
        self.nodes.declared.extend(hosts);
    }

    fn prefix(
        &mut self,
        text: Text<'d>,
        taken: &mut HashMap<(Ipv4Addr, u8), Span>,
    ) -> Option<(Ipv4Addr, u8)> {
        let (address, length) = text.text.split_once('/').unwrap_or((text.text, "32"));
        let parsed =
            address.parse::<Ipv4Addr>().ok().zip(decimal(length).filter(|length| *length <= 32));
        let Some((address, length)) =
            parsed.and_then(|(address, length)| Some((address, u8::try_from(length).ok()?)))
        else {
            let message = format!("`{}` is no IPv4 address or network", text.text);
            let hint = "write 10.77.0.254, or 10.77.8.0/24 for a network";
            self.found.push(Diagnostic::error("dsp::address", text.span, message).hint(hint));
            return None;
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let network = Ipv4Addr::from(u32::from(address) & mask);
        if network != address {
            let message = format!("{address}/{length} has bits beyond its prefix");
            let hint =
                format!("write {network}/{length} for the network, or {address}/32 for the host");
            self.found.push(Diagnostic::error("dsp::address", text.span, message).hint(hint));
            return None;
        }
        if let Some(owner) = self.addresses.get(&address).filter(|_| length == 32) {
            let message = format!("{address} is the address of a node");
            let hint = "packets of a node carry a label; only other hosts belong in the perimeter";
            self.found.push(
                Diagnostic::error("dsp::perimeter", text.span, message)
                    .also(*owner, "the node's")
                    .hint(hint),
            );
            return None;
        }
        let what = |_: &_| format!("perimeter {address}/{length}");
        let key = (address, length);
        once(self.found, taken, key, text.span, what).then_some(key)
    }

    pub(super) fn ports(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut taken: HashMap<(u32, Protocol, u16), Span> = HashMap::new();
        for element in of(document, Kind::Port) {
            let snid = element.one("SnID").and_then(|text| {
                let snid = self.snid(text, Also::Nothing)?;
                if policy.node(snid).is_none() {
                    let message = format!("SnID {snid} is a perimeter host; only nodes have ports");
                    let hint = "a perimeter host's one ScID covers all its ports";
                    self.found
                        .push(Diagnostic::error("dsp::perimeter", text.span, message).hint(hint));
                    return None;
                }
                Some(snid)
            });
            let protocol = element.one("protocol").and_then(|text| self.protocol(text));
            let number = element
                .one("number")
                .and_then(|text| self.number(text, "a port", u64::from(u16::MAX)));
            let scid = element.one("ScID").and_then(|text| self.scid(text, Also::Nothing));
            let number = number.and_then(|number| u16::try_from(number).ok());
            let (Some(snid), Some(protocol), Some(number), Some(scid)) =
                (snid, protocol, number, scid)
            else {
                continue;
            };
            let key = (snid, protocol, number);
            let what = |_: &_| format!("port {}/{number} of SnID {snid}", protocol.name());
            if once(self.found, &mut taken, key, element.span, what) {
                policy.ports.push(Port { snid, protocol, number, scid });
            }
        }
        policy.ports.sort();
    }

    fn protocol(&mut self, text: Text<'d>) -> Option<Protocol> {
        let protocol = Protocol::ALL.into_iter().find(|one| one.name() == text.text);
        if protocol.is_none() {
            let message = format!("there are no ports of protocol `{}`", shown(text.text));
            let hint = match text.text {
                "icmp" => {
                    "ICMP belongs to the node's kernel zone: write rules for the zone `kernel`"
                }
                _ => "there are: tcp, udp, sctp",
            };
            self.found.push(Diagnostic::error("dsp::protocol", text.span, message).hint(hint));
        }
        protocol
    }
}
