use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

type Words = [AtomicU64; WORDS];

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_half(seq: u64) -> u32 {
    seq as u32
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn empty() -> Words {
    core::array::from_fn(|_| AtomicU64::new(0))
}

fn receive(words: &Words, top: &mut u64, seq: u64, count: u64) -> Result<(), DropReason> {
    let window = Window(words);
    window.check_span(seq, count)?;
    window.mark_span(seq, count)?;
    *top = (*top).max(seq + count - 1);
    Ok(())
}

#[test]
fn a_lap_takes_the_slot_of_the_one_before() {
    let (words, mut top) = (empty(), 0);
    assert_eq!(receive(&words, &mut top, 5, 1), Ok(()));
    assert_eq!(receive(&words, &mut top, 5, 1), Err(DropReason::Replay));
    assert_eq!(receive(&words, &mut top, 5 + WINDOW, 1), Ok(()));
    assert_eq!(receive(&words, &mut top, 5, 1), Err(DropReason::ReplayTooOld));
    assert_eq!(receive(&words, &mut top, 4, 1), Err(DropReason::ReplayTooOld));
    assert_eq!(receive(&words, &mut top, 6 + WINDOW, 1), Ok(()));
}

#[test]
fn a_number_is_usable_until_the_limit() {
    let (words, mut top) = (empty(), 0);
    let last = SEQ_LIMIT - SPAN_MAX - 1;
    assert_eq!(receive(&words, &mut top, last, 1), Ok(()));
    assert_eq!(receive(&words, &mut top, last, 1), Err(DropReason::Replay));
    assert_eq!(receive(&words, &mut top, last + 1, 1), Err(DropReason::KeyExhausted));
    assert_eq!(receive(&words, &mut top, u64::MAX, 1), Err(DropReason::KeyExhausted));
}

#[test]
fn a_span_is_bounded() {
    let (words, mut top) = (empty(), 0);
    for count in [0, SPAN_MAX + 1, u64::MAX] {
        let got = Window(&words).check_span(1, count);
        assert_eq!(got, Err(DropReason::BadSegment));
    }
    for from in 0..64 {
        let seq = from + from * 1000;
        assert_eq!(receive(&words, &mut top, seq, SPAN_MAX), Ok(()));
        for seq in seq..seq + SPAN_MAX {
            assert_eq!(receive(&words, &mut top, seq, 1), Err(DropReason::Replay));
        }
        assert_eq!(receive(&words, &mut top, seq + SPAN_MAX, 1), Ok(()));
    }
}

#[test]
fn a_span_with_one_number_taken_is_a_replay() {
    for taken in 0..SPAN_MAX {
        let (words, mut top) = (empty(), 0);
        assert_eq!(receive(&words, &mut top, 50 + taken, 1), Ok(()));
        assert_eq!(receive(&words, &mut top, 50, SPAN_MAX), Err(DropReason::Replay));
    }
}

#[test]
fn the_high_half_follows_the_top() {
    let high = 7 << 32;
    let cases = [
        (0, 1, 1),
        (0, u32::MAX, u64::from(u32::MAX)),
        (high + 10_000, 10_001, high + 10_001),
        (high + 10_000, 1_809, high + 1_809),
        (high + 10_000, 1_808, high + (1 << 32) + 1_808),
        (high + 100, 100_u32.wrapping_sub(8191), high + 100 - 8191),
        (high - 1, 0, high),
    ];
    for (top, low, expected) in cases {
        assert_eq!(infer(top, low, WINDOW), expected, "{top} {low}");
    }
}

/// RFC 4303, appendix A2.1, as written there.
fn rfc_4303(top: u64, low: u32) -> u64 {
    let window = low_half(WINDOW);
    let (high, top_low) = (low_half(top >> 32), low_half(top));
    let high = if top_low >= window - 1 {
        if low > top_low - window { high } else { high.wrapping_add(1) }
    } else if low >= top_low.wrapping_sub(window - 1) {
        high.wrapping_sub(1)
    } else {
        high
    };
    u64::from(high) << 32 | u64::from(low)
}

proptest! {
    #[test]
    fn inference_is_that_of_rfc_4303(top in WINDOW..SEQ_LIMIT, low: u32) {
        prop_assert_eq!(infer(top, low, WINDOW), rfc_4303(top, low));
    }

    #[test]
    fn inference_recovers_what_was_sent(top in 0..SEQ_LIMIT, ahead in 0..(1_u64 << 32) - WINDOW, behind in 0..WINDOW) {
        for seq in [top + ahead, top.saturating_sub(behind)] {
            prop_assert_eq!(infer(top, low_half(seq), WINDOW), seq);
        }
    }

    /// Whatever arrives in whatever order, a number is accepted if it is fresh and in the window,
    /// and never twice. Behind the window it may be refused.
    #[test]
    fn a_window_agrees_with_a_set(
        start in prop_oneof![Just(0), Just((1_u64 << 32) - 5_000), 0..SEQ_LIMIT / 2],
        steps in prop::collection::vec((-9_000..3_000_i64, prop_oneof![4 => Just(1), 1 => 2..=SPAN_MAX]), 1..600),
    ) {
        let (words, mut top, mut seen) = (empty(), start, BTreeSet::new());
        for (step, count) in steps {
            let sent = top.saturating_add_signed(step);
            let seq = infer(top, low_half(sent), WINDOW);
            if sent + WINDOW > top {
                prop_assert_eq!(seq, sent);
            }
            let mut numbers = seq..seq + count;
            let fresh = numbers.clone().all(|seq| !seen.contains(&seq));
            let before = top;
            match receive(&words, &mut top, seq, count) {
                Ok(()) => prop_assert!(numbers.all(|seq| seen.insert(seq))),
                Err(DropReason::Replay) => prop_assert!(!fresh),
                Err(DropReason::ReplayTooOld) => prop_assert!(seq + WINDOW <= before + SPAN_MAX),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    #[test]
    fn a_slot_names_one_number(seq in 0..SEQ_LIMIT) {
        let Slot { index, lap, mask } = slot(seq);
        let bit = u64::from(mask.trailing_zeros());
        prop_assert_eq!(u64::from(lap) * WINDOW + u64::from(index) * PER_WORD + bit, seq);
        prop_assert_eq!(mask.count_ones(), 1);
    }
}

/// Threads that all receive all numbers, singly and in spans: each number is accepted once or, where
/// a racing span lost half-way, not at all.
#[test]
fn racing_receivers_never_accept_a_number_twice() {
    const NUMBERS: u64 = 60_000;
    const THREADS: u64 = 4;
    let words = empty();
    let accepted: Vec<AtomicU64> = (0..NUMBERS).map(|_| AtomicU64::new(0)).collect();
    let barrier = Barrier::new(index(THREADS));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (words, accepted, barrier) = (&words, &accepted, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let (mut seq, mut top) = (0, 0);
                while seq + SPAN_MAX < NUMBERS {
                    let count =
                        if (seq / 7 + thread).is_multiple_of(3) { 1 + seq % SPAN_MAX } else { 1 };
                    if receive(words, &mut top, seq, count).is_ok() {
                        for count in accepted.iter().skip(index(seq)).take(index(count)) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    seq += 1;
                }
            });
        }
    });
    let counts: Vec<_> = accepted.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(counts.iter().all(|count| *count <= 1));
    assert!(counts.iter().sum::<u64>() > NUMBERS / 2);
}
