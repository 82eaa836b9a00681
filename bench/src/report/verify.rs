//! First executions of signed programs.

use std::fmt::Write as _;

use super::cells::grouped;
use crate::markdown::Table;
use crate::measure::{CACHED, FIRST, SIZES};
use crate::samples::Samples;

pub(super) fn tables(samples: &Samples) -> String {
    let mut text = String::new();
    let mut table =
        Table::new(["program, MiB", "first exec, µs", "again, µs", "verification, µs per MiB"]);
    let mut any = false;
    for size in SIZES {
        let at = size.to_string();
        let of = |mode| samples.estimate(["verify", "exec", mode, &at]);
        let (Some(first), Some(again)) = (of(FIRST), of(CACHED)) else { continue };
        // Round by round: both executions of one file are neighbours in time.
        let Some(more) = samples.difference(["verify", "exec", FIRST, &at], CACHED) else {
            continue;
        };
        any = true;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let per_mib = more.median / 1e3 / size as f64;
        table.row([
            at.clone(),
            grouped(first.median / 1e3),
            grouped(again.median / 1e3),
            grouped(per_mib),
        ]);
    }
    if any {
        let _ = writeln!(
            text,
            "## Signed programs\n\nFrom the start of a program to its end, the first time and again; the file is in \
             the page cache. In between lies what the verification of its content and signature takes.\n\n{table}"
        );
    }
    text
}
