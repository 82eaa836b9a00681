//! `labelctl alarms`.

use std::io::{self, Write};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use sigil_cluster::proto::{Alarm, AlarmsRequest};

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
    /// List the alarms that the server keeps
    List(Filter),
    /// List them, and print new ones as they come
    Follow(Filter),
}

#[derive(clap::Args)]
struct Filter {
    /// Only alarms above this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Only alarms about this node
    #[arg(long, value_name = "SNID")]
    node: Option<u32>,
    /// Only alarms of this kind
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    access: Access,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let (filter, follow) = match &args.command {
        Command::List(filter) => (filter, false),
        Command::Follow(filter) => (filter, true),
    };
    filter.access.with(|mut server| async move {
        let request = AlarmsRequest { follow, after: filter.after };
        let mut alarms = server.alarms(request).await.map_err(|e| refused(&e))?.into_inner();
        while let Some(alarm) = alarms.message().await.map_err(|e| refused(&e))? {
            let node = filter.node.is_none_or(|snid| alarm.snid == snid);
            let kind = filter.kind.as_ref().is_none_or(|kind| alarm.kind == *kind);
            if node && kind {
                print(&alarm, global)?;
            }
        }
        Ok(Answer::Yes)
    })
}

#[derive(Serialize)]
struct Row<'a> {
    number: u64,
    time: i64,
    snid: u32,
    kind: &'a str,
    message: &'a str,
}

fn print(alarm: &Alarm, global: &Global) -> Result<()> {
    let Alarm { number, time, snid, kind, message } = alarm;
    if global.output == Format::Table {
        let ago = span(seconds() - time);
        let node = if *snid == 0 { "-".to_owned() } else { snid.to_string() };
        writeln!(io::stdout(), "{number}  {ago} ago  node {node}  {kind}: {message}")?;
        return Ok(());
    }
    let (number, time, snid) = (*number, *time, *snid);
    output::json(Format::Jsonl, &Row { number, time, snid, kind, message })
}
