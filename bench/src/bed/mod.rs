//! Two nodes on one veth pair in a mode, with a driver on one and the server on the other.

mod cipso;
mod driver;
pub(crate) mod empty;
mod ipsec;
mod policy;
pub mod tunnel;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::{generate_keys, key_file};
use sigil_harness::{Agent, Config, Lab, Node, Process, until};

pub use driver::{Driver, serve};
pub use policy::{ZONE, document, signed_document};

use crate::mode::{Kind, Mode, Sigil};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_mins(1);
/// The interface of both nodes.
pub(crate) const INTERFACE: &str = "eth0";

/// What beds differ in beside their mode.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The interface's MTU.
    pub mtu: u32,
    /// Whether rpcbind runs and the server is registered.
    pub rpc: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mtu: 1500, rpc: false }
    }
}

/// Two nodes in a mode. The fields are in the order in which they go.
#[derive(Debug)]
pub struct Bed {
    /// The client.
    pub driver: Driver,
    _processes: Vec<Process>,
    /// The agents of both nodes, if there are any.
    pub agents: Vec<Agent>,
    _links: Vec<OwnedFd>,
    /// The client's node.
    pub one: Node,
    /// The server's node.
    pub two: Node,
    _bystander: Option<Node>,
    _lab: Lab,
}

impl Bed {
    /// Makes the nodes, attaches what is to be attached, and starts both ends.
    ///
    /// # Errors
    /// This is not root, or something does not start.
    pub fn new(mode: &Mode, options: Options) -> Result<Self> {
        Self::make(mode, options).with_context(|| format!("mode {}", mode.id))
    }

    fn make(mode: &Mode, options: Options) -> Result<Self> {
        let lab = Lab::new(mode.id)?;
        let (one, two) = lab.pair("one", "two")?;
        let nodes = [&one, &two];
        for node in nodes {
            node.netns().ip(&format!("link set {INTERFACE} mtu {}", options.mtu))?;
            // Loops of connections take many ports.
            node.netns().sysctl("ipv4/ip_local_port_range", "10000 65535")?;
        }
        let (mut links, mut agents, mut processes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut server, mut zone, mut bystander) = (two.address(), None, None);
        match mode.kind {
            Kind::Plain => {}
            Kind::Empty(hooks) => {
                for node in nodes {
                    links.extend(empty::attach(node, hooks)?.links);
                }
            }
            Kind::Sigil(sigil) => {
                zone = Some(ZONE);
                agents = start_agents(nodes, &sigil)?;
            }
            Kind::Beside(sigil) => {
                let third = lab.node("three", 3)?;
                agents = start_agents([&third], &sigil)?;
                bystander = Some(third);
            }
            Kind::NftSet(count) => filter(nodes, &nft_set(count))?,
            Kind::NftChain(count) => filter(nodes, &nft_chain(count))?,
            Kind::Ipsec(protection) => ipsec::protect(nodes, protection)?,
            Kind::Cipso => server = cipso::label(nodes)?,
            Kind::WireGuard(runs) => {
                let tunnel = tunnel::open(nodes, options.mtu, runs)?;
                server = tunnel.server;
                processes.extend(tunnel.processes);
            }
        }
        if options.rpc {
            // With /run of its own: the host's rpcbind, if any, has its socket and lock there.
            let script = "mount -t tmpfs none /run && exec rpcbind -f";
            let rpcbind = ["unshare", "--mount", "sh", "-c", script];
            processes.insert(0, driver::start(&two, zone, &rpcbind)?);
            two.wait_bound(111).context("rpcbind; scripts/setup installs it")?;
        }
        let arguments: &[&str] = if options.rpc { &["serve", "--rpcbind"] } else { &["serve"] };
        let ends = serve(&two, zone, arguments)?;
        processes.insert(0, ends);
        let driver = Driver::start(&one, zone, server)?;
        Ok(Self {
            driver,
            _processes: processes,
            agents,
            _links: links,
            one,
            two,
            _bystander: bystander,
            _lab: lab,
        })
    }
}

/// A bed for each of some modes. Programs of an agent see the system calls of the whole machine, so a
/// mode with agents stands for its own turn alone; all others stand all the time.
#[derive(Debug)]
pub struct Beds<'m> {
    modes: &'m [Mode],
    options: Options,
    standing: Vec<Option<Bed>>,
}

impl<'m> Beds<'m> {
    /// Makes those that stand all the time, two at once.
    ///
    /// # Errors
    /// See [`Bed::new`].
    pub fn new(modes: &'m [Mode], options: Options) -> Result<Self> {
        let mut standing = Vec::new();
        for pair in modes.chunks(2) {
            let made = std::thread::scope(|scope| {
                let make = |mode: &'m Mode| {
                    scope.spawn(move || {
                        (!mode.has_agents()).then(|| Bed::new(mode, options)).transpose()
                    })
                };
                let threads: Vec<_> = pair.iter().map(make).collect();
                threads.into_iter().map(ScopedJoinHandle::join).collect::<Vec<_>>()
            });
            for bed in made {
                standing.push(bed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
        }
        Ok(Self { modes, options, standing })
    }

    /// Gives each mode its turn, beginning with another one in each round.
    ///
    /// # Errors
    /// A mode cannot be set up, or what `measure` says.
    pub fn round(
        &mut self,
        round: usize,
        mut measure: impl FnMut(&Mode, &mut Bed) -> Result<()>,
    ) -> Result<()> {
        let count = self.modes.len();
        for at in (0..count).map(|turn| (turn + round) % count) {
            let (Some(mode), Some(standing)) = (self.modes.get(at), self.standing.get_mut(at))
            else {
                continue;
            };
            match standing {
                Some(bed) => measure(mode, bed)?,
                None => measure(mode, &mut Bed::new(mode, self.options)?)?,
            }
        }
        Ok(())
    }
}

/// Starts an agent on each node, with keys for all.
fn start_agents<const N: usize>(nodes: [&Node; N], sigil: &Sigil) -> Result<Vec<Agent>> {
    let Some(first) = nodes.first() else { return Ok(Vec::new()) };
    let keys = first.directory().join("keys");
    for node in nodes {
        std::fs::write(policy_of(node), document(1, sigil.protection, sigil.rules, true))?;
    }
    if let Some(suite) = sigil.suite {
        generate_keys(&policy_of(first), suite, 1, &keys)?;
    }
    std::thread::scope(|scope| {
        let start = |(node, snid)| {
            let keys = &keys;
            scope.spawn(move || start_agent(node, snid, sigil, &policy_of(node), keys))
        };
        let threads: Vec<_> = nodes.into_iter().zip(1..).map(start).collect();
        let join = |thread: ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

fn policy_of(node: &Node) -> PathBuf {
    node.directory().join("policy.xml")
}

/// Starts a node's agent.
///
/// # Errors
/// It does not enforce in time.
pub fn start_agent(
    node: &Node,
    snid: u32,
    sigil: &Sigil,
    policy: &Path,
    keys: &Path,
) -> Result<Agent> {
    let keys = sigil.suite.map(|_| key_file(keys, snid));
    let mut config = Config::new(node, snid, policy, keys.as_deref());
    sigil.verify.clone_into(&mut config.mode);
    if sigil.rules > 0 {
        config.limits.nodes = Some(policy::nodes(sigil.rules));
        // Every node has a label for its kernel and for its unlabelled processes as well.
        config.limits.handles = Some(2 * (sigil.rules + policy::nodes(sigil.rules)) + 1000);
    }
    Agent::start(node, &config)
}

/// A chain that drops what no rule accepts.
const CHAIN: &str = "add table ip bench\n\
    add chain ip bench in { type filter hook input priority 0; policy drop; }\n";
/// The two nodes, and loopback.
const NODES: &str = "10.77.0.1, 10.77.0.2, 127.0.0.1";

/// Addresses that are nobody's.
fn strangers(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..count).map(|number| Ipv4Addr::from(0x0b00_0000 + number))
}

fn nft_set(count: u32) -> String {
    let strangers: Vec<_> = strangers(count).map(|address| address.to_string()).collect();
    let strangers = strangers.join(", ");
    format!(
        "{CHAIN}add set ip bench peers {{ type ipv4_addr; }}\n\
         add element ip bench peers {{ {NODES}, {strangers} }}\n\
         add rule ip bench in ip saddr @peers accept\n"
    )
}

fn nft_chain(count: u32) -> String {
    let rule = |address| format!("add rule ip bench in ip saddr {address} accept");
    let strangers: Vec<_> = strangers(count).map(rule).collect();
    let strangers = strangers.join("\n");
    format!("{CHAIN}{strangers}\nadd rule ip bench in ip saddr {{ {NODES} }} accept\n")
}

fn filter(nodes: [&Node; 2], rules: &str) -> Result<()> {
    for node in nodes {
        let file = node.directory().join("rules.nft");
        std::fs::write(&file, rules)?;
        let output = node.netns().enter(|| {
            Command::new("nft").arg("-f").arg(&file).output().context("nftables; see scripts/setup")
        })?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft: {}", said.get(..300).unwrap_or(&said));
    }
    Ok(())
}

/// Waits for a file, such as a socket.
fn wait_file(path: &Path) -> Result<()> {
    until(&path.display().to_string(), PATIENCE, || Ok(path.exists().then_some(())))
}
