//! What the operator decides.

use std::path::PathBuf;

/// How packets are verified on a cluster NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// [`Mode::Tc`] on virtual links, where super-frames then stay whole, else [`Mode::Xdp`].
    Auto,
    /// Native XDP, before the stack sees the packet; receive offloads work on what is left.
    Xdp,
    /// TC ingress.
    Tc,
}

impl Mode {
    /// Its name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// What keeps the rules on processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// [`Backend::Lsm`] where the kernel takes it, else [`Backend::Fanotify`].
    #[default]
    Auto,
    /// LSM programs: what the rules refuse fails before it happens.
    Lsm,
    /// Tracepoints: what the exec gate is not asked about is ended as soon as it is seen.
    Fanotify,
}

/// Sizes of maps; fixed once the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes of the cluster, this one included. Each costs about 10 KiB.
    pub nodes: u32,
    /// Labels that have a relation with this node. Each costs 8 bytes, used or not.
    pub handles: u32,
    /// Datagram conversations of unconnected sockets that are remembered.
    pub conversations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: 256, handles: 1 << 18, conversations: 1 << 16 }
    }
}

/// How a node's datapath is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub snid: u32,
    /// The cluster NICs; at most 7.
    pub interfaces: Vec<String>,
    /// How packets are verified.
    pub mode: Mode,
    /// What keeps the rules on processes.
    pub backend: Backend,
    /// The cgroup whose processes are governed; the root, but for laboratories.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned; a bpffs is mounted there if there is none.
    pub pins: PathBuf,
    /// Where what must outlive a reboot is written.
    pub state: PathBuf,
    /// Count what would be dropped, and let it pass.
    pub observe: bool,
    /// The domain of interpretation in the option.
    pub doi: [u8; 4],
    /// `EtherType`s that pass beside IPv4 and ARP; at most 8.
    pub pass_ethertypes: Vec<u16>,
    /// Sizes of maps.
    pub limits: Limits,
    /// Servers that the agent reaches whatever the rules say; at most 4.
    pub servers: Vec<std::net::SocketAddrV4>,
}

impl Options {
    /// Whether programs and rules are pinned: the node enforces them, with or without its agent.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pins.join("maps").exists()
    }
}
