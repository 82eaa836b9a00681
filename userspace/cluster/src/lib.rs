//! What the Security Server, the nodes' agents and `labelctl` share.
//!
//! ```text
//! token ── join ──▶ Credential ── tls ──▶ channel ──▶ proto (gRPC)
//!                    Identity of the peer's certificate │
//!                    Envelope, signed by the cluster ◀──┘
//! ```
//!
//! Nothing here needs privilege or a kernel of some kind.

pub mod chain;
pub mod channel;
pub mod credential;
pub mod envelope;
pub mod identity;
pub mod proto;
pub mod tls;
pub mod token;
pub mod web;

pub use credential::Credential;
pub use identity::{Identity, Role};
pub use token::Token;

/// Where a server listens unless it is told otherwise.
pub const PORT: u16 = 7443;
