//! What `labelctl` and the node's agent say to each other.
//!
//! A client connects to the agent's Unix socket, sends one [`Request`] and reads one [`Reply`];
//! after [`Reply::Watching`] replies follow until either side hangs up. A message is one line of
//! JSON, bounded in length and with the protocol's version in it. No I/O here: [`Lines`] cuts bytes
//! into lines, [`encode`] and [`decode`] are all that both sides need.
//!
//! ```
//! use sigil_control::{Lines, MAX_SMALL_REQUEST, Request, decode, encode};
//!
//! let line = encode(&Request::Status, MAX_SMALL_REQUEST)?;
//! let mut lines = Lines::new(MAX_SMALL_REQUEST);
//! lines.push(&line);
//! let received = lines.next()?.unwrap_or_default();
//! assert!(matches!(decode(&received)?, Request::Status));
//! # Ok::<(), sigil_control::Error>(())
//! ```

mod event;
mod line;
mod reply;
mod report;
mod request;

pub use event::{Endpoint, Event, EventKind, Process};
pub use line::{Error, Lines, decode, encode};
pub use reply::{Change, Failure, FailureKind, InForce, Labelled, Loaded, Reply};
pub use report::{Attached, Counts, Events, HeldKeys, Pair, Server, Stats, Status};
pub use request::{Request, ZoneRef};

/// The version of these messages; both sides must have the same.
pub const VERSION: u32 = 1;

/// Where the agent listens unless it is told otherwise.
pub const SOCKET: &str = "/run/sigil/control.sock";

/// The longest request without a document, in bytes with its newline. Nobody but root may send a
/// longer one.
pub const MAX_SMALL_REQUEST: usize = 4 << 10;

/// The longest request: a policy of 16 MiB whose every character needs an escape.
pub const MAX_REQUEST: usize = (32 << 20) + MAX_SMALL_REQUEST;

/// The longest reply: a policy, as it may come.
pub const MAX_REPLY: usize = MAX_REQUEST;
