//! The paper's table.

use std::fmt::Write as _;

use super::cells::{micros, overhead};
use crate::end::{Placement, Row};
use crate::markdown::Table;
use crate::measure::{FLOOR, SIGIL};
use crate::mode::{self, Mode, PASS_XDP, PLAIN};
use crate::samples::Samples;

/// A row of the DSI paper's table 1, microseconds without and with its module.
pub(super) struct Paper {
    pub(super) row: Row,
    pub(super) title: &'static str,
    pub(super) times: Option<(f64, f64)>,
}

const fn paper(row: Row, title: &'static str, without: f64, with: f64) -> Paper {
    Paper { row, title, times: Some((without, with)) }
}

/// The paper's rows, `LMBench` 3.0 on a Pentium IV at 2.4 GHz: of the connection it says "particularly
/// heavy", and gives no figure.
pub(super) const PAPER: [Paper; 10] = [
    paper(Row::Stat, "stat", 1.92, 1.94),
    paper(Row::OpenClose, "open/close", 2.68, 2.68),
    paper(Row::Fork, "fork", 92.81, 93.58),
    paper(Row::Exec, "exec", 322.56, 328.33),
    paper(Row::Sh, "sh", 2140.75, 2150.0),
    paper(Row::Udp, "UDP", 9.68, 10.61),
    paper(Row::RpcUdp, "RPC/UDP", 17.66, 18.7),
    paper(Row::Tcp, "TCP", 11.08, 12.68),
    paper(Row::RpcTcp, "RPC/TCP", 23.42, 24.3),
    Paper { row: Row::Connect, title: "TCP connect", times: None },
];

impl Paper {
    /// The paper's overhead, percent.
    pub(super) fn overhead(&self) -> Option<f64> {
        self.times.map(|(without, with)| (with / without - 1.0) * 100.0)
    }

    fn cell(&self) -> String {
        self.overhead().map_or_else(|| "heavy".to_owned(), |percent| format!("+{percent:.1} %"))
    }
}

pub(super) fn is_task(row: Row) -> bool {
    matches!(row, Row::Stat | Row::OpenClose | Row::Fork | Row::Exec | Row::Sh)
}

/// The key of a loop's samples.
pub(super) fn key<'a>(row: &'a str, mode: &'a str, placement: Placement) -> [&'a str; 4] {
    ["latency", row, mode, placement.name()]
}

pub(super) fn tables(samples: &Samples) -> String {
    let mut text = String::new();
    if samples.series("latency").next().is_none() {
        return text;
    }
    text.push_str(
        "## LMBench's loops\n\nMicroseconds, and the overhead over the same loop without programs, beside \
         that of the paper's module. Messages of 4 bytes there and back over a veth pair, both ends on \
         one CPU; connections across two. RPC is ONC RPC found through rpcbind. Congestion control is \
         reno.\n\n",
    );
    let mut table =
        Table::new(["loop", "paper", "no programs, µs", "empty programs", "Sigil, µs", "overhead"]);
    for paper in PAPER.iter().filter(|paper| is_task(paper.row)) {
        let name = paper.row.name();
        let of = |mode| samples.estimate(key(&name, mode, Placement::Pinned));
        let over = |mode| overhead(samples.ratio(key(&name, mode, Placement::Pinned), PLAIN.id));
        table.row([
            paper.title.to_owned(),
            paper.cell(),
            micros(of(PLAIN.id)),
            over(FLOOR),
            micros(of(SIGIL)),
            over(SIGIL),
        ]);
    }
    let _ = writeln!(text, "### Processes and files\n\n{table}");
    for (placement, title) in [
        (Placement::Pinned, "Network"),
        (Placement::Free, "Network, both ends wherever the scheduler puts them"),
    ] {
        network(&mut text, samples, placement, title);
    }
    retries(&mut text, samples);
    text
}

fn network(text: &mut String, samples: &Samples, placement: Placement, title: &str) {
    let shown: Vec<&Mode> = mode::ALL
        .iter()
        .filter(|mode| samples.estimate(key("udp", mode.id, placement)).is_some())
        .collect();
    if shown.is_empty() {
        return;
    }
    let _ = writeln!(text, "### {title}\n");
    let mut head = vec!["mode".to_owned()];
    let rows = || PAPER.iter().filter(|paper| !is_task(paper.row));
    for paper in rows() {
        head.extend([format!("{}, µs", paper.title), "overhead".to_owned()]);
    }
    let mut table = Table::of(head);
    let mut cells = vec!["the paper's module".to_owned()];
    for paper in rows() {
        let with = paper.times.map_or_else(String::new, |(_, with)| format!("{with:.2}"));
        cells.extend([with, paper.cell()]);
    }
    table.add(cells);
    for mode in shown {
        let mut cells = vec![mode.title.to_owned()];
        for paper in rows() {
            let name = paper.row.name();
            let key = key(&name, mode.id, placement);
            let ratio = if mode.id == PLAIN.id { None } else { samples.ratio(key, PLAIN.id) };
            cells.extend([micros(samples.estimate(key)), overhead(ratio)]);
        }
        table.add(cells);
    }
    let _ = writeln!(text, "{table}");
    xdp(text, samples, placement);
}

/// Native XDP costs on veth whatever the program does; what Sigil adds to that.
fn xdp(text: &mut String, samples: &Samples, placement: Placement) {
    let mut head = vec!["mode".to_owned()];
    let rows = || PAPER.iter().filter(|paper| !is_task(paper.row));
    head.extend(rows().map(|paper| paper.title.to_owned()));
    let mut table = Table::of(head);
    let of_xdp = mode::ALL.iter().filter(|mode| mode.floor() == PASS_XDP.id);
    for mode in of_xdp {
        let mut cells = vec![mode.title.to_owned()];
        for paper in rows() {
            let name = paper.row.name();
            cells.push(overhead(samples.ratio(key(&name, mode.id, placement), PASS_XDP.id)));
        }
        if cells.iter().skip(1).any(|cell| !cell.is_empty()) {
            table.add(cells);
        }
    }
    let _ = writeln!(text, "Over an XDP program that passes everything:\n\n{table}");
}

fn retries(text: &mut String, samples: &Samples) {
    let repeated: f64 = samples.series("repeated").map(|sample| sample.value).sum();
    if repeated > 0.0 {
        let _ = writeln!(
            text,
            "{repeated:.0} questions were repeated after a second without an answer.\n"
        );
    }
}
