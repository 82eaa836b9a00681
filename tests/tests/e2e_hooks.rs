//! The two ways of attaching to TC: the agent takes the one that the kernel has, says which, leaves
//! what others attached alone, and puts back what somebody took away.

use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node, PATIENCE, until};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: Option<u32> = Some(10);

/// TCX came with Linux 6.6.
fn expected_hook() -> Result<&'static str> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().context("a version")?, numbers.next().context("a version")?);
    Ok(if version >= (6, 6) { "tcx" } else { "clsact" })
}

fn prepared(name: &str) -> Result<Cluster> {
    Cluster::prepare(name, &Setting { mode: "tc", ..Setting::of(POLICY) })
}

fn tc(node: &Node, arguments: &str) -> Result<String> {
    let argv: Vec<_> = ["tc"].into_iter().chain(arguments.split(' ')).collect();
    let output = node.run(&argv)?;
    ensure!(output.success(), "tc {arguments}: {}", output.stderr);
    Ok(output.stdout)
}

/// What a filter of somebody else says of every packet.
const PASS: &str = "1,6 0 0 0";
const CONTINUE: &str = "1,6 0 0 4294967295";

/// Puts such a filter somewhere.
fn put(node: &Node, place: &str, answer: &str) -> Result<()> {
    let command = format!("tc filter replace dev eth0 {place} protocol all bpf da bytecode");
    let argv: Vec<_> = command.split(' ').chain([answer]).collect();
    let output = node.run(&argv)?;
    ensure!(output.success(), "{command}: {}", output.stderr);
    Ok(())
}

/// How many of the agent's programs are filters of an interface.
fn ours(node: &Node, device: &str) -> Result<usize> {
    let mut count = 0;
    for way in ["ingress", "egress"] {
        let filters = tc(node, &format!("filter show dev {device} {way}"))?;
        count += filters.matches("handle 0x5161").count();
    }
    Ok(count)
}

fn talks(cluster: &Cluster) -> Result<bool> {
    let exchange = cluster.node("one")?.exchange(WEB, &["ping", "10.77.0.2", "1"]);
    Ok(exchange.is_ok_and(|exchange| exchange.is_complete()))
}

#[test]
fn filters_of_others_stay_and_ours_go() -> Result<()> {
    let mut cluster = prepared("hooks")?;
    let one = cluster.node("one")?;
    tc(one, "qdisc add dev eth0 clsact")?;
    for way in ["egress", "ingress"] {
        put(one, &format!("{way} pref 7"), CONTINUE)?;
    }
    cluster.member("one")?.start()?;
    cluster.member("two")?.start()?;
    ensure!(talks(&cluster)?, "beside filters of others");

    let hook = expected_hook()?;
    for node in ["one", "two"] {
        let status = cluster.node(node)?.ctl(&["status"])?.stdout;
        ensure!(status.contains(&format!("eth0 (tc, {hook})")), "{status}");
    }
    let filters = if hook == "clsact" { 2 } else { 0 };
    for device in ["eth0", "lo"] {
        assert_eq!(ours(cluster.node("one")?, device)?, filters, "{device}");
    }
    // Whoever comes next finds what is attached, and attaches nothing twice.
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.start()?;
    ensure!(talks(&cluster)?, "after the agent was replaced");
    assert_eq!(ours(cluster.node("one")?, "eth0")?, filters, "after the agent was replaced");

    for name in ["one", "two"] {
        let member = cluster.member(name)?;
        member.take_agent()?.detach(&member.node)?;
    }
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    for way in ["egress", "ingress"] {
        let left = tc(one, &format!("filter show dev eth0 {way}"))?;
        ensure!(left.contains("bytecode") && !left.contains("0x5161"), "{way}: {left}");
    }
    for device in ["eth0", "lo"] {
        let qdiscs = tc(two, &format!("qdisc show dev {device}"))?;
        ensure!(!qdiscs.contains("clsact"), "the agent's own qdisc stays: {qdiscs}");
    }
    Ok(())
}

/// Whoever takes programs off their hooks does so for a moment only.
#[test]
fn a_program_that_was_taken_away_comes_back() -> Result<()> {
    let mut cluster = prepared("hooks-tamper")?;
    cluster.member("one")?.start()?;
    cluster.member("two")?.start()?;
    let two = cluster.node("two")?;
    let back =
        || until("programs in their places", PATIENCE, || Ok(talks(&cluster)?.then_some(())));
    back()?;
    if expected_hook()? == "tcx" {
        for program in ["tc_verify", "tc_stamp"] {
            let pin = format!("sigil/links/{program}-eth0");
            std::fs::remove_file(two.bpffs().join(pin))?;
        }
        return back();
    }
    tc(two, "filter del dev eth0 ingress pref 1")?;
    tc(two, "filter del dev eth0 egress pref 65535")?;
    back()?;
    // What somebody else put in its place is theirs to remove, and is named.
    put(two, "egress pref 65535 handle 0x5161", PASS)?;
    until("word of the other filter", PATIENCE, || {
        let status = two.ctl(&["status"])?.stdout;
        Ok(status.contains("tc filter show dev eth0 egress").then_some(()))
    })?;
    tc(two, "filter del dev eth0 egress pref 65535")?;
    back()
}

/// Before the verifier nothing may see packets, for it might let them pass.
#[test]
#[ignore = "needs a kernel without TCX links: scripts/test-kernels 6.1"]
fn nobodys_filter_comes_before_the_verifier() -> Result<()> {
    assert_eq!(expected_hook()?, "clsact");
    let mut cluster = prepared("hooks-before")?;
    let one = cluster.node("one")?;
    tc(one, "qdisc add dev eth0 clsact")?;
    put(one, "ingress pref 1", PASS)?;
    let error = cluster.member("one")?.start().err().context("it started")?;
    ensure!(format!("{error:#}").contains("tc filter show dev eth0 ingress"), "{error:#}");
    let left = tc(cluster.node("one")?, "filter show dev eth0 ingress")?;
    ensure!(left.contains("bytecode") && !left.contains("0x5161"), "{left}");
    Ok(())
}
