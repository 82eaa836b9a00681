//! Opening the datapath: load the programs, or adopt what is pinned.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::errno::Errno;
use sigil_common::abi::{
    ABI_VERSION, CONTROLS, Config, Generation, INTERFACES, PASS_ETHERTYPES, config_flag, control,
    key::{EPOCH_SLOTS, Node},
    name,
};

use crate::OBJECT;
use crate::attach::TcHook;
use crate::btf::Btf;
use crate::error::Error;
use crate::handles::Handles;
use crate::install::Settlement;
use crate::net::Netlink;
use crate::options::Options;
use crate::persist::State;
use crate::process::offsets;
use crate::sys;

/// A node's kernel side. Dropping it detaches nothing that is pinned.
pub struct Datapath {
    pub(crate) options: Options,
    pub(crate) bpf: Ebpf,
    pub(crate) origin: Origin,
    /// Why there are no LSM programs; none where there are.
    pub(crate) no_lsm: Option<String>,
    /// The programs of tracepoints that are attached: those that this kernel has and this backend needs.
    pub(crate) watching: BTreeSet<&'static str>,
    /// The programs beside LSM hooks that are.
    pub(crate) hooked: BTreeSet<&'static str>,
    pub(crate) state: State,
    pub(crate) handles: Handles,
    /// Of the rules that were applied last.
    pub(crate) settlement: Option<Settlement>,
    /// How TC programs are attached on this kernel.
    pub(crate) hook: TcHook,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Where the datapath came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was pinned.
    Fresh,
    /// The pinned programs are this agent's; they go on untouched.
    Adopted,
    /// The pinned programs are of another build; they are replaced under the same maps.
    Upgraded,
}

/// The generation of rules in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Rises with every applied policy.
    pub generation: u32,
    /// The document's serial.
    pub serial: u64,
}

/// Maps that live in pins.
pub(crate) const PINNED: [&str; 33] = [
    name::CONFIG,
    name::GENERATIONS,
    name::PEERS,
    name::VERDICTS,
    name::PORTS,
    name::ADDRESSES,
    name::PERIMETER,
    name::SOCKET_RULES,
    name::HANDLES,
    name::NODES,
    name::TX_KEYS,
    name::RX_KEYS,
    name::TASKS,
    name::PROCESS_RULES,
    name::TRANSITIONS,
    name::RELABELS,
    name::BINARIES,
    name::VOUCHERS,
    name::CHAINS,
    name::ENTERING,
    name::GATE,
    name::DOOMED,
    name::SOCKETS,
    name::CONVERSATIONS,
    name::FRAGMENTS,
    name::CLOSING,
    name::STATS,
    name::PAIR_STATS,
    name::EVENTS,
    name::SEEN,
    name::EVENT_STATS,
    name::TROUBLES,
    name::LOG,
];

impl Datapath {
    /// Loads the programs and makes the maps, or adopts those that are pinned. Nothing is attached
    /// by this.
    ///
    /// # Errors
    /// Every variant of [`Error`]; nothing that ran before is touched.
    pub fn open(options: &Options) -> Result<(Self, Origin), Error> {
        require_capabilities()?;
        let btf = Btf::running().ok_or(Error::Feature {
            feature: "BTF (/sys/kernel/btf/vmlinux)",
            remedy: "boot a kernel with CONFIG_DEBUG_INFO_BTF, as every Debian kernel has",
        })?;
        let offsets = offsets(&btf).ok_or(Error::Feature {
            feature: "known layout of processes and files in its BTF",
            remedy: "report this kernel's version",
        })?;
        let mut netlink = Netlink::open()?;
        for name in &options.interfaces {
            netlink.interface(name)?;
        }
        mount(&options.pins)?;
        let maps = options.pins.join("maps");
        let held = held(options, &maps)?;
        fs::create_dir_all(&maps).map_err(Error::io(&maps))?;
        let state = State::open(&options.state)?;

        let paths: Vec<_> = PINNED.iter().map(|map| (*map, maps.join(map))).collect();
        let mut loader = EbpfLoader::new();
        for (map, path) in &paths {
            loader.map_pin_path(map, path.as_path());
        }
        let limits = options.limits;
        let realtime = u32::from(realtime());
        loader
            .override_global(name::OFFSETS, &offsets, true)
            .override_global(name::REALTIME, &realtime, true)
            .map_max_entries(name::TASKS, PID_MAX_LIMIT)
            .map_max_entries(name::NODES, limits.nodes)
            .map_max_entries(name::TX_KEYS, limits.nodes * EPOCH_SLOTS)
            .map_max_entries(name::RX_KEYS, limits.nodes * EPOCH_SLOTS)
            .map_max_entries(name::HANDLES, limits.handles)
            .map_max_entries(name::CONVERSATIONS, limits.conversations);
        let bpf = loader.load(OBJECT).map_err(|error| {
            if held.is_none() {
                let _ = fs::remove_dir_all(&maps);
            }
            unloadable(error)
        })?;
        let origin = match held {
            None => Origin::Fresh,
            Some(config) if config.build == build() => Origin::Adopted,
            Some(_) => Origin::Upgraded,
        };
        let mut this = Self {
            options: options.clone(),
            bpf,
            origin,
            no_lsm: Some("nothing is attached".to_owned()),
            watching: BTreeSet::new(),
            hooked: BTreeSet::new(),
            state,
            handles: Handles::default(),
            settlement: None,
            hook: TcHook::probe(),
        };
        if origin == Origin::Fresh {
            // What enforces already learns the new settings when all else is known to be good.
            this.configure()?;
        }
        this.read_handles()?;
        Ok((this, origin))
    }

    /// The rules in force, if any were ever applied.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn in_force(&self) -> Result<Option<InForce>, Error> {
        let generation = self.generation()?;
        Ok((generation.number != 0)
            .then_some(InForce { generation: generation.number, serial: generation.serial }))
    }

    /// The ring of events; can be taken once.
    ///
    /// # Errors
    /// [`Error::Missing`] the second time.
    pub fn events(&mut self) -> Result<crate::Events, Error> {
        let map = self.bpf.take_map(name::EVENTS);
        let map = map.ok_or_else(|| Error::Missing(name::EVENTS.to_owned()))?;
        let ring = aya::maps::RingBuf::try_from(map).map_err(Error::map(name::EVENTS))?;
        Ok(crate::Events { ring })
    }

    /// The kernel's part of the log; can be taken once.
    ///
    /// # Errors
    /// [`Error::Log`] the second time.
    pub fn log(&mut self) -> Result<crate::KernelLog, Error> {
        Ok(crate::KernelLog { logger: aya_log::EbpfLogger::init(&mut self.bpf)? })
    }

    pub(crate) fn generation(&self) -> Result<Generation, Error> {
        let bank = self.config()?.active & 1;
        let map: Array<&MapData, Generation> = self.view(name::GENERATIONS)?;
        map.get(&bank, 0).map_err(Error::map(name::GENERATIONS))
    }

    pub(crate) fn config(&self) -> Result<Config, Error> {
        let map: Array<&MapData, Config> = self.view(name::CONFIG)?;
        map.get(&0, 0).map_err(Error::map(name::CONFIG))
    }

    pub(crate) fn set_config(&mut self, config: Config) -> Result<(), Error> {
        let mut map: Array<&mut MapData, Config> = self.view_mut(name::CONFIG)?;
        map.set(0, config, 0).map_err(Error::map(name::CONFIG))
    }

    pub(crate) fn configure(&mut self) -> Result<(), Error> {
        let mut config = self.config()?;
        config.abi = ABI_VERSION;
        config.snid = self.options.snid;
        config.doi = self.options.doi;
        config.flags &= config_flag::LSM;
        config.flags |= if self.options.observe { config_flag::OBSERVE } else { 0 };
        config.pass_ethertypes = [0; PASS_ETHERTYPES];
        for (place, kind) in config.pass_ethertypes.iter_mut().zip(&self.options.pass_ethertypes) {
            *place = *kind;
        }
        config.control = [0; CONTROLS];
        for (place, server) in config.control.iter_mut().zip(&self.options.servers) {
            *place = control((*server.ip()).into(), server.port());
        }
        config.interfaces = self.guarded();
        self.set_config(config)
    }

    /// The indexes of the interfaces to guard; 0 for one that is not there.
    pub(crate) fn guarded(&self) -> [u32; INTERFACES] {
        let mut places = [0; INTERFACES];
        let names = self.options.interfaces.iter().map(String::as_str).chain(["lo"]);
        for (place, name) in places.iter_mut().zip(names) {
            *place = nix::net::if_::if_nametoindex(name).unwrap_or(0);
        }
        places
    }

    /// The index of a node in `NODES`, given out if it has none. It stays while the node is in the
    /// policy in force or has a key.
    pub(crate) fn node_index(&mut self, snid: u32) -> Result<u32, Error> {
        let limit = self.options.limits.nodes;
        let mut map: Array<&mut MapData, Node> = self.view_mut(name::NODES)?;
        let mut free = None;
        for index in 0..limit {
            let node = map.get(&index, 0).map_err(Error::map(name::NODES))?;
            if node.snid == snid {
                return Ok(index);
            }
            if node.snid == 0 {
                free = free.or(Some(index));
            }
        }
        if let Some(index) = free {
            let node = Node { snid, ..Node::NONE };
            return map.set(index, node, 0).map_err(Error::map(name::NODES)).map(|()| index);
        }
        Err(Error::Limit { what: "nodes", needed: limit as usize + 1, limit })
    }

    /// A map of the object, to read.
    pub(crate) fn view<'a, M>(&'a self, name: &str) -> Result<M, Error>
    where
        M: TryFrom<&'a Map, Error = aya::maps::MapError>,
    {
        let map = self.bpf.map(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        M::try_from(map).map_err(Error::map(name))
    }

    /// A map of the object, to write.
    pub(crate) fn view_mut<'a, M>(&'a mut self, name: &str) -> Result<M, Error>
    where
        M: TryFrom<&'a mut Map, Error = aya::maps::MapError>,
    {
        let map = self.bpf.map_mut(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        M::try_from(map).map_err(Error::map(name))
    }
}

/// What is pinned, if anything is.
fn held(options: &Options, maps: &Path) -> Result<Option<Config>, Error> {
    let path = maps.join(name::CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let unknown =
        |found: String| Error::Abi { pins: options.pins.clone(), found, expected: ABI_VERSION };
    let map = MapData::from_pin(&path).map_err(Error::map(name::CONFIG))?;
    let map: Array<_, Config> =
        Array::try_from(Map::Array(map)).map_err(|_| unknown("of another layout".to_owned()))?;
    let config = map.get(&0, 0).map_err(Error::map(name::CONFIG))?;
    if config.abi != ABI_VERSION && config.abi != 0 {
        return Err(unknown(config.abi.to_string()));
    }
    if config.snid != options.snid && config.snid != 0 {
        return Err(Error::Node {
            pins: options.pins.clone(),
            found: config.snid,
            expected: options.snid,
        });
    }
    Ok(Some(config))
}

/// Fingerprint of the object (FNV-1a): tells builds apart, protects nothing.
pub(crate) fn build() -> u64 {
    OBJECT.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether softirqs are preemptible here.
fn realtime() -> bool {
    fs::read_to_string("/sys/kernel/realtime").is_ok_and(|text| text.trim() == "1")
}

fn require_capabilities() -> Result<(), Error> {
    const NEEDED: [(u32, &str); 4] =
        [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
    let held = sys::capabilities();
    let missing: Vec<_> =
        NEEDED.iter().filter(|(bit, _)| held & 1 << bit == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Privilege { missing: missing.join(", ") }) }
}

const NO_BPF: Error = Error::Feature {
    feature: "BPF",
    remedy: "boot Linux 6.1 or later with CONFIG_BPF_SYSCALL, as every Debian kernel has it",
};

fn unloadable(error: EbpfError) -> Error {
    match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::ENOSYS) =>
        {
            NO_BPF
        }
        _ => Error::Load(Box::new(error)),
    }
}

/// Makes sure the pin directory is on a bpffs.
fn mount(pins: &Path) -> Result<(), Error> {
    fs::create_dir_all(pins).map_err(Error::io(pins))?;
    if sys::is_bpffs(pins).map_err(Error::io(pins))? {
        return Ok(());
    }
    let none: Option<&Path> = None;
    let (kind, flags) =
        (Some("bpf"), nix::mount::MsFlags::MS_NOEXEC | nix::mount::MsFlags::MS_NOSUID);
    nix::mount::mount(Some("bpf"), pins, kind, flags, none).map_err(|error| match error {
        Errno::ENODEV => NO_BPF,
        _ => Error::Bpffs { path: pins.to_owned(), source: error.into() },
    })
}

/// Process ids that a kernel may ever give out (`PID_MAX_LIMIT` of 64-bit kernels). `pid_max` may be
/// raised at any time, and a process beyond the table could have no socket: 32 MiB rule that out.
pub(crate) const PID_MAX_LIMIT: u32 = 1 << 22;

/// Where the programs of clsact filters are pinned.
pub(crate) fn filters(options: &Options) -> PathBuf {
    options.pins.join("filters")
}

/// Where links are pinned.
pub(crate) fn links(options: &Options) -> PathBuf {
    options.pins.join("links")
}
