//! Alarms of nodes: on disk before they are heard, counted once, and gaps seen.

use std::fs;

use anyhow::{Context, Result};
use sigil_cluster::chain::{CHAIN_LEN, Head};
use sigil_cluster::proto::{AcknowledgeRequest, Alarm, AlarmsRequest, Hello};

use crate::bed::{Node, Server};

pub(crate) fn chain(byte: u8) -> Head {
    Head { chain: vec![byte; CHAIN_LEN], ..Head::default() }
}

pub(crate) async fn kept(server: &Server, kind: &str) -> Result<Vec<Alarm>> {
    let mut stream = server.admin().await?.alarms(AlarmsRequest::default()).await?.into_inner();
    let mut alarms = Vec::new();
    while let Some(alarm) = stream.message().await? {
        if alarm.kind == kind {
            alarms.push(alarm);
        }
    }
    Ok(alarms)
}

fn sum(alarms: &[Alarm]) -> u64 {
    alarms.iter().map(|alarm| alarm.count).sum()
}

#[tokio::test]
async fn what_was_heard_outlives_the_server_and_what_comes_again_counts_once() -> Result<()> {
    let mut server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut node = Node::attach(&credential, 1).await?;
    let mut head = chain(7);
    let start = head.clone();
    node.report(&mut head, &[3, 4]).await?;
    node.until(|node| node.heard == 2).await?;
    server.kill()?;
    server.resume()?;
    let mut node = Node::attach(&credential, 1).await?;
    // The answer might have been lost: all of it again, and more.
    let mut again = start;
    node.report(&mut again, &[3, 4, 5]).await?;
    node.until(|node| node.heard == 3).await?;
    let drops = kept(&server, "drop").await?;
    assert_eq!((drops.len(), sum(&drops)), (3, 12), "{drops:?}");
    assert_eq!(drops.iter().map(|alarm| alarm.node_number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(server.http("/metrics")?.contains(
        "sigil_server_drops_reported_total{node=\"1\",hook=\"ingress\",reason=\"no-rule\"} 12"
    ));
    let lines = fs::read_to_string(server.file("alarms.jsonl"))?;
    let counts: Vec<_> = lines
        .lines()
        .filter(|line| line.contains("no-rule"))
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["count"].as_u64()))
        .collect::<Result<_>>()?;
    assert_eq!(counts, [Some(3), Some(4), Some(5)]);
    let first = drops.first().context("none")?.number;
    let numbers = vec![first];
    let done = server.admin().await?.acknowledge(AcknowledgeRequest { numbers }).await?;
    assert_eq!(done.into_inner().count, 1);
    assert_eq!(kept(&server, "drop").await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn what_a_node_left_out_or_began_anew_is_an_alarm() -> Result<()> {
    let server = Server::start("lab", "")?;
    let mut node = Node::attach(&server.join(1).await?, 1).await?;
    let mut head = chain(7);
    node.report(&mut head, &[1]).await?;
    node.until(|node| node.heard == 1).await?;
    head.number += 6;
    node.report(&mut head, &[1]).await?;
    node.until(|node| node.heard == 8).await?;
    assert_eq!(sum(&kept(&server, "alarms-missing").await?), 6);
    head.hash = vec![0; 32];
    node.report(&mut head, &[1]).await?;
    node.until(|node| node.heard == 9).await?;
    assert_eq!(kept(&server, "alarms-broken").await?.len(), 1);
    node.report(&mut chain(8), &[1]).await?;
    node.until(|node| node.heard == 1).await?;
    assert_eq!(kept(&server, "alarms-lost").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_node_that_floods_waits_and_speaks_for_itself_alone() -> Result<()> {
    let server = Server::start("lab", "")?;
    let (one, two) = (server.join(1).await?, server.join(2).await?);
    let mut node = Node::attach(&one, 1).await?;
    node.report(&mut chain(1), &[1]).await?;
    node.until(|node| node.heard == 1).await?;
    let mut flood = Node::attach(&two, 1).await?;
    let mut head = chain(2);
    for _ in 0..50 {
        // It does not wait to be heard.
        let _ = flood.report(&mut head, &[1; 100]).await;
    }
    let end = flood.end().await?;
    assert!(end.contains("wait"), "{end}");
    let mut long = Node::attach(&two, 1).await?;
    long.report(&mut head, &[1; 101]).await?;
    assert!(long.end().await?.contains("malformed"));
    let all = kept(&server, "drop").await?;
    assert_eq!(all.iter().filter(|alarm| alarm.snid == 1).count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_off_and_another_release_are_alarms() -> Result<()> {
    let server = Server::start("lab", "")?;
    let hello = Hello {
        version: "0.0.\u{1b}[2J".into(),
        instance: vec![1; 16],
        time: 1_000_000_000,
        ..Hello::default()
    };
    let mut node = Node::attach_with(&server.join(1).await?, hello).await?;
    node.until(|node| node.keys.is_some()).await?;
    assert_eq!(kept(&server, "clock-off").await?.len(), 1);
    let versions = kept(&server, "version-differs").await?;
    assert!(versions.len() == 1 && !versions[0].message.contains('\u{1b}'), "{versions:?}");
    Ok(())
}
