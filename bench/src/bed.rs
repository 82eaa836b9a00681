//! Two nodes on one veth pair, with Sigil on both, with programs that do nothing, or with nothing.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use sigil_common::abi::name;
use sigil_common::wire::option::DEFAULT_DOI;
use sigil_datapath::probe::Size;
use sigil_datapath::{Datapath, Limits, Mode, Options};
use sigil_harness::{Lab, Node, Process, binary};

use crate::rules::{self, PORT};
use crate::{peer, program, sys};

/// The nodes' interface.
const INTERFACE: &str = "eth0";
/// How long a client may take beside what it was told to.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is attached to the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Nothing.
    Plain,
    /// An XDP program that passes every packet.
    PassingXdp,
    /// Programs that do nothing wherever Sigil has programs.
    Empty,
    /// Sigil, and how many labels the first node knows beside those it needs.
    Sigil(Mode, u32),
}

/// Two nodes on a veth pair. The fields are in the order in which they go.
#[derive(Debug)]
pub struct Bed {
    server: Option<Process>,
    /// What is attached without Sigil.
    pub empty: Vec<(Hook, OwnedFd)>,
    _links: Vec<OwnedFd>,
    /// Sigil on node 1, if it is there.
    pub sigil: Option<Sigil>,
    _other: Option<Sigil>,
    /// Node 1, the client.
    pub client: Node,
    node2: Node,
    _lab: Lab,
}

/// The hook of an empty program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TC.
    Tc,
    /// The sockets of a control group.
    Cgroup,
}

/// Sigil on a node.
#[derive(Debug)]
pub struct Sigil {
    /// Its kernel side.
    pub datapath: Datapath,
    options: Options,
    /// Sizes of its programs.
    pub sizes: Vec<(String, Size)>,
    programs: Vec<(String, OwnedFd)>,
}

impl Bed {
    /// Makes the nodes and attaches what is to be attached.
    ///
    /// # Errors
    /// This is not root, or the kernel refuses something.
    pub fn new(name: &str, setup: Setup) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, node2) = lab.pair("client", "server")?;
        let (mut empty, mut links, mut sigil, mut other) = (Vec::new(), Vec::new(), None, None);
        match setup {
            Setup::Plain => {}
            Setup::PassingXdp => {
                for node in [&client, &node2] {
                    let program = program::empty_xdp()?;
                    links.push(attach(node, &program, sys::Hook::Xdp)?);
                    empty.push((Hook::Xdp, program));
                }
            }
            Setup::Empty => {
                for node in [&client, &node2] {
                    let (xdp, tc, out) =
                        (program::empty_xdp()?, program::empty_tc()?, program::empty_tc()?);
                    links.push(attach(node, &xdp, sys::Hook::Xdp)?);
                    links.push(attach(node, &tc, sys::Hook::Ingress)?);
                    links.push(attach(node, &out, sys::Hook::Egress)?);
                    let (sockets, group) = (program::empty_cgroup()?, File::open(node.cgroup())?);
                    links.push(sys::attach(sockets.as_fd(), sys::Hook::Cgroup(group.as_fd()))?);
                    empty.extend([(Hook::Xdp, xdp), (Hook::Tc, tc), (Hook::Cgroup, sockets)]);
                }
            }
            Setup::Sigil(mode, count) => {
                other = Some(Sigil::new(&node2, 2, mode, 0)?);
                sigil = Some(Sigil::new(&client, 1, mode, count)?);
            }
        }
        Ok(Self {
            server: None,
            empty,
            _links: links,
            sigil,
            _other: other,
            client,
            node2,
            _lab: lab,
        })
    }

    /// Starts the server on node 2, on one CPU.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(&mut self, role: peer::Server, cpu: usize) -> Result<()> {
        let program = binary("sigil-bench-peer")?;
        let program = program.to_str().context("a path that is no text")?;
        let port = PORT.to_string();
        let server = self.node2.spawn(&[program, role.name(), &cpu.to_string(), &port])?;
        server.wait_line(PATIENCE, |line| line == "ready")?;
        self.server = Some(server);
        Ok(())
    }

    /// Runs a client on node 1, on one CPU, to its end.
    ///
    /// # Errors
    /// It fails.
    pub fn exchange(&self, role: peer::Client, cpu: usize, amount: u64) -> Result<peer::Answer> {
        let program = binary("sigil-bench-peer")?;
        let program = program.to_str().context("a path that is no text")?;
        let to = format!("{}:{PORT}", self.node2.address());
        let (cpu, amount) = (cpu.to_string(), amount.to_string());
        let output = self.client.spawn(&[program, role.name(), &cpu, &to, &amount])?;
        let output = output.wait(PATIENCE)?;
        ensure!(output.success(), "{}", output.stderr.trim());
        serde_json::from_str(&output.stdout).context(output.stdout)
    }

    /// Sigil on node 1.
    ///
    /// # Errors
    /// It is not there.
    pub fn sigil(&mut self) -> Result<&mut Sigil> {
        self.sigil.as_mut().context("Sigil is not on this pair")
    }
}

fn attach(node: &Node, program: &OwnedFd, hook: fn(u32) -> sys::Hook<'static>) -> Result<OwnedFd> {
    node.netns().enter(|| Ok(sys::attach(program.as_fd(), hook(if_nametoindex(INTERFACE)?))?))
}

impl Sigil {
    fn new(node: &Node, snid: u32, mode: Mode, count: u32) -> Result<Self> {
        let options = Options {
            snid,
            interfaces: vec![INTERFACE.to_owned()],
            mode,
            cgroup: node.cgroup().to_owned(),
            pins: node.bpffs().join("sigil"),
            state: node.directory().join("state"),
            observe: false,
            doi: DEFAULT_DOI,
            pass_ethertypes: Vec::new(),
            limits: Limits { nodes: 16, handles: count + (1 << 10), conversations: 1 << 12 },
        };
        let (datapath, sizes) = node.netns().enter(|| {
            let (mut datapath, _) = Datapath::open(&options)?;
            let sizes = datapath.load_all()?;
            datapath.apply(&rules::rules(snid, count))?;
            // One by one: the first epoch of several is the one to stamp with.
            for epoch in rules::keys(snid) {
                datapath.install_keys(&[epoch])?;
            }
            datapath.attach()?;
            Ok((datapath, sizes))
        })?;
        let programs = programs(&options)?;
        Ok(Self { datapath, options, sizes, programs })
    }

    /// A program by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn program(&self, name: &str) -> Result<&OwnedFd> {
        let found = self.programs.iter().find(|(known, _)| known == name);
        found.map(|(_, program)| program).with_context(|| format!("no program {name}"))
    }

    /// A map.
    ///
    /// # Errors
    /// It is not pinned.
    pub fn map(&self, name: &str) -> Result<OwnedFd> {
        sys::open(&self.options.pins.join("maps").join(name)).with_context(|| name.to_owned())
    }
}

/// The programs that work on a node's maps: other nodes have programs of the same names.
fn programs(options: &Options) -> Result<Vec<(String, OwnedFd)>> {
    let config = sys::open(&options.pins.join("maps").join(name::CONFIG))?;
    let config = sys::map_id(config.as_fd())?;
    let mut programs = Vec::new();
    for program in sys::programs()? {
        let info = sys::info(program.as_fd())?;
        if info.maps.contains(&config) {
            programs.push((info.name, program));
        }
    }
    ensure!(!programs.is_empty(), "the kernel names no programs on the map {config}");
    Ok(programs)
}
