//! What the kernel counts and reports, as messages.

use std::net::Ipv4Addr;

use sigil_common::abi::event::{DropEvent, event_kind};
use sigil_common::decide::protocol;
use sigil_common::label::Label;
use sigil_common::verdict::{DropReason, Hook};
use sigil_control::{Counts, Endpoint, Event, EventKind, Events, Pair, Process, Stats};
use sigil_datapath::Counters;

use crate::names::Names;

/// What never happened is left out.
pub(crate) fn stats(counters: &Counters, names: &Names) -> Stats {
    let counts = |row: &sigil_datapath::Row| {
        let happened = row.dropped.iter().filter(|(_, count)| *count > 0);
        Counts {
            seen: row.seen,
            accepted: row.accepted,
            observed: row.observed,
            dropped: happened.map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
        }
    };
    let pairs = counters.pairs.iter().filter(|pair| pair.count > 0).map(|pair| Pair {
        snid: pair.snid,
        node: names.nodes.get(&pair.snid).cloned(),
        hook: pair.hook.name().to_owned(),
        reason: pair.reason.name().to_owned(),
        count: pair.count,
    });
    Stats {
        hooks: counters
            .rows
            .iter()
            .map(|(hook, row)| (hook.name().to_owned(), counts(row)))
            .collect(),
        pairs: pairs.collect(),
        events: Events {
            sent: counters.events.sent,
            lost: counters.events.lost,
            suppressed: counters.events.suppressed,
        },
    }
}

/// An event with the names of what it is about. Numbers that this agent does not know stay numbers.
pub(crate) fn event(raw: &DropEvent, names: &Names, time_us: u64) -> Event {
    let kind = match raw.kind {
        event_kind::ALARM => EventKind::Alarm,
        event_kind::OBSERVED => EventKind::Observed,
        _ => EventKind::Drop,
    };
    let hook = Hook::ALL.into_iter().find(|hook| *hook as u32 == raw.hook);
    let reason = DropReason::try_from(raw.reason);
    let end = |label: Label, address: u32, port: u16| Endpoint {
        snid: label.snid,
        scid: label.scid,
        node: names.nodes.get(&label.snid).cloned(),
        zone: names.zones.get(&label.scid).cloned(),
        // All zeros and no protocol: there was no IPv4 header to read.
        address: (address != 0 || raw.protocol != 0).then(|| Ipv4Addr::from_bits(address)),
        port: (port != 0).then_some(port),
    };
    Event {
        time_ns: raw.time_ns,
        time_us,
        kind,
        hook: hook.map_or_else(|| raw.hook.to_string(), |hook| hook.name().to_owned()),
        reason: match (kind, reason) {
            (EventKind::Alarm, _) => "alarm".to_owned(),
            (_, Ok(reason)) => reason.name().to_owned(),
            (_, Err(number)) => number.to_string(),
        },
        protocol: (raw.protocol != 0).then(|| protocol_name(raw.protocol)),
        source: end(raw.source, raw.source_address, raw.source_port),
        target: end(raw.target, raw.target_address, raw.target_port),
        process: (raw.pid != 0)
            .then(|| Process { pid: raw.pid, comm: printable(&raw.comm.bytes()) }),
        line: (raw.line != 0).then_some(raw.line),
        suppressed: raw.suppressed,
    }
}

/// The end of a process whose label came from a signature that is revoked.
pub(crate) fn revoked(time_ns: u64, pid: u32, comm: &str, scid: u32, names: &Names) -> Event {
    let own = Label { snid: names.snid, scid };
    let raw = DropEvent {
        time_ns,
        source: own,
        target: own,
        hook: Hook::Process as u32,
        ..DropEvent::default()
    };
    Event {
        kind: EventKind::Revoked,
        reason: EventKind::Revoked.name().to_owned(),
        process: Some(Process { pid, comm: printable(comm.as_bytes()) }),
        ..event(&raw, names, crate::feed::micros())
    }
}

fn protocol_name(number: u32) -> String {
    let name = match u8::try_from(number) {
        Ok(protocol::ICMP) => "icmp",
        Ok(protocol::TCP) => "tcp",
        Ok(protocol::UDP) => "udp",
        Ok(protocol::SCTP) => "sctp",
        _ => return number.to_string(),
    };
    name.to_owned()
}

/// A process chooses its name, and the name is shown on terminals: nothing in it may steer one.
fn printable(comm: &[u8]) -> String {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let safe = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(name).chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_common::abi::socket::Comm;
    use std::collections::BTreeMap;

    fn raw() -> DropEvent {
        let comm = Comm([u64::from_ne_bytes(*b"a\x1b[2J\0\0\0"), 0]);
        DropEvent {
            time_ns: 5,
            source: Label { snid: 2, scid: 10 },
            target: Label { snid: 1, scid: 0 },
            source_address: 0x0a4d_0002,
            target_address: 0x0a4d_0001,
            source_port: 40000,
            target_port: 80,
            protocol: 6,
            hook: Hook::Deliver as u32,
            reason: DropReason::NoRule as u32,
            line: 7,
            pid: 42,
            comm,
            ..DropEvent::default()
        }
    }

    #[test]
    fn an_event_has_names_and_nothing_that_steers_a_terminal() {
        let names = Names {
            nodes: BTreeMap::from([(2, "two".to_owned())]),
            zones: BTreeMap::from([(10, "web".to_owned())]),
            ..Names::default()
        };
        let event = event(&raw(), &names, 6);
        insta::assert_snapshot!(serde_json::to_string(&event).unwrap());
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let bare =
            event(&DropEvent { reason: 63, hook: 9, ..DropEvent::default() }, &Names::default(), 0);
        assert_eq!((bare.reason.as_str(), bare.hook.as_str()), ("63", "9"));
        assert!(bare.protocol.is_none() && bare.process.is_none() && bare.line.is_none());
        assert!(bare.source.address.is_none() && bare.source.port.is_none());
    }

    #[test]
    fn an_alarm_has_a_reason_too() {
        let alarm = DropEvent { kind: event_kind::ALARM, reason: 0, ..raw() };
        assert_eq!(event(&alarm, &Names::default(), 0).reason, "alarm");
        let dhcp = DropEvent { source_address: 0, ..raw() };
        assert_eq!(event(&dhcp, &Names::default(), 0).source.address, Some(Ipv4Addr::UNSPECIFIED));
    }
}
