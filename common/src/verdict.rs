//! Verdicts and the numbered reasons for a drop.
//!
//! The numbers are append-only: they are array indexes in the kernel's counters, values in events
//! and labels in metrics.

use core::fmt;

/// Where a packet or an operation is judged. The kernel keeps one row of counters per hook, and in
/// each row `seen = accepted + sum(drop reasons)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Hook {
    /// TC egress on a cluster NIC: stamping.
    Egress = 0,
    /// XDP or TC ingress on a cluster NIC: verifying.
    Ingress = 1,
    /// `cgroup_skb` ingress: delivery to a socket.
    Deliver = 2,
    /// TC egress and ingress on the loopback device.
    Loopback = 3,
    /// `cgroup` socket hooks: socket, bind, connect, sendmsg; use by another process; and what is refused on
    /// the way out of an interface that is not guarded.
    Socket = 4,
    /// TC ingress behind XDP: the label's hand-over to the stack.
    Handover = 5,
    /// Fork and exec of a process that is in a zone.
    Process = 6,
}

impl Hook {
    /// All hooks in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Egress,
        Self::Ingress,
        Self::Deliver,
        Self::Loopback,
        Self::Socket,
        Self::Handover,
        Self::Process,
    ];

    /// The hook's name in events, statistics and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Deliver => "deliver",
            Self::Loopback => "loopback",
            Self::Socket => "socket",
            Self::Handover => "handover",
            Self::Process => "process",
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped or an operation refused. Append-only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason { $($(#[doc = $doc])+ $name = $number,)+ }

        impl DropReason {
            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's name in events, statistics and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What an operator needs to know to mend it, in one line.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc, " "),+),)+ }
            }
        }

        impl TryFrom<u32> for DropReason {
            type Error = u32;
            fn try_from(number: u32) -> Result<Self, u32> {
                match number { $($number => Ok(Self::$name),)+ other => Err(other) }
            }
        }
    };
}

drop_reasons! {
    /// The packet is shorter than its headers say.
    Truncated = 2, "truncated";
    /// The IPv4 header is malformed: version, header length or total length.
    BadHeader = 3, "bad-header";
    /// Neither IPv4 nor ARP, and not in the agent's list of `pass_ethertypes`.
    EtherType = 4, "ethertype";
    /// The packet carries no label and its source is not in the policy's perimeter.
    Unlabelled = 5, "unlabelled";
    /// The option is not a well-formed label: tag, lengths, or an id of 0.
    BadOption = 6, "bad-option";
    /// The option's DOI is not this cluster's.
    BadDoi = 7, "bad-doi";
    /// The label's SnID is no declared node, or is this node itself.
    UnknownNode = 8, "unknown-node";
    /// The label's SnID does not own the packet's source address.
    AddressMismatch = 9, "address-mismatch";
    /// No key with this key id is held for the source node.
    UnknownKey = 10, "unknown-key";
    /// The ICV does not hold: forged, tampered with, or made with another key.
    BadIcv = 11, "bad-icv";
    /// This sequence number was seen before.
    Replay = 12, "replay";
    /// The sequence number is older than the replay window.
    ReplayTooOld = 13, "replay-too-old";
    /// The IP id lies outside the super-frame that the label announces.
    BadSegment = 14, "bad-segment";
    /// No rule of the policy allows this source to reach this target.
    NoRule = 15, "no-rule";
    /// A rule of the policy denies it.
    Denied = 16, "denied";
    /// The conversation belongs to another peer label.
    PeerMismatch = 17, "peer-mismatch";
    /// The zones ask for authentication or payload coverage that the packet does not have.
    Protection = 18, "protection";
    /// A fragment's label differs from that of the datagram's first fragment seen.
    FragmentMismatch = 19, "fragment-mismatch";
    /// The sender has no ScID, and the node has no default one.
    NoScid = 20, "no-scid";
    /// The destination is neither a declared node nor in the perimeter.
    NoPeer = 21, "no-peer";
    /// No key for the destination node.
    NoKey = 22, "no-key";
    /// The key's sequence numbers are used up; the epoch must be rotated.
    KeyExhausted = 23, "key-exhausted";
    /// The application put an option 134 on its own packet.
    ForeignOption = 24, "foreign-option";
    /// The IPv4 header has no room for the label beside the application's own options.
    OptionSpace = 25, "option-space";
    /// The labelled packet would be larger than the device's MTU.
    TooBig = 26, "too-big";
    /// A super-frame that cannot be labelled: over 127 segments, or its payload must be covered.
    SuperFrame = 27, "super-frame";
    /// The kernel could not make room for the label or remove it.
    Resize = 28, "resize";
    /// A packet socket may not send IPv4 to a node.
    PacketSocket = 29, "packet-socket";
    /// No policy is loaded.
    NoPolicy = 30, "no-policy";
    /// The packet came up from the device without passing the verifier.
    NotVerified = 31, "not-verified";
    /// The process's id lies outside the table of process labels.
    TaskRange = 32, "task-range";
    /// IPv6 is not labelled and does not pass a cluster NIC.
    Ipv6 = 33, "ipv6";
    /// The SOCKET rules grant this ScID no such operation.
    SocketPermission = 34, "socket-permission";
    /// The kernel refused memory for the socket's state.
    NoMemory = 35, "no-memory";
    /// The PROCESS rules grant this ScID no FORK, or no EXECVE.
    ProcessPermission = 36, "process-permission";
    /// No TRANSITION rule leads from this ScID into a program with that of its file.
    NoTransition = 37, "no-transition";
    /// The program's file has no trusted signature, and the policy refuses such programs.
    Unsigned = 38, "unsigned";
    /// The process has another ScID than the socket that it uses.
    SocketLabel = 39, "socket-label";
    /// A process of a zone reaches for one outside it, or for what keeps the rules: traces, signals, BPF.
    Confined = 40, "confined";
    /// Out of an interface that is not guarded, a zone reaches IPv4 hosts of the perimeter only.
    Unguarded = 41, "unguarded";
    /// The zone demands signed code, and this is none: an unsigned or writable file, or memory that was written.
    UnsignedCode = 42, "unsigned-code";
}

/// Slots 0 and 1 of a row of counters: packets seen, packets accepted.
pub const SLOT_SEEN: u32 = 0;
/// See [`SLOT_SEEN`].
pub const SLOT_ACCEPTED: u32 = 1;
/// Packets that passed only because the agent was told to observe; part of the accepted ones.
pub const SLOT_OBSERVED: u32 = 63;
/// Slots of a row of counters; a reason's slot is its number.
pub const SLOTS: u32 = 64;

const _: () = assert!(DropReason::ALL.len() + 2 <= SLOT_OBSERVED as usize);

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The outcome of a decision.
pub type Verdict<T> = Result<T, DropReason>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_dense() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (at, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, at + 2, "{reason} leaves a gap");
            assert_eq!(DropReason::try_from(*reason as u32), Ok(*reason));
        }
        assert_eq!(DropReason::try_from(0), Err(0));
        assert_eq!(DropReason::try_from(SLOTS), Err(SLOTS));
    }
}
