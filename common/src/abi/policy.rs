//! The numbers that compiled rules carry: flags, protections and permissions.
//!
//! The policy compiler writes them, the kernel's programs read them. Append-only.

/// The label is what its node's kernel sends by itself.
pub const PEER_KERNEL: u32 = 1 << 0;
/// The label's ScID is 0: some zone of that node, for a target port that no zone declares.
pub const PEER_ANY: u32 = 1 << 1;
/// Every relation with the label is a denial or an alarm: nothing may pass in either direction.
pub const PEER_DENIED: u32 = 1 << 2;
/// The label belongs to a perimeter host, whose packets carry no option.
pub const PEER_PERIMETER: u32 = 1 << 3;

/// The local zone may open a conversation with the peer.
pub const CREATE: u32 = 1 << 0;
/// Packets of the peer are admitted to the local zone.
pub const RECEIVE: u32 = 1 << 1;
/// A rule denies opening; `create_line` names it.
pub const CREATE_DENIED: u32 = 1 << 2;
/// A rule denies admission; `receive_line` names it.
pub const RECEIVE_DENIED: u32 = 1 << 3;
/// Opening, or the attempt, raises an alarm.
pub const CREATE_ALARM: u32 = 1 << 4;
/// Admission, or the attempt, raises an alarm.
pub const RECEIVE_ALARM: u32 = 1 << 5;

/// The 20-byte option, for a physically isolated network.
pub const PROTECTION_LABEL: u8 = 0;
/// The 40-byte option: the label and what identifies the packet are under the ICV.
pub const PROTECTION_AUTHENTICATE: u8 = 1;
/// As [`PROTECTION_AUTHENTICATE`], with the payload under the ICV too.
pub const PROTECTION_INTEGRITY: u8 = 2;

/// Permissions of a process on its own sockets, as bits of `SocketEntry::allow` and `alarm`.
pub mod socket {
    /// Create a socket; with a target, open a conversation and send on it.
    pub const CREATE: u32 = 1 << 0;
    /// Bind to an address.
    pub const BIND: u32 = 1 << 1;
    /// Connect.
    pub const CONNECT: u32 = 1 << 2;
    /// Listen.
    pub const LISTEN: u32 = 1 << 3;
    /// Accept a connection.
    pub const ACCEPT: u32 = 1 << 4;
    /// Send.
    pub const SEND: u32 = 1 << 5;
    /// Receive.
    pub const RECEIVE: u32 = 1 << 6;
    /// Shut down one or both directions.
    pub const SHUTDOWN: u32 = 1 << 7;
    /// `getsockopt`.
    pub const GET_OPTIONS: u32 = 1 << 8;
    /// `setsockopt`.
    pub const SET_OPTIONS: u32 = 1 << 9;
    /// `getsockname`.
    pub const GET_SOCKNAME: u32 = 1 << 10;
    /// `getpeername`.
    pub const GET_PEERNAME: u32 = 1 << 11;
}

/// Permissions of a process, as bits of `ProcessEntry::allow` and `alarm`.
pub mod process {
    /// Create a child.
    pub const FORK: u32 = 1 << 0;
    /// Execute a program.
    pub const EXECVE: u32 = 1 << 1;
}

/// What a zone demands of its processes, as bits of `ProcessEntry::demand`.
pub mod demand {
    /// All code that they run comes from signed files.
    pub const SIGNED_CODE: u32 = 1 << 0;
}
