//! No order of arrival has a number accepted twice, or a fresh one in the window refused. Input: the
//! first number, then steps of three bytes each, a signed distance from the newest and a count.
#![no_main]

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use libfuzzer_sys::fuzz_target;
use sigil_common::replay::{SEQ_LIMIT, WINDOW, WORDS, Window, infer};

fuzz_target!(|bytes: &[u8]| {
    let Some((start, steps)) = bytes.split_first_chunk() else { return };
    let mut top = u64::from_le_bytes(*start) % SEQ_LIMIT;
    let words: [AtomicU64; WORDS] = core::array::from_fn(|_| AtomicU64::new(0));
    let window = Window(&words);
    let mut seen = BTreeSet::new();
    for &[low, high, count] in steps.as_chunks().0 {
        let sent = top.saturating_add_signed(i64::from(i16::from_le_bytes([low, high])));
        let seq = infer(top, sent as u32, WINDOW);
        assert!(sent + WINDOW <= top || seq == sent);
        let count = u64::from(count);
        let numbers = seq..seq + count;
        let fresh = numbers.clone().all(|seq| !seen.contains(&seq));
        let checked = window.check_span(seq, count);
        let usable = (1..=127).contains(&count) && seq + 127 < SEQ_LIMIT;
        if seq + WINDOW > top + 127 {
            assert_eq!(checked.is_ok(), fresh && usable);
        }
        if checked.is_ok() {
            assert_eq!(window.mark_span(seq, count), Ok(()));
            assert!(numbers.clone().all(|seq| seen.insert(seq)));
            top = top.max(numbers.end - 1);
        }
    }
});
