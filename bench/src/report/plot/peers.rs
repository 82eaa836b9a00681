//! Overheads of Sigil and its peers in a stock kernel, in instructions.

use super::overhead::{Bar, Overheads};
use crate::measure::INSTRUCTIONS;
use crate::mode::PLAIN;
use crate::report::peers::ROWS;
use crate::samples::Samples;

pub(super) fn of(samples: &Samples) -> Option<Overheads> {
    let mut groups = Vec::new();
    for row in &ROWS {
        let ratio = |of| samples.ratio([INSTRUCTIONS, of, row.mode.id, row.at], PLAIN.id);
        let bars: Vec<_> = [ratio("udp"), ratio("tcp")]
            .into_iter()
            .enumerate()
            .filter_map(|(style, ratio)| ratio.map(|ratio| Bar::of(style, ratio)))
            .collect();
        if !bars.is_empty() {
            groups.push((row.name, bars));
        }
    }
    (!groups.is_empty()).then_some(Overheads {
        title: "Instructions of a round trip, over no programs",
        subtitle: "4 bytes there and back between two namespaces, all of both ends; an emulated machine with scalar instructions: not time",
        names: &["UDP", "TCP"],
        groups,
    })
}
