//! Two nodes on one veth pair, with Sigil's kernel side on both, fed by hand so that its programs and
//! maps are at hand, or with programs that do nothing.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};
use sigil_common::abi::name;
use sigil_common::wire::option::DEFAULT_DOI;
use sigil_datapath::probe::Size;
use sigil_datapath::{Backend, Datapath, Limits, Mode, Options};
use sigil_harness::{Lab, Node, Process};

use super::{rules, sys};
use crate::bed::{Driver, INTERFACE, empty, serve};
use crate::mode::Hooks;

/// What is attached to the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    /// Programs that do nothing wherever Sigil has programs.
    Empty,
    /// Sigil, and how many labels the first node knows beside those it needs.
    Sigil(Mode, u32),
}

/// Two nodes on a veth pair. The fields are in the order in which they go.
#[derive(Debug)]
pub(super) struct Bed {
    driver: Option<Driver>,
    server: Option<Process>,
    /// What is attached without Sigil, node by node: XDP, TC twice, and a control group's.
    pub(super) empty: Vec<OwnedFd>,
    _links: Vec<OwnedFd>,
    sigil: Option<Sigil>,
    _other: Option<Sigil>,
    one: Node,
    two: Node,
    _lab: Lab,
}

/// Sigil on a node.
#[derive(Debug)]
pub(super) struct Sigil {
    /// Its kernel side.
    pub(super) datapath: Datapath,
    options: Options,
    /// Sizes of its programs.
    pub(super) sizes: Vec<(String, Size)>,
    programs: Vec<(String, OwnedFd)>,
}

impl Bed {
    /// Makes the nodes and attaches what is to be attached.
    ///
    /// # Errors
    /// This is not root, or the kernel refuses something.
    pub(super) fn new(name: &str, setup: Setup) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (one, two) = lab.pair("one", "two")?;
        let (mut empty, mut links, mut sigil, mut other) = (Vec::new(), Vec::new(), None, None);
        match setup {
            Setup::Empty => {
                for node in [&one, &two] {
                    let attached = empty::attach(node, Hooks::Xdp)?;
                    empty.extend(attached.programs);
                    links.extend(attached.links);
                }
            }
            Setup::Sigil(mode, count) => {
                other = Some(Sigil::new(&two, 2, mode, 0)?);
                sigil = Some(Sigil::new(&one, 1, mode, count)?);
            }
        }
        let (driver, server) = (None, None);
        Ok(Self { driver, server, empty, _links: links, sigil, _other: other, one, two, _lab: lab })
    }

    /// Starts both ends.
    ///
    /// # Errors
    /// One does not start.
    pub(super) fn serve(&mut self) -> Result<()> {
        self.server = Some(serve(&self.two, None, &["serve"])?);
        self.driver = Some(Driver::start(&self.one, None, self.two.address())?);
        Ok(())
    }

    /// The client end.
    ///
    /// # Errors
    /// It was not started.
    pub(super) fn driver(&mut self) -> Result<&mut Driver> {
        self.driver.as_mut().context("no driver")
    }

    /// Sigil on node 1.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn sigil(&self) -> Result<&Sigil> {
        self.sigil.as_ref().context("Sigil is not on this pair")
    }

    /// Sigil on node 1.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn sigil_mut(&mut self) -> Result<&mut Sigil> {
        self.sigil.as_mut().context("Sigil is not on this pair")
    }
}

impl Sigil {
    fn new(node: &Node, snid: u32, mode: Mode, count: u32) -> Result<Self> {
        let options = Options {
            snid,
            interfaces: vec![INTERFACE.to_owned()],
            mode,
            backend: Backend::Fanotify,
            cgroup: node.cgroup().to_owned(),
            pins: node.bpffs().join("sigil"),
            state: node.directory().join("state"),
            observe: false,
            doi: DEFAULT_DOI,
            pass_ethertypes: Vec::new(),
            servers: Vec::new(),
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
    pub(super) fn program(&self, name: &str) -> Result<&OwnedFd> {
        let found = self.programs.iter().find(|(known, _)| known == name);
        found.map(|(_, program)| program).with_context(|| format!("no program {name}"))
    }

    /// A map.
    ///
    /// # Errors
    /// It is not pinned.
    pub(super) fn map(&self, name: &str) -> Result<OwnedFd> {
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
