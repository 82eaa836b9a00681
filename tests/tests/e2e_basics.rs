//! Two nodes under one policy: what a rule allows goes through whole, all else is dropped for the
//! reason that says why, and the counters balance to the packet. Both places of verification.

use anyhow::{Result, ensure};
use sigil_harness::cluster::Setting;
use sigil_harness::packet::Headers;
use sigil_harness::traffic::ping;
use sigil_harness::{Cluster, PATIENCE, RawSocket, until};
use std::time::Duration;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;
const APP: u32 = 20;
const OTHER: u32 = 30;

fn cluster(mode: &str) -> Result<Cluster> {
    Cluster::start("basics", &Setting { mode, ..Setting::of(POLICY) })
}

/// Every packet at every hook of both nodes is accounted for.
fn balanced(cluster: &Cluster) -> Result<()> {
    cluster.nodes().try_for_each(|node| node.stats()?.balanced())
}

fn allowed_tcp(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(Some(APP), &["tcp-echo", "8000"])?;
    let exchange = one.exchange(Some(WEB), &["tcp-exchange", "10.77.0.2:8000", "20000000"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    for node in [one, two] {
        let stats = node.stats()?;
        assert!(stats.hook("ingress").accepted > 100, "nothing was verified: {stats:?}");
        assert_eq!(stats.hook("ingress").drops(), 0, "{stats:?}");
        assert_eq!(stats.hook("egress").drops(), 0, "{stats:?}");
    }
    balanced(&cluster)
}

fn refused_tcp(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(Some(APP), &["tcp-echo", "8000"])?;
    let refused = one.exchange(Some(OTHER), &["tcp-exchange", "10.77.0.2:8000", "1"]);
    assert!(refused.is_err(), "{refused:?}");
    let stats = [one.stats()?, two.stats()?];
    let reasons: Vec<_> = stats.iter().flat_map(|stats| stats.reasons()).collect();
    assert!(
        reasons.iter().any(|(reason, count)| *reason == "no-rule" && *count > 0),
        "{reasons:?}"
    );
    let explain =
        "policy explain --target two:app --class SOCKET --permission CREATE --source one:";
    for (zone, code) in [("web", 0), ("other", 1)] {
        let line = format!("{explain}{zone}");
        let said = one.ctl(&line.split_whitespace().collect::<Vec<_>>())?;
        assert_eq!(said.code, code, "{said:?}");
    }
    balanced(&cluster)
}

fn counted_udp(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(Some(APP), &["udp-echo", "8000"])?;
    let before = two.stats()?.hook("ingress").accepted;
    let exchange = one.exchange(Some(WEB), &["udp-exchange", "10.77.0.2:8000", "500", "64"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    let accepted = two.stats()?.hook("ingress").accepted - before;
    // ARP is judged as well.
    assert!((500..510).contains(&accepted), "{accepted} packets for 500 datagrams");
    balanced(&cluster)
}

fn pinged(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let exchange = one.exchange(Some(WEB), &["ping", "10.77.0.2", "3"])?;
    let reasons = || -> Result<_> { Ok((one.stats()?.hooks, two.stats()?.hooks)) };
    assert!(exchange.is_complete(), "{exchange:?}, {:?}", reasons()?);
    let refused = one.exchange(Some(OTHER), &["ping", "10.77.0.2", "1"]);
    assert!(refused.is_err() || refused?.received == 0);
    balanced(&cluster)
}

fn unlabelled(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (stranger, two) = (cluster.lab.node("stranger", 99)?, cluster.node("two")?);
    let mut watch = two.watch()?;
    let socket = RawSocket::open(stranger.netns(), "eth0")?;
    socket.send(&Headers::between(&stranger, two)?.udp(1, 8000, b"hello")?)?;
    let dropped = || Ok((two.stats()?.dropped("ingress", "unlabelled") == 1).then_some(()));
    until("drop of the unlabelled packet", PATIENCE, dropped)?;
    let event = watch.next(PATIENCE, |event| event.reason == "unlabelled")?;
    assert_eq!(event.source.address, Some(stranger.address()));
    assert_eq!(event.target.port, Some(8000));
    let lost = stranger.netns().enter(|| ping(two.address(), 1, Duration::from_millis(200)))?;
    assert_eq!(lost.received, 0);
    balanced(&cluster)
}

sigil_harness::in_both_modes! { allowed_tcp refused_tcp counted_udp pinged unlabelled }

#[test]
fn enforcement_outlives_the_agent_and_ends_with_detach() -> Result<()> {
    let mut cluster = cluster("auto")?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let reaches = |cluster: &Cluster| -> Result<bool> {
        let to = cluster.node("two")?.address();
        let exchange = stranger.netns().enter(|| ping(to, 1, Duration::from_millis(200)))?;
        Ok(exchange.received == 1)
    };
    assert!(!reaches(&cluster)?, "before");
    cluster.member("two")?.take_agent()?.kill9()?;
    assert!(!reaches(&cluster)?, "after SIGKILL");
    let member = cluster.member("two")?;
    member.start()?;
    member.take_agent()?.stop()?;
    assert!(!reaches(&cluster)?, "after SIGTERM");
    let member = cluster.member("two")?;
    member.start()?;
    let agent = member.take_agent()?;
    agent.detach(&member.node)?;
    // The kernel lets go of an unpinned link later, on a worker of its own.
    until("answer after detaching", PATIENCE, || Ok(reaches(&cluster)?.then_some(())))
}

/// Each time a node loses its counters it takes the next epoch of its key file. It says so while there
/// is one left to take.
#[test]
fn the_last_epoch_is_announced_before_it_ends() -> Result<()> {
    let mut cluster = Cluster::prepare("epochs", &Setting::of(POLICY))?;
    let member = cluster.member("one")?;
    for (stamped, spare) in [(1, 1), (2, 0)] {
        member.start()?;
        let status = member.node.status()?;
        let stamps = |key: &&serde_json::Value| key["stamps"] == true;
        let keys: Vec<_> = status["keys"].as_array().into_iter().flatten().filter(stamps).collect();
        ensure!(keys.len() == 1 && keys[0]["key_id"] == stamped, "{status}");
        ensure!(status["spare_epochs"] == spare, "{status}");
        ensure!(status["warnings"].is_array() == (spare == 0), "{status}");
        // An agent that adopts what is there uses none up.
        member.take_agent()?.stop()?;
        member.start()?;
        ensure!(member.node.status()?["spare_epochs"] == spare, "adopted");
        let agent = member.take_agent()?;
        agent.detach(&member.node)?;
    }
    let refused = member.start().err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(refused.contains("key id 2 was used before"), "{refused}");
    Ok(())
}
