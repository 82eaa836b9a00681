//! The scenes under a Security Server, on a cluster of their own.

use crate::stage::{APP, DB, OPENED, POLICY, Stage, WEB};
use anyhow::{Context, Result, ensure};
use sigil_harness::agent::Config;
use sigil_harness::cluster::Setting;
use sigil_harness::traffic::finish;
use sigil_harness::{Cluster, Node, PATIENCE, Process, Server, until};
use std::fs;
use std::time::{Duration, Instant};

/// Ended in this order.
pub(crate) struct Governed {
    _servers: [Process; 2],
    server: Server,
    host: Node,
    cluster: Cluster,
}

const LOAD: &[&str] = &["udp-exchange", "10.77.0.2:9000", "2s", "512"];

fn governed(stage: &Stage) -> Result<&Governed> {
    stage.governed.as_ref().context("the nodes did not join")
}

pub(crate) fn joined(stage: &mut Stage) -> Result<String> {
    let settings = "[rotation]\noverlap = 1\n";
    let (cluster, host, server) = Cluster::under_server("ruled", &Setting::of(POLICY), settings)?;
    let servers = [
        cluster.node("app")?.serve(Some(APP), &["udp-echo", "9000"])?,
        cluster.node("db")?.serve(Some(DB), &["udp-echo", "9000"])?,
    ];
    let status = server.status(&host)?;
    let follow = status.nodes.iter().filter(|node| node.serial == status.serial && node.attached);
    let outcome = format!("{} nodes, policy and keys", follow.count());
    stage.governed = Some(Governed { _servers: servers, server, host, cluster });
    Ok(outcome)
}

pub(crate) fn token_again(stage: &mut Stage) -> Result<String> {
    let Governed { server, host, .. } = governed(stage)?;
    let token = server.administer(host, &["node", "enroll", "77"])?;
    let file = Config::under_server(host, 77).write(host)?;
    let first = server.join_with(host, &file, &token)?;
    let second = server.join_with(host, &file, &token)?;
    ensure!(first.success() && !second.success(), "{first:?}, {second:?}");
    let used = second.stderr.contains("used before");
    Ok(if used { "refused".into() } else { second.stderr })
}

pub(crate) fn pushed(stage: &mut Stage) -> Result<String> {
    let Governed { server, host, cluster, .. } = governed(stage)?;
    let web = cluster.node("web")?;
    let reaches = || {
        let exchange = web.exchange(Some(WEB), &["udp-exchange", "10.77.0.3:9000", "3", "64"]);
        exchange.is_ok_and(|exchange| exchange.is_complete())
    };
    ensure!(!reaches(), "web reached db before");
    let file = host.directory().join("opened.xml");
    fs::write(&file, OPENED)?;
    let mut load = web.traffic(Some(WEB), LOAD)?;
    server.administer(host, &["policy", "push", file.to_str().context("a path")?])?;
    server.settled(host)?;
    let db = if reaches() { "web reaches db" } else { "web does not reach db" };
    ensure!(load.is_running()?, "the load ended before the policy was in force");
    let exchange = finish(load)?;
    Ok(format!("{} lost, {db}", exchange.sent - exchange.received))
}

pub(crate) fn rotated(stage: &mut Stage) -> Result<String> {
    let Governed { server, host, cluster, .. } = governed(stage)?;
    let before = server.status(host)?.stamp;
    let mut load = cluster.node("web")?.traffic(Some(WEB), LOAD)?;
    server.administer(host, &["keys", "rotate"])?;
    server.wait(host, "new epoch", |status| status.stamp != before)?;
    ensure!(load.is_running()?, "the load ended before the keys were new");
    let exchange = finish(load)?;
    Ok(format!("{} lost", exchange.sent - exchange.received))
}

pub(crate) fn revoked(stage: &mut Stage) -> Result<String> {
    let Governed { server, host, cluster, .. } = governed(stage)?;
    let _load = cluster.node("web")?.traffic(Some(WEB), LOAD)?;
    let app = cluster.node("app")?;
    let start = Instant::now();
    server.administer(host, &["node", "revoke", "1"])?;
    let took = start.elapsed();
    let before = app.stats()?.hook("ingress").accepted;
    std::thread::sleep(Duration::from_millis(200));
    let silent = app.stats()?.hook("ingress").accepted - before < 10;
    let quick = took < Duration::from_secs(2);
    Ok(if silent && quick { "cut off".into() } else { format!("{took:?}, silent: {silent}") })
}

pub(crate) fn alarmed(stage: &mut Stage) -> Result<String> {
    let Governed { server, host, .. } = governed(stage)?;
    let listed = || {
        let alarms = server.administer(host, &["alarms", "list"])?;
        let both = alarms.contains("join-refused") && alarms.contains("node-refused");
        Ok(both.then(|| "join- and node-refused".to_owned()))
    };
    until("alarms", PATIENCE, listed)
}
