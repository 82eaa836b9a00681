//! Tables of throughput.

use std::fmt::Write as _;

use super::cells::{grouped, share};
use super::kernel::{names, number};
use crate::markdown::Table;
use crate::mode::{self, PASS_XDP, PLAIN};
use crate::samples::Samples;

pub(super) fn tables(samples: &Samples) -> String {
    let mut text = String::new();
    if samples.series("throughput").next().is_none() {
        return text;
    }
    text.push_str(
        "## Throughput\n\nClient on CPU 0, server on CPU 1, over one veth pair. Behind each figure the share \
         of it that is left of what no programs leave; in XDP mode of what an XDP program that passes \
         everything leaves, which has every frame cut into segments.\n\n",
    );
    for (row, title, scale, digits) in [
        ("stream", "TCP streams of 64 KiB writes, Gbit/s of payload", 1e9, 2),
        ("packets", "UDP packets delivered, thousands a second", 1e3, 0),
        ("connections", "TCP connections opened and closed one after the other, a second", 1.0, 0),
    ] {
        let places: Vec<_> = names(samples, "throughput", |sample| &sample.at)
            .into_iter()
            .filter(|at| samples.estimate(["throughput", row, PLAIN.id, at]).is_some())
            .collect();
        let mut head = vec!["mode".to_owned()];
        head.extend(places.iter().map(|at| column(at)));
        let mut table = Table::of(head);
        for mode in mode::ALL {
            let mut cells = vec![mode.title.to_owned()];
            for at in &places {
                let key = ["throughput", row, mode.id, at];
                let Some(rate) = samples.estimate(key) else {
                    cells.push(String::new());
                    continue;
                };
                let figure = if digits == 0 {
                    grouped(rate.median / scale)
                } else {
                    format!("{:.digits$}", rate.median / scale)
                };
                let base = mode.floor();
                let share = if mode.id == base || mode == PASS_XDP {
                    None
                } else {
                    samples.ratio(key, base)
                };
                cells.push(format!("{figure} {}", share_of(share)).trim().to_owned());
            }
            if cells.iter().skip(1).any(|cell| !cell.is_empty()) {
                table.add(cells);
            }
        }
        let _ = writeln!(text, "### {title}\n\n{table}");
    }
    text
}

/// `flows=4 mtu=1500` as people read it.
fn column(at: &str) -> String {
    let flows = number(at, "flows").unwrap_or(1.0);
    let mut text = format!("{flows:.0} flow{}", if flows > 1.0 { "s" } else { "" });
    if let Some(mtu) = number(at, "mtu") {
        let _ = write!(text, ", MTU {mtu:.0}");
    }
    if let Some(bytes) = number(at, "bytes") {
        let _ = write!(text, ", {bytes:.0} B");
    }
    text
}

fn share_of(ratio: Option<crate::samples::Estimate>) -> String {
    match share(ratio) {
        text if text.is_empty() => text,
        text => format!("× {text}"),
    }
}
