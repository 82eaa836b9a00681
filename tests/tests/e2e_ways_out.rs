//! Ways out of a zone that no other node judges: hosts of the perimeter, interfaces that are not guarded,
//! the kernel's own copies. Nobody but the sender's node can refuse here.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, Sniffer, until};

/// A node and two hosts of the perimeter: web may call the one, and the other may call web.
const POLICY: &str = r#"
<DSP cluster="ways-out" serial="1">
  <node><SnID> 1 </SnID><name> one </name><address> 10.77.0.1 </address></node>
  <zone><ScID> 10 </ScID><name> web </name></zone>
  <zone><ScID> 30 </ScID><name> called </name></zone>
  <zone><ScID> 40 </ScID><name> caller </name></zone>
  <zone><ScID> 50 </ScID><name> old </name></zone>
  <perimeter><address> 10.77.0.90/32 </address><SnID> 900 </SnID><ScID> 30 </ScID></perimeter>
  <perimeter><address> 10.77.0.91/32 </address><SnID> 900 </SnID><ScID> 40 </ScID></perimeter>
  <perimeter><address> 10.88.0.3/32 </address><SnID> 900 </SnID><ScID> 30 </ScID></perimeter>
  <perimeter><address> 10.88.0.4/32 </address><SnID> 900 </SnID><ScID> 40 </ScID></perimeter>
  <SOCKET_class_rule>
    <sSnID> * </sSnID> <sScID> * </sScID>
    <allow> CREATE BIND CONNECT LISTEN ACCEPT SEND RECEIVE </allow>
  </SOCKET_class_rule>
  <SOCKET_class_rule>
    <sSnID> one </sSnID> <sScID> web </sScID> <tSnID> 900 </tSnID> <tScID> called </tScID>
    <allow> CREATE </allow>
  </SOCKET_class_rule>
  <NETWORK_class_rule>
    <sSnID> 900 </sSnID> <sScID> caller </sScID> <tSnID> one </tSnID> <tScID> web </tScID>
    <allow> RECEIVE </allow>
  </NETWORK_class_rule>
</DSP>"#;
const WEB: Option<u32> = Some(10);
const OLD: Option<u32> = Some(50);
/// A packet socket that nothing governs sees what is on the wire this long after it was sent.
const SEEN: Duration = Duration::from_millis(100);

fn cluster(mode: &str) -> Result<Cluster> {
    Cluster::start("ways", &Setting { mode, ..Setting::of(POLICY) })
}

/// A second link of the node, which is not among the agent's interfaces: its `eth1` to that of a host.
fn unguarded(node: &Node, host: &Node) -> Result<()> {
    let peer = host.netns().name();
    node.netns().ip(&format!("link add eth1 type veth peer name eth1 netns {peer}"))?;
    for end in [node, host] {
        end.netns().sysctl("ipv6/conf/eth1/disable_ipv6", "0")?;
    }
    node.netns().ip("addr add 10.88.0.1/24 dev eth1
         addr add fd88::1/64 dev eth1 nodad
         link set eth1 up")?;
    host.netns().ip("addr add 10.88.0.2/24 dev eth1
         addr add 10.88.0.3/24 dev eth1
         addr add 10.88.0.4/24 dev eth1
         addr add fd88::2/64 dev eth1 nodad
         addr add fd88::a4d:5b/64 dev eth1 nodad
         link set eth1 up")?;
    // Until then, what is sent is lost.
    for end in [node, host] {
        until("carrier", PATIENCE, || {
            let link = end.run(&["ip", "link", "show", "eth1"])?.stdout;
            Ok(link.contains("state UP").then_some(()))
        })?;
    }
    Ok(())
}

fn who_may_only_be_answered_is_not_called(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let one = cluster.node("one")?;
    let (called, host) = (cluster.lab.node("called", 90)?, cluster.lab.node("caller", 91)?);
    let _web = one.serve(WEB, &["udp-echo", "9000"])?;
    let _open = one.serve(WEB, &["tcp-echo", "9001"])?;
    let _to_call = called.serve(None, &["udp-echo", "9999"])?;
    let _to_answer = host.serve(None, &["udp-echo", "9999"])?;
    for how in ["", " unconnected"] {
        assert_eq!(one.attempt(WEB, &format!("send 10.77.0.90:9999 64{how}"))?, "ok");
        assert_eq!(one.attempt(WEB, &format!("send 10.77.0.91:9999 64{how}"))?, "EPERM", "{how}");
    }
    // Below the kernel's own checks of a datagram socket.
    one.attempt(WEB, "raw 10.77.0.1 10.77.0.91:9999 01010101")?;
    assert_eq!(one.stats()?.dropped("egress", "no-rule"), 1);
    // It calls, and is answered, also in pieces and more than once.
    for words in ["send 10.77.0.1:9000 64", "send 10.77.0.1:9000 4000", "send 10.77.0.1:9000 64"] {
        assert_eq!(host.attempt(None, words)?, "ok", "{words}");
    }
    assert_eq!(host.attempt(None, "connect 10.77.0.1:9001")?, "ok");
    let exchange = host.exchange(None, &["tcp-exchange", "10.77.0.1:9001", "100000"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    one.stats()?.balanced()
}

fn no_way_leads_out_of_an_unguarded_interface(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let one = cluster.node("one")?;
    let far = cluster.lab.node("far", 92)?;
    unguarded(one, &far)?;
    let sniffer = Sniffer::start(far.netns(), "eth1", |frame| {
        let (kind, next) = (frame.bytes.get(12..14), frame.bytes.get(20));
        // All of IPv4; of IPv6 not what it says of neighbours and listeners.
        let spoken = match kind {
            Some([8, 0]) => true,
            Some([0x86, 0xdd]) => matches!(next, Some(6 | 17)),
            _ => false,
        };
        spoken && !frame.outgoing
    })?;
    let _echo = far.serve(None, &["udp-echo", "[fd88::2]:9999"])?;
    let _to_call = far.serve(None, &["udp-echo", "10.88.0.3:9999"])?;
    let ways = [
        "send [fd88::2]:9999 64",
        "send [fd88::2]:9999 64 unconnected",
        "send 10.88.0.2:9999 64",
        "send 10.88.0.4:9999 64 unconnected",
        // An address that web may talk to, out of an interface where anybody may answer for it.
        "send 10.77.0.1:9999 64 device=eth1",
        "raw 10.88.0.1 10.88.0.2:9999 01010101",
        "raw 10.88.0.1 10.88.0.4:9999 01010101",
        "echo 10.88.0.2",
        "connect [fd88::2]:9999",
    ];
    for way in ways {
        assert_ne!(one.attempt(WEB, way)?, "ok", "{way}");
    }
    std::thread::sleep(SEEN);
    assert!(sniffer.take(0, SEEN)?.is_empty(), "packets of a zone left");
    drop(sniffer);
    assert!(one.stats()?.dropped("socket", "unguarded") > 0, "{:?}", one.stats()?);
    // Who is in no zone goes where it likes, and a zone to those of the perimeter whom it may call.
    assert_eq!(one.attempt(None, "send [fd88::2]:9999 64 unconnected")?, "ok");
    for how in ["", " unconnected"] {
        assert_eq!(one.attempt(WEB, &format!("send 10.88.0.3:9999 64{how}"))?, "ok", "{how}");
    }
    // And what comes in there wears no address of the perimeter's, only its last four bytes.
    let _web = one.serve(WEB, &["udp-echo", "[::]:9000"])?;
    let wears = "send [fd88::1]:9000 64 source=[fd88::a4d:5b]:0";
    assert_eq!(far.attempt(None, wears)?, "silence");
    assert_eq!(far.attempt(None, "send 10.88.0.1:9000 64 source=10.88.0.4:0")?, "ok");
    one.stats()?.balanced()
}

/// Of a multicast packet that leaves, the kernel gives this node's listeners a copy.
fn a_looped_copy_reaches_nobody(mode: &str) -> Result<()> {
    let cluster = cluster(mode)?;
    let one = cluster.node("one")?;
    one.netns().sysctl("ipv6/conf/eth0/disable_ipv6", "0")?;
    one.netns().ip("addr add fe80::77:1/64 dev eth0 nodad")?;
    let listener = one.serve(None, &["udp-echo", "[::]:5555"])?;
    let link = one.run(&["ip", "-o", "link", "show", "eth0"])?.stdout;
    let index = link.split(':').next().unwrap_or_default();
    let before = one.stats()?;
    let words = format!("send [ff02::1%{index}]:5555 64 unconnected");
    let outcome = one.attempt(WEB, &words)?;
    assert!(outcome != "ok" && !outcome.contains("answer"), "{outcome}");
    let drops = one.stats()?.drops_since(&before);
    assert!(drops.contains_key("not-verified"), "{outcome}: {drops:?}");
    drop(listener);
    one.stats()?.balanced()
}

sigil_harness::in_both_modes! {
    who_may_only_be_answered_is_not_called
    no_way_leads_out_of_an_unguarded_interface
    a_looped_copy_reaches_nobody
}

/// It would get a copy of every zone's packets.
#[test]
fn a_zone_has_no_raw_sockets_of_transport_protocols() -> Result<()> {
    let cluster = cluster("auto")?;
    let one = cluster.node("one")?;
    for kind in ["raw-tcp", "raw-udp", "raw-sctp"] {
        assert_eq!(one.attempt(WEB, &format!("socket {kind}"))?, "EPERM", "{kind}");
        assert_eq!(one.attempt(None, &format!("socket {kind}"))?, "ok", "{kind}, in no zone");
    }
    assert_eq!(one.attempt(WEB, "socket raw-icmp")?, "ok");
    Ok(())
}

/// A socket of nobody's zone goes where it likes only in the hands of those who are in none. The kernel
/// tells who uses it once the first packet has left.
#[test]
fn a_zone_leaves_by_no_socket_that_was_left_to_it() -> Result<()> {
    let cluster = cluster("auto")?;
    let one = cluster.node("one")?;
    let far = cluster.lab.node("far", 92)?;
    unguarded(one, &far)?;
    let sniffer = Sniffer::start(far.netns(), "eth1", |frame| {
        !frame.outgoing && frame.bytes.windows(6).any(|payload| payload == b"second")
    })?;
    let _echo = far.serve(None, &["udp-echo", "[fd88::2]:9999"])?;
    assert_eq!(one.attempt(None, "send [fd88::2]:9999 64")?, "ok");
    let labelctl = format!("{:?}", one.labelctl()?);
    let leave = |run: &str| {
        let writes = format!("{run} sh -c 'echo first >&3; echo second >&3'");
        one.run(&["bash", "-c", &format!("exec 3<>/dev/udp/fd88::2/9999; {writes}")])
    };
    leave(&format!("{labelctl} run --scid 10 --"))?;
    assert!(sniffer.take(0, SEEN)?.is_empty(), "a zone's packet left");
    assert!(one.stats()?.dropped("socket", "socket-label") > 0, "{:?}", one.stats()?);
    leave("")?;
    sniffer.take(1, PATIENCE)?;
    one.stats()?.balanced()
}

/// It is nobody then, and not one of those who never had a zone.
#[test]
fn who_lost_its_zone_is_refused_on_loopback() -> Result<()> {
    let cluster = cluster("auto")?;
    let one = cluster.node("one")?;
    let _echo = one.serve(None, &["udp-echo", "9000"])?;
    let sender = one.traffic(OLD, &["udp-exchange", "127.0.0.1:9000", "2s", "64"])?;
    let comm = format!("/proc/{}/comm", sender.pid());
    until("sender in its zone", PATIENCE, || {
        Ok(fs::read_to_string(&comm)?.starts_with("sigil-traffic").then_some(()))
    })?;
    let without = POLICY
        .replace("<zone><ScID> 50 </ScID><name> old </name></zone>", "")
        .replace("serial=\"1\"", "serial=\"2\"");
    let path = one.directory().join("without.xml");
    fs::write(&path, without)?;
    let load = one.ctl(&["load", &path.display().to_string()])?;
    assert_eq!(load.code, 0, "{load:?}");
    let exchange = sigil_harness::traffic::finish(sender)?;
    assert!(exchange.sent > 1 && exchange.received == 0, "{exchange:?}");
    assert!(one.stats()?.dropped("loopback", "no-scid") > 0, "{:?}", one.stats()?);
    Ok(())
}
