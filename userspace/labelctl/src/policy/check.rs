//! `labelctl policy check`.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use sigil_policy::{Compiled, Policy, Report, Severity};

use super::{Document, counted, render};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};

#[derive(Serialize)]
struct Checked<'a> {
    ok: bool,
    file: &'a str,
    #[serde(flatten)]
    summary: Option<Summary<'a>>,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Summary<'a> {
    cluster: &'a str,
    serial: u64,
    nodes: usize,
    zones: usize,
    rules: usize,
}

#[derive(Serialize)]
struct Entry<'a> {
    severity: Severity,
    code: &'a str,
    line: u32,
    column: u32,
    message: &'a str,
    hint: Option<&'a str>,
}

pub(super) fn run(file: &Path, in_force: Option<u64>, global: &Global) -> Result<Answer> {
    let document = Document::read(file)?;
    let result = document.compile(in_force);
    let (policy, report) = match &result {
        Ok(Compiled { policy, warnings }) => (Some(policy), warnings),
        Err(report) => (None, report),
    };
    let summary = policy.map(summary);
    if global.output == Format::Table {
        render(report, global)?;
        say(&document.name, summary.as_ref(), report)?;
    } else {
        let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
        let diagnostics = entries(report);
        let ok = policy.is_some();
        output::json(
            global.output,
            &Checked { ok, file: &document.name, summary, errors, warnings, diagnostics },
        )?;
    }
    Ok(policy.is_some().into())
}

fn summary(policy: &Policy) -> Summary<'_> {
    Summary {
        cluster: &policy.cluster,
        serial: policy.serial,
        nodes: policy.nodes.len(),
        zones: policy.zones.len(),
        rules: policy.rules.len() + policy.transitions.len() + policy.relabels.len(),
    }
}

fn say(file: &str, summary: Option<&Summary<'_>>, report: &Report) -> Result<()> {
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let warned =
        if warnings == 0 { String::new() } else { format!(", {}", counted(warnings, "warning")) };
    match summary {
        Some(Summary { cluster, serial, nodes, zones, rules }) => {
            let parts = [counted(*nodes, "node"), counted(*zones, "zone"), counted(*rules, "rule")]
                .join(", ");
            writeln!(
                io::stdout(),
                "{file}: ok: cluster {cluster}, serial {serial}: {parts}{warned}"
            )?;
        }
        None => writeln!(io::stdout(), "{file}: refused: {}{warned}", counted(errors, "error"))?,
    }
    Ok(())
}

fn entries(report: &Report) -> Vec<Entry<'_>> {
    report
        .diagnostics
        .iter()
        .map(|one| {
            let (line, column) = one.position();
            Entry {
                severity: one.severity,
                code: one.code,
                line,
                column,
                message: &one.message,
                hint: one.hint.as_deref(),
            }
        })
        .collect()
}
