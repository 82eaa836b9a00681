//! Counting, and telling user space. The one place where a refusal becomes an action.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_reserve, bpf_ringbuf_submit},
};
use sigil_common::{
    abi::{
        event::{DropEvent, FlowKey, REPORT_INTERVAL_NS, Seen, event_kind, event_slot, pair_key},
        socket::{Comm, SocketState},
    },
    verdict::{Hook, SLOT_ACCEPTED, SLOT_OBSERVED, SLOT_SEEN},
    wire::{ipv4::Ipv4, option::Words},
};

use crate::{
    maps::{self, EVENT_STATS, EVENTS, SEEN},
    packet::{ETH_LEN, Source, ports},
    rules::{Refused, Rules},
    task,
};

/// What becomes of a refused packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Drop,
    /// The agent was told to observe: it passes, and it counts.
    Pass,
}

#[inline(always)]
pub(crate) fn seen(hook: Hook) {
    maps::count(hook, SLOT_SEEN);
}

#[inline(always)]
pub(crate) fn accepted(hook: Hook) {
    maps::count(hook, SLOT_ACCEPTED);
}

/// The conversation a report is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flow {
    pub(crate) source_address: u32,
    pub(crate) target_address: u32,
    pub(crate) source_port: u16,
    pub(crate) target_port: u16,
    pub(crate) protocol: u32,
}

impl Flow {
    /// Reads the flow out of the packet again: only refused packets pay for it.
    #[inline(always)]
    pub(crate) fn of(packet: Source) -> Self {
        let ip_at = match packet {
            Source::SkbNetwork(_) => 0,
            Source::Skb(_) | Source::Xdp(_) => ETH_LEN as u32,
        };
        let Some(ip) = packet.load::<Words>(ip_at).map(Ipv4) else { return Self::default() };
        if ip.version() != 4 {
            return Self::default();
        }
        let transport = if ip.first_fragment() {
            u32::from_be(packet.load(ip_at + ip.header_len()).unwrap_or(0))
        } else {
            0
        };
        let (source_port, target_port) = match ip.protocol() {
            6 | 17 | 132 => ports(transport),
            _ => (0, 0),
        };
        Self {
            source_address: ip.source(),
            target_address: ip.target(),
            source_port,
            target_port,
            protocol: u32::from(ip.protocol()),
        }
    }
}

/// Who owns the local socket, as far as known.
#[derive(Clone, Copy, Default)]
pub(crate) struct Process {
    pid: u32,
    comm: Comm,
}

impl Process {
    /// The process that runs this, or one that it is making.
    #[inline(always)]
    pub(crate) fn current(pid: u32) -> Self {
        Self { pid, comm: task::current_comm() }
    }

    #[inline(always)]
    pub(crate) fn of(state: Option<&SocketState>) -> Self {
        state.map_or_else(Self::default, |s| Self { pid: s.pid, comm: s.comm })
    }
}

/// Counts a refused packet or operation, reports it once per flow and interval, and says what
/// becomes of it.
#[inline(never)]
pub(crate) fn refuse(hook: Hook, refused: &Refused, flow: &Flow, process: &Process) -> Fate {
    refuse_inline(hook, refused, flow, process)
}

/// [`refuse`], for a caller that is itself a function of its own.
#[inline(always)]
pub(crate) fn refuse_inline(hook: Hook, refused: &Refused, flow: &Flow, process: &Process) -> Fate {
    let observing = Rules::observing();
    if observing {
        accepted(hook);
        maps::count(hook, SLOT_OBSERVED);
        report(event_kind::OBSERVED, hook, refused, flow, process);
        return Fate::Pass;
    }
    let slot = refused.reason as u32;
    maps::count(hook, slot);
    maps::add_pair(pair_key(refused.source.snid, hook as u32, slot));
    report(event_kind::DROP, hook, refused, flow, process);
    Fate::Drop
}

/// Reports the use of a rule that asks for an alarm; `used.reason` is not looked at.
#[inline(never)]
pub(crate) fn alarm(hook: Hook, used: &Refused, flow: &Flow, process: &Process) {
    send(event_kind::ALARM, hook, used, 0, flow, process);
}

#[inline(always)]
fn report(kind: u32, hook: Hook, refused: &Refused, flow: &Flow, process: &Process) {
    let key = FlowKey {
        source: refused.source,
        source_address: flow.source_address,
        target_address: flow.target_address,
        target_port: flow.target_port,
        protocol: flow.protocol as u16,
        what: hook as u32 * 256 + refused.reason as u32,
    };
    // SAFETY: no side effect.
    let now = unsafe { bpf_ktime_get_ns() };
    let mut suppressed = 0;
    if let Some(seen) = SEEN.get_ptr_mut(key) {
        // SAFETY: plain words; a race between CPUs moves a count from one report to the next.
        let seen = unsafe { &mut *seen };
        if now.wrapping_sub(seen.reported_ns) < REPORT_INTERVAL_NS {
            seen.suppressed += 1;
            count(event_slot::SUPPRESSED);
            return;
        }
        suppressed = seen.suppressed as u32;
        *seen = Seen { reported_ns: now, suppressed: 0 };
    } else {
        let first = Seen { reported_ns: now, suppressed: 0 };
        // Without room for it, the flow is reported more often: never less.
        let _ = SEEN.insert(key, first, u64::from(BPF_ANY));
    }
    send(kind, hook, refused, suppressed, flow, process);
}

#[inline(always)]
fn send(kind: u32, hook: Hook, what: &Refused, suppressed: u32, flow: &Flow, process: &Process) {
    let ring = core::ptr::from_ref(&EVENTS).cast_mut().cast();
    let size = size_of::<DropEvent>() as u64;
    // SAFETY: the reservation is checked, written whole and submitted.
    unsafe {
        let event = bpf_ringbuf_reserve(ring, size, 0).cast::<DropEvent>();
        if event.is_null() {
            count(event_slot::LOST);
            return;
        }
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).source = what.source;
        (*event).target = what.target;
        (*event).source_address = flow.source_address;
        (*event).target_address = flow.target_address;
        (*event).source_port = flow.source_port;
        (*event).target_port = flow.target_port;
        (*event).protocol = flow.protocol;
        (*event).hook = hook as u32;
        (*event).reason = if kind == event_kind::ALARM { 0 } else { what.reason as u32 };
        (*event).line = what.line;
        (*event).kind = kind;
        (*event).pid = process.pid;
        (*event).suppressed = suppressed;
        (*event).comm = process.comm;
        bpf_ringbuf_submit(event.cast(), 0);
    }
    count(event_slot::SENT);
}

#[inline(always)]
fn count(slot: u32) {
    if let Some(count) = EVENT_STATS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 }
    }
}
