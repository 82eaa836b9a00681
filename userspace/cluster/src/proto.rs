//! The messages of `proto/sigil.proto`.
#![expect(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file describes it"
)]

use std::fmt;

use zeroize::Zeroize;

tonic::include_proto!("sigil.v1");

/// How many of [`ALARM_KINDS`] nodes report; the rest is what the server finds.
pub const NODE_ALARM_KINDS: usize = 8;

/// Kinds of [`Alarm`].
pub const ALARM_KINDS: [&str; 21] = [
    "drop",
    "rule",
    "guarded-again",
    "keys-refused",
    "node-problem",
    "tampered",
    "revoked",
    "other",
    "admin-refused",
    "alarms-broken",
    "alarms-lost",
    "alarms-missing",
    "canary-reverted",
    "clock-off",
    "connection-refused",
    "join-refused",
    "node-cloned",
    "node-refused",
    "policy-not-applied",
    "store-outdated",
    "version-differs",
];

/// The longest message: a policy of 16 MiB and what goes around it, or all keys of a node among
/// 32,000.
pub const MAX_MESSAGE: usize = 20 << 20;

impl Keys {
    /// Wipes the keys from memory.
    pub fn wipe(&mut self) {
        let pairs = self.epochs.iter_mut().flat_map(|epoch| &mut epoch.pairs);
        pairs.for_each(|pair| pair.key.zeroize());
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair {{ {} -> {}, [redacted] }}", self.source, self.target)
    }
}

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolRequest([redacted])")
    }
}

impl fmt::Debug for DrawTokenReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrawTokenReply([redacted])")
    }
}
