//! Names to ids, texts to numbers: a [`Document`] becomes a [`Policy`].
//!
//! Declarations first, then what refers to them, so their order in the document does not matter.

mod binaries;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use sigil_common::label::{KERNEL_SCID, Label};

use crate::diagnostic::{Diagnostic, Findings, Source, Span};
use crate::model::{
    ANY, KERNEL, Node, Pattern, Perimeter, Policy, Port, Protection, Protocol, Relabel, Rule,
    Transition, Zone,
};
use crate::parse::{Document, Element, Kind, Text};
use crate::permission::Class;
use crate::suggest::closest;

/// The policy; some of it may be missing, but then an error was found.
pub(crate) fn resolve(
    document: &Document<'_>,
    source: &Source,
    in_force: Option<u64>,
    found: &mut Findings,
) -> Policy {
    let mut resolver = Resolver {
        source,
        found,
        nodes: Ids::default(),
        zones: Ids::default(),
        addresses: HashMap::new(),
    };
    let mut policy = Policy {
        cluster: resolver.cluster(document.cluster),
        serial: resolver.serial(document.serial, in_force),
        ..Policy::default()
    };
    resolver.zones(document, &mut policy);
    resolver.nodes(document, &mut policy);
    resolver.perimeter(document, &mut policy);
    resolver.pairs(document, &mut policy);
    resolver.ports(document, &mut policy);
    resolver.rules(document, &mut policy);
    resolver.signers(document, &mut policy);
    resolver.revocations(document, &mut policy);
    resolver.unsigned(document, &mut policy);
    policy
}

/// The ids of one kind, and their names.
#[derive(Default)]
struct Ids<'d> {
    /// Where each id was declared.
    declared: HashMap<u32, Span>,
    /// What each name stands for; nothing when its declaration was wrong, and reported.
    names: HashMap<&'d str, (Option<u32>, Span)>,
}

impl<'d> Ids<'d> {
    fn declare(
        &mut self,
        what: &str,
        id: Option<(u32, Span)>,
        found: &mut Findings,
    ) -> Option<u32> {
        let (id, span) = id?;
        match self.declared.entry(id) {
            Entry::Vacant(free) => {
                free.insert(span);
                Some(id)
            }
            Entry::Occupied(first) => {
                found.push(duplicate(&format!("{what} {id}"), span, *first.get()));
                None
            }
        }
    }

    fn name(&mut self, what: &str, name: Option<Text<'d>>, id: Option<u32>, found: &mut Findings) {
        let Some(name) = name else { return };
        if !is_name(name.text) {
            found.push(bad_name(name));
            return;
        }
        match self.names.entry(name.text) {
            Entry::Vacant(free) => {
                free.insert((id, name.span));
            }
            Entry::Occupied(first) => {
                found.push(duplicate(
                    &format!("the {what} name `{}`", name.text),
                    name.span,
                    first.get().1,
                ));
            }
        }
    }
}

/// What a reference may be besides the id or the name of something declared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Also {
    /// Nothing.
    Nothing,
    /// The predeclared kernel zone or a perimeter host.
    Implicit,
    /// That, and `*`.
    Any,
}

/// Owners and users of RELABEL rules, and where they stand.
type Relabels = HashMap<(u32, u32), Span>;

struct Resolver<'s, 'f, 'd> {
    source: &'s Source,
    found: &'f mut Findings,
    nodes: Ids<'d>,
    zones: Ids<'d>,
    /// Whose each address is.
    addresses: HashMap<Ipv4Addr, Span>,
}

impl<'d> Resolver<'_, '_, 'd> {
    fn cluster(&mut self, text: Option<Text<'d>>) -> String {
        let Some(text) = text else { return String::new() };
        if !is_name(text.text) {
            self.found.push(bad_name(text));
        }
        text.text.to_owned()
    }

    fn serial(&mut self, text: Option<Text<'d>>, in_force: Option<u64>) -> u64 {
        let Some(text) = text else { return 0 };
        let Some(serial) = self.number(text, "a serial", u64::MAX) else { return 0 };
        if let Some(in_force) = in_force.filter(|in_force| serial <= *in_force) {
            let message =
                format!("serial {serial} is not above {in_force}, the highest put in force so far");
            let hint = format!(r#"set serial="{}""#, in_force.saturating_add(1));
            self.found.push(Diagnostic::error("dsp::serial", text.span, message).hint(hint));
        }
        serial
    }

    fn zones(&mut self, document: &Document<'d>, policy: &mut Policy) {
        for element in of(document, Kind::Zone) {
            let scid =
                element.one("ScID").and_then(|text| Some((self.id(text, "a ScID")?, text.span)));
            let scid = self.zones.declare("ScID", scid, self.found);
            self.zones.name("zone", element.one("name"), scid, self.found);
            let protection = element.one("protection").map(|text| self.protection(text));
            let signed_code = element.one("code").is_some_and(|text| self.signed_code(text));
            let Some(scid) = scid else { continue };
            let name =
                element.one("name").map_or_else(|| scid.to_string(), |name| name.text.to_owned());
            let protection = protection.unwrap_or_default();
            policy.zones.push(Zone { scid, name, protection, signed_code, span: element.span });
        }
        policy.zones.sort_by_key(|zone| zone.scid);
        if self.zones.names.contains_key(KERNEL) {
            return;
        }
        if let Some(span) = self.zones.declared.get(&KERNEL_SCID) {
            let message = format!("ScID {KERNEL_SCID} belongs to the predeclared zone `{KERNEL}`");
            let hint = format!("choose another ScID, or name this zone `{KERNEL}`");
            self.found.push(Diagnostic::error("dsp::duplicate", *span, message).hint(hint));
        }
        self.zones.names.insert(KERNEL, (Some(KERNEL_SCID), Span::default()));
    }

    fn nodes(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let kernel = policy.kernel_scid();
        for element in of(document, Kind::Node) {
            let snid =
                element.one("SnID").and_then(|text| Some((self.id(text, "an SnID")?, text.span)));
            let snid = self.nodes.declare("SnID", snid, self.found);
            self.nodes.name("node", element.one("name"), snid, self.found);
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
        match self.addresses.entry(address) {
            Entry::Vacant(free) => {
                free.insert(text.span);
                Some(address)
            }
            Entry::Occupied(first) => {
                self.found.push(duplicate(&format!("address {address}"), text.span, *first.get()));
                None
            }
        }
    }

    fn perimeter(&mut self, document: &Document<'d>, policy: &mut Policy) {
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
                _ => self.nodes.name("node", name, snid, self.found),
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
        match taken.entry((address, length)) {
            Entry::Vacant(free) => {
                free.insert(text.span);
                Some((address, length))
            }
            Entry::Occupied(first) => {
                self.found.push(duplicate(
                    &format!("perimeter {address}/{length}"),
                    text.span,
                    *first.get(),
                ));
                None
            }
        }
    }

    fn pairs(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut taken: BTreeMap<(u32, u32), Span> = BTreeMap::new();
        for element in of(document, Kind::Pair) {
            let ids: Vec<u32> =
                element.all("ScID").filter_map(|text| self.scid(text, Also::Implicit)).collect();
            let protection = element.one("protection").map(|text| self.protection(text));
            let (&[a, b], Some(protection)) = (ids.as_slice(), protection) else { continue };
            let pair = (a.min(b), a.max(b));
            if let Some(first) = taken.insert(pair, element.span) {
                self.found.push(duplicate(
                    &format!("the pair of zones {} and {}", pair.0, pair.1),
                    element.span,
                    first,
                ));
            }
            policy.pairs.insert(pair, protection);
        }
    }

    fn ports(&mut self, document: &Document<'d>, policy: &mut Policy) {
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
            match taken.entry((snid, protocol, number)) {
                Entry::Vacant(free) => {
                    free.insert(element.span);
                    policy.ports.push(Port { snid, protocol, number, scid });
                }
                Entry::Occupied(first) => {
                    let what = format!("port {}/{number} of SnID {snid}", protocol.name());
                    self.found.push(duplicate(&what, element.span, *first.get()));
                }
            }
        }
        policy.ports.sort();
    }

    fn rules(&mut self, document: &Document<'d>, policy: &mut Policy) {
        let mut relabels = Relabels::new();
        for element in &document.elements {
            match element.shape.kind {
                Kind::Rule(Class::Transition) => {
                    policy.transitions.extend(self.transition(element));
                }
                Kind::Rule(Class::Relabel) => {
                    policy.relabels.extend(self.relabel(element, &mut relabels));
                }
                Kind::Rule(class) => policy.rules.extend(self.rule(class, element)),
                _ => {}
            }
        }
    }

    fn rule(&mut self, class: Class, element: &Element<'d>) -> Option<Rule> {
        let line = self.source.line(element.span.start);
        let source = self.pattern(element.one("sSnID"), element.one("sScID"));
        let (snid, scid) = (element.one("tSnID"), element.one("tScID"));
        let target = if snid.is_some() || scid.is_some() {
            if class == Class::Socket && (snid.is_none() || scid.is_none()) {
                let missing = if snid.is_none() { "tSnID" } else { "tScID" };
                self.found.push(
                    Diagnostic::error(
                        "dsp::missing-element",
                        element.span,
                        format!("this target has no <{missing}>"),
                    )
                    .hint(format!(
                        "add <{missing}> * </{missing}>, or delete the target for local permissions"
                    )),
                );
            }
            Some(self.pattern(snid, scid))
        } else {
            None
        };
        let masks = ["allow", "deny", "alarm"]
            .map(|list| element.one(list).map(|text| self.permissions(class, text)));
        if masks.iter().all(Option::is_none) {
            let message = format!("this {class} rule has neither <allow> nor <deny> nor <alarm>");
            let hint = format!(
                "add <allow> {} </allow>",
                class.permissions().first().map_or("", |one| one.name)
            );
            self.found
                .push(Diagnostic::error("dsp::missing-element", element.span, message).hint(hint));
        }
        let [allow, deny, alarm] = masks.map(Option::unwrap_or_default);
        if allow & deny != 0 {
            let names = class.names(allow & deny).join(", ");
            let (allows, denies) = (element.one("allow"), element.one("deny"));
            self.found.push(
                Diagnostic::error(
                    "dsp::contradiction",
                    denies.map_or(element.span, |text| text.span),
                    format!("this rule both allows and denies {names}"),
                )
                .here("denied here")
                .also(allows.map_or(element.span, |text| text.span), "allowed here")
                .hint("delete one of them"),
            );
        }
        let target = match target {
            Some(target) => Some(target?),
            None => None,
        };
        Some(Rule { class, source: source?, target, allow, deny, alarm, line, span: element.span })
    }

    fn transition(&mut self, element: &Element<'d>) -> Option<Transition> {
        let parent = element.one("parentScID").and_then(|text| self.scid(text, Also::Any));
        let binary = element.one("binaryScID").and_then(|text| self.scid(text, Also::Any));
        let new = element.one("newScID").and_then(|text| self.scid(text, Also::Nothing));
        let line = self.source.line(element.span.start);
        Some(Transition { parent: parent?, binary: binary?, new: new?, line, span: element.span })
    }

    /// Whose sockets become whose is said zone by zone: `*` would give sockets away unseen.
    fn relabel(&mut self, element: &Element<'d>, taken: &mut Relabels) -> Option<Relabel> {
        let owner = element.one("ownerScID").and_then(|text| self.scid(text, Also::Nothing));
        let user = element.one("userScID").and_then(|text| self.scid(text, Also::Nothing));
        let (owner, user) = (owner?, user?);
        if owner == user {
            let message = "a zone's sockets are its own already";
            let hint = "name two zones, or delete the rule";
            self.found.push(Diagnostic::error("dsp::relabel", element.span, message).hint(hint));
            return None;
        }
        if let Some(first) = taken.insert((owner, user), element.span) {
            let what = format!("what becomes of sockets of ScID {owner} in the hands of {user}");
            self.found.push(duplicate(&what, element.span, first));
            return None;
        }
        let line = self.source.line(element.span.start);
        Some(Relabel { owner, user, line, span: element.span })
    }

    fn pattern(&mut self, snid: Option<Text<'d>>, scid: Option<Text<'d>>) -> Option<Pattern> {
        let snid = snid.and_then(|text| self.snid(text, Also::Any));
        let scid = scid.and_then(|text| self.scid(text, Also::Any));
        Some(Pattern { snid: snid?, scid: scid? })
    }

    fn permissions(&mut self, class: Class, list: Text<'d>) -> u32 {
        let mut mask = 0;
        let mut at = list.span.start as usize;
        for word in list.text.split(|c: char| c == ',' || c.is_ascii_whitespace()) {
            let span = Span::new(at, at + word.len());
            at += word.len() + 1;
            if word.is_empty() {
                continue;
            }
            if let Some(permission) = class.permission(word) {
                mask |= permission.bit;
                continue;
            }
            self.found.error(|| {
                let names = class.permissions().iter().map(|permission| permission.name);
                let hint = match closest(word, names.clone()) {
                    Some(close) => format!("did you mean {close}?"),
                    None => format!("class {class} has: {}", names.collect::<Vec<_>>().join(" ")),
                };
                let message = format!("class {class} has no permission `{}`", shown(word));
                Diagnostic::error("dsp::permission", span, message).hint(hint)
            });
        }
        if list.text.is_empty() {
            let hint = format!("class {class} has: {}", class.names(u32::MAX).join(" "));
            self.found.push(
                Diagnostic::error("dsp::permission", list.span, "this list is empty").hint(hint),
            );
        }
        mask
    }

    fn protection(&mut self, text: Text<'d>) -> Protection {
        if let Some(protection) = Protection::ALL.into_iter().find(|one| one.name() == text.text) {
            return protection;
        }
        let diagnostic = if text.text == "encrypt" {
            Diagnostic::error("dsp::encrypt", text.span, "`encrypt` needs a tunnel below, and none is there")
                .hint("use `integrity`, or run the cluster's network over WireGuard or IPsec and keep `integrity`")
        } else {
            let names = Protection::ALL.map(Protection::name);
            let hint = closest(text.text, names).map_or_else(
                || format!("there are: {}", names.join(", ")),
                |close| format!("did you mean `{close}`?"),
            );
            let message = format!("there is no protection `{}`", shown(text.text));
            Diagnostic::error("dsp::protection", text.span, message).hint(hint)
        };
        self.found.push(diagnostic);
        Protection::default()
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

    /// The id of a node or of a perimeter host.
    fn snid(&mut self, text: Text<'d>, also: Also) -> Option<u32> {
        reference(self.found, text, also, "SnID", &self.nodes, None)
    }

    /// The id of a zone.
    fn scid(&mut self, text: Text<'d>, also: Also) -> Option<u32> {
        let kernel = self.zones.names.get(KERNEL).and_then(|(id, _)| *id).unwrap_or(KERNEL_SCID);
        let id = reference(self.found, text, also, "ScID", &self.zones, Some(kernel))?;
        if also == Also::Nothing && !self.zones.declared.contains_key(&id) {
            let message = format!(
                "the predeclared zone `{KERNEL}` is what kernels send; nothing else may have it"
            );
            let hint = "name a zone that the document declares";
            self.found.push(Diagnostic::error("dsp::kernel", text.span, message).hint(hint));
            return None;
        }
        Some(id)
    }

    fn id(&mut self, text: Text<'d>, what: &str) -> Option<u32> {
        let id = self.number(text, what, u64::from(u32::MAX))?;
        u32::try_from(id).ok()
    }

    /// A number from 1 to `most`.
    fn number(&mut self, text: Text<'d>, what: &str, most: u64) -> Option<u64> {
        match decimal(text.text) {
            Some(number) if (1..=most).contains(&number) => Some(number),
            parsed => {
                self.found.push(bad_number(text, parsed, what, most));
                None
            }
        }
    }
}

fn reference(
    found: &mut Findings,
    text: Text<'_>,
    also: Also,
    what: &str,
    ids: &Ids<'_>,
    implicit: Option<u32>,
) -> Option<u32> {
    let word = text.text;
    if word == "*" {
        if also == Also::Any {
            return Some(ANY);
        }
        let message = format!("`*` cannot stand here: this needs one {what}");
        found.push(
            Diagnostic::error("dsp::wildcard", text.span, message)
                .hint("write the element again for each"),
        );
        return None;
    }
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        let id = match decimal(word) {
            Some(id) if (1..=u64::from(u32::MAX)).contains(&id) => u32::try_from(id).ok()?,
            parsed => {
                found.push(bad_number(text, parsed, &format!("the {what}"), u64::from(u32::MAX)));
                return None;
            }
        };
        if ids.declared.contains_key(&id) || implicit == Some(id) {
            return Some(id);
        }
        found.error(|| undeclared(text, what, ids));
        return None;
    }
    if !is_name(word) {
        found.push(bad_name(text));
        return None;
    }
    if let Some((id, _)) = ids.names.get(word) {
        return *id;
    }
    found.error(|| undeclared(text, what, ids));
    None
}

fn undeclared(text: Text<'_>, what: &str, ids: &Ids<'_>) -> Diagnostic {
    let element = if what == "SnID" { "node" } else { "zone" };
    let hint = match closest(text.text, ids.names.keys().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None if what == "SnID" => {
            format!("declare it: <node><SnID> {} </SnID> … </node>", example(text.text))
        }
        None => format!(
            "declare it: <zone><ScID> {} </ScID><name> … </name></zone>",
            example(text.text)
        ),
    };
    Diagnostic::error(
        "dsp::undeclared",
        text.span,
        format!("no {element} `{}` is declared", text.text),
    )
    .hint(hint)
}

fn example(word: &str) -> &str {
    if word.starts_with(|c: char| c.is_ascii_digit()) { word } else { "…" }
}

fn duplicate(what: &str, at: Span, first: Span) -> Diagnostic {
    Diagnostic::error("dsp::duplicate", at, format!("{what} is declared twice"))
        .here("again here")
        .also(first, "first here")
        .hint("delete one, or change it")
}

fn bad_name(text: Text<'_>) -> Diagnostic {
    let message = if text.text.is_empty() {
        "this is empty".to_owned()
    } else {
        format!("`{}` is no name", shown(text.text))
    };
    Diagnostic::error("dsp::name", text.span, message)
        .hint("a name is a letter or `_`, then up to 63 letters, digits, `_`, `.` and `-`")
}

fn bad_number(text: Text<'_>, parsed: Option<u64>, what: &str, most: u64) -> Diagnostic {
    let range = format!("write a decimal number from 1 to {most}");
    match parsed {
        Some(0) if most == u64::from(u32::MAX) => Diagnostic::error(
            "dsp::zero-id",
            text.span,
            format!("{what} of 0 means unlabelled, and cannot be named"),
        )
        .hint(range),
        Some(number) => Diagnostic::error(
            "dsp::number",
            text.span,
            format!("{number} is out of range for {what}"),
        )
        .hint(range),
        None if text.text.is_empty() => {
            Diagnostic::error("dsp::number", text.span, format!("{what} is missing")).hint(range)
        }
        None => {
            let message = format!("`{}` is no number for {what}", shown(text.text));
            Diagnostic::error("dsp::number", text.span, message)
                .hint(format!("{range}, without sign or leading zeros"))
        }
    }
}

/// A word of the document in a message, cut to a length that fits a line.
fn shown(word: &str) -> String {
    if word.chars().count() <= 40 {
        word.to_owned()
    } else {
        word.chars().take(39).chain(['…']).collect()
    }
}

/// A decimal number without sign or leading zeros; one too large is `u64::MAX`.
fn decimal(word: &str) -> Option<u64> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let plain = word == "0" || !word.starts_with('0');
    (digits && plain).then(|| word.parse().unwrap_or(u64::MAX))
}

fn is_name(word: &str) -> bool {
    let mut bytes = word.bytes();
    word.len() <= 64
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn of<'x, 'd>(document: &'x Document<'d>, kind: Kind) -> impl Iterator<Item = &'x Element<'d>> {
    document.elements.iter().filter(move |element| element.shape.kind == kind)
}
