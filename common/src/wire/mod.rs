//! Packet formats, one file each. Parsers take arrays of fixed size on the hot path and never
//! index by what a packet says.
#![expect(clippy::inline_always, reason = "the kernel's hot path, where a call costs 10 ns")]

pub mod ipv4;
pub mod option;
