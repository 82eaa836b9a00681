//! Tables of the programs' own cost.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::cells::{grouped, nanos};
use crate::markdown::Table;
use crate::samples::Samples;

const METHOD: &str = "\
## The programs' own cost

Nanoseconds of one run. Each run is one BPF_PROG_TEST_RUN on a fresh packet, and its time the kernel's
own statistic, which includes two readings of its clock, in the empty programs' times as in all
others. Rounds are medians of 20 runs behind 4 that warm caches up. `tc_stamp` runs behind a program that
gives the test packet's socket its state; what that costs is taken off.
";

/// What a series has under one of the names of its keys, in order.
pub(super) fn names(
    samples: &Samples,
    series: &str,
    of: fn(&crate::samples::Sample) -> &str,
) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let names = samples.series(series).map(of);
    names.filter(|name| seen.insert((*name).to_owned())).map(str::to_owned).collect()
}

/// The number in `rules=N`.
pub(super) fn number(at: &str, name: &str) -> Option<f64> {
    at.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

pub(super) fn tables(samples: &Samples) -> String {
    let mut text = String::new();
    if samples.series("program").next().is_none() {
        return text;
    }
    let _ = writeln!(text, "{METHOD}");
    for (series, title, row, mode) in [
        ("program", "Packets of established flows", "program", "suite"),
        (
            "first packet",
            "First packets: another label, at random, and rules of its own every time",
            "program",
            "suite",
        ),
        (
            "traffic",
            "Real traffic: means of all packets of a UDP exchange",
            "program",
            "verified in",
        ),
    ] {
        let _ = writeln!(text, "### {title}\n\n{}", by_place(samples, series, row, mode));
    }
    let _ = writeln!(text, "### Sizes\n\n{}", sizes(samples));
    text
}

/// A row for each program and mode, a column for each circumstance.
fn by_place(samples: &Samples, series: &str, row: &str, mode: &str) -> Table {
    let places: Vec<_> = names(samples, series, |sample| &sample.at)
        .into_iter()
        .filter(|at| !at.is_empty())
        .collect();
    let mut head = vec![row.to_owned(), mode.to_owned()];
    head.extend(places.iter().map(|at| match (number(at, "rules"), number(at, "covered")) {
        (Some(rules), _) => format!("{} rules", grouped(rules)),
        (_, Some(bytes)) => format!("{bytes:.0} B covered"),
        _ => at.clone(),
    }));
    let mut table = Table::of(head);
    for row in names(samples, series, |sample| &sample.row) {
        for mode in names(samples, series, |sample| &sample.mode) {
            let mut cells = vec![row.clone(), mode.clone()];
            // What needs no circumstances stands in the first column.
            let bare = nanos(samples.estimate([series, &row, &mode, ""]));
            cells
                .extend(places.iter().map(|at| nanos(samples.estimate([series, &row, &mode, at]))));
            if let Some(cell) = cells.get_mut(2)
                && cell.is_empty()
            {
                *cell = bare;
            }
            if cells.iter().skip(2).any(|cell| !cell.is_empty()) {
                table.add(cells);
            }
        }
    }
    table
}

fn sizes(samples: &Samples) -> Table {
    let mut table = Table::new(["program", "verified", "instructions", "machine code, bytes"]);
    for row in names(samples, "size", |sample| &sample.row) {
        let of = |what: &str| nanos(samples.estimate(["size", &row, what, ""]));
        table.row([row.clone(), of("verified"), of("translated"), of("jited")]);
    }
    table
}
