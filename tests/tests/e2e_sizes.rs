//! Room for the label: nothing is lost to its size. Agents reserve the room on the routes, where the
//! kernel looks before it makes packets, and give it back on detach.

use anyhow::{Context, Result};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, until};
use std::collections::BTreeMap;
use std::fs;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const COVERED: &str = include_str!("../harness/dsp/two-nodes-integrity.xml");
const WEB: Option<u32> = Some(10);
const APP: Option<u32> = Some(20);
/// The largest payload that fits the reserved room, and two that would fit without the label: they
/// are sent as fragments.
const DATAGRAMS: [usize; 3] = [1432, 1460, 1472];
const BYTES: &str = "20000000";

fn cluster(policy: &str, mode: &str) -> Result<Cluster> {
    Cluster::start("sizes", &Setting { mode, ..Setting::of(policy) })
}

fn said(node: &Node, argv: &[&str]) -> Result<String> {
    let output = node.run(argv)?;
    assert!(output.success(), "{argv:?}: {}", output.stderr);
    Ok(output.stdout)
}

fn route(node: &Node, destination: &str) -> Result<String> {
    said(node, &["ip", "route", "show", destination])
}

/// Of `eth0`.
fn gro(node: &Node) -> Result<String> {
    let features = said(node, &["ethtool", "-k", "eth0"])?;
    let line = features.lines().find_map(|line| line.strip_prefix("generic-receive-offload: "));
    Ok(line.context("no GRO")?.to_owned())
}

fn gso_max_segs(node: &Node) -> Result<u32> {
    let link = said(node, &["ip", "-d", "link", "show", "eth0"])?;
    let mut words = link.split_whitespace().skip_while(|word| *word != "gso_max_segs");
    Ok(words.nth(1).context(link.clone())?.parse()?)
}

/// Streams and datagrams of every size come back whole, and no hook dropped any of it.
fn nothing_is_lost(cluster: &Cluster) -> Result<()> {
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _stream = two.serve(APP, &["tcp-echo", "8000"])?;
    let _datagrams = two.serve(APP, &["udp-echo", "8000"])?;
    let exchange = one.exchange(WEB, &["tcp-exchange", "10.77.0.2:8000", BYTES])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    for size in DATAGRAMS.into_iter().chain([1, 65_507]) {
        let size = size.to_string();
        let exchange = one.exchange(WEB, &["udp-exchange", "10.77.0.2:8000", "50", &size])?;
        assert!(exchange.is_complete(), "{size} bytes: {exchange:?}");
    }
    for node in cluster.nodes() {
        let stats = node.stats()?;
        let reasons = stats.reasons().into_iter().filter(|(_, count)| *count > 0);
        assert_eq!(reasons.collect::<BTreeMap<_, _>>(), BTreeMap::new(), "on {}", node.name());
        stats.balanced()?;
    }
    Ok(())
}

fn streams_and_datagrams(mode: &str) -> Result<()> {
    let cluster = cluster(POLICY, mode)?;
    nothing_is_lost(&cluster)
}

/// The kernel lengthens no packet of more than 16 KiB; a device may carry longer ones.
#[test]
fn streams_and_datagrams_on_a_device_of_64_kib() -> Result<()> {
    let setting = Setting { mode: "tc", ..Setting::of(POLICY) };
    let mut cluster = Cluster::prepare("sizes", &setting)?;
    for name in ["one", "two"] {
        let member = cluster.member(name)?;
        member.node.netns().ip("link set eth0 mtu 65535")?;
        let port = member.node.port();
        cluster.lab.switch().ip(&format!("link set {port} mtu 65535"))?;
        cluster.member(name)?.start()?;
        assert!(route(cluster.node(name)?, "10.77.0.0/24")?.contains("mtu 16000"));
    }
    nothing_is_lost(&cluster)
}

/// A covered payload has to be in one piece when it is stamped.
fn covered_payloads(mode: &str) -> Result<()> {
    let cluster = cluster(COVERED, mode)?;
    for node in cluster.nodes() {
        assert_eq!(gso_max_segs(node)?, 1, "on {}", node.name());
    }
    nothing_is_lost(&cluster)
}

sigil_harness::in_both_modes! { streams_and_datagrams covered_payloads }

#[test]
fn room_is_reserved_and_given_back() -> Result<()> {
    let setting = Setting::of(POLICY);
    let mut cluster = Cluster::prepare("sizes", &setting)?;
    let member = cluster.member("one")?;
    let before = (route(&member.node, "10.77.0.0/24")?, gso_max_segs(&member.node)?);
    assert!(!before.0.contains("mtu"), "{before:?}");
    // An operator's own, smaller MTU stays.
    member.node.netns().ip("route add 10.88.1.0/24 via 10.77.0.2 mtu 1300")?;
    member.start()?;
    assert!(route(&member.node, "10.77.0.0/24")?.contains("mtu 1460"));
    assert!(route(&member.node, "10.88.1.0/24")?.contains("mtu 1300"));
    assert_eq!(gso_max_segs(&member.node)?, 127);

    member.node.netns().ip("route add 10.88.2.0/24 via 10.77.0.2")?;
    let reserved = || Ok(route(&member.node, "10.88.2.0/24")?.contains("mtu 1460").then_some(()));
    until("room on a route that came later", PATIENCE, reserved)?;

    // It outlives the agent, as enforcement does; even one killed right after it changed a route.
    member.take_agent()?.kill9()?;
    assert!(route(&member.node, "10.77.0.0/24")?.contains("mtu 1460"));
    member.start()?;
    // The device's MTU is the operator's; the room follows it.
    for (device, route_mtu) in [(9000, "mtu 8960"), (1400, "mtu 1360"), (65535, "mtu 16000")] {
        member.node.netns().ip(&format!("link set eth0 mtu {device}"))?;
        let follows = || Ok(route(&member.node, "10.77.0.0/24")?.contains(route_mtu).then_some(()));
        until("room beside another MTU", PATIENCE, follows)?;
    }
    assert!(route(&member.node, "10.88.1.0/24")?.contains("mtu 1300"));
    member.take_agent()?.detach(&member.node)?;
    assert_eq!((route(&member.node, "10.77.0.0/24")?, gso_max_segs(&member.node)?), before);
    assert!(route(&member.node, "10.88.1.0/24")?.contains("mtu 1300"));
    assert!(!route(&member.node, "10.88.2.0/24")?.contains("mtu"));
    Ok(())
}

/// Of several hops, written out or as nexthop objects: all of a route has room, and keeps its hops.
#[test]
fn routes_of_several_hops() -> Result<()> {
    const ADDRESS: &str = "<address> 10.77.0.2 </address>";
    const MORE: [&str; 3] = ["10.88.0.1", "10.88.0.2", "10.88.0.3"];
    let more = MORE.map(|address| format!("<address> {address} </address>")).concat();
    let policy = POLICY.replace(ADDRESS, &format!("{ADDRESS}{more}"));
    let setting = Setting { mode: "xdp", ..Setting::of(&policy) };
    let mut cluster = Cluster::prepare("hops", &setting)?;
    // Two equal hops to the same peer.
    let peer = cluster.node("two")?;
    peer.netns().ip("addr add 10.77.0.22/24 dev eth0")?;
    for address in MORE {
        peer.netns().ip(&format!("addr add {address}/32 dev eth0"))?;
    }
    let one = cluster.node("one")?;
    one.netns()
        .ip("route add 10.88.0.1 nexthop via 10.77.0.2 dev eth0 nexthop via 10.77.0.22 dev eth0")?;
    let hops = route(one, MORE[0])?;
    // A cable that was pulled is a reason neither to start not, nor to start without room.
    let port = one.port();
    cluster.lab.switch().ip(&format!("link set {port} down"))?;
    cluster.member("one")?.start()?;
    cluster.lab.switch().ip(&format!("link set {port} up"))?;
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.node.netns().ip("nexthop add id 1 via 10.77.0.2 dev eth0\n\
         nexthop add id 2 via 10.77.0.22 dev eth0\n\
         nexthop add id 3 group 1/2\n\
         route add 10.88.0.2 nhid 3\nroute add 10.88.0.3 nhid 1 metric 7")?;
    let before = [hops, route(&member.node, MORE[1])?, route(&member.node, MORE[2])?];
    member.start()?;
    cluster.member("two")?.start()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _stream = two.serve(APP, &["tcp-echo", "8000"])?;
    for address in MORE {
        assert!(route(one, address)?.contains("mtu 1460"), "{}", route(one, address)?);
        let exchange =
            one.exchange(WEB, &["tcp-exchange", &format!("{address}:8000"), "1000000"])?;
        assert!(exchange.is_complete(), "{address}: {exchange:?}");
    }
    let stats = one.stats()?;
    let reasons = stats.reasons().into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(reasons.collect::<BTreeMap<_, _>>(), BTreeMap::new());
    // Where a route tells its object's id alone.
    one.netns().sysctl("ipv4/nexthop_compat_mode", "0")?;
    one.netns().ip("route add 10.99.0.0/16 nhid 3")?;
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.start()?;
    assert!(route(&member.node, "10.99.0.0/16")?.contains("nhid 3 mtu 1460"));
    member.take_agent()?.detach(&member.node)?;
    member.node.netns().ip("route del 10.99.0.0/16")?;
    member.node.netns().sysctl("ipv4/nexthop_compat_mode", "1")?;
    for (address, before) in MORE.iter().zip(before) {
        assert_eq!(route(&member.node, address)?, before);
    }
    Ok(())
}

/// A route over two cluster NICs and one that is none has room for the longest label on the shortest.
#[test]
fn a_route_over_several_interfaces() -> Result<()> {
    let mut cluster = Cluster::prepare("wide", &Setting { mode: "tc", ..Setting::of(POLICY) })?;
    let member = cluster.member("one")?;
    member.config.interfaces.push("eth1".into());
    let one = &member.node;
    for (number, hop) in [("1", "10.78.0.2"), ("2", "10.79.0.2")] {
        one.netns().ip(&format!(
            "link add eth{number} type veth peer name far{number}\n\
             link set far{number} up\nlink set eth{number} up mtu 9000\n\
             addr add {hop}1/24 dev eth{number}"
        ))?;
    }
    one.netns().ip("link set eth0 mtu 9000\n\
         route add 10.88.0.0/16 nexthop via 10.77.0.2 dev eth0 nexthop via 10.78.0.2 dev eth1 \
         nexthop via 10.79.0.2 dev eth2")?;
    let before = said(one, &["ip", "route", "show"])?;
    for (first, second, room) in
        [(9000, 1500, "mtu 1460"), (1500, 9000, "mtu 1460"), (1400, 1300, "mtu 1260")]
    {
        member
            .node
            .netns()
            .ip(&format!("link set eth0 mtu {first}\nlink set eth1 mtu {second}"))?;
        member.start()?;
        let given = || Ok(route(&member.node, "10.88.0.0/16")?.contains(room).then_some(()));
        until("room on the shortest", PATIENCE, given)?;
        let agent = member.take_agent()?;
        assert!(!agent.stderr().contains("somebody"), "{}", agent.stderr());
        agent.stop()?;
    }
    member.start()?;
    member.take_agent()?.detach(&member.node)?;
    assert_eq!(said(&member.node, &["ip", "route", "show"])?, before);
    Ok(())
}

/// Between XDP and the stack, packets of one flow are merged; an operator may undo that.
#[test]
fn received_packets_are_merged_behind_xdp() -> Result<()> {
    let setting = Setting { mode: "xdp", ..Setting::of(POLICY) };
    let mut cluster = Cluster::prepare("sizes", &setting)?;
    let member = cluster.member("one")?;
    assert_eq!(gro(&member.node)?, "off", "what a virtual link has by itself");
    member.start()?;
    assert_eq!(gro(&member.node)?, "on");
    said(&member.node, &["ethtool", "-K", "eth0", "gro", "off"])?;
    member.take_agent()?.kill9()?;
    member.start()?;
    assert_eq!(gro(&member.node)?, "off", "the operator's word holds");
    said(&member.node, &["ethtool", "-K", "eth0", "gro", "on"])?;
    member.take_agent()?.detach(&member.node)?;
    assert_eq!(gro(&member.node)?, "off");
    Ok(())
}

/// From a policy with covered payloads to one without, and back.
#[test]
fn super_frames_follow_the_policy() -> Result<()> {
    let cluster = cluster(POLICY, "auto")?;
    let one = cluster.node("one")?;
    let file = one.directory().join("next.xml");
    for (serial, policy, segments) in [(2, COVERED, 1), (3, POLICY, 127)] {
        fs::write(&file, policy.replace("serial=\"1\"", &format!("serial=\"{serial}\"")))?;
        let output = one.ctl(&["load", file.to_str().context("a path")?])?;
        assert!(output.success(), "{}", output.stderr);
        assert_eq!(gso_max_segs(one)?, segments);
    }
    Ok(())
}
