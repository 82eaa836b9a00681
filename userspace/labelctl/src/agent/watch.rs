//! `labelctl watch`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Result, bail};
use sigil_control::{Endpoint, Event, Reply, Request};

use super::{Asked, unexpected};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let mut asked = Asked::new(&global.socket, &Request::Watch)?;
    match asked.reply()? {
        // In one piece: others write to the same terminal.
        Reply::Watching { snid } => {
            io::stderr().write_all(format!("watching node {snid}\n").as_bytes())?;
        }
        other => return Err(unexpected(other)),
    }
    asked.wait_for_ever()?;
    let mut left = args.count;
    while left != Some(0) {
        match asked.next()? {
            Some(Reply::Event(event)) => {
                if global.output == Format::Table {
                    writeln!(io::stdout(), "{}", line(&event))?;
                } else {
                    output::json(Format::Jsonl, &event)?;
                }
                left = left.map(|left| left - 1);
            }
            Some(Reply::Missed { count }) => {
                writeln!(io::stderr(), "labelctl: too slow: missed {count} events here")?;
            }
            Some(other) => return Err(unexpected(other)),
            None => bail!("the agent has ended"),
        }
    }
    Ok(Answer::Yes)
}

/// In UTC: `[17:04:12.345678] drop ingress no-rule tcp two/web 10.77.0.2:40000 -> one/app 10.77.0.1:80 …`
fn line(event: &Event) -> String {
    let (seconds, micros) = (event.time_us / 1_000_000, event.time_us % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut line = format!(
        "[{hours:02}:{minutes:02}:{seconds:02}.{micros:06}] {:<8} {:<8} {:<17} {:<4} {} -> {}",
        event.kind.name(),
        event.hook,
        event.reason,
        event.protocol.as_deref().unwrap_or("-"),
        end(&event.source),
        end(&event.target),
    );
    // Writing to a string does not fail.
    if let Some(process) = &event.process {
        let _ = write!(line, ", process {} ({})", process.pid, process.comm);
    }
    if let Some(at) = event.line {
        let _ = write!(line, ", policy line {at}");
    }
    if event.suppressed > 0 {
        let _ = write!(line, ", {} more before", event.suppressed);
    }
    line
}

/// `two/web 10.77.0.2:80`: names where there are some, else ids, else `-`.
fn end(of: &Endpoint) -> String {
    let name = |name: &Option<String>, id: u32| match (name, id) {
        (Some(name), _) => name.clone(),
        (None, 0) => "-".to_owned(),
        (None, id) => id.to_string(),
    };
    let label = format!("{}/{}", name(&of.node, of.snid), name(&of.zone, of.scid));
    match (of.address, of.port) {
        (Some(address), Some(port)) => format!("{label} {address}:{port}"),
        (Some(address), None) => format!("{label} {address}"),
        (None, _) => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sigil_control::{EventKind, Process};
    use std::net::Ipv4Addr;

    #[test]
    fn a_line_says_who_whom_and_why() {
        let source = Endpoint {
            snid: 2,
            scid: 10,
            node: Some("two".to_owned()),
            zone: Some("web".to_owned()),
            address: Some(Ipv4Addr::new(10, 77, 0, 2)),
            port: Some(40000),
        };
        let drop = Event {
            time_ns: 12_345_678_901,
            time_us: 86_400_000_000 + 61_452_345_678,
            kind: EventKind::Drop,
            hook: "deliver".to_owned(),
            reason: "no-rule".to_owned(),
            protocol: Some("tcp".to_owned()),
            target: Endpoint {
                snid: 1,
                scid: 20,
                node: None,
                zone: None,
                port: Some(80),
                ..source.clone()
            },
            source,
            process: Some(Process { pid: 42, comm: "nginx".to_owned() }),
            line: Some(7),
            suppressed: 3,
        };
        let bare = Event {
            protocol: None,
            source: Endpoint::default(),
            target: Endpoint::default(),
            process: None,
            line: None,
            suppressed: 0,
            ..drop.clone()
        };
        insta::assert_snapshot!([line(&drop), line(&bare)].join("\n"));
    }
}
