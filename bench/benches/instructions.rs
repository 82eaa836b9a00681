//! Instructions of the functions that the kernel and user space share, by callgrind: the same in every
//! run of one build. More than `instructions.csv` allows is an error.
//!
//! After a change that is worth its instructions, or a new compiler, copy the printed counts there.
#![expect(missing_docs, reason = "gungraun's macros make undocumented functions")]

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use sigil_common::abi::policy::{CREATE, PROTECTION_AUTHENTICATE, RECEIVE};
use sigil_common::abi::rule::Verdict;
use sigil_common::decide::{self, Arrival};
use sigil_common::icv::{self, Icv, IcvInput, KEY_LEN, MacKey, Scratch, Suite};
use sigil_common::label::Label;
use sigil_common::replay::{WORDS, Window};
use sigil_common::wire::ipv4;
use sigil_common::wire::option::{
    AUTH_LEN, AuthTag, DEFAULT_DOI, Flags, LABEL_LEN, LabelOption, LabelTag,
};

const BASELINE: &str = include_str!("../instructions.csv");
/// Percent above the baseline that pass: what another patch release of a compiler may do.
const SLACK: u64 = 2;
const LABEL: Label = Label { snid: 1, scid: 10 };
const PAYLOAD: [u8; 1400] = [0x5a; 1400];

/// The limit of a benchmark: its line in the baseline, `name,instructions`. One without a line may
/// take none, and fails.
fn limit(name: &str) -> LibraryBenchmarkConfig {
    let of = |line: &str| line.split_once(',').filter(|(known, _)| *known == name)?.1.parse().ok();
    let count: u64 = BASELINE.lines().find_map(of).unwrap_or(0);
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, count + count * SLACK / 100)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

fn mac(suite: Suite) -> (Suite, MacKey, Scratch) {
    (suite, MacKey::prepare(suite, &[7; KEY_LEN]), Scratch::new())
}

fn input() -> IcvInput {
    IcvInput {
        key_id: 1,
        protocol: 17,
        label: LABEL,
        seq: 9,
        source: 0x0a4d_0001,
        destination: 0x0a4d_0002,
        total_len: 124,
        id: 7,
        ..IcvInput::default()
    }
}

#[library_benchmark]
#[bench::siphash(args = (Suite::SipHash24), setup = mac, config = limit("header siphash"))]
#[bench::blake3(args = (Suite::Blake3), setup = mac, config = limit("header blake3"))]
#[bench::hmac(args = (Suite::HmacSha256), setup = mac, config = limit("header hmac"))]
fn header((suite, key, mut scratch): (Suite, MacKey, Scratch)) -> Option<Icv> {
    let icv = icv::of_header(suite, &key, &black_box(input()).header(), &mut scratch);
    black_box(Some(icv))
}

#[library_benchmark]
#[bench::siphash(args = (Suite::SipHash24), setup = mac, config = limit("payload siphash"))]
#[bench::blake3(args = (Suite::Blake3), setup = mac, config = limit("payload blake3"))]
#[bench::hmac(args = (Suite::HmacSha256), setup = mac, config = limit("payload hmac"))]
fn payload((suite, key, _): (Suite, MacKey, Scratch)) -> Option<Icv> {
    icv::of_message(suite, &key, &black_box(input()).header(), black_box(&PAYLOAD))
}

fn option_bytes() -> [u8; AUTH_LEN] {
    let (mut first, mut second) = ([0; LABEL_LEN], [0; LABEL_LEN]);
    LabelTag { len: 40, doi: DEFAULT_DOI, label: black_box(LABEL) }.emit(&mut first);
    AuthTag { key_id: 1, flags: Flags::new(false, 0), seq_low: 9, icv: Icv::from_bytes(&[3; 12]) }
        .emit(&mut second);
    let mut bytes = [0; AUTH_LEN];
    for (to, from) in bytes.iter_mut().zip(first.into_iter().chain(second)) {
        *to = from;
    }
    bytes
}

#[library_benchmark]
#[bench::both_parts(config = limit("option emit"))]
fn emit() -> [u8; AUTH_LEN] {
    option_bytes()
}

#[library_benchmark]
#[bench::authenticated(args = (), setup = option_bytes, config = limit("option parse"))]
fn parse(bytes: [u8; AUTH_LEN]) -> bool {
    black_box(LabelOption::parse(black_box(&bytes))).is_ok()
}

fn no_operations() -> [u8; 40] {
    [1; 40]
}

#[library_benchmark]
#[bench::forty_bytes(args = (), setup = no_operations, config = limit("option scan"))]
fn scan(bytes: [u8; 40]) {
    black_box(ipv4::scan_options(black_box(&bytes), 40));
}

fn words() -> Box<[AtomicU64; WORDS]> {
    Box::new([const { AtomicU64::new(0) }; WORDS])
}

#[library_benchmark]
#[bench::packet(args = (), setup = words, config = limit("replay packet"))]
fn replay(words: Box<[AtomicU64; WORDS]>) -> bool {
    let window = Window(&*words);
    window.check(black_box(1)).and_then(|()| window.mark(black_box(1))).is_ok()
}

#[library_benchmark]
#[bench::super_frame(args = (), setup = words, config = limit("replay super-frame"))]
fn replay_span(words: Box<[AtomicU64; WORDS]>) -> bool {
    let window = Window(&*words);
    let (seq, count) = black_box((1, 64));
    window.check_span(seq, count).and_then(|()| window.mark_span(seq, count)).is_ok()
}

fn verdict() -> Verdict {
    Verdict { flags: CREATE | RECEIVE, protection: PROTECTION_AUTHENTICATE, ..Verdict::default() }
}

fn arrival() -> Arrival {
    Arrival {
        source: LABEL.word(),
        kernel: false,
        protection: PROTECTION_AUTHENTICATE,
        pinned: LABEL.word(),
        listener: false,
        connected: true,
        opened: false,
    }
}

#[library_benchmark]
#[bench::granted(args = (), setup = verdict, config = limit("decide send"))]
fn send(verdict: Verdict) {
    let _ = black_box(decide::send(black_box(&verdict)));
}

#[library_benchmark]
#[bench::granted(args = (), setup = arrival, config = limit("decide deliver"))]
fn deliver(arrival: Arrival) {
    let verdict = verdict();
    let _ = black_box(decide::deliver(black_box(&arrival), black_box(&verdict)));
}

library_benchmark_group!(name = icvs, benchmarks = [header, payload]);
library_benchmark_group!(name = options, benchmarks = [emit, parse, scan]);
library_benchmark_group!(name = decisions, benchmarks = [replay, replay_span, send, deliver]);
main!(library_benchmark_groups = [icvs, options, decisions]);
