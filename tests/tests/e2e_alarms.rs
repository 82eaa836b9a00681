//! Alarms from the kernel to the administrator: nothing that happened on a node is missing at the
//! server, and nothing is told twice.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use etherparse::IpNumber;
use serde_json::Value;
use sigil_binary::{How, PrivateKey, find, label};
use sigil_harness::cluster::Setting;
use sigil_harness::packet::{self, Headers};
use sigil_harness::{Attacker, Cluster, Node, PATIENCE, Programs, Server, until};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
/// One node, programs and who signs them.
const PROCESSES: &str = include_str!("processes/policy.xml");
/// The key that it names: of RFC 8032, for the test's own.
const NOBODYS: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
const WEB: u32 = 10;
const APP: u32 = 20;
const SECURE: u32 = 20;
const OTHER: u32 = 30;
const STILL: u32 = 40;

/// With a zone that may execute nothing, and a rule that tells of every use.
fn policy() -> String {
    let still = "<zone><ScID> 40 </ScID><name> still </name></zone>";
    let runs = |zone, what| {
        format!(
            "<PROCESS_class_rule><sSnID> * </sSnID><sScID> {zone} </sScID><allow> {what} </allow>\
             </PROCESS_class_rule>"
        )
    };
    let told = "<SOCKET_class_rule><sSnID> one </sSnID><sScID> web </sScID><tSnID> two </tSnID>\
                <tScID> app </tScID><alarm> CREATE </alarm></SOCKET_class_rule>";
    let rules = ["web", "app", "other", "kernel"].map(|zone| runs(zone, "FORK EXECVE")).concat();
    POLICY
        .replacen("<SOCKET_class_rule>", &format!("{still}<SOCKET_class_rule>"), 1)
        .replace("</DSP>", &format!("{told}{rules}{}</DSP>", runs("still", "FORK")))
}

fn cluster(policy: &str) -> Result<(Cluster, Node, Server)> {
    let setting = Setting { mode: "tc", ..Setting::of(policy) };
    Cluster::under_server("alarms", &setting, "[rotation]\noverlap = 1\n")
}

fn listed(server: &Server, host: &Node, filter: &[&str]) -> Result<Vec<Value>> {
    let list = [&["alarms", "list", "-o", "jsonl"], filter].concat();
    let lines = server.administer(host, &list)?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What the server was told that a node dropped, by hook and reason.
fn told(server: &Server, host: &Node, snid: u32) -> Result<BTreeMap<(String, String), u64>> {
    let mut sums = BTreeMap::new();
    for alarm in listed(server, host, &["--kind", "drop", "--all", "--node", &snid.to_string()])? {
        let text = |of: &str| alarm.get(of).and_then(Value::as_str).unwrap_or_default().to_owned();
        *sums.entry((text("hook"), text("reason"))).or_default() +=
            alarm.get("count").and_then(Value::as_u64).context("no count")?;
    }
    Ok(sums)
}

/// What its kernel counted.
fn counted(node: &Node) -> Result<BTreeMap<(String, String), u64>> {
    let mut sums = BTreeMap::new();
    for (hook, row) in node.stats()?.hooks {
        for (reason, count) in row.dropped.into_iter().filter(|(_, count)| *count > 0) {
            sums.insert((hook.clone(), reason), count);
        }
    }
    Ok(sums)
}

/// Waits until the two agree, for every node, hook and reason.
fn reconciled(cluster: &Cluster, server: &Server, host: &Node) -> Result<()> {
    for (snid, node) in (1..).zip(cluster.nodes()) {
        let mut last = None;
        let same = until("sums that agree", 4 * PATIENCE, || {
            let sums = (counted(node)?, told(server, host, snid)?);
            let same = sums.0 == sums.1;
            last = Some(sums);
            Ok(same.then_some(()))
        });
        same.with_context(|| format!("node {snid}: {last:?}"))?;
    }
    Ok(())
}

fn of(sums: &BTreeMap<(String, String), u64>, reason: &str) -> u64 {
    sums.iter().filter(|((_, held), _)| held == reason).map(|(_, count)| count).sum()
}

#[test]
fn everything_that_is_refused_is_told_and_adds_up_also_over_an_outage() -> Result<()> {
    let (cluster, host, mut server) = cluster(&policy())?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    let mallory = Attacker::plug(&cluster.lab)?;
    let mut follow = std::process::Command::new(sigil_harness::binary("labelctl")?);
    let of_two = ["alarms", "follow", "--kind", "drop", "--node", "2", "-o", "jsonl"];
    follow.args(of_two).env("SIGIL_ADMIN", server.admin());
    let follow = host.start(&mut follow)?;

    let client = ["udp-exchange", "10.77.0.2:8000", "3", "64"];
    let captured = mallory.capture(&cluster.lab, one, IpNumber::UDP, || {
        ensure!(one.exchange(Some(WEB), &client)?.is_complete());
        Ok(())
    })?;
    let refuse = |times: usize| -> Result<()> {
        let headers = Headers::between(&mallory.node, two)?;
        let at = packet::label_offset(&captured).context("no label")?;
        let key_id = *captured.get(at + 22).context("no key")?;
        let label = packet::authenticated(1, WEB, key_id, 0, 1 << 20, [0x42; 12]);
        let forged = Headers::between(&mallory.node, two)?.pretending(one.address());
        let forged = forged.options(&label)?.udp(9, 8000, b"forged")?;
        for frame in [captured.clone(), forged, headers.udp(9, 8000, b"bare")?] {
            mallory.inject(two, &vec![frame; times])?;
        }
        assert_eq!(one.attempt(Some(OTHER), "send 10.77.0.2:8000 64")?, "EPERM");
        assert!(!one.run_zone(STILL, &["/bin/true"])?.success());
        Ok(())
    };
    refuse(1)?;
    let follows = |words: &str| follow.wait_line(2 * PATIENCE, |line| line.contains(words));
    for reason in ["replay", "bad-icv", "unlabelled"] {
        let alarm: Value = serde_json::from_str(&follows(&format!("\"{reason}\""))?)?;
        assert_eq!((alarm["snid"].as_u64(), alarm["hook"].as_str()), (Some(2), Some("ingress")));
    }
    // Far more than the kernel tells one by one: what it suppresses is counted as well.
    refuse(400)?;
    reconciled(&cluster, &server, &host)?;
    server.kill()?;
    drop(follow);
    refuse(200)?;
    let suppressed = two.stats()?.events.suppressed;
    assert!(suppressed > 0, "the test tests nothing");
    // Nobody to tell: it is on the node's disk, and the agent may die.
    std::thread::sleep(2 * PATIENCE / 5);
    server.resume(&host)?;
    server.settled(&host)?;
    reconciled(&cluster, &server, &host)?;
    let (sums, own) = (told(&server, &host, 2)?, told(&server, &host, 1)?);
    for reason in ["replay", "bad-icv", "unlabelled"] {
        assert!(of(&sums, reason) >= 601, "{reason}: {sums:?}");
    }
    assert!(of(&own, "no-rule") >= 3 && of(&own, "process-permission") >= 3, "{own:?}");
    let rule = until("alarm of a rule", PATIENCE, || {
        let alarms = listed(&server, &host, &["--kind", "rule", "--zone", "web"])?;
        Ok(alarms.into_iter().next())
    })?;
    assert_eq!(rule["target"]["scid"], APP);
    filters_and_acknowledgement(&server, &host)
}

fn filters_and_acknowledgement(server: &Server, host: &Node) -> Result<()> {
    let all = listed(server, host, &[])?;
    let in_web = listed(server, host, &["--zone", "web"])?;
    assert!(!in_web.is_empty() && in_web.len() < all.len());
    assert_eq!(in_web, listed(server, host, &["--zone", "10"])?, "by name and by number");
    assert_eq!(listed(server, host, &["--zone", "4711"])?, Vec::<Value>::new());
    assert_eq!(listed(server, host, &["--since", "60m"])?.len(), all.len());
    let number = |alarm: &Value| alarm.get("number").and_then(Value::as_u64);
    let held = all.last().and_then(number);
    let newest = held.context("none")?.to_string();
    assert_eq!(listed(server, host, &["--after", &newest])?, Vec::<Value>::new());
    let acknowledged = server.labelctl(host, &["alarms", "ack", &newest])?;
    assert!(acknowledged.success(), "{acknowledged:?}");
    let ours = |alarms: &[Value]| alarms.iter().any(|alarm| number(alarm) == held);
    assert!(!ours(&listed(server, host, &[])?));
    let all = listed(server, host, &["--all"])?;
    assert!(ours(&all));
    let by = all.iter().find(|alarm| number(alarm) == held).context("gone")?;
    assert_eq!(by.get("acknowledged").and_then(Value::as_str), Some("admin"));
    assert_eq!(server.labelctl(host, &["alarms", "ack", "7"])?.code, 1, "there is none");
    Ok(())
}

/// Another program takes away filters, links, pins and a route's MTU: it is put back and told.
#[test]
fn tampering_is_undone_and_told() -> Result<()> {
    let (cluster, host, server) = cluster(POLICY)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    let echoes = || -> Result<bool> {
        let exchange = one.exchange(Some(WEB), &["udp-exchange", "10.77.0.2:8000", "20", "64"]);
        Ok(exchange.is_ok_and(|exchange| exchange.is_complete()))
    };
    assert!(echoes()?);
    let pins = one.bpffs().join("sigil");
    let link = |name: &str| pins.join("links").join(name);
    let mut taken = vec![
        (link("tc_verify-eth0"), "programs on eth0"),
        (link("lo_stamp-lo"), "lo_stamp"),
        (link("sock_connect4"), "sock_connect4"),
        (link("skb_deliver"), "skb_deliver"),
        (link("task_fork"), "task_fork"),
        (pins.join("maps/PEERS"), "PEERS"),
    ];
    // Tracepoints that not every kernel has, and this one does.
    let watched = ["sock_tcp_read", "sock_tcp_send", "sock_sent", "sock_received"];
    let needed = if one.status()?["backend"] == "lsm" { 1 } else { watched.len() };
    taken.extend(watched.iter().take(needed).map(|name| (link(name), *name)));
    for (pin, _) in &taken {
        fs::remove_file(pin).with_context(|| pin.display().to_string())?;
    }
    for (pin, words) in &taken {
        until("alarm of tampering", 2 * PATIENCE, || {
            let alarms = listed(&server, &host, &["--kind", "tampered", "--node", "1"])?;
            let told = |alarm: &Value| alarm["message"].as_str().is_some_and(|m| m.contains(words));
            Ok(alarms.iter().any(told).then_some(()))
        })
        .with_context(|| (*words).to_owned())?;
        ensure!(pin.exists(), "{} is not there again", pin.display());
    }
    let routes = || Ok::<_, anyhow::Error>(one.run(&["ip", "route", "show"])?.stdout);
    assert!(routes()?.contains("mtu 1460"));
    one.netns().ip("route change 10.77.0.0/24 dev eth0 proto kernel scope link src 10.77.0.1")?;
    until("alarm of the route", 2 * PATIENCE, || {
        let alarms = listed(&server, &host, &["--kind", "tampered"])?;
        let told = |alarm: &Value| alarm["message"].as_str().is_some_and(|m| m.contains("MTU"));
        Ok(alarms.iter().any(told).then_some(()))
    })?;
    assert!(routes()?.contains("mtu 1460"), "{}", routes()?);
    assert!(echoes()?, "all is as it was");
    // It is enforced again, too.
    assert_eq!(one.attempt(Some(OTHER), "send 10.77.0.2:8000 64")?, "EPERM");
    let stranger = cluster.lab.node("stranger", 99)?;
    assert_eq!(stranger.attempt(None, "send 10.77.0.1:8000 64")?, "silence");
    one.stats()?.balanced()?;
    assert!(listed(&server, &host, &["--kind", "tampered", "--node", "2"])?.is_empty());
    Ok(())
}

/// Who ends by a signature that is taken back is told of where the policy came from.
#[test]
fn the_end_of_a_revoked_program_is_told() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let key = PrivateKey::generate(keys.path().join("key"))?;
    let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let policy = PROCESSES.replace(NOBODYS, &hex(*key.public()));
    let (mut cluster, host, server) = cluster(&policy)?;
    let programs = Programs::mount(cluster.node("one")?)?;
    let shell = programs.copy(&fs::canonicalize("/bin/sh")?, "shell")?;
    label(&shell, SECURE, 1, Some(&key), How::default())?;
    let member = cluster.member("one")?;
    member.config.guard_exec = vec![programs.path().into()];
    member.take_agent()?.stop()?;
    member.start()?;
    server.settled(&host)?;
    let argv = [shell.to_str().context("a path")?, "-c", "echo ready; sleep 60"];
    let mut runs = cluster.node("one")?.spawn(&argv)?;
    runs.wait_line(PATIENCE, |line| line == "ready")?;

    let signature = hex(find(&fs::File::open(&shell)?)?.record.signature_id().0);
    let revoked = format!("<revoked><signature> {signature} </signature></revoked></DSP>");
    let next = policy.replace("serial=\"1\"", "serial=\"2\"").replace("</DSP>", &revoked);
    let file = host.directory().join("next.xml");
    fs::write(&file, next)?;
    server.administer(&host, &["policy", "push", file.to_str().context("a path")?])?;
    let alarm = until("alarm of the revocation", 2 * PATIENCE, || {
        Ok(listed(&server, &host, &["--kind", "revoked"])?.into_iter().next())
    })?;
    assert_eq!((&alarm["snid"], &alarm["source"]["scid"]), (&1.into(), &SECURE.into()), "{alarm}");
    assert!(!runs.is_running()?, "{alarm}");
    Ok(())
}

/// What the agent's monitor reads is what the kernel counted, and says when the server is lost.
#[test]
fn an_agents_metrics_and_health_follow_its_kernel_and_its_server() -> Result<()> {
    let (mut cluster, host, mut server) = cluster(POLICY)?;
    let member = cluster.member("one")?;
    member.config.metrics = Some("127.0.0.1:9464".parse()?);
    member.take_agent()?.stop()?;
    member.start()?;
    server.settled(&host)?;
    let one = cluster.node("one")?;
    let get = |path: &str| -> Result<String> {
        let url = format!("http://127.0.0.1:9464{path}");
        let said = one.run(&["curl", "--silent", "--max-time", "5", "--include", &url])?;
        ensure!(said.success(), "{said:?}");
        Ok(said.stdout)
    };
    assert!(get("/healthz")?.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz")?.starts_with("HTTP/1.1 200"), "{}", get("/readyz")?);
    assert!(get("/secrets")?.starts_with("HTTP/1.1 404"));
    for _ in 0..3 {
        assert_eq!(one.attempt(Some(OTHER), "send 10.77.0.2:8000 64")?, "EPERM");
    }
    let dropped = one.stats()?.dropped("socket", "no-rule");
    let metrics = get("/metrics")?;
    for line in [
        format!("sigil_packets_dropped_total{{hook=\"socket\",reason=\"no-rule\"}} {dropped}"),
        "sigil_server_attached 1".into(),
        "sigil_enforcing 1".into(),
        "sigil_policy_serial 1".into(),
    ] {
        assert!(dropped >= 3 && metrics.contains(&line), "no `{line}` in {metrics}");
    }
    server.kill()?;
    until("the agent that is not ready", PATIENCE, || {
        let ready = get("/readyz")?;
        let told = ready.starts_with("HTTP/1.1 503") && ready.contains("no server for");
        Ok(told.then_some(()))
    })?;
    assert!(get("/healthz")?.starts_with("HTTP/1.1 200"), "it lives all the same");
    assert!(get("/metrics")?.contains("sigil_server_attached 0"));
    server.resume(&host)?;
    until("the agent that is ready again", 2 * PATIENCE, || {
        Ok(get("/readyz")?.starts_with("HTTP/1.1 200").then_some(()))
    })
}
