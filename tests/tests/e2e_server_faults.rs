//! A Security Server and real agents when something fails: lines that are cut, disks that are full,
//! policies that cost a node its server. Nothing is lost, nothing is granted, and it is said why.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sigil_harness::cluster::Setting;
use sigil_harness::two_nodes::{APP, OTHER, OTHER_TO_APP, POLICY, WEB, document, echoes};
use sigil_harness::{Cluster, Node, PATIENCE, Server, until};

fn cluster() -> Result<(Cluster, Node, Server)> {
    let settings = "[rotation]\noverlap = 1\n";
    Cluster::under_server("broken", &Setting::of(POLICY), settings)
}

/// Everything that the node sends to the server is lost on the way, without a word; what the server
/// sends arrives. Until it is dropped.
struct Blackhole<'a>(&'a Node);

impl<'a> Blackhole<'a> {
    fn dig(node: &'a Node) -> Result<Self> {
        node.netns()
            .ip("neigh replace 10.77.0.100 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")?;
        Ok(Self(node))
    }
}

impl Drop for Blackhole<'_> {
    fn drop(&mut self) {
        let _ = self.0.netns().ip("neigh del 10.77.0.100 dev eth0");
    }
}

fn says(node: &Node, words: &str) -> Result<String> {
    until(words, 2 * PATIENCE, || {
        let said = node.ctl(&["status"])?.stdout;
        Ok(said.contains(words).then_some(said))
    })
}

fn serials(server: &Server, host: &Node) -> Result<Vec<u64>> {
    Ok(server.status(host)?.nodes.iter().map(|node| node.serial).collect())
}

fn no_rule_adds_up(cluster: &Cluster, host: &Node, server: &Server) -> Result<()> {
    let list = ["alarms", "list", "--kind", "drop", "--node", "1", "-o", "jsonl"];
    let mut sums = (0, 0);
    until("alarms that add up", 4 * PATIENCE, || {
        let counted = cluster.node("one")?.stats()?.dropped("socket", "no-rule");
        let mut told = 0;
        for line in server.administer(host, &list)?.lines() {
            let alarm: serde_json::Value = serde_json::from_str(line)?;
            let is = |of, what| alarm.get(of).is_some_and(|held| held == what);
            if is("hook", "socket") && is("reason", "no-rule") {
                told += alarm.get("count").and_then(serde_json::Value::as_u64).unwrap_or(0);
            }
        }
        sums = (told, counted);
        Ok((told == counted && counted > 0).then_some(()))
    })
    .with_context(|| format!("{sums:?}"))
}

/// It goes on with its last policy and says how old that is; then it catches up, and no alarm is lost.
#[test]
fn a_node_that_was_cut_off_goes_on_and_catches_up() -> Result<()> {
    let (cluster, host, server) = cluster()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(echoes(&cluster, WEB)?);
    let hole = Blackhole::dig(one)?;
    let said = says(one, "no server for")?;
    assert!(said.contains("revision 1, ") && said.contains(" s old"), "{said}");
    server.administer(&host, &["policy", "push", &document(&host, 2, OTHER_TO_APP)?])?;
    server.wait(&host, "the other node's policy", |status| {
        status.nodes.iter().any(|node| node.snid == 2 && node.serial == 2)
    })?;
    until("status that says who lags", 2 * PATIENCE, || {
        let status = server.labelctl(&host, &["policy", "status"])?;
        Ok((status.code == 1 && status.stdout.contains("away for")).then_some(()))
    })?;
    assert_eq!(serials(&server, &host)?, [1, 2]);
    assert!(echoes(&cluster, WEB)?, "what was allowed goes on");
    assert!(!echoes(&cluster, OTHER)?, "what it was not told is not allowed");
    drop(hole);
    server.settled(&host)?;
    assert_eq!(serials(&server, &host)?, [2, 2]);
    assert!(echoes(&cluster, OTHER)? && echoes(&cluster, WEB)?);
    no_rule_adds_up(&cluster, &host, &server)?;
    let missing = ["alarms", "list", "--kind", "alarms-missing"];
    assert_eq!(server.administer(&host, &missing)?, "");
    Ok(())
}

/// The cable is out: the same, by the link's end.
#[test]
fn a_node_whose_cable_was_out_catches_up() -> Result<()> {
    let (cluster, host, server) = cluster()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    cluster.lab.switch().ip(&format!("link set {} down", one.port()))?;
    says(one, "no server for")?;
    assert!(!echoes(&cluster, OTHER)?);
    server.administer(&host, &["policy", "push", &document(&host, 2, OTHER_TO_APP)?])?;
    server.administer(&host, &["keys", "rotate"])?;
    cluster.lab.switch().ip(&format!("link set {} up", one.port()))?;
    server.settled(&host)?;
    assert_eq!(serials(&server, &host)?, [2, 2]);
    until("traffic", 2 * PATIENCE, || Ok(echoes(&cluster, OTHER)?.then_some(())))?;
    no_rule_adds_up(&cluster, &host, &server)
}

/// A policy after which a node hears nothing of its server any more is taken back by the node alone.
#[test]
fn a_node_that_lost_its_server_with_a_policy_goes_back_by_itself() -> Result<()> {
    let (cluster, host, server) = cluster()?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(!echoes(&cluster, OTHER)?);
    let next = document(&host, 2, OTHER_TO_APP)?;
    // The policy arrives; no answer of the server's to the node does, since it never hears a question.
    let hole = Blackhole::dig(one)?;
    let trial = ["policy", "push", "--canary", "1,2", "--confirm-within", "4s", &next];
    server.administer(&host, &trial)?;
    until("canary in force", PATIENCE / 2, || Ok(echoes(&cluster, OTHER)?.then_some(())))?;
    let back = || Ok((!echoes(&cluster, OTHER)?).then_some(()));
    until("node that went back", PATIENCE, back)?;
    let said = one.ctl(&["status"])?.stdout;
    assert!(said.contains("the server was lost after it was put in force"), "{said}");
    assert!(said.contains("no server"), "it went back without the server: {said}");
    assert!(echoes(&cluster, WEB)?);
    drop(hole);
    until("alarm about it", 2 * PATIENCE, || {
        let list = ["alarms", "list", "--kind", "policy-not-applied", "--node", "1"];
        Ok(server.administer(&host, &list)?.contains("server was lost").then_some(()))
    })?;
    server.settled(&host)?;
    assert!(!echoes(&cluster, OTHER)?);
    Ok(())
}

/// One node tries it, the others do not; nobody confirms, and then somebody does. A dry run says what
/// would change and changes nothing.
#[test]
fn a_canary_is_tried_by_its_nodes_alone() -> Result<()> {
    let (cluster, host, server) = cluster()?;
    let two = cluster.node("two")?;
    let _app = two.serve(Some(APP), &["udp-echo", "8000"])?;
    let next = document(&host, 2, OTHER_TO_APP)?;
    let dry = server.administer(&host, &["policy", "push", "--dry-run", &next])?;
    assert!(dry.contains("+ two:app admits one:other") && !dry.contains("- "), "{dry}");
    assert_eq!(serials(&server, &host)?, [1, 1]);
    let trial = ["policy", "push", "--canary", "2", "--confirm-within", "3s", &next];
    server.administer(&host, &trial)?;
    let tried = |serials: [u64; 2]| {
        server
            .wait(&host, "trial", |status| status.nodes.iter().map(|node| node.serial).eq(serials))
    };
    tried([1, 2])?;
    // The one sends nothing that it was not told of, whatever the other would take.
    assert!(!echoes(&cluster, OTHER)? && echoes(&cluster, WEB)?);
    tried([1, 1])?;
    let alarms = server.administer(&host, &["alarms", "list", "--kind", "canary-reverted"])?;
    assert!(!alarms.is_empty());
    let next = document(&host, 3, OTHER_TO_APP)?;
    let trial = ["policy", "push", "--canary", "1", "--confirm-within", "60s", &next];
    server.administer(&host, &trial)?;
    tried([3, 1])?;
    assert!(!echoes(&cluster, OTHER)?, "the other does not take what it was not told of");
    let dry =
        server.administer(&host, &["policy", "push", "--dry-run", &document(&host, 9, "")?])?;
    assert!(
        !dry.contains("admits one:other"),
        "compared with what is in force, not on trial: {dry}"
    );
    server.administer(&host, &["policy", "confirm"])?;
    tried([3, 3])?;
    assert!(echoes(&cluster, OTHER)?);
    Ok(())
}

/// Policies that would cut the server off, if the line depended on them: they allow nothing, declare
/// the server's host a node that has no keys, or keep it out. An agent that starts under them finds its
/// server, and the next policy arrives.
#[test]
fn no_policy_cuts_the_nodes_off_from_their_server() -> Result<()> {
    let (mut cluster, host, server) = cluster()?;
    let bare = POLICY.split("  <!-- What any zone may do").next().context("no rules")?;
    let node = "<node><SnID> 9 </SnID><name> ss </name><address> 10.77.0.100 </address></node>";
    let perimeter = "<perimeter><address> 10.77.0.100/32 </address><SnID> 900 </SnID>\
                     <ScID> 30 </ScID></perimeter>";
    let hostile = [
        format!("{bare}</DSP>"),
        POLICY.replacen("<zone>", &format!("{node}<zone>"), 1),
        POLICY.replacen("<SOCKET_class_rule>", &format!("{perimeter}<SOCKET_class_rule>"), 1),
    ];
    for (serial, text) in (10u64..).step_by(10).zip(hostile) {
        let path = host.directory().join(format!("hostile-{serial}.xml"));
        fs::write(&path, text.replace("serial=\"1\"", &format!("serial=\"{serial}\"")))?;
        let path = path.to_string_lossy().into_owned();
        server.administer(&host, &["policy", "push", &path])?;
        server.settled(&host)?;
        // New connections, too, and with nobody who remembers the old ones.
        let member = cluster.member("one")?;
        member.take_agent()?.kill9()?;
        member.start()?;
        server.settled(&host)?;
        let next = document(&host, u32::try_from(serial)? + 1, "")?;
        server.administer(&host, &["policy", "push", &next])?;
        server.settled(&host)?;
        assert_eq!(serials(&server, &host)?, [serial + 1; 2]);
    }
    Ok(())
}

/// A small file system in place of a directory, with what was in the directory.
struct Small(PathBuf);

impl Small {
    fn replace(directory: &Path) -> Result<Self> {
        let copy = directory.with_extension("copy");
        let cp = |from: &Path, to: &Path| -> Result<()> {
            let from = format!("{}/.", from.display());
            let done = Command::new("cp").args(["-a", &from]).arg(to).status()?;
            ensure!(done.success(), "cp: {done}");
            Ok(())
        };
        fs::create_dir(&copy)?;
        cp(directory, &copy)?;
        let data = Some("size=6m,mode=0700");
        mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), data)?;
        let this = Self(directory.to_owned());
        cp(&copy, directory)?;
        fs::remove_dir_all(copy)?;
        Ok(this)
    }

    /// Takes what room there is.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The node's disk is full: its alarms arrive, a new policy is in force, new keys are refused with the
/// reason; with room again it catches up, and what it was given outlives it.
#[test]
fn a_node_with_a_full_disk_loses_no_alarm_and_takes_no_keys_that_it_cannot_write_down() -> Result<()>
{
    let (mut cluster, host, server) = cluster()?;
    let member = cluster.member("one")?;
    member.take_agent()?.stop()?;
    let disk = Small::replace(&member.config.state)?;
    member.start()?;
    server.settled(&host)?;
    let _app = cluster.node("two")?.serve(Some(APP), &["udp-echo", "8000"])?;
    assert!(echoes(&cluster, WEB)?);
    disk.fill()?;
    assert!(!echoes(&cluster, OTHER)?);
    no_rule_adds_up(&cluster, &host, &server)?;
    server.administer(&host, &["policy", "push", &document(&host, 2, OTHER_TO_APP)?])?;
    until("the new policy in force", PATIENCE, || Ok(echoes(&cluster, OTHER)?.then_some(())))?;
    let one = cluster.node("one")?;
    says(one, "not on disk")?;
    server.administer(&host, &["keys", "rotate"])?;
    server.wait(&host, "why the node lags", |status| {
        let mut nodes = status.nodes.iter();
        nodes.any(|node| node.snid == 1 && node.problem.contains("No space left"))
    })?;
    disk.empty()?;
    server.settled(&host)?;
    until("node without problems", 2 * PATIENCE, || {
        Ok((one.ctl(&["status"])?.code == 0).then_some(()))
    })?;
    until("traffic", 2 * PATIENCE, || Ok(echoes(&cluster, OTHER)?.then_some(())))?;
    no_rule_adds_up(&cluster, &host, &server)?;
    let member = cluster.member("one")?;
    member.take_agent()?.kill9()?;
    member.start()?;
    assert!(echoes(&cluster, OTHER)?, "the policy is on disk");
    drop(disk);
    Ok(())
}

/// The server's disk is full: it refuses what it cannot keep, says why, and the nodes go on; with room
/// again so does it.
#[test]
fn a_server_with_a_full_disk_refuses_and_goes_on() -> Result<()> {
    let (cluster, host, mut server) = cluster()?;
    let _app = cluster.node("two")?.serve(Some(APP), &["udp-echo", "8000"])?;
    server.kill()?;
    let directory = server.admin().parent().context("no directory")?.to_owned();
    let disk = Small::replace(&directory)?;
    server.resume(&host)?;
    server.settled(&host)?;
    disk.fill()?;
    let large = format!("{OTHER_TO_APP}<!-- {} -->", "x".repeat(3 << 20));
    let refused = server.labelctl(&host, &["policy", "push", &document(&host, 2, &large)?])?;
    assert!(!refused.success() && refused.stderr.contains("the store"), "{refused:?}");
    assert!(echoes(&cluster, WEB)? && !echoes(&cluster, OTHER)?);
    disk.empty()?;
    let deadline = Duration::from_secs(20);
    until("room for a policy", deadline, || {
        let next = document(&host, 3, OTHER_TO_APP)?;
        let pushed = server.labelctl(&host, &["policy", "push", &next])?;
        Ok(pushed.success().then_some(()))
    })?;
    server.settled(&host)?;
    assert!(echoes(&cluster, OTHER)?);
    no_rule_adds_up(&cluster, &host, &server)?;
    server.kill()?;
    server.resume(&host)?;
    server.settled(&host)?;
    assert_eq!(serials(&server, &host)?, [3, 3]);
    drop(disk);
    Ok(())
}
