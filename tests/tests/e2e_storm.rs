//! A wire that duplicates and reorders at full speed: every genuine packet is accepted once, every
//! copy is dropped as a replay, to the packet. Both places of verification.

use anyhow::Result;
use sigil_harness::cluster::Setting;
use sigil_harness::traffic::finish;
use sigil_harness::{Cluster, Middlebox, Node, PATIENCE, Tampering, until};
use std::time::{Duration, Instant};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;
const APP: u32 = 20;
/// 5 % duplicated, 5 % overtaken by two others.
const STORM: Tampering =
    Tampering { duplicate_every: 20, reorder_every: 20, tamper_every: 0, depth: 2 };

fn every_copy_is_a_replay(mode: &str) -> Result<()> {
    let setting = Setting { mode, ..Setting::of(POLICY) };
    let (cluster, middlebox) = Cluster::across("storm", &setting, STORM)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(Some(APP), &["tcp-echo", "8000"])?;
    let exchange = one.exchange(Some(WEB), &["tcp-exchange", "10.77.0.2:8000", "30000000"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    only_copies_were_dropped(middlebox, [two, one])
}

/// TCP, UDP and ICMP side by side for a minute, every connection by a SYN cookie.
fn a_minute_without_a_false_drop(mode: &str) -> Result<()> {
    let setting = Setting { mode, ..Setting::of(POLICY) };
    let (cluster, middlebox) = Cluster::across("minute", &setting, STORM)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    two.netns().sysctl("ipv4/tcp_syncookies", "2")?;
    let _streams = two.serve(Some(APP), &["tcp-echo", "8000"])?;
    let _datagrams = two.serve(Some(APP), &["udp-echo", "8001"])?;
    let end = Instant::now() + Duration::from_mins(1);
    let stream = one.traffic(Some(WEB), &["tcp-exchange", "10.77.0.2:8000", "60s"])?;
    let datagrams = one.traffic(Some(WEB), &["udp-exchange", "10.77.0.2:8001", "60s", "512"])?;
    while Instant::now() < end {
        for client in [
            one.exchange(Some(WEB), &["tcp-exchange", "10.77.0.2:8000", "10000"])?,
            one.exchange(Some(WEB), &["ping", "10.77.0.2", "20"])?,
        ] {
            assert!(client.is_complete(), "{client:?}");
        }
    }
    for client in [stream, datagrams] {
        let exchange = finish(client)?;
        assert!(exchange.is_complete(), "{exchange:?}");
    }
    only_copies_were_dropped(middlebox, [two, one])
}

/// What came out of the wire twice was dropped once, and nothing else.
fn only_copies_were_dropped(middlebox: Middlebox, receivers: [&Node; 2]) -> Result<()> {
    for (node, counts) in receivers.into_iter().zip(middlebox.stop()?) {
        assert!(counts.duplicated > 500 && counts.reordered > 500, "{counts:?}");
        let judged = || Ok(Some(node.stats()?).filter(|s| s.hook("ingress").seen >= counts.sent));
        let stats = until("judgement of every packet", PATIENCE, judged)?;
        let ingress = stats.hook("ingress");
        assert_eq!(ingress.dropped.get("replay"), Some(&counts.duplicated), "{stats:?}");
        assert_eq!(ingress.drops(), counts.duplicated, "{stats:?}");
        assert_eq!(stats.hook("deliver").drops(), 0, "{stats:?}");
        assert_eq!(stats.hook("egress").drops(), 0, "{stats:?}");
        stats.balanced()?;
    }
    Ok(())
}

sigil_harness::in_both_modes! { every_copy_is_a_replay a_minute_without_a_false_drop }
