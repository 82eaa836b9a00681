//! What should never happen in the kernel, and is told to the agent's log when it does.

use anyhow::{Context, Result};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, Process, until};
use std::time::Instant;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;
/// How a record begins.
const NO_ROOM: &str = "a packet got no room for its label";

/// Sends datagrams in packets that the kernel finds too long to put anything into: it makes no room
/// in one of more than 16 KiB that is no super-frame. The route's MTU keeps packets shorter, except
/// those of a socket that probes what the device carries.
const OVERLONG: &str = "
import socket, sys, time
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
for _ in range(int(sys.argv[1])):
    s.sendto(bytes(20000), ('10.77.0.2', 5001))
    time.sleep(float(sys.argv[2]))
";

fn overlong(node: &Node, count: u64, interval: &str) -> Result<Process> {
    node.spawn_zone(WEB, &["/usr/bin/python3", "-c", OVERLONG, &count.to_string(), interval])
}

/// To its end: it is not the sender who is told.
fn sent(sender: Process) -> Result<()> {
    let output = sender.wait(2 * PATIENCE)?;
    assert_eq!(output.code, 0, "{output:?}");
    Ok(())
}

/// The records in a log, each with how often it says that it happened.
fn records(log: &str) -> Result<Vec<u64>> {
    let times = |line: &str| -> Result<u64> {
        let (_, rest) = line.split_once("; ").context(line.to_owned())?;
        Ok(rest.split(' ').next().context(line.to_owned())?.parse()?)
    };
    log.lines().filter(|line| line.contains(NO_ROOM)).map(times).collect()
}

#[test]
fn a_helper_that_fails_reaches_the_log_and_does_not_flood_it() -> Result<()> {
    const SLOW: u64 = 6;
    const FLOOD: u64 = 300;
    let setting = Setting { mode: "tc", ..Setting::of(POLICY) };
    let mut cluster = Cluster::prepare("troubles", &setting)?;
    cluster.node("one")?.netns().ip("link set eth0 mtu 65535")?;
    for name in ["one", "two"] {
        cluster.member(name)?.start()?;
    }
    let slow = overlong(cluster.node("one")?, SLOW, "0.5")?;
    let agent = cluster.member("one")?.agent()?;
    let first = || Ok(records(&agent.stderr())?.first().copied());
    assert_eq!(until("record in the log", PATIENCE, first)?, 1);
    let log = agent.stderr();
    let line = log.lines().find(|line| line.contains(NO_ROOM)).context("a record")?;
    assert!(line.contains("ERROR") && line.contains("bpf_skb_adjust_room returns -524"), "{line}");

    // What is told while no agent runs waits in the pinned ring for the next one.
    cluster.member("one")?.take_agent()?.kill9()?;
    let start = Instant::now();
    sent(slow)?;
    cluster.member("one")?.start()?;
    let agent = cluster.member("one")?.agent()?;
    let waited = || Ok(records(&agent.stderr())?.first().copied());
    assert!(until("record that waited", PATIENCE, waited)? > 1);

    let one = cluster.node("one")?;
    sent(overlong(one, FLOOD, "0.002")?)?;
    let dropped = one.stats()?.dropped("egress", "resize");
    assert_eq!(dropped, SLOW + FLOOD, "{:?}", one.stats()?);
    one.stats()?.balanced()?;
    let seconds = start.elapsed().as_secs();
    let told = records(&cluster.member("one")?.agent()?.stderr())?;
    assert!(told.len() as u64 <= seconds + 2, "{told:?} in {seconds} s");
    assert!(told.is_sorted(), "{told:?}");
    assert!((SLOW + 1..=dropped).contains(told.last().context("a record")?), "{told:?}");
    Ok(())
}
