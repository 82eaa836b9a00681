//! What this CPU found out about a label a moment ago, so that the next packet need not ask again.
//!
//! A hash lookup among many labels costs as much as a MAC, and far more out of cache. The segments of
//! a super-frame are all authenticated by one ICV over one message: where it held for the first of
//! them, it holds for the rest. The replay check is each packet's own.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use sigil_common::{
    abi::rule::Peer,
    icv::{self, Header, Icv},
    label::Label,
};

use crate::{mac, rules::Rules};

/// A power of two: a label's place is a hash of it.
const ENTRIES: usize = 64;

/// XDP and TC run with softirqs off, so on a CPU one packet ends before the next begins.
#[btf_map]
static RECENT: PerCpuArray<Recent, ENTRIES> = PerCpuArray::new();

/// Of one label, under one generation of rules.
#[repr(C)]
pub(crate) struct Recent {
    label: Label,
    /// 0 is never in force.
    generation: u32,
    pub(crate) peer: Peer,
    frame: Frame,
}

/// The super-frame whose ICV held last.
#[repr(C)]
struct Frame {
    /// Tells the key; 0 is no key's.
    key: u64,
    header: Header,
    icv: Icv,
}

impl Recent {
    /// What the rules say of a label, if they know it.
    #[inline(always)]
    pub(crate) fn of(rules: &Rules, label: Label) -> Option<&'static mut Self> {
        let hash = (label.scid ^ label.snid.rotate_left(16)).wrapping_mul(0x9e37_79b1) >> 26;
        // SAFETY: this CPU's own element.
        let recent = unsafe { &mut *RECENT.get_ptr_mut(hash)? };
        if recent.label != label || recent.generation != rules.number() {
            learn(recent, label.word()).then_some(())?;
        }
        Some(recent)
    }

    /// Whether the ICV that was claimed held for the header that was staged, under this key.
    #[inline(never)]
    pub(crate) fn proves(&self, key: u64) -> bool {
        let Some((header, icv)) = mac::claimed() else { return false };
        let Frame { key: held, header: message, icv: value } = &self.frame;
        *held == key && message == header && icv::equal(value, icv)
    }

    /// It held.
    #[inline(never)]
    pub(crate) fn held(&mut self, key: u64) {
        let Some((header, icv)) = mac::claimed() else { return };
        self.frame = Frame { key, header: *header, icv: *icv };
    }
}

/// Asks the rules. A function of its own for the stack's sake.
#[inline(never)]
fn learn(recent: &mut Recent, label: u64) -> bool {
    let label = Label::from_word(label);
    let Ok(rules) = Rules::now() else { return false };
    let Some(peer) = rules.peer(label) else { return false };
    recent.label = label;
    recent.generation = rules.number();
    recent.peer = *peer;
    recent.frame.key = 0;
    true
}
