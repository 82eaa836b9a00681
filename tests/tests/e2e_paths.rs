//! The paths a packet may take through two kernels: answers that no process sends, fragments,
//! super-frames, an application's own options, and what happens to flows when the policy changes.
//! Both places of verification.

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use sigil_harness::cluster::Setting;
use sigil_harness::traffic::finish;
use sigil_harness::{Cluster, Node, PATIENCE, RawSocket, Sniffer, Stats, packet, until};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const POLICY: &str = include_str!("../harness/dsp/paths.xml");
const WEB: Option<u32> = Some(10);
const APP: Option<u32> = Some(20);
const PROBE: Option<u32> = Some(40);
const METER: Option<u32> = Some(50);
/// Four NOPs, and a record route with room for one address.
const NOPS: &str = "01010101";
const RECORD_ROUTE: &str = "0707040000000000";

fn cluster(mode: &str) -> Result<Cluster> {
    Cluster::start("paths", &Setting { mode, ..Setting::of(POLICY) })
}

fn stats(cluster: &Cluster) -> Result<(Stats, Stats)> {
    Ok((cluster.node("one")?.stats()?, cluster.node("two")?.stats()?))
}

/// Nothing was dropped at any hook of either node, and all is accounted for.
fn nothing_dropped(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let stats = node.stats()?;
        let reasons = stats.reasons().into_iter().filter(|(_, count)| *count > 0);
        assert_eq!(reasons.collect::<BTreeMap<_, _>>(), BTreeMap::new(), "on {}", node.name());
        stats.balanced()?;
    }
    Ok(())
}

fn a_listener_answers_with_syn_cookies(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    two.netns().sysctl("ipv4/tcp_syncookies", "2")?;
    let _server = two.serve(APP, &["tcp-echo", "8000"])?;
    for _ in 0..5 {
        let exchange = one.exchange(WEB, &["tcp-exchange", "10.77.0.2:8000", "100000"])?;
        assert!(exchange.is_complete(), "{exchange:?}");
    }
    let netstat = two.netns().enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let counter = |name: &str| -> Option<u64> {
        let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
        let at = lines.next()?.split(' ').position(|column| column == name)?;
        lines.next()?.split(' ').nth(at)?.parse().ok()
    };
    assert_eq!(counter("SyncookiesRecv"), Some(5), "{netstat}");
    nothing_dropped(&cluster)
}

/// The peer's kernel speaks for processes that are not there.
fn closed_ports_refuse_at_once(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let one = cluster.node("one")?;
    let start = Instant::now();
    assert_eq!(one.attempt(WEB, "connect 10.77.0.2:8001")?, "ECONNREFUSED");
    assert_eq!(one.attempt(WEB, "send 10.77.0.2:8001 64")?, "ECONNREFUSED");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    nothing_dropped(&cluster)
}

/// Of connections that the server closes first, its kernel answers the client's end from `TIME_WAIT`,
/// where no socket is any more.
fn time_wait_is_answered(mode: &str) -> Result<()> {
    const CONNECTIONS: usize = 200;
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["tcp-greet", "8000"])?;
    let words = format!("greeted 10.77.0.2:8000 {CONNECTIONS}");
    assert_eq!(one.attempt(WEB, &words)?, "ok");
    let in_state = |node: &Node, state: &str| -> Result<usize> {
        let table = || Ok(fs::read_to_string("/proc/thread-self/net/tcp")?);
        let states = node.netns().enter(table)?;
        Ok(states.lines().filter(|line| line.split_whitespace().nth(3) == Some(state)).count())
    };
    until("end of all connections", Duration::from_millis(500), || {
        let (time_wait, last_ack) = (in_state(two, "06")?, in_state(one, "09")?);
        Ok((time_wait == CONNECTIONS && last_ack == 0).then_some(()))
    })?;
    nothing_dropped(&cluster)
}

fn connected_and_unconnected_sockets(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["udp-echo", "8000"])?;
    assert_eq!(one.attempt(WEB, "send 10.77.0.2:8000 64")?, "ok");
    assert_eq!(one.attempt(WEB, "send 10.77.0.2:8000 64 unconnected")?, "ok");
    nothing_dropped(&cluster)
}

/// Six fragments each way, and each has a label and a sequence number of its own.
fn fragments(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["udp-echo", "8000"])?;
    assert_eq!(one.attempt(WEB, "send 10.77.0.2:8000 64")?, "ok");
    let before = two.stats()?.hook("ingress").accepted;
    let sniffer = Sniffer::start(cluster.lab.switch(), &one.port(), |frame| {
        !frame.outgoing && packet::ip(&frame.bytes).is_ok_and(|ip| ip.is_fragmenting_payload())
    })?;
    assert_eq!(one.attempt(WEB, "send 10.77.0.2:8000 8000")?, "ok");
    let frames = sniffer.take(6, PATIENCE)?;
    let number = |frame: &sigil_harness::Frame| {
        let label = packet::label_offset(&frame.bytes)?;
        frame.bytes.get(label + 24..label + 28).map(<[u8]>::to_vec)
    };
    let numbers: Option<Vec<_>> = frames.iter().map(number).collect();
    let mut numbers = numbers.context("a fragment without a label")?;
    numbers.dedup();
    assert_eq!((frames.len(), numbers.len()), (6, 6));
    let accepted = two.stats()?.hook("ingress").accepted - before;
    assert!((6..9).contains(&accepted), "6 fragments and perhaps ARP, but {accepted} packets");
    nothing_dropped(&cluster)
}

fn udp_super_frame(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["udp-echo", "8000"])?;
    for _ in 0..20 {
        assert_eq!(one.attempt(WEB, "send 10.77.0.2:8000 10000 segment=1000")?, "ok");
    }
    nothing_dropped(&cluster)
}

/// Between namespaces, super-frames cross whole where the verifier can take them whole.
fn tcp_super_frames(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["tcp-echo", "8000"])?;
    let longest = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&longest);
    let sniffer = Sniffer::start(cluster.lab.switch(), &two.port(), move |frame| {
        if frame.outgoing {
            seen.fetch_max(frame.bytes.len(), Ordering::Relaxed);
        }
        false
    })?;
    let exchange = one.exchange(WEB, &["tcp-exchange", "10.77.0.2:8000", "50000000"])?;
    drop(sniffer);
    assert!(exchange.is_complete(), "{exchange:?}");
    let longest = longest.load(Ordering::Relaxed);
    assert_eq!(longest > 1514, mode == "tc", "the longest frame has {longest} bytes");
    nothing_dropped(&cluster)
}

/// A label leaves 20 bytes for them, an authenticated one none.
fn own_options(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _meter = two.serve(METER, &["udp-echo", "9001"])?;
    let _app = two.serve(APP, &["udp-echo", "8000"])?;
    for (options, kind) in [(NOPS, 0x01), (RECORD_ROUTE, 0x07)] {
        let sniffer = Sniffer::start(cluster.lab.switch(), &one.port(), move |frame| {
            let label = packet::label_offset(&frame.bytes).unwrap_or(usize::MAX - 20);
            !frame.outgoing && frame.bytes.get(label + 20) == Some(&kind)
        })?;
        let words = format!("send 10.77.0.2:9001 1000 options={options}");
        assert_eq!(one.attempt(PROBE, &words)?, "ok", "{options} beside a label");
        sniffer.take(1, PATIENCE)?;
    }
    nothing_dropped(&cluster)?;
    for options in [NOPS, RECORD_ROUTE] {
        let before = one.stats()?;
        let words = format!("send 10.77.0.2:8000 1000 options={options}");
        assert_ne!(one.attempt(WEB, &words)?, "ok", "{options} beside an authenticated label");
        let drops = one.stats()?.drops_since(&before);
        assert_eq!(drops, BTreeMap::from([("option-space".to_owned(), 1)]));
    }
    Ok(())
}

/// A label that an application made itself, below the kernel's own check of options.
fn own_label(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let one = cluster.node("one")?;
    // ScID 50 of SnID 1.
    let forged = "861410001000070e030600000032060600000001";
    for (zone, port) in [(PROBE, 9001), (WEB, 8000)] {
        let before = one.stats()?;
        one.attempt(zone, &format!("raw 10.77.0.1 10.77.0.2:{port} {forged}"))?;
        let drops = one.stats()?.drops_since(&before);
        assert_eq!(drops, BTreeMap::from([("foreign-option".to_owned(), 1)]));
    }
    stats(&cluster)?.0.balanced()
}

fn ipv6(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    for (node, address) in [(one, "fd77::1"), (two, "fd77::2")] {
        node.netns().sysctl("ipv6/conf/eth0/disable_ipv6", "0")?;
        node.netns().ip(&format!("addr add {address}/64 dev eth0 nodad"))?;
    }
    let _server = two.serve(APP, &["tcp-echo", "[::]:8000"])?;
    assert_ne!(one.attempt(WEB, "connect [fd77::2]:8000")?, "ok");
    assert!(one.stats()?.dropped("egress", "ipv6") > 0, "{:?}", one.stats()?);
    let stranger = cluster.lab.node("stranger", 99)?;
    let before = two.stats()?.dropped("ingress", "ipv6");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(stranger.mac(), two.mac())
        .ipv6([0x99; 16], [0x02; 16], 64)
        .udp(9, 8000)
        .write(&mut frame, b"hello")?;
    RawSocket::open(stranger.netns(), "eth0")?.send(&frame)?;
    let dropped = || Ok((two.stats()?.dropped("ingress", "ipv6") > before).then_some(()));
    until("drop of IPv6", PATIENCE, dropped)?;
    let (one, two) = stats(&cluster)?;
    one.balanced().and(two.balanced())
}

/// The policy under another serial, with or without what web may do.
fn next_policy(serial: u32, web: bool) -> String {
    let policy = POLICY.replace("serial=\"1\"", &format!("serial=\"{serial}\""));
    if web { policy } else { policy.replace("<sScID> web", "<sScID> app") }
}

fn load(cluster: &Cluster, policy: &str) -> Result<()> {
    for node in cluster.nodes() {
        let file = node.directory().join("next.xml");
        fs::write(&file, policy)?;
        let output = node.ctl(&["load", file.to_str().context("a path")?])?;
        assert!(output.success(), "{}", output.stderr);
    }
    Ok(())
}

fn a_new_policy_meets_live_flows(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["tcp-echo", "8000"])?;
    let kept = one.traffic(WEB, &["tcp-exchange", "10.77.0.2:8000", "3s"])?;
    for serial in 2..6 {
        sleep(Duration::from_millis(300));
        load(&cluster, &next_policy(serial, true))?;
    }
    let exchange = finish(kept)?;
    assert!(exchange.is_complete(), "{exchange:?}");
    nothing_dropped(&cluster)?;

    let _revoked = one.traffic(WEB, &["tcp-exchange", "10.77.0.2:8000", "20s"])?;
    let delivered = || -> Result<u64> { Ok(two.stats()?.hook("deliver").accepted) };
    let before = delivered()?;
    until("flow", PATIENCE, || Ok((delivered()? > before + 100).then_some(())))?;
    load(&cluster, &next_policy(6, false))?;
    sleep(Duration::from_secs(1));
    let stopped = delivered()?;
    sleep(Duration::from_secs(1));
    assert_eq!(delivered()?, stopped, "packets are delivered still");
    assert!(one.stats()?.dropped("egress", "no-rule") > 0, "{:?}", one.stats()?);
    let (one, two) = stats(&cluster)?;
    one.balanced().and(two.balanced())
}

sigil_harness::in_both_modes! {
    a_listener_answers_with_syn_cookies closed_ports_refuse_at_once time_wait_is_answered
    connected_and_unconnected_sockets fragments udp_super_frame tcp_super_frames own_options
    own_label ipv6 a_new_policy_meets_live_flows
}
