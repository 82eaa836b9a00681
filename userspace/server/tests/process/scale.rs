//! Many nodes: how long a policy takes to the last of them. The figures are printed, and what is judged
//! is that nobody is left out. `SIGIL_AGENTS` and `SIGIL_RULES` set another scale, `SIGIL_ETCD=1` another
//! store.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::alarms::chain;
use crate::bed::{Node, Server};
use crate::etcd::Etcd;

fn setting(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn policy(serial: u64, nodes: u32, rules: u32) -> String {
    let mut text = format!("<DSP cluster=\"lab\" serial=\"{serial}\">\n");
    for snid in 1..=nodes {
        let (a, b) = (snid / 250, snid % 250 + 1);
        let _ = writeln!(
            text,
            "<node><SnID>{snid}</SnID><name>n{snid}</name><address>10.1.{a}.{b}</address></node>"
        );
    }
    for scid in 2..=11 {
        let _ = writeln!(text, "<zone><ScID>{scid}</ScID><name>z{scid}</name></zone>");
    }
    // Each pair of nodes and zones once.
    for rule in 0..rules {
        let (source, step) = (rule % nodes, rule / nodes);
        let target = (source + 1 + step) % nodes;
        let (source, target) = (source + 1, target + 1);
        let (from, to) = (2 + step % 10, 2 + (step + u32::try_from(serial).unwrap_or(0)) % 10);
        let _ = writeln!(
            text,
            "<SOCKET_class_rule><sSnID>{source}</sSnID><sScID>{from}</sScID><tSnID>{target}</tSnID>\
             <tScID>{to}</tScID><allow>CREATE</allow></SOCKET_class_rule>"
        );
    }
    text.push_str("</DSP>\n");
    text
}

/// What is waited for, or why a node is gone that should not be.
async fn unless_ended<T>(
    all: &mut JoinSet<Result<()>>,
    waited: impl Future<Output = T>,
) -> Result<T> {
    tokio::select! {
        done = waited => Ok(done),
        Some(ended) = all.join_next() => Err(ended?.err().context("a node ended early")?),
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = text.split(' ').nth(1).context("statm")?.parse::<u64>()?;
    Ok(pages * 4096)
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_reaches_many_nodes_and_their_alarms_reach_the_server() -> Result<()> {
    let (nodes, rules) = (setting("SIGIL_AGENTS", 1000), setting("SIGIL_RULES", 10_000));
    let rounds = u64::from(setting("SIGIL_ROUNDS", 2));
    let etcd = (setting("SIGIL_ETCD", 0) != 0).then(Etcd::start).transpose()?;
    let server = match &etcd {
        Some(etcd) => Server::start_on("lab", &etcd.urls())?,
        None => Server::start("lab", "")?,
    };
    let pid = server.pid().context("no server runs")?;
    let mut credentials = Vec::new();
    for snid in 1..=nodes {
        credentials.push(server.join(snid).await?);
    }
    let alone = resident(pid)?;
    let (progress, mut attached) = watch::channel((0u32, Vec::<(u64, Duration)>::new()));
    let began = Instant::now();
    let (serial, wanted) = watch::channel((0u64, Instant::now()));
    let mut all = JoinSet::new();
    for credential in credentials {
        let (progress, mut wanted) = (progress.clone(), wanted.clone());
        all.spawn(async move {
            let mut node = Node::attach(&credential, 1).await?;
            while node.keys.is_none() {
                node.step().await?;
            }
            progress.send_modify(|(count, _)| *count += 1);
            let mut has = 0;
            loop {
                let last = wanted.borrow_and_update().0 == u64::MAX;
                if last {
                    break;
                }
                node.step().await?;
                let now = node.progress.serial;
                if now != has {
                    has = now;
                    let since = wanted.borrow().1.elapsed();
                    progress.send_modify(|(_, times)| times.push((now, since)));
                }
            }
            // 1,000 alarms each, a report at a time.
            let mut head = chain(1);
            for report in 1..=10 {
                node.report(&mut head, &[1; 100]).await?;
                while node.heard < report * 100 {
                    node.step().await?;
                }
            }
            anyhow::Ok(())
        });
    }
    unless_ended(&mut all, attached.wait_for(|(count, _)| *count == nodes)).await??;
    let each = resident(pid)?.saturating_sub(alone) / u64::from(nodes);
    println!(
        "{nodes} nodes attached in {:?}, {} KiB of the server each",
        began.elapsed(),
        each >> 10
    );
    for round in 1..=rounds {
        let document = policy(round, nodes, rules);
        serial.send_replace((round, Instant::now()));
        let reply = server.push(&document).await?;
        assert!(reply.accepted, "{}", reply.report);
        let done = |times: &[(u64, Duration)]| {
            times.iter().filter(|(serial, _)| *serial == round).count() == nodes as usize
        };
        unless_ended(&mut all, attached.wait_for(|(_, times)| done(times))).await??;
        let times = attached.borrow().1.clone();
        let mut times: Vec<_> =
            times.into_iter().filter(|(serial, _)| *serial == round).map(|(_, at)| at).collect();
        times.sort();
        println!(
            "{rules} rules, push to applied: p50 {:?}, p99 {:?}, last {:?}",
            quantile(&times, 50),
            quantile(&times, 99),
            quantile(&times, 100)
        );
    }
    let began = Instant::now();
    serial.send_replace((u64::MAX, began));
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    let (took, count) = (began.elapsed(), 1000 * nodes);
    println!("{count} alarms on disk in {took:?}: {:.0}/s", f64::from(count) / took.as_secs_f64());
    let total = format!("sigil_server_alarms_total{{kind=\"drop\"}} {count}");
    assert!(server.http("/metrics")?.contains(&total), "alarms were lost");
    Ok(())
}
