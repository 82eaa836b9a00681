//! Names of programs (at most 15 characters, the kernel keeps no more) and maps.

/// TC egress on a cluster NIC.
pub const TC_STAMP: &str = "tc_stamp";
/// TC ingress on a cluster NIC without native XDP, or where super-frames stay whole.
pub const TC_VERIFY: &str = "tc_verify";
/// XDP on a cluster NIC.
pub const XDP_VERIFY: &str = "xdp_verify";
/// TC ingress behind [`XDP_VERIFY`].
pub const TC_HANDOVER: &str = "tc_handover";
/// TC egress on the loopback device.
pub const LO_STAMP: &str = "lo_stamp";
/// TC ingress on the loopback device.
pub const LO_VERIFY: &str = "lo_verify";
/// `cgroup_skb` ingress.
pub const SKB_DELIVER: &str = "skb_deliver";
/// `cgroup_skb` egress.
pub const SKB_LEAVE: &str = "skb_leave";
/// `cgroup/sock_create`.
pub const SOCK_CREATE: &str = "sock_create";
/// `cgroup/bind4`.
pub const SOCK_BIND4: &str = "sock_bind4";
/// `cgroup/bind6`.
pub const SOCK_BIND6: &str = "sock_bind6";
/// `cgroup/connect4`.
pub const SOCK_CONNECT4: &str = "sock_connect4";
/// `cgroup/connect6`.
pub const SOCK_CONNECT6: &str = "sock_connect6";
/// `cgroup/sendmsg4`.
pub const SOCK_SENDMSG4: &str = "sock_sendmsg4";
/// `cgroup/sendmsg6`.
pub const SOCK_SENDMSG6: &str = "sock_sendmsg6";
/// `tp_btf/sched_process_fork`.
pub const TASK_FORK: &str = "task_fork";

/// `tp_btf/sched_process_exec`
pub const TASK_EXEC: &str = "task_exec";
/// `tp_btf/sched_process_exit`
pub const TASK_EXIT: &str = "task_exit";
/// `tp_btf/tcp_sendmsg_locked`, from Linux 6.16 on
pub const SOCK_TCP_SEND: &str = "sock_tcp_send";
/// `tp_btf/tcp_rcv_space_adjust`
pub const SOCK_TCP_READ: &str = "sock_tcp_read";
/// `tp_btf/sock_send_length`, from Linux 6.3 on
pub const SOCK_SENT: &str = "sock_sent";
/// `tp_btf/sock_recv_length`, from Linux 6.3 on
pub const SOCK_RECEIVED: &str = "sock_received";

/// A program of a tracepoint or of an LSM hook.
#[derive(Clone, Copy, Debug)]
pub struct Tracepoint {
    /// The program.
    pub program: &'static str,
    /// The tracepoint, or the hook.
    pub point: &'static str,
    /// Kernels without the tracepoint do without the program.
    pub optional: bool,
}

/// The programs that follow processes, in the order in which they are attached: once children are
/// labelled, all else is.
pub const TRACEPOINTS: [Tracepoint; 7] = [
    tracepoint(TASK_EXIT, "sched_process_exit", false),
    tracepoint(TASK_EXEC, "sched_process_exec", false),
    tracepoint(TASK_FORK, "sched_process_fork", false),
    tracepoint(SOCK_TCP_SEND, "tcp_sendmsg_locked", true),
    tracepoint(SOCK_TCP_READ, "tcp_rcv_space_adjust", false),
    tracepoint(SOCK_SENT, "sock_send_length", true),
    tracepoint(SOCK_RECEIVED, "sock_recv_length", true),
];

/// Those that see what LSM programs refuse beforehand: not attached beside them.
pub const BEHIND_LSM: [&str; 3] = [SOCK_TCP_SEND, SOCK_SENT, SOCK_RECEIVED];

/// The programs that refuse what the others can only see. All of them that the kernel has hooks for, or none:
/// half of it would be no backend.
pub const LSM_HOOKS: [Tracepoint; 26] = [
    tracepoint("lsm_fork", "task_alloc", false),
    tracepoint("lsm_exec", "bprm_creds_from_file", false),
    tracepoint("lsm_ptrace", "ptrace_access_check", false),
    tracepoint("lsm_traceme", "ptrace_traceme", false),
    tracepoint("lsm_kill", "task_kill", false),
    tracepoint("lsm_rlimit", "task_setrlimit", false),
    tracepoint("lsm_sched", "task_setscheduler", false),
    tracepoint("lsm_nice", "task_setnice", false),
    tracepoint("lsm_fcntl", "file_fcntl", false),
    tracepoint("lsm_ioctl", "file_ioctl", false),
    // Before it was there, the hook above was asked.
    tracepoint("lsm_ioctl32", "file_ioctl_compat", true),
    tracepoint("lsm_socket", "socket_create", false),
    tracepoint("lsm_created", "socket_post_create", false),
    tracepoint("lsm_listen", "socket_listen", false),
    tracepoint("lsm_accept", "socket_accept", false),
    tracepoint("lsm_accepted", "sock_graft", false),
    tracepoint("lsm_send", "socket_sendmsg", false),
    tracepoint("lsm_recv", "socket_recvmsg", false),
    tracepoint("lsm_receive", "file_receive", false),
    tracepoint("lsm_unix_conn", "unix_stream_connect", false),
    tracepoint("lsm_unix_send", "unix_may_send", false),
    tracepoint("lsm_bpf", "bpf", false),
    tracepoint("lsm_unlink", "inode_unlink", false),
    tracepoint("lsm_rename", "inode_rename", false),
    tracepoint("lsm_umount", "sb_umount", false),
    tracepoint("lsm_lockdown", "locked_down", false),
];

/// LSM programs that are attached only while some zone demands signed code: every call pays for them.
pub const CODE_HOOKS: [Tracepoint; 3] = [
    tracepoint("lsm_mmap", "mmap_file", false),
    tracepoint("lsm_mprotect", "file_mprotect", false),
    tracepoint("lsm_open", "file_open", false),
];

/// Programs that run when a call has ended, attached beside [`CODE_HOOKS`]: no hook is asked about it. The
/// second is what 32-bit calls come to.
pub const CODE_EXITS: [&str; 2] = ["lsm_persona", "lsm_persona32"];

const fn tracepoint(program: &'static str, point: &'static str, optional: bool) -> Tracepoint {
    Tracepoint { program, point, optional }
}

/// Global that the loader patches: [`super::process::Offsets`] of the running kernel.
pub const OFFSETS: &str = "OFFSETS";
/// The global that says whether the running kernel is a real-time one.
pub const REALTIME: &str = "REALTIME";

/// [`super::Config`], one entry.
pub const CONFIG: &str = "CONFIG";
/// [`super::Generation`], one entry a bank.
pub const GENERATIONS: &str = "GENERATIONS";
/// Bank → hash of [`crate::label::Label`] → [`super::rule::Peer`].
pub const PEERS: &str = "PEERS";
/// Bank → hash of [`super::rule::VerdictKey`] → [`super::rule::Verdict`].
pub const VERDICTS: &str = "VERDICTS";
/// Bank → hash of [`super::rule::PortKey`] → ScID.
pub const PORTS: &str = "PORTS";
/// Bank → hash of IPv4 address (as a number) → [`super::rule::NodeRef`].
pub const ADDRESSES: &str = "ADDRESSES";
/// Bank → longest-prefix trie of IPv4 prefixes → [`super::rule::PerimeterLabel`].
pub const PERIMETER: &str = "PERIMETER";
/// Bank → hash of ScID → [`super::rule::SocketRule`].
pub const SOCKET_RULES: &str = "SOCKET_RULES";
/// Handle → [`crate::label::Label`].
pub const HANDLES: &str = "HANDLES";
/// Node index → [`super::key::Node`].
pub const NODES: &str = "NODES";
/// Node index × epoch slot → [`super::key::TxKey`].
pub const TX_KEYS: &str = "TX_KEYS";
/// Node index × epoch slot → [`super::key::RxKey`].
pub const RX_KEYS: &str = "RX_KEYS";
/// tgid → [`super::process::Task`].
pub const TASKS: &str = "TASKS";
/// Bank → hash of ScID → [`super::process::ProcessRule`].
pub const PROCESS_RULES: &str = "PROCESS_RULES";
/// Bank → hash of [`super::process::TransitionKey`] → ScID.
pub const TRANSITIONS: &str = "TRANSITIONS";
/// Bank → hash of [`super::socket::RelabelKey`] → line.
pub const RELABELS: &str = "RELABELS";
/// [`super::binary::BinaryKey`] → [`super::process::Binary`].
pub const BINARIES: &str = "BINARIES";
/// Number → [`super::process::Voucher`]; the kernel's programs carry the numbers only.
pub const VOUCHERS: &str = "VOUCHERS";
/// Thread id → [`super::process::Chain`].
pub const CHAINS: &str = "CHAINS";
/// Process id → [`super::process::Entering`].
pub const ENTERING: &str = "ENTERING";
/// Thread id of the agent's exec gate, one entry; 0 while there is none.
pub const GATE: &str = "GATE";
/// [`super::event::Doom`] ring.
pub const DOOMED: &str = "DOOMED";
/// Socket storage, [`super::socket::SocketState`].
pub const SOCKETS: &str = "SOCKETS";
/// Conversations that unconnected datagram sockets opened.
pub const CONVERSATIONS: &str = "CONVERSATIONS";
/// First label seen per fragmented datagram.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// `ScIDs` of connections that are closing, for packets without a full socket.
pub const CLOSING: &str = "CLOSING";
/// [`crate::verdict::Hook`] × slot → count, per CPU.
pub const STATS: &str = "STATS";
/// [`super::event::PairKey`]-packed drops per source node, per CPU.
pub const PAIR_STATS: &str = "PAIR_STATS";
/// [`super::event::DropEvent`] ring.
pub const EVENTS: &str = "EVENTS";
/// Per flow: when a drop was last reported, and how many were not.
pub const SEEN: &str = "SEEN";
/// Events sent, lost, suppressed, per CPU.
pub const EVENT_STATS: &str = "EVENT_STATS";
/// [`super::event::trouble`] → [`super::event::Trouble`].
pub const TROUBLES: &str = "TROUBLES";
/// Ring of records for the agent's log, in aya-log's own format: another format is another ABI.
pub const LOG: &str = "AYA_LOGS";
