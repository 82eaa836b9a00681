//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

/// A failure of the datapath. What was in force before stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks capabilities.
    #[error("sigild lacks {missing}: run it as root, or grant these capabilities to its unit")]
    Privilege {
        /// Names of the capabilities.
        missing: String,
    },
    /// The kernel is too old or lacks an option.
    #[error("this kernel has no {feature}: {remedy}")]
    Feature {
        /// What is missing.
        feature: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Programs at LSM hooks are asked for and cannot be had.
    #[error("no programs at LSM hooks: {why}; or set backend = \"fanotify\"")]
    Lsm {
        /// Why not, and what to do about it.
        why: String,
    },
    /// Maps of another version are pinned.
    #[error(
        "{} holds maps of ABI {found}, this agent speaks ABI {expected}: run the matching agent, \
         or remove the old enforcement with its `sigild --detach`", pins.display()
    )]
    Abi {
        /// The pin directory.
        pins: PathBuf,
        /// What is pinned.
        found: String,
        /// What this agent speaks.
        expected: u32,
    },
    /// The pins belong to another node.
    #[error(
        "{} belongs to node {found}, not to node {expected}: set another `bpffs`, or correct `snid`",
        pins.display()
    )]
    Node {
        /// The pin directory.
        pins: PathBuf,
        /// Whose pins they are.
        found: u32,
        /// This node.
        expected: u32,
    },
    /// No such interface.
    #[error("interface {name} does not exist: check `interfaces`, or create it first")]
    Interface {
        /// Its name.
        name: String,
    },
    /// A guarded interface went while the agent ran.
    #[error(
        "interface {name} is gone, and nothing comes or goes through it: sigild guards it again as \
         soon as it is back; if it is not to come back, take it out of `interfaces` and restart sigild"
    )]
    Gone {
        /// Its name.
        name: String,
    },
    /// The interface is part of another one.
    #[error("interface {name} belongs to {master}: attach to {master}, packets leave through it")]
    Enslaved {
        /// Its name.
        name: String,
        /// The bond or bridge.
        master: String,
    },
    /// Another program holds the hook.
    #[error("{hook} of {name} is taken by another program: detach it ({remedy})")]
    HookTaken {
        /// The interface.
        name: String,
        /// Which hook.
        hook: &'static str,
        /// How to detach it, or do without.
        remedy: String,
    },
    /// The interface's driver takes no XDP program.
    #[error("interface {name} takes no program in native XDP: use mode = \"tc\" or \"auto\"")]
    NativeXdp {
        /// The interface.
        name: String,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// More of something than the maps hold.
    #[error(
        "the policy needs {needed} {what}, the maps hold {limit}: raise [limits].{what}, then sigild --detach and start again"
    )]
    Limit {
        /// The limit's name.
        what: &'static str,
        /// How many are needed.
        needed: usize,
        /// How many fit.
        limit: u32,
    },
    /// A key epoch whose counters are lost.
    #[error(
        "key id {key_id} was used before this boot and its counters are gone: a sequence number \
         must not be used twice, so install key files with a new epoch on all nodes \
         (labelctl keys generate)"
    )]
    EpochUsed {
        /// The key id.
        key_id: u8,
    },
    /// Someone else changed what the agent set up.
    #[error(
        "{what} is gone: something other than sigild removed it; restart sigild to put it back"
    )]
    Tampered {
        /// What is missing.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No bpffs could be mounted to pin things in.
    #[error(
        "cannot mount a bpffs at {0}: let sigild mount it, or mount it before (mount -t bpf bpf {0})",
        path.display()
    )]
    Bpffs {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Netlink refused something.
    #[error("cannot {action}")]
    Netlink {
        /// What was tried.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// A program was refused by the kernel's verifier or could not be attached.
    #[error("program {name}")]
    Program {
        /// Its name.
        name: String,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be made, read or written.
    #[error("map {name}")]
    Map {
        /// Its name.
        name: String,
        /// Why.
        source: Box<aya::maps::MapError>,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object")]
    Load(#[from] Box<aya::EbpfError>),
    /// The log's ring cannot be read.
    #[error("the ring of log records")]
    Log(#[from] aya_log::Error),
    /// The object lacks a program or a map: it is not the one this crate was built for.
    #[error("the eBPF object has no {0}")]
    Missing(String),
}

impl Error {
    pub(crate) fn map(name: &str) -> impl FnOnce(aya::maps::MapError) -> Self + '_ {
        move |source| Self::Map { name: name.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn program(name: &str) -> impl FnOnce(aya::programs::ProgramError) -> Self + '_ {
        move |source| Self::Program { name: name.to_owned(), source: Box::new(source) }
    }

    /// A program that the kernel would not attach: for want of a feature, or as it says.
    pub(crate) fn attaching<'a>(
        name: &'a str,
        feature: &'static str,
        remedy: &'static str,
    ) -> impl FnOnce(aya::programs::ProgramError) -> Self + 'a {
        /// The kernel's own, unknown to the C library.
        const ENOTSUPP: i32 = 524;
        move |source| match errno(&source) {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | ENOTSUPP) => {
                Self::Feature { feature, remedy }
            }
            _ => Self::program(name)(source),
        }
    }

    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What the kernel answered, where it was a system call that failed.
pub(crate) fn errno(error: &aya::programs::ProgramError) -> Option<i32> {
    match error {
        aya::programs::ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}
