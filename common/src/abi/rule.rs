//! The rule maps: what the policy compiler's `NodeRules` become in the kernel.
#![expect(clippy::inline_always, reason = "BPF calls cost 10 ns")]

use super::policy::PROTECTION_AUTHENTICATE;

/// The value of `PEERS`: what is known of a label that may talk with this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Peer {
    /// Names the label in `skb->mark`; see [`mark`].
    pub handle: u32,
    /// Labels with the same rules share a class.
    pub class: u32,
    /// [`super::policy`] `PEER_*` bits, and from [`LEAST_SHIFT`] on the least protection that any
    /// conversation with the label asks for.
    pub flags: u32,
    /// The label's node in `NODES`, or [`NO_NODE`].
    pub node: u32,
    /// One ScID of this node that the label may talk with, 0 for none...
    pub scid: u32,
    /// ...and what [`VerdictKey`] would find for the two. Among many rules each lookup out of cache
    /// costs a microsecond, and most nodes have one zone that matters.
    pub verdict: Verdict,
}
const _: () = assert!(size_of::<Peer>() == 36);

/// See [`Peer::flags`]; the second byte.
pub const LEAST_SHIFT: u32 = 8;

impl Peer {
    /// What every packet of this label must have, whatever it is for: less never reaches the stack.
    #[inline(always)]
    #[must_use]
    pub const fn least(&self) -> u8 {
        self.flags.to_le_bytes()[1]
    }
}

/// "No entry of `NODES`": a host of the perimeter.
pub const NO_NODE: u32 = u32::MAX;

/// The key of `VERDICTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct VerdictKey {
    /// The peer's class.
    pub class: u32,
    /// A ScID on this node.
    pub scid: u32,
}
const _: () = assert!(size_of::<VerdictKey>() == 8);

/// The value of `VERDICTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// [`super::policy`] `CREATE`, `RECEIVE` and their `_DENIED` and `_ALARM` bits.
    pub flags: u32,
    /// Line of the rule that decided CREATE, 0 for none.
    pub create_line: u32,
    /// Line of the rule that decided RECEIVE, 0 for none.
    pub receive_line: u32,
    /// [`super::policy`] `PROTECTION_*`.
    pub protection: u8,
    /// Explicit padding.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<Verdict>() == 16);

impl Verdict {
    /// What holds where there is no rule: nothing is allowed, and authenticated at that.
    pub const NONE: Self = Self {
        flags: 0,
        create_line: 0,
        receive_line: 0,
        protection: PROTECTION_AUTHENTICATE,
        pad: [0; 3],
    };
}

/// The key of `PORTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PortKey {
    /// The node that owns the port.
    pub snid: u32,
    /// Host byte order; 0 for protocols without ports.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Explicit padding.
    pub pad: u8,
}
const _: () = assert!(size_of::<PortKey>() == 8);

/// The value of `ADDRESSES`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NodeRef {
    /// The node that owns the address.
    pub snid: u32,
    /// Its index in `NODES`.
    pub node: u32,
}
const _: () = assert!(size_of::<NodeRef>() == 8);

/// The value of `PERIMETER`: SnID and ScID. Not a [`crate::label::Label`], because a trie aligns its
/// values to 4 bytes.
pub type PerimeterLabel = [u32; 2];

/// The value of `SOCKET_RULES`: a ScID's permissions on its own sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketRule {
    /// [`super::policy`] SOCKET permission bits granted.
    pub allow: u32,
    /// Those whose use raises an alarm.
    pub alarm: u32,
    /// The handle of `<this node, ScID>`, which same-node packets carry.
    pub handle: u32,
    /// Explicit padding.
    pub pad: u32,
}
const _: () = assert!(size_of::<SocketRule>() == 16);

/// `skb->mark` between the verifier and the socket: the peer's handle and how the packet was
/// protected. 0 is *unlabelled*, so handle 0 is never given out.
pub mod mark {
    use super::super::policy::{PROTECTION_AUTHENTICATE, PROTECTION_INTEGRITY, PROTECTION_LABEL};

    const PROTECTION_SHIFT: u32 = 30;
    const HANDLE_MASK: u32 = (1 << PROTECTION_SHIFT) - 1;
    /// Handles are 1..=`HANDLE_MAX`.
    pub const HANDLE_MAX: u32 = HANDLE_MASK;

    /// An unlabelled packet from a server, for the agent's line to it and for no other socket. No
    /// label has this mark: there is no protection 3.
    pub const CONTROL: u32 = u32::MAX;

    /// Packs a mark. `protection` is what the packet had, one of `PROTECTION_*`.
    #[inline(always)]
    #[must_use]
    pub const fn pack(handle: u32, protection: u8) -> u32 {
        (handle & HANDLE_MASK) | ((protection as u32) << PROTECTION_SHIFT)
    }

    /// The handle in a mark.
    #[inline(always)]
    #[must_use]
    pub const fn handle(mark: u32) -> u32 {
        mark & HANDLE_MASK
    }

    /// The protection in a mark.
    #[inline(always)]
    #[must_use]
    pub const fn protection(mark: u32) -> u8 {
        (mark >> PROTECTION_SHIFT) as u8
    }

    const _: () =
        assert!(PROTECTION_LABEL < 4 && PROTECTION_AUTHENTICATE < 4 && PROTECTION_INTEGRITY < 4);
}
