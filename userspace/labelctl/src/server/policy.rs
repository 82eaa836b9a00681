//! `labelctl policy push`, `status`, `confirm` and `revert`, and `labelctl keys rotate`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use sigil_cluster::proto::admin_client::AdminClient;
use sigil_cluster::proto::{
    Change, ConfirmRequest, NodeStatus, PushRequest, RotateRequest, ShowReply, ShowRequest,
    StatusReply, StatusRequest,
};
use sigil_policy::Compiled;
use tonic::transport::Channel;

use super::node::Row;
use super::{Access, refused, seconds, span};
use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};
use crate::policy::{Document, render, snid};

#[derive(clap::Args)]
pub(crate) struct PushArgs {
    /// The document, or `-` for stdin
    file: PathBuf,
    /// Say what would be gained and lost; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Try it on these nodes only, by number or name; they go back unless it is confirmed
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    canary: Vec<String>,
    /// How long a canary waits for `labelctl policy confirm`: 60s (the default), 10m; without
    /// `--canary`, all nodes are canaries
    #[arg(long, value_name = "TIME", value_parser = time)]
    confirm_within: Option<u32>,
    #[command(flatten)]
    access: Access,
}

/// How long a trial lasts where nobody says so, in seconds.
const CONFIRM_WITHIN: u32 = 60;

pub(super) fn time(text: &str) -> Result<u32, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let split = |(unit, seconds): (char, u32)| Some((text.strip_suffix(unit)?, seconds));
    let (digits, unit) = units.into_iter().find_map(split).unwrap_or((text, 1));
    let number = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "a time is like 60s, 10m, 2h or 1d".to_owned())
}

#[derive(Default, Serialize)]
struct Pushed {
    accepted: bool,
    dry_run: bool,
    revision: u64,
    serial: u64,
    /// Why not, where it is refused.
    report: String,
    changes: Vec<Changed>,
    more: u64,
}

#[derive(Serialize)]
struct Changed {
    source: Option<String>,
    target: Option<String>,
    gained: bool,
    what: String,
    text: String,
}

pub(crate) fn push(args: &PushArgs, global: &Global) -> Result<Answer> {
    let document = Document::read(&args.file)?;
    let policy = match document.compile(None) {
        Ok(Compiled { policy, warnings }) => {
            render(&warnings, global)?;
            policy
        }
        Err(report) => {
            render(&report, global)?;
            let refused =
                Pushed { dry_run: args.dry_run, report: report.to_string(), ..Pushed::default() };
            say(&refused, false, global)?;
            return Ok(Answer::No);
        }
    };
    let canary: Vec<u32> = if args.canary.is_empty() && args.confirm_within.is_some() {
        policy.nodes.iter().map(|node| node.snid).collect()
    } else {
        args.canary.iter().map(|word| snid(&policy, word)).collect::<Result<_>>()?
    };
    let trial = !canary.is_empty();
    let request = PushRequest {
        name: document.name,
        document: document.bytes,
        dry_run: args.dry_run,
        canary,
        confirm_seconds: args.confirm_within.unwrap_or(CONFIRM_WITHIN),
    };
    let reply = args.access.with(|mut server| async move {
        Ok(server.push(request).await.map_err(|e| refused(&e))?.into_inner())
    })?;
    if !reply.report.is_empty() {
        writeln!(io::stderr(), "{}", reply.report)?;
    }
    let changes = reply.changes.iter().map(changed).collect();
    let pushed = Pushed {
        accepted: reply.accepted,
        dry_run: args.dry_run,
        revision: reply.revision,
        serial: reply.serial,
        report: reply.report,
        changes,
        more: reply.more,
    };
    say(&pushed, trial, global)?;
    Ok(reply.accepted.into())
}

fn changed(change: &Change) -> Changed {
    let label = |snid, scid| (snid != 0).then(|| format!("{snid}:{scid}"));
    Changed {
        source: label(change.source_snid, change.source_scid),
        target: label(change.target_snid, change.target_scid),
        gained: change.gained,
        what: change.what.clone(),
        text: change.text.clone(),
    }
}

fn say(pushed: &Pushed, trial: bool, global: &Global) -> Result<()> {
    if global.output != Format::Table {
        return output::json(global.output, pushed);
    }
    let mut out = io::stdout().lock();
    for change in &pushed.changes {
        let sign = if change.gained { '+' } else { '-' };
        writeln!(out, "{sign} {}", change.text)?;
    }
    if pushed.more > 0 {
        writeln!(out, "and {} more", pushed.more)?;
    }
    if pushed.accepted && pushed.dry_run && pushed.changes.is_empty() {
        writeln!(out, "no difference in what is allowed")?;
    }
    if !pushed.accepted {
        writeln!(io::stderr(), "labelctl: refused")?;
    } else if pushed.dry_run {
        writeln!(io::stderr(), "labelctl: nothing was changed")?;
    } else {
        let trial = if trial { ", on trial" } else { "" };
        writeln!(out, "serial {} is revision {}{trial}", pushed.serial, pushed.revision)?;
    }
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct ShowArgs {
    /// The revision that is on trial, instead of what is in force
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Shown {
    revision: u64,
    serial: u64,
    document: String,
}

/// The document of a revision; 0 is the one in force.
pub(super) async fn shown(server: &mut AdminClient<Channel>, revision: u64) -> Result<ShowReply> {
    Ok(server.show(ShowRequest { revision }).await.map_err(|e| refused(&e))?.into_inner())
}

/// What the server has in force.
pub(crate) fn in_force(access: &Access) -> Result<Document> {
    let reply = access.with(|mut server| async move { shown(&mut server, 0).await })?;
    Ok(Document { name: format!("revision {}", reply.revision), bytes: reply.document })
}

pub(crate) fn show(args: &ShowArgs, global: &Global) -> Result<Answer> {
    let revision = args.revision.unwrap_or(0);
    let reply = args.access.with(|mut server| async move { shown(&mut server, revision).await })?;
    if global.output == Format::Table {
        io::stdout().write_all(&reply.document)?;
    } else {
        let (revision, serial) = (reply.revision, reply.serial);
        let document = String::from_utf8(reply.document)?;
        output::json(global.output, &Shown { revision, serial, document })?;
    }
    Ok(Answer::Yes)
}

#[derive(clap::Args)]
pub(crate) struct ConcludeArgs {
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Concluded {
    kept: bool,
    revision: u64,
}

pub(crate) fn conclude(args: &ConcludeArgs, keep: bool, global: &Global) -> Result<Answer> {
    let reply = args.access.with(|mut server| async move {
        let request = ConfirmRequest { keep };
        Ok(server.confirm(request).await.map_err(|e| refused(&e))?.into_inner())
    })?;
    if global.output != Format::Table {
        output::json(global.output, &Concluded { kept: keep, revision: reply.revision })?;
        return Ok(Answer::Yes);
    }
    let what = if keep { "confirmed" } else { "reverted" };
    writeln!(io::stdout(), "{what}; revision {} goes to all nodes", reply.revision)?;
    Ok(Answer::Yes)
}

#[derive(clap::Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Rotated {
    epoch: u32,
}

pub(crate) fn rotate(args: &RotateArgs, global: &Global) -> Result<Answer> {
    let reply = args.access.with(|mut server| async move {
        Ok(server.rotate(RotateRequest {}).await.map_err(|e| refused(&e))?.into_inner())
    })?;
    if global.output != Format::Table {
        output::json(global.output, &Rotated { epoch: reply.epoch })?;
        return Ok(Answer::Yes);
    }
    writeln!(io::stdout(), "epoch {} follows as soon as all nodes accept it", reply.epoch)?;
    Ok(Answer::Yes)
}

#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Said<'a> {
    cluster: &'a str,
    revision: u64,
    serial: u64,
    canary: u64,
    canary_ends: i64,
    keys: u64,
    epochs: &'a [u32],
    stamp: u32,
    nodes: Vec<Row<'a>>,
}

pub(crate) fn status(args: &StatusArgs, global: &Global) -> Result<Answer> {
    let status = args.access.with(|mut server| async move {
        Ok(server.status(StatusRequest {}).await.map_err(|e| refused(&e))?.into_inner())
    })?;
    if global.output == Format::Table {
        print(&status)?;
    } else {
        let said = Said {
            cluster: &status.cluster,
            revision: status.revision,
            serial: status.serial,
            canary: status.canary,
            canary_ends: status.canary_ends,
            keys: status.keys,
            epochs: &status.epochs,
            stamp: status.stamp,
            nodes: status.nodes.iter().map(Row::of).collect(),
        };
        output::json(global.output, &said)?;
    }
    let enrolled = status.nodes.iter().filter(|node| node.state == "enrolled");
    Ok(enrolled.clone().all(|node| lag(node, &status).is_none()).into())
}

/// Why a node is not where it should be.
fn lag(node: &NodeStatus, status: &StatusReply) -> Option<String> {
    let away = || match node.seen {
        0 => "never attached".to_owned(),
        seen => format!("away for {}", span(seconds() - seen)),
    };
    let late = node.revision < node.wanted || node.keys < status.keys;
    match (node.attached, late) {
        _ if !node.problem.is_empty() => Some(node.problem.clone()),
        (false, _) => Some(away()),
        (true, true) => Some("on its way".to_owned()),
        (true, false) => None,
    }
}

fn print(status: &StatusReply) -> Result<()> {
    let mut out = io::stdout().lock();
    let (cluster, serial, revision) = (&status.cluster, status.serial, status.revision);
    writeln!(out, "cluster {cluster}: serial {serial}, revision {revision}")?;
    if status.canary != 0 {
        let left = span(status.canary_ends - seconds());
        writeln!(out, "revision {} is on trial for another {left}", status.canary)?;
    }
    let epochs: Vec<_> = status.epochs.iter().map(ToString::to_string).collect();
    writeln!(out, "keys: epochs {}, stamped with {}", epochs.join(" "), status.stamp)?;
    let mut table = Table::new(&["NODE", "NAME", "SERIAL", "REVISION", "STATE"]);
    for node in status.nodes.iter().filter(|node| node.state != "revoked") {
        let state = match node.state.as_str() {
            "enrolled" => lag(node, status).unwrap_or_else(|| "in force".to_owned()),
            "token" => "not joined yet".to_owned(),
            _ => "not enrolled".to_owned(),
        };
        let number = |number: u64| if number == 0 { "-".to_owned() } else { number.to_string() };
        let row = [
            node.snid.to_string(),
            node.name.clone(),
            number(node.serial),
            number(node.revision),
            state,
        ];
        table.row(row);
    }
    table.print(&mut out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_have_units() {
        assert_eq!((time("60s"), time("5"), time("2m")), (Ok(60), Ok(5), Ok(120)));
        assert_eq!((time("2h"), time("1d")), (Ok(7200), Ok(86_400)));
        for bad in ["", "0s", "-1s", "1w", "h", "99999999999s", "80000000m"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
