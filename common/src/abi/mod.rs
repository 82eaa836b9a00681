//! What the kernel programs and user space share: map keys and values, names, limits.
//!
//! Every type is `#[repr(C)]` with explicit padding and no `bool`, `Option`, `enum` or `usize`.
//! [`ABI_VERSION`] changes whenever the meaning or the layout of a pinned map does.

pub mod binary;
pub mod event;
pub mod key;
pub mod name;
pub mod policy;
pub mod process;
pub mod rule;
pub mod socket;

/// Generation of this layout; the agent refuses to adopt pinned maps of another one.
pub const ABI_VERSION: u32 = 9;

/// Flags of [`Config::flags`].
pub mod config_flag {
    /// Drops become accepts that count: nothing is enforced.
    pub const OBSERVE: u32 = 1;
    /// LSM programs are attached.
    pub const LSM: u32 = 2;
}

/// Flags of [`Generation::flags`].
pub mod generation_flag {
    /// Some zone of this node has its payload covered.
    pub const INTEGRITY: u32 = 1;
    /// The document has PROCESS rules: a zone's processes fork and execute what those grant.
    pub const PROCESSES: u32 = 2;
    /// Some zone demands that all its code is signed.
    pub const SIGNED_CODE: u32 = 4;
}

/// `EtherType`s that pass a cluster NIC beside IPv4 and ARP.
pub const PASS_ETHERTYPES: usize = 8;

/// Interfaces that one agent guards, loopback included.
pub const INTERFACES: usize = 8;

/// Servers that a node's agent reaches whatever the rules say.
pub const CONTROLS: usize = 4;

/// A server's TCP address in [`Config::control`].
#[must_use]
pub const fn control(address: u32, port: u16) -> u64 {
    (address as u64) << 16 | port as u64
}

/// The node's own settings. One entry; `active` is the only field that changes while programs run.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of whoever made the maps.
    pub abi: u32,
    /// This node.
    pub snid: u32,
    /// Which of the two banks of rule maps is in force (0 or 1).
    pub active: u32,
    /// [`config_flag`] bits.
    pub flags: u32,
    /// The DOI in the option, as it stands on the wire.
    pub doi: [u8; 4],
    /// Interface indexes whose packets pass a verifier, loopback included; 0 is an empty place.
    pub interfaces: [u32; INTERFACES],
    /// Host byte order; 0 is an empty place.
    pub pass_ethertypes: [u16; PASS_ETHERTYPES],
    /// Explicit padding.
    pub pad: u32,
    /// Fingerprint of the object whose programs are attached.
    pub build: u64,
    /// Made by [`control`]; 0 is an empty place.
    pub control: [u64; CONTROLS],
}
const _: () = assert!(size_of::<Config>() == 112);

impl Config {
    /// Whether the packets of an interface pass a verifier.
    #[expect(clippy::inline_always, reason = "BPF calls cost 10 ns")]
    #[expect(clippy::many_single_char_names, reason = "the verifier unrolls no loop for free")]
    #[inline(always)]
    #[must_use]
    pub const fn guards(&self, interface: u32) -> bool {
        let [a, b, c, d, e, f, g, h] = self.interfaces;
        a == interface
            || b == interface
            || c == interface
            || d == interface
            || e == interface
            || f == interface
            || g == interface
            || h == interface
    }
}

/// One bank's header: what a generation of rules says about this node itself.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Generation {
    /// Number of this generation, rising, never 0 once rules are loaded.
    pub number: u32,
    /// ScID of what the kernel sends by itself.
    pub kernel_scid: u32,
    /// ScID of processes and sockets that have none; 0 refuses them.
    pub default_scid: u32,
    /// [`generation_flag`] bits.
    pub flags: u32,
    /// The document's serial.
    pub serial: u64,
}
const _: () = assert!(size_of::<Generation>() == 24);

/// Implements `aya::Pod` for ABI types.
#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "Pod is how aya copies these types to and from the kernel")]
    use super::{Config, Generation, binary, event, key, process, rule, socket};
    use crate::label::Label;

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            $(
                // SAFETY: repr(C), Copy, made of integers and byte arrays, no implicit padding
                // (the size assertions beside each type).
                unsafe impl aya::Pod for $type {}
            )+
        };
    }
    pod!(
        Label,
        Config,
        Generation,
        binary::BinaryKey,
        event::DropEvent,
        event::FlowKey,
        event::Seen,
        event::Trouble,
        key::TxKey,
        key::RxKey,
        key::Node,
        process::Binary,
        process::Chain,
        process::Entering,
        process::Offsets,
        process::ProcessRule,
        process::Task,
        process::TransitionKey,
        process::Voucher,
        rule::Peer,
        rule::VerdictKey,
        rule::Verdict,
        rule::PortKey,
        rule::NodeRef,
        rule::SocketRule,
        socket::SocketState,
        socket::ConversationKey,
        socket::Conversation,
        socket::FragmentKey,
        socket::RelabelKey,
        socket::ClosingKey,
    );
}
