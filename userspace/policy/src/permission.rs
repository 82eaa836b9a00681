//! Rule classes and their permissions.

use std::fmt;

use sigil_common::abi::policy::{process, socket};

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Conversations between two labels, and local operations on sockets.
    Socket,
    /// Admission of packets.
    Network,
    /// Fork and exec.
    Process,
    /// The ScID that an exec leads to.
    Transition,
    /// The ScID of a socket in other hands.
    Relabel,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 5] =
        [Self::Socket, Self::Network, Self::Process, Self::Transition, Self::Relabel];

    /// The class's name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "SOCKET",
            Self::Network => "NETWORK",
            Self::Process => "PROCESS",
            Self::Transition => "TRANSITION",
            Self::Relabel => "RELABEL",
        }
    }

    /// The element that holds a rule of this class.
    #[must_use]
    pub const fn element(self) -> &'static str {
        match self {
            Self::Socket => "SOCKET_class_rule",
            Self::Network => "NETWORK_class_rule",
            Self::Process => "PROCESS_class_rule",
            Self::Transition => "TRANSITION_class_rule",
            Self::Relabel => "RELABEL_class_rule",
        }
    }

    /// The permissions that rules of this class may name.
    #[must_use]
    pub const fn permissions(self) -> &'static [Permission] {
        match self {
            Self::Socket => SOCKET,
            Self::Network => NETWORK,
            Self::Process => PROCESS,
            Self::Transition | Self::Relabel => &[],
        }
    }

    /// The permission of this class that is called `name`.
    #[must_use]
    pub fn permission(self, name: &str) -> Option<Permission> {
        self.permissions().iter().copied().find(|permission| permission.name == name)
    }

    /// The names of the permissions in `mask`, in their order.
    #[must_use]
    pub fn names(self, mask: u32) -> Vec<&'static str> {
        self.permissions()
            .iter()
            .filter(|permission| mask & permission.bit != 0)
            .map(|p| p.name)
            .collect()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One permission of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Its name in documents.
    pub name: &'static str,
    /// Its bit in the masks of a rule of its class.
    pub bit: u32,
}

const fn permission(name: &'static str, bit: u32) -> Permission {
    Permission { name, bit }
}

const SOCKET: &[Permission] = &[
    permission("CREATE", socket::CREATE),
    permission("BIND", socket::BIND),
    permission("CONNECT", socket::CONNECT),
    permission("LISTEN", socket::LISTEN),
    permission("ACCEPT", socket::ACCEPT),
    permission("SEND", socket::SEND),
    permission("RECEIVE", socket::RECEIVE),
    permission("SHUTDOWN", socket::SHUTDOWN),
    permission("GET_OPTIONS", socket::GET_OPTIONS),
    permission("SET_OPTIONS", socket::SET_OPTIONS),
    permission("GET_SOCKNAME", socket::GET_SOCKNAME),
    permission("GET_PEERNAME", socket::GET_PEERNAME),
];
const NETWORK: &[Permission] = &[permission("RECEIVE", RECEIVE)];
const PROCESS: &[Permission] =
    &[permission("FORK", process::FORK), permission("EXECVE", process::EXECVE)];

/// The one permission of class NETWORK.
pub(crate) const RECEIVE: u32 = 1;

/// What opening a conversation needs: the first granted, and none of them denied.
pub(crate) const OPEN: [u32; 4] = [socket::CREATE, socket::CONNECT, socket::SEND, socket::RECEIVE];
/// [`OPEN`] as a mask.
pub(crate) const OPEN_MASK: u32 = socket::CREATE | socket::CONNECT | socket::SEND | socket::RECEIVE;
/// The local permissions that come with the permission to open any conversation.
pub(crate) const IMPLIED: u32 = socket::CREATE | socket::CONNECT | socket::SEND;
