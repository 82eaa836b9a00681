//! The lab itself: what tests of the product rely on. Needs root.

use anyhow::Result;
use etherparse::IpNumber;
use sigil_harness::packet::{self, Headers};
use sigil_harness::traffic::{Amount, ping, tcp_exchange, udp_exchange};
use sigil_harness::{Lab, PATIENCE, RawSocket, Sniffer, Tampering, until};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[test]
fn nodes_on_a_bridge_reach_each_other() -> Result<()> {
    let lab = Lab::new("bridge")?;
    let (web, db) = (lab.node("web", 1)?, lab.node("db", 2)?);
    let _tcp = db.serve(None, &["tcp-echo", "8000"])?;
    let _udp = db.serve(None, &["udp-echo", "8000"])?;
    db.wait_listening(8000)?;
    db.wait_bound(8000)?;
    let tcp = web.exchange(None, &["tcp-exchange", "10.77.0.2:8000", "1000000"])?;
    assert_eq!((tcp.sent, tcp.is_complete()), (1_000_000, true));
    let udp = web.exchange(None, &["udp-exchange", "10.77.0.2:8000", "100", "64"])?;
    assert_eq!((udp.sent, udp.is_complete()), (100, true));
    assert!(web.netns().enter(|| ping(db.address(), 3, PATIENCE))?.is_complete());
    assert!(web.run(&["ping", "-c", "1", "-W", "2", "10.77.0.2"])?.success());
    Ok(())
}

#[test]
fn two_nodes_share_one_wire() -> Result<()> {
    let (first, second) = Lab::new("pair")?.pair("first", "second")?;
    let _server = second.serve(None, &["tcp-echo", "8000"])?;
    let address = (second.address(), 8000).into();
    let exchange = first.netns().enter(|| tcp_exchange(address, Amount::Count(10_000_000)))?;
    assert!(exchange.is_complete());
    Ok(())
}

#[test]
fn a_command_runs_in_its_node() -> Result<()> {
    let lab = Lab::new("place")?;
    let node = lab.node("web", 7)?;
    let output =
        node.run(&["sh", "-c", "cat /proc/self/cgroup; cat /proc/net/fib_trie; exit 3"])?;
    assert_eq!(output.code, 3);
    assert!(output.stdout.contains(&format!("sigil-{}", node.id().trim_end_matches("-web"))));
    assert!(output.stdout.contains("10.77.0.7"));
    assert_eq!(node.run(&["sysctl", "-n", "net.ipv4.tcp_congestion_control"])?.stdout, "reno\n");
    assert_eq!(node.run(&["cat", "/proc/net/if_inet6"])?.stdout.lines().count(), 1, "only lo");
    Ok(())
}

#[test]
fn a_late_command_is_killed_and_says_what_it_printed() -> Result<()> {
    let lab = Lab::new("late")?;
    let node = lab.node("web", 1)?;
    let process = node.spawn(&["sh", "-c", "echo here; exec sleep 100"])?;
    process.wait_line(PATIENCE, |line| line == "here")?;
    let pid = process.pid();
    let error = process.wait(Duration::from_millis(10)).unwrap_err().to_string();
    assert!(error.contains("stdout: here"), "{error}");
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    Ok(())
}

#[test]
fn nothing_is_left_of_a_lab() -> Result<()> {
    let lab = Lab::new("drop")?;
    let node = lab.node("web", 1)?;
    let script = "sleep 1000 & echo $!; wait";
    let process = node.spawn(&["sh", "-c", script])?;
    let grandchild = process.wait_line(PATIENCE, |_| true)?;
    let places =
        [node.netns().path(), lab.switch().path(), node.cgroup().into(), node.directory().into()];
    assert!(places.iter().all(|place| place.exists()));
    drop((process, node, lab));
    assert!(!places.iter().any(|place| place.exists()), "{places:?}");
    let gone = || Ok((!Path::new("/proc").join(&grandchild).exists()).then_some(()));
    until("end of the grandchild", PATIENCE, gone)
}

#[test]
fn the_left_overs_of_dead_processes_are_swept() -> Result<()> {
    let mut dead = Command::new("true").spawn()?;
    dead.wait()?;
    let name = format!("sigil-{}-0-dead-web", dead.id());
    assert!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    let directory = Path::new("/run/sigil").join(name.trim_start_matches("sigil-"));
    fs::create_dir_all(directory.join("bpf"))?;
    let own = Lab::new("alive")?;
    assert!(!Path::new("/run/netns").join(name).exists());
    assert!(!directory.exists());
    assert!(own.switch().path().exists());
    Ok(())
}

#[test]
fn an_attacker_sends_and_sees_frames_as_they_are() -> Result<()> {
    let lab = Lab::new("raw")?;
    let (web, mallory) = (lab.node("web", 1)?, lab.node("mallory", 66)?);
    let sniffer = Sniffer::start(lab.switch(), &mallory.port(), |frame| {
        packet::label_offset(&frame.bytes).is_some()
    })?;
    let socket = RawSocket::open(mallory.netns(), "eth0")?;
    let mut frame = Headers::between(&mallory, &web)?
        .pretending([10, 77, 0, 9].into())
        .options(&packet::label(9, 3))?
        .udp(1, 2, b"forged")?;
    socket.send(&frame)?;
    packet::flip(&mut frame, 8 * (packet::ETHERNET + 40))?;
    socket.send(&frame)?;
    let seen = sniffer.take(2, PATIENCE)?;
    assert_eq!(seen[1].bytes, frame);
    assert_ne!(seen[0].bytes, frame);
    assert!(!seen[0].outgoing, "the bridge receives it");
    Ok(())
}

#[test]
fn a_middlebox_counts_what_it_does() -> Result<()> {
    let lab = Lab::new("box")?;
    let tampering = Tampering { duplicate_every: 20, reorder_every: 0, tamper_every: 10, depth: 3 };
    let (first, second, middlebox) = lab.middlebox("first", "second", tampering)?;
    let _server = second.serve(None, &["udp-echo", "8000"])?;
    let sniffer = Sniffer::start(second.netns(), "eth0", |frame| {
        !frame.outgoing && packet::ip(&frame.bytes).is_ok_and(|ip| ip.protocol == IpNumber::UDP)
    })?;
    let address = (second.address(), 8000).into();
    first
        .netns()
        .enter(|| udp_exchange(address, Amount::Count(200), 64, Duration::from_millis(20)))?;
    let [there, _] = middlebox.stop()?;
    assert_eq!((there.duplicated, there.tampered, there.reordered, there.lost), (10, 20, 0, 0));
    assert_eq!(there.sent, there.received + 10);
    let seen = sniffer.take(210, PATIENCE)?;
    assert_eq!(seen.len(), 210);
    assert_eq!(seen.iter().filter(|frame| frame.bytes.last() != Some(&0x5a)).count(), 20);
    Ok(())
}

#[test]
fn tcp_crosses_a_middlebox_that_duplicates_and_reorders() -> Result<()> {
    let lab = Lab::new("storm")?;
    let tampering =
        Tampering { duplicate_every: 20, reorder_every: 20, depth: 2, ..Default::default() };
    let (first, second, middlebox) = lab.middlebox("first", "second", tampering)?;
    let _server = second.serve(None, &["tcp-echo", "8000"])?;
    let address = (second.address(), 8000).into();
    let exchange = first.netns().enter(|| tcp_exchange(address, Amount::Count(50_000_000)))?;
    assert!(exchange.is_complete());
    for counts in middlebox.stop()? {
        assert!(counts.received > 10_000 && counts.lost == 0, "{counts:?}");
        assert_eq!(counts.sent, counts.received + counts.duplicated);
        assert!(counts.duplicated.abs_diff(counts.received / 20) <= 2, "{counts:?}");
        assert!(counts.reordered > counts.received / 25, "{counts:?}");
    }
    Ok(())
}
