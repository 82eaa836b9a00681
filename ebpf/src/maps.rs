//! Every map of the object, but for the scratch space of `mac`. Sizes are those of a small cluster;
//! the loader replaces them by the operator's limits.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type,
        bpf_sock,
    },
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf,
    },
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use sigil_common::{
    abi::{
        Config, Generation,
        binary::BinaryKey,
        event::{Doom, DropEvent, FlowKey, Seen, event_slot},
        key::{EPOCH_SLOTS, Node, RxKey, TxKey},
        process::{Binary, Chain, Entering, ProcessRule, Task, TransitionKey, Voucher},
        rule::{NodeRef, Peer, PerimeterLabel, PortKey, SocketRule, Verdict, VerdictKey},
        socket::{ClosingKey, Conversation, ConversationKey, FragmentKey, RelabelKey, SocketState},
    },
    label::Label,
    verdict::{Hook, SLOTS},
};

use crate::atomic;

const BANKS: usize = 2;
const NODES_DEFAULT: usize = 64;
const GROWS: usize = BPF_F_NO_PREALLOC as usize;
const MAPPABLE: usize = BPF_F_MMAPABLE as usize;

/// A rule map: one inner hash a bank, made by the loader at the size of the policy.
///
/// The values are unions to the kernel's eyes: Linux 6.1 looks for timers in the struct that a
/// value is, and then finds maps that have no type information, as the loader's, to be others.
type Banked<K, V> = ArrayOfMaps<HashMap<K, MaybeUninit<V>, 1, GROWS>, BANKS>;

/// What a rule map holds for a key.
#[inline(always)]
pub(crate) fn rule<K, V>(map: &'static Banked<K, V>, bank: u32, key: K) -> Option<&'static V> {
    // SAFETY: a bank in force is not written to; the loader writes whole values of plain data.
    unsafe { map.get(bank)?.get(key).map(|value| value.assume_init_ref()) }
}

#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub(crate) static GENERATIONS: Array<Generation, BANKS> = Array::new();
#[btf_map]
pub(crate) static PEERS: Banked<Label, Peer> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static VERDICTS: Banked<VerdictKey, Verdict> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static PORTS: Banked<PortKey, u32> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static ADDRESSES: Banked<u32, NodeRef> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static SOCKET_RULES: Banked<u32, SocketRule> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static PROCESS_RULES: Banked<u32, ProcessRule> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static TRANSITIONS: Banked<TransitionKey, u32> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static RELABELS: Banked<RelabelKey, u32> = ArrayOfMaps::new();
#[btf_map]
pub(crate) static PERIMETER: ArrayOfMaps<LpmTrie<[u8; 4], PerimeterLabel, 1>, BANKS> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static HANDLES: Array<Label, 1024> = Array::new();

#[btf_map]
pub(crate) static NODES: Array<Node, NODES_DEFAULT> = Array::new();
#[btf_map]
pub(crate) static TX_KEYS: Array<TxKey, { NODES_DEFAULT * EPOCH_SLOTS as usize }> = Array::new();
#[btf_map]
pub(crate) static RX_KEYS: Array<RxKey, { NODES_DEFAULT * EPOCH_SLOTS as usize }> = Array::new();

/// tgid → label. Every fork writes its child's entry, so none is ever stale. The agent maps it, to
/// change entries of processes that run only if nobody else has.
#[btf_map]
pub(crate) static TASKS: Array<Task, 32768, MAPPABLE> = Array::new();
#[btf_map]
pub(crate) static BINARIES: HashMap<BinaryKey, Binary, 65536, GROWS> = HashMap::new();
#[btf_map]
pub(crate) static VOUCHERS: HashMap<u32, Voucher, 8192, GROWS> = HashMap::new();
/// Thread id → what it is about to execute by way of an interpreter.
#[btf_map]
pub(crate) static CHAINS: LruHashMap<u32, Chain, 4096> = LruHashMap::new();
/// Process id → the zone that its exec leads to. Every fork clears its child's entry.
#[btf_map]
pub(crate) static ENTERING: HashMap<u32, Entering, 4096, GROWS> = HashMap::new();
#[btf_map]
pub(crate) static GATE: Array<u32, 1> = Array::new();
#[btf_map]
pub(crate) static DOOMED: RingBuf<Doom, 65536> = RingBuf::new();
#[btf_map]
pub(crate) static SOCKETS: SocketStorage = SocketStorage::new();
#[btf_map]
pub(crate) static CONVERSATIONS: LruHashMap<ConversationKey, Conversation, 65536> =
    LruHashMap::new();
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, u64, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static CLOSING: LruHashMap<ClosingKey, u32, 65536> = LruHashMap::new();

#[btf_map]
pub(crate) static STATS: PerCpuArray<u64, { Hook::ALL.len() * SLOTS as usize }> =
    PerCpuArray::new();
#[btf_map]
pub(crate) static PAIR_STATS: PerCpuHashMap<u64, u64, 16384, GROWS> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<DropEvent, 262_144> = RingBuf::new();
#[btf_map]
pub(crate) static SEEN: LruHashMap<FlowKey, Seen, 16384> = LruHashMap::new();
#[btf_map]
pub(crate) static EVENT_STATS: PerCpuArray<u64, { event_slot::COUNT as usize }> =
    PerCpuArray::new();

/// Socket storage whose values a listener hands on to the sockets it accepts.
#[repr(C)]
pub(crate) struct SocketStorage {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const SocketState,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_CLONE | GROWS],
}

/// `BPF_F_CLONE` of the kernel's `enum bpf_map_flags`.
const BPF_F_CLONE: usize = 1 << 9;

// SAFETY: the fields are a description for the loader and are never read here.
unsafe impl Sync for SocketStorage {}

impl SocketStorage {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    const fn map(&self) -> *mut core::ffi::c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// The state of a full socket, if it has one. `sk` is not null.
    #[inline(always)]
    pub(crate) fn of(&self, sk: *mut bpf_sock) -> Option<&'static mut SocketState> {
        // SAFETY: the verifier proves that `sk` is a socket; the value lives as long as it does.
        unsafe {
            bpf_sk_storage_get(self.map().cast(), sk.cast(), core::ptr::null_mut(), 0)
                .cast::<SocketState>()
                .as_mut()
        }
    }

    /// The state of a full socket, all zero if it had none.
    #[inline(always)]
    pub(crate) fn of_zeroed(&self, sk: *mut bpf_sock) -> Option<&'static mut SocketState> {
        let none = core::ptr::null_mut();
        // SAFETY: as above; without an initial value the kernel makes a zero one.
        unsafe {
            bpf_sk_storage_get(
                self.map().cast(),
                sk.cast(),
                none,
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
            .cast::<SocketState>()
            .as_mut()
        }
    }

    /// The state of a full socket, made from `initial` if it has none.
    #[inline(always)]
    pub(crate) fn of_new(
        &self,
        sk: *mut bpf_sock,
        initial: &mut SocketState,
    ) -> Option<&'static mut SocketState> {
        // SAFETY: as above; the kernel copies `initial`.
        unsafe {
            bpf_sk_storage_get(
                self.map().cast(),
                sk.cast(),
                core::ptr::from_mut(initial).cast(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
            .cast::<SocketState>()
            .as_mut()
        }
    }
}

/// Whether the running kernel is a real-time one: set by the loader.
#[unsafe(no_mangle)]
static REALTIME: u32 = 0;

/// Adds one to a per-CPU counter that exists by construction. The programs at system calls are preemptible;
/// those that see packets run with softirqs off, which on a real-time kernel are preemptible too.
#[inline(always)]
pub(crate) fn count(hook: Hook, slot: u32) {
    // SAFETY: a global that the loader patches before the programs are verified.
    let realtime = unsafe { core::ptr::read_volatile(&raw const REALTIME) } != 0;
    let Some(count) = STATS.get_ptr_mut(hook as u32 * SLOTS + slot) else { return };
    if realtime || matches!(hook, Hook::Socket | Hook::Process) {
        // SAFETY: an aligned word of the map.
        unsafe { atomic::fetch_add(count, 1) };
    } else {
        // SAFETY: as above, and this CPU's own.
        unsafe { *count += 1 };
    }
}

/// Adds one to a drop counter of a pair of nodes, making it if need be.
#[inline(always)]
pub(crate) fn add_pair(key: u64) {
    if PAIR_STATS.get_ptr(key).is_none() {
        // Whoever comes first makes it. Where the map is full, the drop is missing from the pair,
        // and only from the pair: STATS has it.
        let _ = PAIR_STATS.insert(key, 0, u64::from(BPF_NOEXIST));
    }
    if let Some(count) = PAIR_STATS.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(count, 1) };
    }
}
