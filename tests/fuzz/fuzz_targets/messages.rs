//! Whatever comes over a wire or from a disk of the control plane is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../userspace/cluster/tests/decoding/read.rs"]
mod read;

fuzz_target!(|bytes: &[u8]| read::everything(bytes));
