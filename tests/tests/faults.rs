//! The faults of DSI, the kernel module that came first: one test for each, named like the fault that is
//! not there. Faults of scripts and of labels that come before an exec succeeds are in `processes`.

use std::process::Command;

use anyhow::{Context, Result};
use sigil_harness::cluster::Setting;
use sigil_harness::packet::{self, Headers};
use sigil_harness::{Cluster, Node, PATIENCE, RawSocket, Sniffer, until};

const POLICY: &str = include_str!("../harness/dsp/paths.xml");
const LOCAL: &str = include_str!("../harness/dsp/local.xml");
const WEB: Option<u32> = Some(10);
const APP: Option<u32> = Some(20);
const OTHER: Option<u32> = Some(30);
const IDLE: Option<u32> = Some(40);
const PROBE: Option<u32> = Some(40);
const METER: Option<u32> = Some(50);

fn two_nodes() -> Result<Cluster> {
    Cluster::start("faults", &Setting::of(POLICY))
}

fn one_node() -> Result<Cluster> {
    Cluster::start("faults", &Setting { suite: None, ..Setting::of(LOCAL) })
}

fn reaches(from: &Node, zone: Option<u32>, words: &str) -> Result<bool> {
    Ok(from.attempt(zone, words)? == "ok")
}

#[test]
fn default_allow_on_a_cache_miss() -> Result<()> {
    let cluster = two_nodes()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["udp-echo", "8000"])?;
    // Nobody asked before: the very first packet is judged.
    assert!(!reaches(one, PROBE, "send 10.77.0.2:8000 64")?);
    assert_eq!(two.stats()?.hook("deliver").accepted, 0);
    assert!(reaches(one, WEB, "send 10.77.0.2:8000 64")?);
    Ok(())
}

#[test]
fn one_permission_of_several_is_enough() -> Result<()> {
    let cluster = one_node()?;
    let one = cluster.node("one")?;
    assert_eq!(one.attempt(IDLE, "socket udp")?, "ok", "CREATE is granted");
    assert_eq!(one.attempt(IDLE, "bind udp 0.0.0.0:8002")?, "EPERM", "BIND is not");
    Ok(())
}

/// DSI kept `sid + 16 * node`, so that <1,42> and <2,26> were one.
#[test]
fn labels_of_different_nodes_collide() -> Result<()> {
    const COLLIDING: &str = r#"<DSP cluster="two-nodes" serial="1">
      <node><SnID> 1 </SnID><name> one </name><address> 10.77.0.1 </address></node>
      <node><SnID> 2 </SnID><name> two </name><address> 10.77.0.2 </address></node>
      <node><SnID> 3 </SnID><name> three </name><address> 10.77.0.3 </address></node>
      <zone><ScID> 26 </ScID></zone><zone><ScID> 42 </ScID></zone><zone><ScID> 20 </ScID></zone>
      <SOCKET_class_rule><sSnID> * </sSnID><sScID> * </sScID><allow> CREATE BIND CONNECT SEND RECEIVE </allow></SOCKET_class_rule>
      <SOCKET_class_rule>
        <sSnID> 1 </sSnID><sScID> 42 </sScID><tSnID> 3 </tSnID><tScID> 20 </tScID><allow> CREATE </allow>
      </SOCKET_class_rule>
    </DSP>"#;
    assert_eq!(42 + 16, 26 + 16 * 2);
    let cluster = Cluster::start("faults", &Setting::of(COLLIDING))?;
    let _server = cluster.node("three")?.serve(APP, &["udp-echo", "8000"])?;
    let words = "send 10.77.0.3:8000 64";
    assert!(reaches(cluster.node("one")?, Some(42), words)?);
    assert!(!reaches(cluster.node("two")?, Some(26), words)?, "the colliding label");
    assert!(!reaches(cluster.node("two")?, Some(42), words)?, "the same zone of another node");
    Ok(())
}

#[test]
fn anybody_may_call_the_control_interface() -> Result<()> {
    let cluster = one_node()?;
    let one = cluster.node("one")?;
    let labelctl = sigil_harness::binary("labelctl")?;
    let (labelctl, socket) =
        (labelctl.to_str().context("a path")?, one.socket().display().to_string());
    let relabel = [labelctl, "--socket", &socket, "run", "--scid", "20", "--", "true"];
    let said = one.run_zone(30, &relabel)?;
    assert!(!said.success() && said.stderr.contains("confined"), "{said:?}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--clear-groups"]).args(relabel);
    let said = one.start(&mut command)?.wait(PATIENCE)?;
    assert!(!said.success(), "another user: {said:?}");
    Ok(())
}

/// The socket was made by a process that may talk; who holds it now may not.
#[test]
fn a_socket_keeps_its_label_in_other_hands() -> Result<()> {
    let mut cluster = Cluster::prepare("faults", &Setting { suite: None, ..Setting::of(LOCAL) })?;
    let member = cluster.member("one")?;
    // With LSM programs the two would not even meet: see `lsm`.
    member.config.backend = "fanotify".into();
    member.start()?;
    let one = cluster.node("one")?;
    let _server = one.serve(APP, &["udp-echo", "8001"])?;
    // `web` makes the socket and hands it to `other`.
    let path = one.directory().join("meet").display().to_string();
    let give = format!(
        "import array, socket\n\
         own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         meet = socket.socket(socket.AF_UNIX); meet.bind('{path}'); meet.listen(1)\n\
         print('ready', flush=True)\n\
         to, _ = meet.accept()\n\
         to.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [own.fileno()]))])\n\
         to.recv(1)\n"
    );
    let giver = one.spawn_zone(10, &["/usr/bin/python3", "-c", &give])?;
    giver.wait_line(PATIENCE, |line| line == "ready")?;
    let take = format!(
        "import socket, struct\n\
         meet = socket.socket(socket.AF_UNIX); meet.connect('{path}')\n\
         _, passed, _, _ = meet.recvmsg(1, 64)\n\
         sock = socket.socket(fileno=struct.unpack('i', passed[0][2])[0])\n\
         try: sock.sendto(b'hello', ('127.0.0.1', 8001)); print('sent')\n\
         except PermissionError: print('refused')\n"
    );
    assert_eq!(one.run_zone(30, &["/usr/bin/python3", "-c", &take])?.stdout.trim(), "refused");
    assert_eq!(one.stats()?.dropped("socket", "socket-label"), 1);
    Ok(())
}

#[test]
fn an_applications_own_options_are_lost() -> Result<()> {
    const NOPS: &str = "01010101";
    let cluster = two_nodes()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _meter = two.serve(METER, &["udp-echo", "9001"])?;
    let sniffer = Sniffer::start(cluster.lab.switch(), &one.port(), move |frame| {
        let label = packet::label_offset(&frame.bytes).unwrap_or(usize::MAX - 20);
        !frame.outgoing && frame.bytes.get(label + 20) == Some(&0x01)
    })?;
    assert!(reaches(one, PROBE, &format!("send 10.77.0.2:9001 1000 options={NOPS}"))?);
    sniffer.take(1, PATIENCE)?;
    Ok(())
}

#[test]
fn local_traffic_is_not_judged() -> Result<()> {
    let cluster = one_node()?;
    let one = cluster.node("one")?;
    let _server = one.serve(APP, &["udp-echo", "[::]:8001"])?;
    for address in ["127.0.0.1", "10.77.0.1", "[::1]"] {
        let words = format!("send {address}:8001 64");
        assert!(reaches(one, WEB, &words)?, "{words}");
        assert!(!reaches(one, OTHER, &words)?, "{words}");
        assert!(!reaches(one, None, &words)?, "{words}, unlabelled");
    }
    Ok(())
}

/// The server closes first: its end is in `TIME_WAIT` and no longer a socket when the client's FIN comes.
#[test]
fn packets_of_time_wait_have_no_label() -> Result<()> {
    let cluster = two_nodes()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["tcp-greet", "8000"])?;
    assert!(reaches(one, WEB, "greeted 10.77.0.2:8000 20")?);
    for node in [one, two] {
        let stats = node.stats()?;
        assert_eq!(
            (stats.hook("egress").drops(), stats.hook("ingress").drops()),
            (0, 0),
            "{stats:?}"
        );
    }
    Ok(())
}

#[test]
fn unlabelled_packets_are_allowed() -> Result<()> {
    let cluster = two_nodes()?;
    let (stranger, two) = (cluster.lab.node("stranger", 99)?, cluster.node("two")?);
    let socket = RawSocket::open(stranger.netns(), "eth0")?;
    socket.send(&Headers::between(&stranger, two)?.udp(1, 8000, b"hello")?)?;
    let dropped = || Ok((two.stats()?.dropped("ingress", "unlabelled") == 1).then_some(()));
    until("drop of the unlabelled packet", PATIENCE, dropped)
}

/// A connection that was accepted speaks with its server's label, or nothing would come back.
#[test]
fn accepted_sockets_have_no_label() -> Result<()> {
    let cluster = two_nodes()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _server = two.serve(APP, &["tcp-echo", "8000"])?;
    let sniffer = Sniffer::start(cluster.lab.switch(), &two.port(), |frame| {
        let scid = packet::label_offset(&frame.bytes)
            .and_then(|at| frame.bytes.get(at + 10..at + 14)?.try_into().ok())
            .map(u32::from_be_bytes);
        !frame.outgoing && scid == APP
    })?;
    assert!(one.exchange(WEB, &["tcp-exchange", "10.77.0.2:8000", "100000"])?.is_complete());
    sniffer.take(3, PATIENCE)?;
    Ok(())
}

/// Every refusal is either told or counted as not told.
#[test]
fn an_alarm_overwrites_the_one_before() -> Result<()> {
    const ATTEMPTS: u64 = 50;
    let cluster = one_node()?;
    let one = cluster.node("one")?;
    let before = one.stats()?;
    for port in 0..ATTEMPTS {
        assert_eq!(one.attempt(IDLE, &format!("bind udp 0.0.0.0:{}", 9000 + port))?, "EPERM");
    }
    let after = one.stats()?;
    assert_eq!(after.drops_since(&before)["socket-permission"], ATTEMPTS);
    let told = |stats: &sigil_harness::Stats| {
        stats.events.sent + stats.events.lost + stats.events.suppressed
    };
    assert_eq!(told(&after) - told(&before), ATTEMPTS);
    Ok(())
}

/// Nothing is allowed before a policy is, and a refused policy is no permission either.
#[test]
fn everything_is_allowed_at_the_start() -> Result<()> {
    let mut cluster = Cluster::prepare("faults", &Setting::of(POLICY))?;
    cluster.member("two")?.start()?;
    let config = cluster.member("one")?.config.clone();
    let good = std::fs::read_to_string(&config.policy)?;
    std::fs::write(&config.policy, "<DSP/>")?;
    assert!(cluster.member("one")?.start().is_err(), "it starts with a good policy or not at all");
    std::fs::write(&config.policy, good)?;
    cluster.member("one")?.start()?;
    assert!(!reaches(cluster.node("one")?, PROBE, "send 10.77.0.2:8000 64")?);
    Ok(())
}

#[test]
fn a_label_has_no_integrity() -> Result<()> {
    let cluster = two_nodes()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let stranger = cluster.lab.node("stranger", 99)?;
    let _server = two.serve(APP, &["udp-echo", "8000"])?;
    let socket = RawSocket::open(stranger.netns(), "eth0")?;
    let headers = Headers::between(&stranger, two)?.pretending(one.address());
    let forged = packet::authenticated(1, 10, 1, 0, 1, [0x42; 12]);
    socket.send(&headers.options(&forged)?.udp(9, 8000, b"forged")?)?;
    let dropped = || Ok((two.stats()?.hook("ingress").drops() == 1).then_some(()));
    until("drop of the forged packet", PATIENCE, dropped)?;
    assert_eq!(two.stats()?.hook("deliver").seen, 0);
    Ok(())
}
