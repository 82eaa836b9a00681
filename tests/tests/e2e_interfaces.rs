//! Interfaces that go and come back, and XDP hooks that others hold: nothing unverified comes up, the
//! agent says what is wrong, and what can be attached again is.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::{Xdp, xdp::XdpMode};
use sigil_harness::cluster::Setting;
use sigil_harness::traffic::ping;
use sigil_harness::{Cluster, Node, Output, PATIENCE, binary, until};
use std::process::Command;
use std::time::{Duration, Instant};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: Option<u32> = Some(10);

fn setting(mode: &str) -> Setting<'_> {
    Setting { mode, ..Setting::of(POLICY) }
}

/// Web's conversation with the other node, verified both ways.
fn talks(cluster: &Cluster) -> Result<bool> {
    let exchange = cluster.node("one")?.exchange(WEB, &["ping", "10.77.0.2", "1"]);
    Ok(exchange.is_ok_and(|exchange| exchange.is_complete()))
}

/// Waits until the agent's status has a problem that says so.
fn complains(node: &Node, words: &str) -> Result<()> {
    until(words, PATIENCE, || {
        let status = node.ctl(&["status"])?;
        let told = status.stdout.contains("enforcing") && status.stdout.contains(words);
        Ok((status.code == 1 && told).then_some(()))
    })
}

/// Waits until the agent has no problem any more.
fn recovers(node: &Node) -> Result<()> {
    until("status without a problem", PATIENCE, || {
        Ok((node.ctl(&["status"])?.code == 0).then_some(()))
    })
}

/// Waits until every route out of the interface leaves room for the label.
fn has_room(node: &Node) -> Result<()> {
    until("room on every route", PATIENCE, || {
        let routes = node.run(&["ip", "route", "show", "dev", "eth0"])?.stdout;
        Ok(routes.lines().all(|route| route.contains("mtu 1460")).then_some(()))
    })
}

/// A stranger's unlabelled packets to a node of the cluster come to nothing.
fn shuts_out(node: &Node, stranger: &Node) -> Result<()> {
    let to = node.address();
    let lost = stranger.netns().enter(|| ping(to, 1, Duration::from_millis(200)))?;
    ensure!(lost.received == 0, "{} answers a stranger", node.name());
    Ok(())
}

fn deleted_and_made_again(mode: &str) -> Result<()> {
    let mut cluster = Cluster::start("gone", &setting(mode))?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let (one, two) = (cluster.node("one")?, cluster.node("two")?);
    ensure!(talks(&cluster)?, "before");
    one.netns().ip("link del eth0")?;
    complains(one, "interface eth0 is gone")?;
    assert!(one.ctl(&["status"])?.stdout.contains("attached    none"));
    // Its other work goes on.
    let next = one.directory().join("next.xml");
    fs::write(&next, POLICY.replace("serial=\"1\"", "serial=\"2\""))?;
    let load = one.ctl(&["load", &next.display().to_string()])?;
    assert_eq!(load.code, 0, "{load:?}");

    cluster.lab.connect(one)?;
    recovers(one)?;
    let status = one.ctl(&["status"])?.stdout;
    assert!(status.contains(&format!("eth0 ({mode}, ")), "{status}");
    ensure!(talks(&cluster)?, "after");
    shuts_out(one, &stranger)?;
    assert!(one.stats()?.dropped("ingress", "unlabelled") > 0);
    has_room(one)?;
    // A route that comes later does not wait for the next look.
    let began = Instant::now();
    one.netns().ip("route add 10.99.0.0/24 via 10.77.0.2")?;
    has_room(one)?;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for node in [one, two] {
        node.stats()?.balanced()?;
    }
    let log = cluster.member("one")?.agent()?.stderr();
    for words in ["interface eth0 is gone", "guarded again"] {
        assert_eq!(log.matches(words).count(), 1, "`{words}` in {log}");
    }
    Ok(())
}

/// With no agent to see it, the new interface is nobody's: a zone gets nothing from it all the same.
fn made_again_while_no_agent_runs(mode: &str) -> Result<()> {
    let mut cluster = Cluster::start("unseen", &setting(mode))?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let _server = cluster.node("one")?.serve(WEB, &["udp-echo", "9000"])?;
    cluster.member("one")?.take_agent()?.kill9()?;
    let one = cluster.node("one")?;
    one.netns().ip("link del eth0")?;
    cluster.lab.connect(one)?;
    assert_eq!(stranger.attempt(None, "send 10.77.0.1:9000 64")?, "silence");
    cluster.member("one")?.start()?;
    assert_eq!(stranger.attempt(None, "send 10.77.0.1:9000 64")?, "silence");
    let one = cluster.node("one")?;
    assert!(one.stats()?.dropped("ingress", "unlabelled") > 0, "{:?}", one.stats()?);
    ensure!(talks(&cluster)?, "after");
    Ok(())
}

/// Gone when the agent is to start: it does not, and what is pinned stays as it is.
fn gone_at_start(mode: &str) -> Result<()> {
    let mut cluster = Cluster::start("absent", &setting(mode))?;
    cluster.member("one")?.take_agent()?.stop()?;
    let config = cluster.member("one")?.config.clone();
    let one = cluster.node("one")?;
    one.netns().ip("link del eth0")?;
    let pinned = pins(&config.bpffs)?;
    let output = starts_not(&mut cluster)?;
    for words in ["interface eth0 does not exist", "create it first"] {
        assert!(output.stderr.contains(words), "no `{words}` in {}", output.stderr);
    }
    assert_eq!(pins(&config.bpffs)?, pinned);
    let one = cluster.node("one")?;
    cluster.lab.connect(one)?;
    cluster.member("one")?.start()?;
    ensure!(talks(&cluster)?, "after");
    Ok(())
}

/// Guarded by mistake: the network behind it is shut out until the agent starts without it, and then
/// nothing is left on it. The other NIC stays as it was.
fn taken_out_of_the_configuration(mode: &str) -> Result<()> {
    let mut cluster = Cluster::prepare("mistake", &setting(mode))?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let member = cluster.member("one")?;
    member.node.netns().ip(&format!(
        "link add mgmt.7 type veth peer name mgmt netns {}\n\
         addr add 10.78.0.1/24 dev mgmt.7\nlink set mgmt.7 up",
        stranger.netns().name()
    ))?;
    stranger.netns().ip("addr add 10.78.0.99/24 dev mgmt\nlink set mgmt up")?;
    let look = |node: &Node| -> Result<Vec<String>> {
        let said = |argv: &[&str]| -> Result<String> { Ok(node.run(argv)?.stdout) };
        Ok(vec![
            said(&["ip", "route", "show", "dev", "mgmt.7"])?,
            said(&["ip", "-d", "link", "show", "mgmt.7"])?,
            said(&["ethtool", "-k", "mgmt.7"])?,
            said(&["tc", "qdisc", "show", "dev", "mgmt.7"])?,
        ])
    };
    let reached = || -> Result<u64> {
        let address = std::net::Ipv4Addr::new(10, 78, 0, 1);
        let ping = || ping(address, 1, Duration::from_millis(200));
        Ok(stranger.netns().enter(ping)?.received)
    };
    assert_eq!(reached()?, 1, "before");
    let before = look(&cluster.member("one")?.node)?;
    let member = cluster.member("one")?;
    member.config.interfaces.push("mgmt.7".into());
    member.start()?;
    cluster.member("two")?.start()?;
    assert_eq!(reached()?, 0, "while it is guarded");
    let member = cluster.member("one")?;
    assert_ne!(look(&member.node)?, before);
    member.take_agent()?.kill9()?;
    member.config.interfaces.pop();
    member.start()?;
    assert_eq!(reached()?, 1, "when it is guarded no more");
    let member = cluster.member("one")?;
    assert_eq!(look(&member.node)?, before);
    let log = member.agent()?.stderr();
    assert!(log.contains("mgmt.7") && log.contains("not guarded any more"), "{log}");
    let state = fs::read_to_string(member.config.state.join("datapath.json"))?;
    assert!(!state.contains("mgmt.7"), "{state}");
    let pinned = pins(&member.config.bpffs)?;
    assert!(!pinned.iter().any(|pin| pin.to_string_lossy().contains("mgmt")), "{pinned:?}");
    ensure!(talks(&cluster)?, "after");
    shuts_out(cluster.node("one")?, &stranger)
}

sigil_harness::in_both_modes! {
    deleted_and_made_again made_again_while_no_agent_runs gone_at_start
    taken_out_of_the_configuration
}

/// Runs node one's `sigild`, which must refuse.
fn starts_not(cluster: &mut Cluster) -> Result<Output> {
    let member = cluster.member("one")?;
    let file = member.node.directory().join("refused.toml");
    fs::write(&file, toml::to_string(&member.config)?)?;
    fs::create_dir_all(&member.config.state)?;
    let mut command = Command::new(binary("sigild")?);
    let output = member.node.start(command.arg("--config").arg(file))?.wait(PATIENCE)?;
    assert_eq!(output.code, 2, "{output:?}");
    Ok(output)
}

/// Names of what an agent pinned.
fn pins(bpffs: &std::path::Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for part in ["links", "filters", "maps"] {
        let directory = bpffs.join(part);
        if directory.exists() {
            for entry in fs::read_dir(directory)? {
                found.push(entry?.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Someone else's XDP program, which passes every packet, short ones as they are. Detached on drop.
struct Foreign(Ebpf);

impl Foreign {
    const NAME: &str = "icv_probe";

    fn load() -> Result<Self> {
        let mut bpf = Ebpf::load(sigil_datapath::OBJECT)?;
        let program: &mut Xdp = bpf.program_mut(Self::NAME).context("a program")?.try_into()?;
        program.load()?;
        Ok(Self(bpf))
    }

    fn program(&mut self) -> Result<&mut Xdp> {
        Ok(self.0.program_mut(Self::NAME).context("a program")?.try_into()?)
    }

    fn attach(&mut self, node: &Node, mode: XdpMode) -> Result<()> {
        let program = self.program()?;
        node.netns().enter(|| {
            let index = nix::net::if_::if_nametoindex("eth0")?;
            program.attach_to_if_index(index, mode)?;
            Ok(())
        })
    }
}

#[test]
fn a_hook_that_is_taken_at_the_first_start() -> Result<()> {
    let mut cluster = Cluster::prepare("taken", &setting("xdp"))?;
    let reaches = |one: &Node, two: &Node| -> Result<bool> {
        let to = two.address();
        Ok(one.netns().enter(|| ping(to, 1, Duration::from_secs(1)))?.received == 1)
    };
    let mut foreign = Foreign::load()?;
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let (one, two) = (cluster.node("one")?, cluster.node("two")?);
        // A child that another test forks holds the link of the last round for a moment.
        until("free hook", PATIENCE, || {
            let link = one.run(&["ip", "link", "show", "eth0"])?.stdout;
            Ok((!link.contains("xdp")).then_some(()))
        })?;
        foreign.attach(one, mode)?;
        let routes = one.run(&["ip", "route", "show"])?.stdout;
        ensure!(reaches(one, two)?, "before");
        let output = starts_not(&mut cluster)?;
        for words in ["XDP of eth0 is taken", "xdp off", "mode = \"tc\""] {
            assert!(output.stderr.contains(words), "no `{words}` in {}", output.stderr);
        }
        let (one, two) = (cluster.node("one")?, cluster.node("two")?);
        assert_eq!(pins(&one.bpffs().join("sigil"))?, Vec::<PathBuf>::new());
        assert_eq!(one.run(&["ip", "route", "show"])?.stdout, routes);
        ensure!(reaches(one, two)?, "nothing is enforced, and packets are lost");
        foreign = Foreign::load()?;
    }
    Ok(())
}

/// A running node that is to verify in XDP from now on, and cannot: it goes on as it was.
#[test]
fn a_hook_that_is_taken_at_a_change_of_mode() -> Result<()> {
    let mut cluster = Cluster::start("change", &setting("tc"))?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let mut foreign = Foreign::load()?;
    foreign.attach(cluster.node("one")?, XdpMode::Driver)?;
    let config = cluster.member("one")?.config.clone();
    let pinned = pins(&config.bpffs)?;
    let two = cluster.node("two")?;
    let flow = two.serve(Some(20), &["udp-echo", "8000"])?;
    let client = cluster.node("one")?;
    let exchange = client.traffic(WEB, &["udp-exchange", "10.77.0.2:8000", "3s", "8"])?;
    let flowing = || Ok((two.stats()?.hook("deliver").accepted > 100).then_some(()));
    until("flow", PATIENCE, flowing)?;
    let member = cluster.member("one")?;
    member.take_agent()?.stop()?;
    member.config.mode = "xdp".into();
    let output = starts_not(&mut cluster)?;
    assert!(output.stderr.contains("XDP of eth0 is taken"), "{}", output.stderr);
    assert_eq!(pins(&config.bpffs)?, pinned);
    shuts_out(cluster.node("one")?, &stranger)?;
    let exchange = sigil_harness::traffic::finish(exchange)?;
    assert!(exchange.is_complete(), "what ran was disturbed: {exchange:?}");
    drop(flow);
    drop(foreign);
    cluster.member("one")?.start()?;
    ensure!(talks(&cluster)?, "in XDP");
    let one = cluster.node("one")?;
    assert!(one.ctl(&["status"])?.stdout.contains("eth0 (xdp, "));
    Ok(())
}

/// The kernel lets nobody put a program over ours. Who detaches it by force gets nothing through
/// either, and when the hook is free again it is ours again.
#[test]
fn a_hook_that_others_want_while_the_agent_runs() -> Result<()> {
    let cluster = Cluster::start("wanted", &setting("xdp"))?;
    let stranger = cluster.lab.node("stranger", 99)?;
    let one = cluster.node("one")?;
    let mut foreign = Foreign::load()?;
    let pin = one.bpffs().join("foreign");
    foreign.program()?.pin(&pin)?;
    let pin = pin.display().to_string();
    for words in [
        &["xdpdrv", "pinned", &pin][..],
        &["xdpgeneric", "pinned", &pin],
        &["-force", "xdpdrv", "pinned", &pin],
        &["xdp", "off"],
    ] {
        let (force, words) = match words {
            ["-force", rest @ ..] => (&["-force"][..], rest),
            _ => (&[][..], words),
        };
        let argv = [&["ip"], force, &["link", "set", "dev", "eth0"], words].concat();
        let output = one.run(&argv)?;
        assert_ne!(output.code, 0, "{argv:?} is let in");
    }
    assert!(foreign.attach(one, XdpMode::Driver).is_err(), "a link is let in");
    ensure!(talks(&cluster)?, "over it");

    let link = one.bpffs().join("sigil/links/xdp_verify-eth0").display().to_string();
    let detached = Command::new("bpftool").args(["link", "detach", "pinned", &link]).status()?;
    ensure!(detached.success(), "bpftool link detach");
    foreign.attach(one, XdpMode::Driver)?;
    shuts_out(one, &stranger)?;
    complains(one, "XDP of eth0 is taken")?;
    shuts_out(one, &stranger)?;
    ensure!(!talks(&cluster)?, "unverified answers come up");
    assert!(one.stats()?.dropped("handover", "not-verified") > 0, "{:?}", one.stats()?);
    drop(foreign);
    recovers(one)?;
    ensure!(talks(&cluster)?, "after");
    Ok(())
}
