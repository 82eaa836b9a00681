//! `labelctl status`.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use sigil_control::{Reply, Request, Status};

use super::{ask, connect, unexpected};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Wait until the agent is there, at most so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    wait(Duration::from_secs(args.wait.unwrap_or(0)), global);
    let status = match ask(&global.socket, &Request::Status)? {
        Reply::Status(status) => status,
        other => return Err(unexpected(other)),
    };
    if global.output == Format::Table {
        print(&status)?;
    } else {
        output::json(global.output, &status)?;
    }
    Ok(status.problems.is_empty().into())
}

/// Until the socket can be reached, or time is up; why it cannot is said by the request itself.
fn wait(most: Duration, global: &Global) {
    const PAUSE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    while start.elapsed() < most && connect(&global.socket).is_err() {
        sleep(PAUSE);
    }
}

fn print(status: &Status) -> io::Result<()> {
    let node = match &status.node {
        Some(name) => format!("{name} (SnID {})", status.snid),
        None => status.snid.to_string(),
    };
    let attached: Vec<_> = status
        .attached
        .iter()
        .map(|at| format!("{} ({}, {})", at.interface, at.mode, at.hook))
        .collect();
    let keys: Vec<_> = status
        .keys
        .iter()
        .map(|keys| {
            let stamps = if keys.stamps { ", stamps" } else { "" };
            format!("{} ({}, {} pairs{stamps})", keys.key_id, keys.suite, keys.pairs)
        })
        .collect();
    let spare = status.spare_epochs.map_or_else(String::new, |spare| format!("; {spare} spare"));
    let or_none =
        |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let state = if status.enforcing { "enforcing" } else { "observing: nothing is dropped" };
    let rows = [
        ("node", node),
        ("state", state.to_owned()),
        ("cluster", status.cluster.clone()),
        ("policy", status.policy.clone()),
        ("serial", status.serial.to_string()),
        ("generation", status.generation.to_string()),
        ("rules", format!("{} peers, {} verdicts", status.peers, status.verdicts)),
        ("keys", or_none(keys) + &spare),
        ("attached", or_none(attached)),
        ("processes", processes(status)),
        ("found", status.origin.clone()),
        ("uptime", uptime(status.uptime)),
    ];
    let mut stdout = io::stdout().lock();
    for (name, value) in rows {
        writeln!(stdout, "{name:<12}{value}")?;
    }
    if let Some(server) = &status.server {
        writeln!(stdout, "{:<12}{}", "server", server.describe())?;
    }
    for (name, list) in [("problem", &status.problems), ("warning", &status.warnings)] {
        for told in list {
            writeln!(stdout, "{name:<12}{told}")?;
        }
    }
    Ok(())
}

/// What keeps the rules on processes, and what that cannot do.
fn processes(status: &Status) -> String {
    let guarded = if status.guarded.is_empty() {
        "no file system guarded: every program counts as unsigned".to_owned()
    } else {
        format!("programs judged in {}", status.guarded.join(", "))
    };
    match status.backend.as_str() {
        "" => "not governed".to_owned(),
        "fanotify" => format!(
            "fanotify: {guarded}; a refused fork is killed, not refused ({})",
            status.without_lsm
        ),
        other => format!("{other}: refused before it happens; {guarded}"),
    }
}

fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::uptime;

    #[test]
    fn two_units_say_enough() {
        let said: Vec<_> = [59, 61, 3660, 90_000].into_iter().map(uptime).collect();
        assert_eq!(said, ["59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
    }
}
