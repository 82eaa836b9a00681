//! Tables by number of rules.

use std::fmt::Write as _;

use super::cells::{grouped, micros};
use super::kernel::{names, number};
use crate::markdown::Table;
use crate::mode::{PLAIN, SIPHASH_TC};
use crate::samples::Samples;

/// The ways to filter that are compared, and how people read them.
pub(super) const FILTERS: [(&str, &str); 3] = [
    ("siphash-tc", "Sigil, SipHash, TC"),
    ("nft-set", "nftables, one set"),
    ("nft-chain", "nftables, rules in a row"),
];

pub(super) fn tables(samples: &Samples) -> String {
    let mut text = String::new();
    if samples.series("rules").next().is_some() {
        let _ = writeln!(
            text,
            "## UDP round trips by number of rules\n\nMicroseconds, both ends on one CPU. nftables has as \
             many addresses in one set, or as many rules in a row of which the last one matches; it \
             authenticates nobody. Without either: {}.\n\n{}",
            micros(samples.estimate(["rules", "udp", PLAIN.id, "rules=0"])),
            by_rules(samples)
        );
    }
    if samples.series("scale").next().is_some() {
        let _ = writeln!(
            text,
            "## Policies by number of rules\n\nA rule is a label that may reach the node. `load` is the whole \
             of `labelctl load`; a first packet is judged by the new rules when a datagram of a client \
             that knocks all the time is answered. Memory is that of one node's agent and maps, after the \
             loads.\n\n{}",
            policies(samples)
        );
    }
    text
}

fn by_rules(samples: &Samples) -> Table {
    let places: Vec<_> = names(samples, "rules", |sample| &sample.at)
        .into_iter()
        .filter(|at| number(at, "rules") != Some(0.0))
        .collect();
    let mut head = vec!["filter".to_owned()];
    head.extend(places.iter().filter_map(|at| number(at, "rules")).map(grouped));
    let mut table = Table::of(head);
    for (id, title) in FILTERS {
        let mut cells = vec![title.to_owned()];
        cells.extend(places.iter().map(|at| micros(samples.estimate(["rules", "udp", id, at]))));
        table.add(cells);
    }
    table
}

fn policies(samples: &Samples) -> Table {
    let places = names(samples, "scale", |sample| &sample.at);
    let mut head = vec!["what".to_owned()];
    head.extend(places.iter().filter_map(|at| number(at, "rules")).map(grouped));
    let mut table = Table::of(head);
    for (row, title, scale, digits) in [
        ("document", "document, MB", 1e6, 3),
        ("compile", "compile and lower, ms", 1e-3, 1),
        ("load", "load, ms", 1e-3, 0),
        ("first packet judged", "first packet judged by it, ms", 1e-3, 0),
        ("memory of the agent", "agent's memory, MB", 1e6, 0),
        ("memory of the maps", "maps' memory, MB", 1e6, 0),
    ] {
        let mut cells = vec![title.to_owned()];
        cells.extend(places.iter().map(|at| {
            let estimate = samples.estimate(["scale", row, SIPHASH_TC.id, at]);
            let of = |value: f64| format!("{:.digits$}", value / scale);
            estimate.map_or_else(String::new, |estimate| of(estimate.median))
        }));
        table.add(cells);
    }
    table
}
