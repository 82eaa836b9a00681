//! The kernel side of Sigil: one object, one file per family of hooks.
//!
//! Every entry is facts → a decision of `sigil_common::decide` → a count → an action. Nothing
//! passes that no rule admitted; see `report` for the one place where a refusal becomes an action.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the BPF target has read-modify-write only as intrinsics")]

mod atomic;
mod bound;
mod code;
mod deliver;
mod exec;
mod leave;
mod loopback;
mod lsm;
mod mac;
mod maps;
mod own;
mod owner;
mod packet;
mod probe;
mod recent;
mod report;
mod rules;
mod socket;
mod source;
mod stamp;
mod task;
mod trouble;
mod verify;
mod wide;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing in the object panics; the linker drops this function.
    loop {}
}

/// The kernel lets only GPL-compatible programs call the helpers used here.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
