//! The only crate that speaks with the kernel: it loads, attaches, pins and feeds the programs.
//!
//! Everything lives in pins: maps under `PINS/maps`, links under `PINS/links`. Enforcement goes on
//! without any process; whoever opens the datapath next adopts what is there.
//!
//! Callers: the agent, and tests and benchmarks, which also run single programs.

mod attach;
mod btf;
mod clsact;
mod counter;
mod error;
mod event;
mod gro;
mod handles;
mod install;
mod keys;
mod line;
mod load;
pub mod lsm;
mod maintain;
mod net;
mod options;
mod persist;
pub mod probe;
mod process;
mod sys;

pub use attach::{Attached, TcHook};
pub use counter::{Counters, EventCounters, PairDrop, Row};
pub use error::Error;
pub use event::{Events, KernelLog};
pub use install::Applied;
pub use keys::{EpochKeys, Pair, Stamping};
pub use line::Marker;
pub use load::{Datapath, InForce, Origin};
pub use maintain::Upkeep;
pub use net::NetworkWatch;
pub use options::{Backend, Limits, Mode, Options};
pub use process::{Doomed, Execs, Tasks};

/// The compiled eBPF object.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sigil.o"));
