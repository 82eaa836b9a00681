//! Drops, as the kernel reports them.

use super::socket::Comm;
use crate::label::Label;

/// Kinds of [`DropEvent`].
pub mod event_kind {
    /// A packet was dropped or an operation refused.
    pub const DROP: u32 = 0;
    /// A rule with `<alarm>` was used.
    pub const ALARM: u32 = 1;
    /// It would have been dropped, had the agent not been told to observe.
    pub const OBSERVED: u32 = 2;
}

/// One event of the `EVENTS` ring.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct DropEvent {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Sender's label, as far as known.
    pub source: Label,
    /// Receiver's label, as far as known.
    pub target: Label,
    /// As a number.
    pub source_address: u32,
    /// As a number.
    pub target_address: u32,
    /// As a number.
    pub source_port: u16,
    /// As a number.
    pub target_port: u16,
    /// IP protocol number.
    pub protocol: u32,
    /// [`crate::verdict::Hook`].
    pub hook: u32,
    /// [`crate::verdict::DropReason`], 0 for an alarm.
    pub reason: u32,
    /// Line of the rule in the DSP, 0 for none.
    pub line: u32,
    /// [`event_kind`].
    pub kind: u32,
    /// The local socket's process, 0 if unknown.
    pub pid: u32,
    /// Drops of this flow since its last event that were not reported.
    pub suppressed: u32,
    /// The local socket's process name.
    pub comm: Comm,
}
const _: () = assert!(size_of::<DropEvent>() == 80);

/// One entry of the `DOOMED` ring: a process that must be killed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Doom {
    /// `CLOCK_BOOTTIME`, nanoseconds, when this was decided; the process had started then.
    pub time_ns: u64,
    /// Its id.
    pub pid: u32,
    /// Explicit padding.
    pub pad: u32,
}
const _: () = assert!(size_of::<Doom>() == 16);

/// The key of `SEEN`: what counts as one flow when reports are limited. Ports are left out on
/// purpose, so that a scan is one flow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowKey {
    /// Sender's label.
    pub source: Label,
    /// As a number.
    pub source_address: u32,
    /// As a number.
    pub target_address: u32,
    /// 0 where the reason does not depend on it.
    pub target_port: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Hook number × 256 + reason.
    pub what: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 24);

/// The value of `SEEN`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Seen {
    /// When the flow was last reported, `CLOCK_MONOTONIC` nanoseconds.
    pub reported_ns: u64,
    /// Drops since then.
    pub suppressed: u64,
}
const _: () = assert!(size_of::<Seen>() == 16);

/// A flow is reported at most once in this time.
pub const REPORT_INTERVAL_NS: u64 = 1_000_000_000;

/// The key of `PAIR_STATS`: source SnID in the high half, hook × 256 + slot in the low one.
#[must_use]
pub const fn pair_key(snid: u32, hook: u32, slot: u32) -> u64 {
    ((snid as u64) << 32) | ((hook as u64) << 8) | slot as u64
}

/// Slots of `EVENT_STATS`.
pub mod event_slot {
    /// Events handed to the ring.
    pub const SENT: u32 = 0;
    /// Events the ring had no room for.
    pub const LOST: u32 = 1;
    /// Drops not reported because their flow just was.
    pub const SUPPRESSED: u32 = 2;
    /// Number of slots.
    pub const COUNT: u32 = 3;
}

/// Kinds of [`Trouble`]: slots of `TROUBLES`.
pub mod trouble {
    /// A packet got no room for its label.
    pub const OPEN_ROOM: u32 = 0;
    /// A label could not be taken out of a packet.
    pub const CLOSE_ROOM: u32 = 1;
    /// A map took no entry.
    pub const TABLE_FULL: u32 = 2;
    /// A socket got no state.
    pub const NO_STATE: u32 = 3;
    /// Number of slots.
    pub const COUNT: u32 = 4;
}

/// The value of `TROUBLES`: something that should never happen.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Trouble {
    /// How often it did.
    pub times: u64,
    /// When the log was last told, `CLOCK_MONOTONIC` nanoseconds.
    pub told_ns: u64,
}
const _: () = assert!(size_of::<Trouble>() == 16);

/// The log is told of a trouble at most once in this time.
pub const TROUBLE_INTERVAL_NS: u64 = 1_000_000_000;
