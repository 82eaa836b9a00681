//! `labelctl alarms`.

use std::io::{self, Write};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use sigil_cluster::proto::{AcknowledgeRequest, Alarm, AlarmsRequest, Party};

use super::policy::time;
use super::{Access, refused, seconds, span};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the alarms that the server keeps and nobody acknowledged
    List(Filter),
    /// List them, and print new ones as they come
    Follow(Filter),
    /// Acknowledge alarms: they are listed no more; exit 1 if one is not there
    Ack {
        /// The alarms' numbers
        #[arg(required = true)]
        numbers: Vec<u64>,
        #[command(flatten)]
        access: Access,
    },
}

#[derive(clap::Args)]
struct Filter {
    /// Only alarms above this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Only alarms of the last so long: 90s, 10m
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u32>,
    /// Only alarms about this node
    #[arg(long, value_name = "SNID")]
    node: Option<u32>,
    /// Only alarms of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only alarms whose source or target is in this zone, by number or name
    #[arg(long)]
    zone: Option<String>,
    /// Acknowledged ones as well
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    access: Access,
}

impl Filter {
    fn passes(&self, alarm: &Alarm) -> bool {
        let in_zone = |zone: &String| {
            let parties = [&alarm.source, &alarm.target].into_iter().flatten();
            let id = zone.parse::<u32>().ok();
            parties.into_iter().any(|party| Some(party.scid) == id || party.zone == *zone)
        };
        self.node.is_none_or(|snid| alarm.snid == snid)
            && self.kind.as_ref().is_none_or(|kind| alarm.kind == *kind)
            && self.zone.as_ref().is_none_or(in_zone)
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let (filter, follow) = match &args.command {
        Command::List(filter) => (filter, false),
        Command::Follow(filter) => (filter, true),
        Command::Ack { numbers, access } => return acknowledge(numbers, access),
    };
    filter.access.with(|mut server| async move {
        let since = filter.since.map_or(0, |ago| seconds() - i64::from(ago));
        let request = AlarmsRequest { follow, after: filter.after, since, all: filter.all };
        let mut alarms = server.alarms(request).await.map_err(|e| refused(&e))?.into_inner();
        while let Some(alarm) = alarms.message().await.map_err(|e| refused(&e))? {
            if filter.passes(&alarm) {
                print(&alarm, global)?;
            }
        }
        Ok(Answer::Yes)
    })
}

fn acknowledge(numbers: &[u64], access: &Access) -> Result<Answer> {
    let request = AcknowledgeRequest { numbers: numbers.to_vec() };
    let count = access.with(|mut server| async move {
        Ok(server.acknowledge(request).await.map_err(|e| refused(&e))?.into_inner().count)
    })?;
    writeln!(io::stdout(), "{count} acknowledged")?;
    Ok((usize::try_from(count)? >= numbers.len()).into())
}

#[derive(Serialize)]
struct Row<'a> {
    number: u64,
    time: i64,
    snid: u32,
    kind: &'a str,
    message: &'a str,
    count: u64,
    hook: &'a str,
    reason: &'a str,
    source: Option<End<'a>>,
    target: Option<End<'a>>,
    node_number: u64,
    acknowledged: &'a str,
}

#[derive(Serialize)]
struct End<'a> {
    snid: u32,
    scid: u32,
    zone: &'a str,
}

impl<'a> End<'a> {
    fn of(party: &'a Party) -> Self {
        Self { snid: party.snid, scid: party.scid, zone: &party.zone }
    }
}

fn print(alarm: &Alarm, global: &Global) -> Result<()> {
    let Alarm { number, time, snid, kind, message, count, .. } = alarm;
    if global.output == Format::Table {
        let ago = span(seconds() - time);
        let node = if *snid == 0 { "-".to_owned() } else { snid.to_string() };
        let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
        writeln!(io::stdout(), "{number}  {ago} ago  node {node}  {kind}: {message}{times}")?;
        return Ok(());
    }
    let row = Row {
        number: *number,
        time: *time,
        snid: *snid,
        kind,
        message,
        count: *count,
        hook: &alarm.hook,
        reason: &alarm.reason,
        source: alarm.source.as_ref().map(End::of),
        target: alarm.target.as_ref().map(End::of),
        node_number: alarm.node_number,
        acknowledged: &alarm.acknowledged,
    };
    output::json(Format::Jsonl, &row)
}
