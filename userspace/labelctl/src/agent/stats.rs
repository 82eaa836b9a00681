//! `labelctl stats`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use sigil_common::verdict::{DropReason, Hook};
use sigil_control::{Pair, Reply, Request, Stats};

use super::{ask, unexpected};
use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show hooks and reasons that never counted too
    #[arg(long)]
    all: bool,
    /// Say what each reason means
    #[arg(long)]
    explain: bool,
}

/// The counters, and what the reasons in them mean if that was asked for.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    stats: &'a Stats,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<BTreeMap<&'a str, &'static str>>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let mut stats = match ask(&global.socket, &Request::Stats)? {
        Reply::Stats(stats) => stats,
        other => return Err(unexpected(other)),
    };
    if args.all {
        complete(&mut stats);
    }
    if global.output == Format::Table {
        print(&stats, args, &mut io::stdout().lock())?;
    } else {
        let reasons = args.explain.then(|| reasons(&stats));
        output::json(global.output, &Shown { stats: &stats, reasons })?;
    }
    Ok(Answer::Yes)
}

/// Adds what never counted.
fn complete(stats: &mut Stats) {
    for hook in Hook::ALL {
        let row = stats.hooks.entry(hook.name().to_owned()).or_default();
        for reason in DropReason::ALL {
            row.dropped.entry(reason.name().to_owned()).or_default();
        }
    }
}

fn reasons(stats: &Stats) -> BTreeMap<&str, &'static str> {
    let rows = stats.hooks.values().flat_map(|row| row.dropped.keys());
    let names: BTreeSet<_> = rows.chain(stats.pairs.iter().map(|pair| &pair.reason)).collect();
    names.into_iter().map(|name| (name.as_str(), meaning(name))).collect()
}

fn meaning(reason: &str) -> &'static str {
    let known = DropReason::ALL.iter().find(|known| known.name() == reason);
    known.map_or("", |reason| reason.help().trim())
}

fn print(stats: &Stats, args: &Args, to: &mut impl Write) -> io::Result<()> {
    let mut hooks = Table::new(&["HOOK", "SEEN", "ACCEPTED", "DROPPED"]);
    for (hook, row) in &stats.hooks {
        if row.seen == 0 && !args.all {
            continue;
        }
        let dropped: u64 = row.dropped.values().sum();
        hooks.row([
            hook.clone(),
            row.seen.to_string(),
            row.accepted.to_string(),
            dropped.to_string(),
        ]);
    }
    if hooks.is_empty() {
        return writeln!(to, "nothing was judged yet");
    }
    hooks.print(to)?;
    let observed: u64 = stats.hooks.values().map(|row| row.observed).sum();
    if observed > 0 {
        writeln!(to, "\n{observed} of them passed only because the agent observes")?;
    }

    let last = if args.explain { "MEANING" } else { "" };
    let meaning =
        |reason: &str| if args.explain { meaning(reason).to_owned() } else { String::new() };
    let mut reasons = Table::new(&["HOOK", "REASON", "COUNT", last]);
    for (hook, row) in &stats.hooks {
        for (reason, count) in &row.dropped {
            reasons.row([hook.clone(), reason.clone(), count.to_string(), meaning(reason)]);
        }
    }
    let mut pairs = Table::new(&["FROM NODE", "HOOK", "REASON", "COUNT"]);
    for Pair { snid, node, hook, reason, count } in &stats.pairs {
        let unnamed = || if *snid == 0 { "unknown".to_owned() } else { snid.to_string() };
        let node = node.clone().unwrap_or_else(unnamed);
        pairs.row([node, hook.clone(), reason.clone(), count.to_string()]);
    }
    for table in [reasons, pairs] {
        if !table.is_empty() {
            writeln!(to)?;
            table.print(to)?;
        }
    }
    let events = stats.events;
    writeln!(
        to,
        "\nevents: {} sent, {} lost, {} suppressed",
        events.sent, events.lost, events.suppressed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_control::{Counts, Events};

    fn stats() -> Stats {
        let row = |seen, dropped: &[(&str, u64)]| Counts {
            seen,
            accepted: seen - dropped.iter().map(|(_, count)| count).sum::<u64>(),
            observed: 0,
            dropped: dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        };
        let pair = |snid, reason: &str, count| Pair {
            snid,
            node: (snid == 2).then(|| "two".to_owned()),
            hook: "ingress".to_owned(),
            reason: reason.to_owned(),
            count,
        };
        Stats {
            hooks: BTreeMap::from([
                ("egress".to_owned(), row(120, &[])),
                ("ingress".to_owned(), row(98_304, &[("bad-icv", 2), ("replay", 17)])),
                ("loopback".to_owned(), row(0, &[])),
            ]),
            pairs: vec![pair(0, "bad-icv", 2), pair(2, "replay", 17)],
            events: Events { sent: 3, lost: 0, suppressed: 16 },
        }
    }

    fn shown(stats: &Stats, all: bool, explain: bool) -> String {
        let mut text = Vec::new();
        print(stats, &Args { all, explain }, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_table_shows_what_counted() {
        insta::assert_snapshot!(shown(&stats(), false, false));
    }

    #[test]
    fn the_table_explains() {
        insta::assert_snapshot!(shown(&stats(), false, true));
    }

    #[test]
    fn all_means_every_hook_and_reason() {
        let mut stats = stats();
        complete(&mut stats);
        assert_eq!(stats.hooks.len(), Hook::ALL.len());
        assert!(stats.hooks.values().all(|row| row.dropped.len() == DropReason::ALL.len()));
        let text = shown(&stats, true, false);
        assert!(text.lines().any(|line| line.starts_with("handover  no-policy")), "{text}");
    }

    #[test]
    fn before_the_first_packet_there_is_nothing_to_show() {
        assert_eq!(shown(&Stats::default(), false, false), "nothing was judged yet\n");
    }
}
