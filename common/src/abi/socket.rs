//! What is remembered per socket and per conversation.
#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns")]

/// A command name as the kernel keeps it, 16 bytes with zeroes behind. Words, because the stack of
/// a BPF program is read in aligned words only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Comm(pub [u64; 2]);

impl Comm {
    /// The name's bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        let [a, b] = self.0.map(u64::to_ne_bytes);
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(a.into_iter().chain(b)) {
            *to = from;
        }
        bytes
    }
}

/// Bits of [`SocketState::flags`].
pub mod socket_flag {
    /// This side opened the conversation, and a rule allowed it to.
    pub const OPENED: u32 = 1;
    /// A process with another ScID used it: it carries nothing any more.
    pub const FOREIGN: u32 = 2;
    /// It is of the Unix family: no packet hook sees it, and no process is refused its use.
    pub const LOCAL: u32 = 4;
    /// The agent's own line to a server. Only the agent sets it, through a descriptor of the socket.
    pub const CONTROL: u32 = 8;
}

/// Socket storage. Listeners hand a copy to the sockets they accept.
///
/// The cache words are written whole and read whole; [`way`] is checked against `egress`, so that a
/// race between CPUs costs one more look-up and does not mix two verdicts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SocketState {
    /// ScID of the process that made the socket or took it over, and of all that may use it; 0 for
    /// none.
    pub scid: u32,
    /// Its process id (tgid).
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// The conversation's peer, [`crate::label::Label::word`], 0 until the first packet.
    pub peer: u64,
    /// Verdict cache: `mark << 32 | generation` of what may come in.
    pub ingress: u64,
    /// Verdict cache: `address << 32 | port << 16 | generation` of where packets may go.
    pub egress: u64,
    /// With `egress`: where to and how, see [`way`].
    pub way: u64,
    /// [`socket_flag`] bits.
    pub flags: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// The outcome that goes with a word of [`SocketState::egress`], as one word of its own: the
/// destination's index in `NODES` (or [`super::rule::NO_NODE`]), the `PROTECTION_*` of the packets, and
/// a check of the first word, so that two CPUs that send to different places do not mix verdicts.
pub mod way {
    /// Packs the outcome for `egress`.
    #[inline(always)]
    #[must_use]
    pub const fn pack(egress: u64, node: u32, protection: u8) -> u64 {
        ((node as u64) << 32) | ((protection as u64) << 24) | super::check(egress)
    }

    /// Whether the outcome is that of `egress`.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(way: u64, egress: u64) -> bool {
        way & 0xff_ffff == super::check(egress)
    }

    /// Node and protection.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields of the word")]
    pub const fn parts(way: u64) -> (u32, u8) {
        ((way >> 32) as u32, (way >> 24) as u8)
    }
}

/// 24 bits that differ for most words.
#[inline(always)]
const fn check(egress: u64) -> u64 {
    egress.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}
const _: () = assert!(size_of::<SocketState>() == 64);

/// The key of `RELABELS`: a socket of `owner` that a process of `user` uses becomes that zone's. The
/// value is the line of the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct RelabelKey {
    /// The socket's ScID.
    pub owner: u32,
    /// The ScID of the process.
    pub user: u32,
}
const _: () = assert!(size_of::<RelabelKey>() == 8);

/// The key of `CONVERSATIONS`: a datagram conversation of an unconnected socket, which it opened, or which a
/// host of the perimeter did.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ConversationKey {
    /// The socket.
    pub cookie: u64,
    /// The remote address, as a number.
    pub address: u32,
    /// The remote port; 0 where the protocol has none.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
}
const _: () = assert!(size_of::<ConversationKey>() == 16);

/// The value of `CONVERSATIONS`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Conversation {
    /// The peer that answered first, [`crate::label::Label::word`]; 0 until then.
    pub peer: u64,
    /// 1 where this side opened it and a rule allowed it to, else 0.
    pub opened: u64,
}
const _: () = assert!(size_of::<Conversation>() == 16);

/// The key of `FRAGMENTS`: a datagram in pieces. The value is the time in
/// units of 2^30 ns (31 bits), whether the first piece was seen (1 bit), and a mark (32 bits).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FragmentKey {
    /// As a number.
    pub source: u32,
    /// As a number.
    pub target: u32,
    /// IP identification.
    pub id: u16,
    /// IP protocol number.
    pub protocol: u16,
}
const _: () = assert!(size_of::<FragmentKey>() == 12);

/// The key of `CLOSING`: a TCP connection whose socket may be gone before its last packets. The
/// value is a ScID.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ClosingKey {
    /// As a number.
    pub remote: u32,
    /// As a number.
    pub local: u32,
    /// As a number.
    pub remote_port: u16,
    /// As a number.
    pub local_port: u16,
}
const _: () = assert!(size_of::<ClosingKey>() == 12);
