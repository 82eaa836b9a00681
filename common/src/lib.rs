//! Labels, packets and decisions: everything that both the kernel and user space run.
//!
//! No allocation, no I/O, no panic on any input. The eBPF object and the tools compile the same
//! functions, so what drops a packet is what the unit tests, the fuzzers and `labelctl` run.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod decide;
pub mod icv;
pub mod label;
pub mod replay;
pub mod verdict;
pub mod wire;
