//! The block of a document that is made of a results folder.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::cells::{micros, nanos, overhead, percent};
use super::latency::{PAPER, is_task, key};
use super::peers::{ROWS, frame};
use crate::end::{Placement, Row};
use crate::environment::Environment;
use crate::markdown::Table;
use crate::measure::{INSTRUCTIONS, SCALAR, SIGIL};
use crate::mode::{BESIDE, LABEL_TC, PASS_XDP, PLAIN, SIPHASH_TC, SIPHASH_XDP};
use crate::samples::Samples;

/// Where the block begins; the folder's path and ` -->` follow.
const BEGIN: &str = "<!-- measured: ";
/// Where it ends.
const END: &str = "<!-- measured, end -->";

/// Replaces the block in a document.
///
/// # Errors
/// The document has no such block, or the folder cannot be read.
pub fn update(document: &Path, folder: &Path) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let (before, _, after) = split(&text)?;
    // Documents name the folder as seen from themselves.
    let base = document.parent().unwrap_or(Path::new(""));
    let name = folder.strip_prefix(base).unwrap_or(folder).display().to_string();
    let name = name.trim_end_matches('/');
    let block = render(folder, name)?;
    Ok(fs::write(document, format!("{before}{BEGIN}{name} -->\n{block}{END}{after}"))?)
}

/// The folder that a document's block names, and the block as it stands there.
///
/// # Errors
/// The document has no such block.
pub fn block(text: &str) -> Result<(&str, &str)> {
    let (_, block, _) = split(text)?;
    let block = block.strip_prefix(BEGIN).and_then(|block| block.strip_suffix(END));
    block.and_then(|block| block.split_once(" -->\n")).context("a broken block of figures")
}

fn split(text: &str) -> Result<(&str, &str, &str)> {
    let start = text.find(BEGIN).context("no block of figures")?;
    let (before, rest) = text.split_at(start);
    let end = rest.find(END).context("a block of figures without an end")? + END.len();
    let (block, after) = rest.split_at(end);
    Ok((before, block, after))
}

/// The block of a folder, which the document calls by this name.
///
/// # Errors
/// The folder cannot be read.
pub fn render(folder: &Path, name: &str) -> Result<String> {
    let (samples, environment) = (Samples::read(folder)?, Environment::read(folder)?);
    let Environment { date, kernel, cpus, .. } = &environment;
    let mut text = String::new();
    let _ = write!(
        text,
        "Measured on {date} with Linux {kernel} on a machine of {cpus} CPUs ([all of it]({name}/summary.md)). \
         LMBench's loops in microseconds, beside the overhead that the paper's kernel module had in 2004, \
         without authentication; medians, with 95 % intervals; `~` marks rows that are noisier than \
         their difference.\n\n"
    );
    let mut tasks = Table::new(["processes, files", "paper", "no Sigil", "Sigil"]);
    let mut network = Table::new([
        "network, over veth",
        "paper",
        "no Sigil",
        "label only, TC",
        "SipHash, TC",
        "SipHash, XDP",
        "the same, over an XDP program that passes everything",
    ]);
    for paper in &PAPER {
        let name = paper.row.name();
        let over = |mode, base| overhead(samples.ratio(key(&name, mode, Placement::Pinned), base));
        let title = paper.title.to_owned();
        let theirs = paper
            .overhead()
            .map_or_else(|| "heavy".to_owned(), |percent| format!("+{percent:.1} %"));
        let plain = micros(samples.estimate(key(&name, PLAIN.id, Placement::Pinned)));
        if is_task(paper.row) {
            tasks.row([title, theirs, plain, over(SIGIL, PLAIN.id)]);
        } else {
            network.row([
                title,
                theirs,
                plain,
                over(LABEL_TC.id, PLAIN.id),
                over(SIPHASH_TC.id, PLAIN.id),
                over(SIPHASH_XDP.id, PLAIN.id),
                over(SIPHASH_XDP.id, PASS_XDP.id),
            ]);
        }
    }
    let _ = writeln!(text, "{tasks}\n{network}");
    let udp = Row::Udp.name();
    if let Some(ratio) = samples.ratio(key(&udp, BESIDE.id, Placement::Pinned), PLAIN.id) {
        let _ = writeln!(
            text,
            "Here two nodes are on one machine, and the agent of each sees every call that moves data over a socket: \
             a single agent, as on a node of a cluster, adds {} to a UDP round trip that it has no other part \
             in, and Sigil's rows hold that twice.\n",
            overhead(Some(ratio))
        );
    }
    text.push_str(&programs(&samples));
    text.push_str(&peers(&samples, &environment));
    let _ = writeln!(text, "![Overhead beside the paper's]({name}/plots/overhead.svg)");
    Ok(text)
}

fn programs(samples: &Samples) -> String {
    let mut table = Table::new([
        "ns per packet in the kernel",
        "empty program",
        "label only",
        "SipHash",
        "BLAKE3",
        "HMAC-SHA-256",
    ]);
    for (program, empty) in
        [("tc_stamp", "empty TC"), ("tc_verify", "empty TC"), ("xdp_verify", "empty XDP")]
    {
        let of = |suite| nanos(samples.estimate(["program", program, suite, "rules=10"]));
        let cells = [
            format!("`{program}`"),
            nanos(samples.estimate(["program", empty, "empty", ""])),
            of("label only"),
            of("siphash-2-4-96"),
            of("blake3-96"),
            of("hmac-sha256-96"),
        ];
        if cells.iter().skip(1).any(|cell| !cell.is_empty()) {
            table.row(cells);
        }
    }
    format!("{table}\n")
}

fn peers(samples: &Samples, environment: &Environment) -> String {
    let Some(guest) = environment.guests.get(SCALAR) else { return String::new() };
    let mut table =
        Table::new(["instructions of a round trip, beside no Sigil", "UDP", "TCP", "frame, bytes"]);
    for row in &ROWS {
        let over = |of| percent(samples.ratio([INSTRUCTIONS, of, row.mode.id, row.at], PLAIN.id));
        let cells = [
            row.mode.title.to_owned(),
            over("udp"),
            over("tcp"),
            frame(samples, row.mode.id, row.at),
        ];
        if cells.iter().skip(1).any(|cell| !cell.is_empty()) {
            table.row(cells);
        }
    }
    format!(
        "Beside the kernel's own, in Linux {} emulated by {}: instructions, not time, and all of them scalar.\n\n{table}\n",
        guest.kernel,
        guest.emulator.split(',').next().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_and_nothing_else_is() {
        let text = format!("a\n{BEGIN}bench/results/x -->\nfigures\n{END}\nb\n");
        assert_eq!(block(&text).unwrap(), ("bench/results/x", "figures\n"));
        assert!(block("nothing").is_err());
    }
}
