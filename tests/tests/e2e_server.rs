//! A cluster under a Security Server: real agents, real keys, real traffic. The server's host is no
//! node, and no policy knows it.

use anyhow::Result;
use sigil_harness::cluster::Setting;
use sigil_harness::traffic::finish;
use sigil_harness::two_nodes::{APP, OTHER, OTHER_TO_APP, POLICY, WEB, document, echoes};
use sigil_harness::{Cluster, Lab, Node, PATIENCE, Server, binary, until};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

const QUICK: &str = "[rotation]\noverlap = 1\n";

fn cluster(mode: &str, settings: &str) -> Result<(Cluster, Node, Server)> {
    Cluster::under_server("server", &Setting { mode, ..Setting::of(POLICY) }, settings)
}

fn pushed_policies_and_keys_govern(mode: &str) -> Result<()> {
    let (cluster, host, server) = cluster(mode, QUICK)?;
    let two = cluster.node("two")?;
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(echoes(&cluster, WEB)?, "allowed");
    assert!(!echoes(&cluster, OTHER)?, "no rule");
    let next = document(&host, 2, OTHER_TO_APP)?;
    let dry = server.administer(&host, &["policy", "push", "--dry-run", &next])?;
    assert!(dry.contains("+ two:app admits one:other"), "{dry}");
    assert!(!echoes(&cluster, OTHER)?, "a dry run changes nothing");
    server.administer(&host, &["policy", "push", &next])?;
    server.settled(&host)?;
    assert!(echoes(&cluster, OTHER)? && echoes(&cluster, WEB)?);
    let refused = server.labelctl(&host, &["policy", "push", &document(&host, 2, "<!-- -->")?])?;
    assert_eq!(refused.code, 1, "the same serial again: {refused:?}");
    for node in cluster.nodes() {
        node.stats()?.balanced()?;
    }
    Ok(())
}

/// What a confined or an unlabelled process may not: use the agent's way to the server.
fn the_line_to_the_server_is_the_agents_alone(mode: &str) -> Result<()> {
    let (cluster, host, server) = cluster(mode, QUICK)?;
    let one = cluster.node("one")?;
    let address = server.address().to_string();
    for zone in [None, Some(WEB)] {
        let tried = one.exchange(zone, &["tcp-exchange", &address, "1"]);
        assert!(tried.is_err(), "{zone:?}: {tried:?}");
    }
    // A host that takes the server's address and port reaches no other socket.
    let spoofed = || one.serve(None, &["tcp-echo", "7000"]);
    let _open = spoofed()?;
    let headers = sigil_harness::packet::Headers::between(&host, one)?;
    let socket = sigil_harness::RawSocket::open(host.netns(), "eth0")?;
    let before = one.stats()?.dropped("ingress", "unlabelled");
    socket.send(&headers.tcp_syn(7443, 7000, 1)?)?;
    let dropped = || Ok((one.stats()?.dropped("ingress", "unlabelled") > before).then_some(()));
    until("drop of the spoofed packet", PATIENCE, dropped)?;
    // The policy that allows nothing at all does not cut the agents off.
    let bare = POLICY.split("  <!-- What any zone may do").next().unwrap_or_default();
    let text = format!("{}</DSP>", bare.replace("serial=\"1\"", "serial=\"5\""));
    let path = host.directory().join("bare.xml");
    fs::write(&path, text)?;
    server.administer(&host, &["policy", "push", &path.to_string_lossy()])?;
    let status = server.settled(&host)?;
    assert!(status.nodes.iter().all(|node| node.serial == 5), "{status:?}");
    server.administer(&host, &["policy", "push", &document(&host, 6, "")?])?;
    let status = server.settled(&host)?;
    assert!(status.nodes.iter().all(|node| node.serial == 6), "{status:?}");
    Ok(())
}

fn keys_rotate_under_load_and_nothing_is_lost(mode: &str) -> Result<()> {
    let (cluster, host, server) = cluster(mode, QUICK)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    let _stream = two.serve(Some(APP), &["tcp-echo", "8001"])?;
    assert!(echoes(&cluster, WEB)?);
    let load = one.traffic(Some(WEB), &["udp-exchange", "10.77.0.2:8000", "20000", "64"])?;
    let stream = one.traffic(Some(WEB), &["tcp-exchange", "10.77.0.2:8001", "200000000"])?;
    let first = server.status(&host)?.stamp;
    server.administer(&host, &["keys", "rotate"])?;
    let status = server
        .wait(&host, "rotation", |status| status.stamp != first && status.epochs.len() == 1)?;
    assert_eq!(status.epochs, [status.stamp]);
    let (exchange, stream) = (finish(load)?, finish(stream)?);
    assert!(exchange.is_complete(), "{exchange:?}");
    assert!(stream.is_complete(), "{stream:?}");
    for node in [one, two] {
        assert_eq!(node.stats()?.hook("ingress").drops(), 0, "{:?}", node.stats()?);
        assert!(node.run(&["true"])?.success());
    }
    Ok(())
}

fn the_revoked_are_cut_off_within_two_seconds(mode: &str) -> Result<()> {
    let (cluster, host, server) = cluster(mode, QUICK)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(echoes(&cluster, WEB)?);
    let load = one.traffic(Some(WEB), &["udp-exchange", "10.77.0.2:8000", "1000000", "64"])?;
    let start = Instant::now();
    server.administer(&host, &["node", "revoke", "1"])?;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let accepted = || -> Result<u64> { Ok(two.stats()?.hook("ingress").accepted) };
    let before = accepted()?;
    std::thread::sleep(Duration::from_millis(300));
    // ARP is judged as well.
    assert!(accepted()? - before < 10, "a live flow goes on");
    drop(load);
    let status = server.status(&host)?;
    let gone = |snid| status.nodes.iter().any(|node| node.snid == snid && node.state == "revoked");
    assert!(gone(1), "{status:?}");
    until("alarm about the node that was cut off", PATIENCE, || {
        let alarms = server.administer(&host, &["alarms", "list", "--kind", "node-refused"])?;
        Ok(alarms.contains("revoked").then_some(()))
    })?;
    Ok(())
}

sigil_harness::in_both_modes! {
    pushed_policies_and_keys_govern
    the_line_to_the_server_is_the_agents_alone
    keys_rotate_under_load_and_nothing_is_lost
    the_revoked_are_cut_off_within_two_seconds
}

/// Without its server a node goes on; after a restart it starts from its signed copy; one that lost
/// its counters gets keys that nobody had before.
#[test]
fn a_node_goes_on_without_its_server_and_comes_back_with_new_keys() -> Result<()> {
    let (mut cluster, host, mut server) = cluster("auto", QUICK)?;
    let two = cluster.node("two")?;
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(echoes(&cluster, WEB)?);
    server.kill()?;
    assert!(echoes(&cluster, WEB)?, "without a server");
    // The agent starts again without one: the signed copy, and the keys that the kernel holds.
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.start()?;
    assert!(echoes(&cluster, WEB)?, "after a restart");
    let says = until("age of the policy", PATIENCE, || {
        let said = cluster.node("one")?.labelctl()?.arg("status").output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(text.contains("s old").then_some(text))
    })?;
    assert!(says.contains("no server"), "{says}");
    // As after a reboot: no pins, so no counters and no keys, and nothing goes.
    let member = cluster.member("one")?;
    member.take_agent()?.detach(&member.node)?;
    member.start()?;
    assert!(!echoes(&cluster, WEB)?, "no keys without a server");
    server.resume(&host)?;
    server.settled(&host)?;
    let back = || Ok(echoes(&cluster, WEB)?.then_some(()));
    until("traffic after the server is back", 2 * PATIENCE, back)?;
    let status = server.status(&host)?;
    assert!(status.stamp > 1, "the old epoch is not used again: {status:?}");
    Ok(())
}

/// What the nodes report adds up to what their kernels counted, whatever happened to the line, the
/// server and the agent meanwhile.
#[test]
fn alarms_add_up_to_the_kernels_counters() -> Result<()> {
    let (mut cluster, host, mut server) = cluster("auto", QUICK)?;
    let two = cluster.node("two")?;
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(!echoes(&cluster, OTHER)?, "no rule");
    let counted = |cluster: &Cluster| -> Result<u64> {
        Ok(cluster.node("one")?.stats()?.dropped("socket", "no-rule"))
    };
    let told = |server: &Server| -> Result<u64> {
        let list = ["alarms", "list", "--kind", "drop", "--node", "1", "-o", "jsonl"];
        let lines = server.administer(&host, &list)?;
        let mut sum = 0;
        for line in lines.lines() {
            let alarm: serde_json::Value = serde_json::from_str(line)?;
            if alarm["hook"] == "socket" && alarm["reason"] == "no-rule" {
                sum += alarm["count"].as_u64().unwrap_or(0);
            }
        }
        Ok(sum)
    };
    let adds_up = |cluster: &Cluster, server: &Server| {
        until("alarms that add up", 3 * PATIENCE, || {
            let (told, counted) = (told(server)?, counted(cluster)?);
            Ok((told == counted && counted > 0).then_some(told))
        })
    };
    let before = adds_up(&cluster, &server)?;
    // While the server is away, they wait; an agent that is killed loses none.
    server.kill()?;
    assert!(!echoes(&cluster, OTHER)?);
    std::thread::sleep(Duration::from_secs(5));
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.start()?;
    assert!(!echoes(&cluster, OTHER)?);
    server.resume(&host)?;
    server.settled(&host)?;
    let after = adds_up(&cluster, &server)?;
    assert!(after > before);
    let in_zone = ["alarms", "list", "--kind", "drop", "--zone", "other", "--since", "10m"];
    assert!(server.administer(&host, &in_zone)?.contains("no-rule"));
    let list = ["alarms", "list", "--kind", "alarms-missing"];
    assert_eq!(server.administer(&host, &list)?, "");
    Ok(())
}

/// A server whose store came back from an old copy gets no node to stamp with an epoch of then.
#[test]
fn keys_of_an_old_copy_of_the_store_are_refused() -> Result<()> {
    let (cluster, host, mut server) = cluster("auto", QUICK)?;
    let two = cluster.node("two")?;
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    server.kill()?;
    let store = server.admin().with_file_name("sigil.redb");
    let copy = fs::read(&store)?;
    server.resume(&host)?;
    server.settled(&host)?;
    let first = server.status(&host)?.stamp;
    server.administer(&host, &["keys", "rotate"])?;
    server.wait(&host, "rotation", |status| status.stamp != first && status.epochs.len() == 1)?;
    server.settled(&host)?;
    server.kill()?;
    fs::write(&store, copy)?;
    server.resume(&host)?;
    for kind in ["keys-refused", "store-outdated"] {
        until("alarm about old keys", 2 * PATIENCE, || {
            let alarms = server.administer(&host, &["alarms", "list", "--kind", kind])?;
            Ok((!alarms.is_empty()).then_some(()))
        })?;
    }
    assert!(echoes(&cluster, WEB)?, "the keys that were here stay");
    server.kill()?;
    let done = server.recover(&host)?;
    assert!(done.success(), "{}", done.stderr);
    server.resume(&host)?;
    server.settled(&host)?;
    assert!(echoes(&cluster, WEB)?);
    Ok(())
}

/// The operator's way: a credential of another's own, whose holder is named and can be put out.
#[test]
fn administrators_are_added_and_revoked_by_name() -> Result<()> {
    let lab = Lab::new("admins")?;
    let host = lab.node("ss", 100)?;
    let server = Server::start(&host, "lab", QUICK)?;
    let bob = host.directory().join("bob.toml").to_string_lossy().into_owned();
    let add = ["admin", "add", "bob", "--out", &bob];
    server.administer(&host, &add)?;
    assert_eq!(fs::metadata(&bob)?.permissions().mode() & 0o777, 0o600);
    let again = server.labelctl(&host, &add)?;
    assert!(again.code == 2 && again.stderr.contains("there already"), "{again:?}");
    server.administer(&host, &["node", "enroll", "1", "--admin", &bob])?;
    let mut follow = Command::new(binary("labelctl")?);
    let follow = host.start(follow.args(["alarms", "follow", "--admin", &bob]))?;
    server.administer(&host, &["admin", "revoke", "bob"])?;
    let ended = follow.wait(Duration::from_secs(2))?;
    assert!(ended.code == 2 && ended.stderr.contains("revoked"), "{ended:?}");
    let list = server.administer(&host, &["admin", "list"])?;
    let states: Vec<Vec<_>> =
        list.lines().map(|l| l.split_whitespace().take(2).collect()).collect();
    assert_eq!(states, [["NAME", "STATE"], ["admin", "good"], ["bob", "revoked"]], "{list}");
    let refused = server.labelctl(&host, &["admin", "revoke", "admin"])?;
    assert!(refused.code == 2 && refused.stderr.contains("last administrator"), "{refused:?}");
    Ok(())
}
