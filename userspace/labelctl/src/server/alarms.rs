//! `labelctl alarms`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use sigil_cluster::channel::ConnectError;
use sigil_cluster::proto::admin_client::AdminClient;
use sigil_cluster::proto::{ALARM_KINDS, AcknowledgeRequest, Alarm, AlarmsRequest, Party};
use sigil_common::verdict::DropReason;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::policy::{shown, time};
use super::{Access, Names, refused, seconds, span};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};
use crate::policy::scid;

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
    /// Acknowledge alarms, by number or by filter: they are listed no more; exit 1 if one is not there
    Ack {
        /// The alarms' numbers
        numbers: Vec<u64>,
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(clap::Args)]
struct Filter {
    /// Only alarms above this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Only alarms of the last so long: 90s, 10m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u32>,
    /// Only alarms about this node, by number or name
    #[arg(long)]
    node: Option<String>,
    /// Only alarms of this kind
    #[arg(long, value_parser = PossibleValuesParser::new(ALARM_KINDS))]
    kind: Option<String>,
    /// Only alarms about drops of this reason, as `labelctl stats --explain` lists them
    #[arg(long, value_parser = PossibleValuesParser::new(DropReason::ALL.iter().map(|one| one.name())))]
    #[arg(hide_possible_values = true)]
    reason: Option<String>,
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
    fn passes(&self, known: &Known, alarm: &Alarm) -> bool {
        let in_zone = |scid: u32| {
            let mut parties = [&alarm.source, &alarm.target].into_iter().flatten();
            parties.any(|party| party.scid == scid)
        };
        known.node.is_none_or(|snid| alarm.snid == snid)
            && self.kind.as_ref().is_none_or(|kind| alarm.kind == *kind)
            && self.reason.as_ref().is_none_or(|reason| alarm.reason == *reason)
            && known.zone.is_none_or(in_zone)
    }

    fn names_any(&self) -> bool {
        let named = [&self.node, &self.kind, &self.reason, &self.zone];
        self.after > 0 || self.since.is_some() || named.into_iter().any(Option::is_some)
    }

    fn request(&self, follow: bool, after: u64) -> AlarmsRequest {
        let since = self.since.map_or(0, |ago| seconds() - i64::from(ago));
        AlarmsRequest { follow, after, since, all: self.all }
    }
}

/// What the policy in force makes of a filter's words, and what it calls nodes.
struct Known {
    names: Names,
    node: Option<u32>,
    zone: Option<u32>,
}

impl Known {
    async fn of(filter: &Filter, server: &mut AdminClient<Channel>) -> Result<Self> {
        let names = Names::of(server).await?;
        let node = filter.node.as_ref().map(|word| names.snid(word)).transpose()?;
        let zone = match &filter.zone {
            Some(word) => Some(scid_of(word, server).await?),
            None => None,
        };
        Ok(Self { names, node, zone })
    }

    /// Prints an alarm that passes.
    fn print(&self, filter: &Filter, alarm: &Alarm, global: &Global) -> Result<()> {
        if !filter.passes(self, alarm) {
            return Ok(());
        }
        print(alarm, self.names.0.get(&alarm.snid).map(String::as_str), global)
    }
}

/// A zone's id. One that the policy in force does not name any more can be given by its number.
async fn scid_of(word: &str, server: &mut AdminClient<Channel>) -> Result<u32> {
    if let Ok(scid) = word.parse() {
        return Ok(scid);
    }
    let reply = shown(server, 0).await?;
    let policy = match sigil_policy::compile("the policy in force", &reply.document, None) {
        Ok(compiled) => compiled.policy,
        Err(report) => bail!("{report}"),
    };
    scid(&policy, word)
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    match &args.command {
        Command::List(filter) => {
            filter.access.with(|mut server| async move {
                let known = Known::of(filter, &mut server).await?;
                let request = filter.request(false, filter.after);
                each(&mut server, request, |alarm| known.print(filter, alarm, global))
                    .await?
                    .map_or(Ok(()), |end| Err(refused(&end)))
            })?;
            Ok(Answer::Yes)
        }
        Command::Follow(filter) => follow(filter, global),
        Command::Ack { numbers, filter } => acknowledge(numbers, filter, global),
    }
}

/// Does something with each alarm; why the server ended the list before its end, if it did.
async fn each(
    server: &mut AdminClient<Channel>,
    request: AlarmsRequest,
    mut act: impl FnMut(&Alarm) -> Result<()>,
) -> Result<Option<Status>> {
    let mut alarms = match server.alarms(request).await {
        Ok(alarms) => alarms.into_inner(),
        Err(end) => return Ok(Some(end)),
    };
    loop {
        match alarms.message().await {
            Ok(Some(alarm)) => act(&alarm)?,
            Ok(None) => return Ok(None),
            Err(end) => return Ok(Some(end)),
        }
    }
}

/// Goes on where it was whenever a server is there again.
fn follow(filter: &Filter, global: &Global) -> Result<Answer> {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut after = filter.after;
    let mut known = None;
    loop {
        let (last, held) = (&mut after, &mut known);
        let outcome = filter.access.with(|mut server| async move {
            let known = match held {
                Some(known) => known,
                None => held.insert(Known::of(filter, &mut server).await?),
            };
            let request = filter.request(true, *last);
            each(&mut server, request, |alarm| {
                *last = alarm.number.max(*last);
                known.print(filter, alarm, global)
            })
            .await
        });
        let why = match outcome {
            Ok(Some(end))
                if matches!(end.code(), Code::PermissionDenied | Code::Unauthenticated) =>
            {
                return Err(refused(&end));
            }
            Ok(end) => end.map_or_else(|| "it hung up".to_owned(), |end| end.message().to_owned()),
            Err(error) if known.is_some() && error.is::<ConnectError>() => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error),
        };
        writeln!(io::stderr(), "labelctl: the server is gone ({why}): waiting for it")?;
        std::thread::sleep(PAUSE);
    }
}

#[derive(Serialize)]
struct Acknowledged {
    count: u64,
}

fn acknowledge(numbers: &[u64], filter: &Filter, global: &Global) -> Result<Answer> {
    if numbers.is_empty() != filter.names_any() {
        bail!("name either numbers or a filter, such as --kind drop or --since 1h");
    }
    let (count, wanted) = filter.access.with(|mut server| async move {
        let mut chosen = numbers.to_vec();
        if numbers.is_empty() {
            let known = Known::of(filter, &mut server).await?;
            let request = AlarmsRequest { all: false, ..filter.request(false, filter.after) };
            let end = each(&mut server, request, |alarm| {
                if filter.passes(&known, alarm) {
                    chosen.push(alarm.number);
                }
                Ok(())
            });
            if let Some(end) = end.await? {
                return Err(refused(&end));
            }
        }
        let wanted = chosen.len();
        let request = AcknowledgeRequest { numbers: chosen };
        let reply = server.acknowledge(request).await.map_err(|e| refused(&e))?;
        Ok((reply.into_inner().count, wanted))
    })?;
    if global.output == Format::Table {
        writeln!(io::stdout(), "{count} acknowledged")?;
    } else {
        output::json(global.output, &Acknowledged { count })?;
    }
    Ok((usize::try_from(count)? >= wanted).into())
}

#[derive(Serialize)]
struct Row<'a> {
    number: u64,
    time: i64,
    snid: u32,
    node: Option<&'a str>,
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

fn print(alarm: &Alarm, node: Option<&str>, global: &Global) -> Result<()> {
    let Alarm { number, time, snid, kind, message, count, .. } = alarm;
    if global.output == Format::Table {
        let ago = span(seconds() - time);
        let node = match (snid, node) {
            (0, _) => "-".to_owned(),
            (snid, Some(name)) => format!("{name} ({snid})"),
            (snid, None) => snid.to_string(),
        };
        let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
        writeln!(io::stdout(), "{number}  {ago} ago  node {node}  {kind}: {message}{times}")?;
        return Ok(());
    }
    let row = Row {
        number: *number,
        time: *time,
        snid: *snid,
        node,
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
