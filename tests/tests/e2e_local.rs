//! One node: traffic between its own processes is judged as any other, ports belong to their zones,
//! sockets obey the SOCKET rules, and no process gets out of its zone.

use anyhow::{Context, Result};
use sigil_common::abi::policy::PROTECTION_INTEGRITY;
use sigil_common::abi::rule::mark;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, Output, binary};

const POLICY: &str = include_str!("../harness/dsp/local.xml");
const WEB: Option<u32> = Some(10);
const APP: Option<u32> = Some(20);
const OTHER: Option<u32> = Some(30);
const IDLE: Option<u32> = Some(40);
const MUTE: Option<u32> = Some(50);
/// Every way to this node.
const SELF: [&str; 3] = ["127.0.0.1", "10.77.0.1", "[::1]"];

fn cluster() -> Result<Cluster> {
    Cluster::start("local", &Setting { suite: None, ..Setting::of(POLICY) })
}

fn program(name: &str) -> Result<String> {
    Ok(binary(name)?.to_str().context("a path")?.into())
}

/// `labelctl` run from inside a zone.
fn confined(node: &Node, arguments: &[&str]) -> Result<Output> {
    let (labelctl, socket) = (program("labelctl")?, node.socket());
    let mut argv = vec![labelctl.as_str(), "--socket", socket.to_str().context("a path")?];
    argv.extend(arguments);
    node.run_zone(30, &argv)
}

#[test]
fn an_allowed_pair_talks_over_every_local_address() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let _streams = one.serve(APP, &["tcp-echo", "[::]:8000"])?;
    let _datagrams = one.serve(APP, &["udp-echo", "[::]:8001"])?;
    for address in SELF {
        let target = format!("{address}:8000");
        let exchange = one.exchange(WEB, &["tcp-exchange", &target, "5000000"])?;
        assert!(exchange.is_complete(), "{target}: {exchange:?}");
        let words = format!("send {address}:8001 1000");
        assert_eq!(one.attempt(WEB, &words)?, "ok", "{words}");
    }
    for address in ["127.0.0.1", "10.77.0.1"] {
        let words = format!("send {address}:8001 1000 unconnected");
        assert_eq!(one.attempt(WEB, &words)?, "ok", "{words}");
    }
    let stats = one.stats()?;
    assert_eq!(stats.hook("deliver").drops(), 0, "{stats:?}");
    stats.balanced()
}

#[test]
fn a_refused_pair_does_not() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let _streams = one.serve(APP, &["tcp-echo", "[::]:8000"])?;
    let _datagrams = one.serve(APP, &["udp-echo", "[::]:8001"])?;
    for (zone, reason) in [(OTHER, "no-rule"), (None, "unlabelled")] {
        for address in SELF {
            let before = one.stats()?.dropped("deliver", reason);
            assert_eq!(one.attempt(zone, &format!("connect {address}:8000"))?, "silence");
            assert_eq!(one.attempt(zone, &format!("send {address}:8001 64"))?, "silence");
            let drops = one.stats()?.dropped("deliver", reason) - before;
            assert!(drops >= 2, "{drops} drops of {zone:?} to {address}: {:?}", one.stats()?);
        }
    }
    one.stats()?.balanced()
}

/// Between processes of one node the label travels as the packet's mark, which root may set as well.
#[test]
fn a_forged_mark_is_no_label() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let _server = one.serve(APP, &["udp-echo", "8001"])?;
    for handle in 0..6 {
        let mark = mark::pack(handle, PROTECTION_INTEGRITY);
        for zone in [OTHER, None] {
            let words = format!("send 127.0.0.1:8001 64 mark={mark}");
            assert_eq!(one.attempt(zone, &words)?, "silence", "{words} from {zone:?}");
        }
        assert_eq!(one.attempt(WEB, &format!("send 127.0.0.1:8001 64 mark={mark}"))?, "ok");
    }
    Ok(())
}

#[test]
fn a_declared_port_belongs_to_its_zone() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    for address in ["0.0.0.0:8000", "127.0.0.1:8000", "[::]:8000", "[::1]:8000"] {
        let words = format!("bind tcp {address}");
        assert_eq!(one.attempt(OTHER, &words)?, "EPERM", "{words}");
        assert_eq!(one.attempt(None, &words)?, "EPERM", "{words}, unlabelled");
        assert_eq!(one.attempt(APP, &words)?, "ok", "{words}");
    }
    // Another protocol and another port are nobody's.
    assert_eq!(one.attempt(OTHER, "bind udp 0.0.0.0:8000")?, "ok");
    assert_eq!(one.attempt(OTHER, "bind tcp 0.0.0.0:8002")?, "ok");
    assert_eq!(one.stats()?.dropped("socket", "socket-permission"), 8);
    Ok(())
}

#[test]
fn sockets_obey_the_rules() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let _server = one.serve(APP, &["tcp-echo", "8000"])?;
    for kind in ["tcp", "udp"] {
        assert_eq!(one.attempt(MUTE, &format!("socket {kind}"))?, "EPERM");
        assert_eq!(one.attempt(IDLE, &format!("socket {kind}"))?, "ok");
        assert_eq!(one.attempt(IDLE, &format!("bind {kind} 0.0.0.0:8002"))?, "EPERM");
        assert_eq!(one.attempt(OTHER, &format!("bind {kind} 0.0.0.0:8002"))?, "ok");
    }
    assert_eq!(one.attempt(IDLE, "connect 10.77.0.1:8000")?, "EPERM");
    assert_eq!(one.attempt(IDLE, "connect 127.0.0.1:8000")?, "EPERM");
    Ok(())
}

#[test]
fn children_inherit_the_scid() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let bind = format!("{} try bind tcp 0.0.0.0:8000", program("sigil-traffic")?);
    // Over exec alone, over fork and exec, and once the parent is gone.
    let grandchild = format!("sh -c \"sh -c '{bind}; true'; true\"; true");
    let orphan = format!("mkfifo \"$0\"; (setsid sh -c '{bind}' > \"$0\" &); cat \"$0\"");
    for (at, command) in [format!("exec {bind}"), grandchild, orphan].iter().enumerate() {
        for (zone, outcome) in [(30, "EPERM"), (20, "ok")] {
            let pipe = one.directory().join(format!("pipe-{at}-{zone}"));
            let argv = ["sh", "-c", command, pipe.to_str().context("a path")?];
            let output = one.run_zone(zone, &argv)?;
            assert_eq!(output.stdout.trim(), outcome, "{command} in {zone}: {}", output.stderr);
        }
    }
    Ok(())
}

#[test]
fn no_process_leaves_its_zone() -> Result<()> {
    let cluster = cluster()?;
    let one = cluster.node("one")?;
    let policy = one.directory().join("policy.xml");
    let policy = policy.to_str().context("a path")?;
    for arguments in
        [["run", "--scid", "20", "--", "true"].as_slice(), &["load", policy], &["load"]]
    {
        let output = confined(one, arguments)?;
        assert_eq!(output.code, 2, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains("confined to ScID 30"), "{}", output.stderr);
    }
    assert_eq!(one.run_zone(20, &["true"])?.code, 0, "an unlabelled process may");
    assert_eq!(one.ctl(&["load", policy])?.code, 0, "an unlabelled process may");
    Ok(())
}
