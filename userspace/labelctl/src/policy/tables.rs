//! A node's rule maps for people.

use std::io::{self, Write};

use anyhow::Result;
use sigil_common::abi::policy::{
    CREATE, CREATE_ALARM, CREATE_DENIED, PEER_ANY, PEER_DENIED, PEER_KERNEL, PEER_PERIMETER,
    RECEIVE, RECEIVE_ALARM, RECEIVE_DENIED,
};
use sigil_policy::{Class, NodeRules, Policy, Protection};

use crate::output::Table;

const PEER_FLAGS: &[(u32, &str)] = &[
    (PEER_KERNEL, "kernel"),
    (PEER_ANY, "any-zone"),
    (PEER_DENIED, "denied"),
    (PEER_PERIMETER, "perimeter"),
];
const CREATE_FLAGS: &[(u32, &str)] =
    &[(CREATE, "allow"), (CREATE_DENIED, "deny"), (CREATE_ALARM, "alarm")];
const RECEIVE_FLAGS: &[(u32, &str)] =
    &[(RECEIVE, "allow"), (RECEIVE_DENIED, "deny"), (RECEIVE_ALARM, "alarm")];

pub(super) fn print(policy: &Policy, rules: &NodeRules) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let node = policy.node(rules.snid).map_or("", |node| &node.name);
    writeln!(
        out,
        "cluster {}, serial {}, node {} ({node})",
        rules.cluster, rules.serial, rules.snid
    )?;
    let zone = |scid: u32| match rules.zones.iter().find(|zone| zone.scid == scid) {
        Some(zone) => zone.name.clone(),
        None if scid == 0 => "-".to_owned(),
        None => scid.to_string(),
    };
    writeln!(
        out,
        "kernel zone {}, default zone {}",
        zone(rules.kernel_scid),
        zone(rules.default_scid)
    )?;
    for (title, table) in [
        ("nodes", nodes(rules, &zone)),
        ("zones", zones(rules)),
        ("peers", peers(rules, &zone)),
        ("verdicts", verdicts(rules, &zone)),
        ("ports", ports(rules, &zone)),
        ("perimeter", perimeter(rules, &zone)),
        (
            "sockets",
            local(
                rules.sockets.iter().map(|(scid, e)| (*scid, e.allow, e.alarm)),
                Class::Socket,
                &zone,
            ),
        ),
        (
            "processes",
            local(
                rules.processes.iter().map(|(scid, e)| (*scid, e.allow, e.alarm)),
                Class::Process,
                &zone,
            ),
        ),
        ("transitions", transitions(rules, &zone)),
        ("sockets that change hands", relabels(rules, &zone)),
        ("signers", signers(rules, &zone)),
        ("revoked", revoked(rules)),
        ("unsigned files", unsigned(rules, &zone)),
    ] {
        if !table.is_empty() {
            writeln!(out, "\n{title}")?;
            table.print(&mut out)?;
        }
    }
    out.flush()?;
    Ok(())
}

type ZoneName<'a> = &'a dyn Fn(u32) -> String;

fn flags(names: &[(u32, &str)], word: u32) -> String {
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| word & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join(",") }
}

fn protection(number: u8) -> String {
    let found = Protection::ALL.into_iter().find(|one| one.number() == number);
    found.map_or_else(|| number.to_string(), |one| one.name().to_owned())
}

fn nodes(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["SNID", "NAME", "KERNEL", "ADDRESSES"]);
    for node in &rules.nodes {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        table.row([
            node.snid.to_string(),
            node.name.clone(),
            zone(node.kernel_scid),
            addresses.join(" "),
        ]);
    }
    table
}

fn zones(rules: &NodeRules) -> Table {
    let mut table = Table::new(&["SCID", "NAME", "PROTECTION"]);
    for zone in &rules.zones {
        table.row([zone.scid.to_string(), zone.name.clone(), protection(zone.protection)]);
    }
    table
}

fn peers(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["LABEL", "ZONE", "CLASS", "FLAGS"]);
    for (label, peer) in &rules.peers {
        table.row([
            label.to_string(),
            zone(label.scid),
            peer.class.to_string(),
            flags(PEER_FLAGS, peer.flags),
        ]);
    }
    table
}

fn verdicts(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table =
        Table::new(&["CLASS", "LOCAL ZONE", "CREATE", "LINE", "RECEIVE", "LINE", "PROTECTION"]);
    let line = |line: u32| if line == 0 { "-".to_owned() } else { line.to_string() };
    for (key, entry) in &rules.verdicts {
        table.row([
            key.class.to_string(),
            zone(key.scid),
            flags(CREATE_FLAGS, entry.flags),
            line(entry.create_line),
            flags(RECEIVE_FLAGS, entry.flags),
            line(entry.receive_line),
            protection(entry.protection),
        ]);
    }
    table
}

fn ports(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["SNID", "PROTOCOL", "PORT", "ZONE"]);
    for (key, scid) in &rules.ports {
        let protocol = match key.protocol {
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => "?",
        };
        let port = if key.protocol == 1 { "-".to_owned() } else { key.port.to_string() };
        table.row([key.snid.to_string(), protocol.to_owned(), port, zone(*scid)]);
    }
    table
}

fn perimeter(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["NETWORK", "LABEL", "ZONE"]);
    for host in &rules.perimeter {
        let network = format!("{}/{}", host.prefix, host.prefix_len);
        table.row([network, host.label.to_string(), zone(host.label.scid)]);
    }
    table
}

fn local(rows: impl Iterator<Item = (u32, u32, u32)>, class: Class, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["LOCAL ZONE", "ALLOW", "ALARM"]);
    let names = |mask| match class.names(mask).join(" ") {
        none if none.is_empty() => "-".to_owned(),
        names => names,
    };
    for (scid, allow, alarm) in rows {
        table.row([zone(scid), names(allow), names(alarm)]);
    }
    table
}

fn transitions(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["PARENT", "BINARY", "NEW"]);
    for (key, new) in &rules.transitions {
        table.row([zone(key.parent), zone(key.binary), zone(*new)]);
    }
    table
}

fn relabels(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["OWNER", "USER, AND THEN OWNER", "LINE"]);
    for entry in &rules.relabels {
        table.row([zone(entry.owner), zone(entry.user), entry.line.to_string()]);
    }
    table
}

fn signers(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["NAME", "KEY", "ZONES", "LEAST SERIAL"]);
    for signer in &rules.signers {
        let zones: Vec<_> = signer.scids.iter().map(|scid| zone(*scid)).collect();
        let (name, least) = (signer.name.clone(), signer.least_serial.to_string());
        table.row([name, hex::encode(signer.key), zones.join(" "), least]);
    }
    table
}

fn revoked(rules: &NodeRules) -> Table {
    let mut table = Table::new(&["WHAT", "ID"]);
    for (what, ids) in [("key", &rules.revoked_keys), ("signature", &rules.revoked_signatures)] {
        for id in ids {
            table.row([what.to_owned(), hex::encode(id)]);
        }
    }
    table
}

fn unsigned(rules: &NodeRules, zone: ZoneName<'_>) -> Table {
    let mut table = Table::new(&["PARENT", "COUNT AS"]);
    for entry in &rules.unsigned {
        let counts = if entry.binary == 0 { "refused".to_owned() } else { zone(entry.binary) };
        table.row([zone(entry.parent), counts]);
    }
    table
}
