//! The functions that the kernel and user space share, on the host.
#![expect(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
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

const LABEL: Label = Label { snid: 1, scid: 10 };
/// Bytes of the covered payload.
const PAYLOAD: usize = 1400;
/// Rules of the compiled policy.
const RULES: usize = 1000;

fn input(seq: u64) -> IcvInput {
    IcvInput {
        key_id: 1,
        protocol: 17,
        label: LABEL,
        seq,
        source: 0x0a4d_0001,
        destination: 0x0a4d_0002,
        total_len: 124,
        id: 7,
        ..IcvInput::default()
    }
}

fn macs(c: &mut Criterion) {
    let mut group = c.benchmark_group("icv");
    for suite in Suite::ALL {
        let key = MacKey::prepare(suite, &[7; KEY_LEN]);
        let mut scratch = Scratch::new();
        let mut seq = 0;
        group.bench_function(format!("header/{suite}"), |b| {
            b.iter(|| {
                seq += 1;
                icv::of_header(suite, &key, &input(seq).header(), &mut scratch)
            });
        });
        let payload = [0x5a; PAYLOAD];
        group.throughput(Throughput::Bytes(1400));
        group.bench_function(format!("payload/{suite}"), |b| {
            b.iter(|| icv::of_message(suite, &key, &input(1).header(), black_box(&payload)));
        });
    }
    group.finish();
}

fn option() -> [u8; AUTH_LEN] {
    let (mut first, mut second) = ([0; LABEL_LEN], [0; LABEL_LEN]);
    LabelTag { len: 40, doi: DEFAULT_DOI, label: LABEL }.emit(&mut first);
    AuthTag { key_id: 1, flags: Flags::new(false, 0), seq_low: 9, icv: Icv::from_bytes(&[3; 12]) }
        .emit(&mut second);
    let mut bytes = [0; AUTH_LEN];
    for (to, from) in bytes.iter_mut().zip(first.into_iter().chain(second)) {
        *to = from;
    }
    bytes
}

fn options(c: &mut Criterion) {
    let bytes = option();
    c.bench_function("option/emit", |b| b.iter(|| black_box(option())));
    c.bench_function("option/parse", |b| b.iter(|| LabelOption::parse(black_box(&bytes))));
    let mut own = [1; 40];
    own.fill(1);
    c.bench_function("option/scan", |b| b.iter(|| ipv4::scan_options(black_box(&own), 40)));
}

fn replay(c: &mut Criterion) {
    let words: Box<[AtomicU64; WORDS]> = Box::new([const { AtomicU64::new(0) }; WORDS]);
    let window = Window(&*words);
    let mut seq = 1;
    c.bench_function("replay/in order", |b| {
        b.iter(|| {
            seq += 1;
            window.check(seq).and_then(|()| window.mark(seq))
        });
    });
    c.bench_function("replay/replayed", |b| b.iter(|| window.check(black_box(seq))));
    c.bench_function("replay/super-frame of 64", |b| {
        b.iter(|| {
            seq += 64;
            window.check_span(seq, 64).and_then(|()| window.mark_span(seq, 64))
        });
    });
}

fn decisions(c: &mut Criterion) {
    let verdict = Verdict {
        flags: CREATE | RECEIVE,
        protection: PROTECTION_AUTHENTICATE,
        ..Verdict::default()
    };
    let arrival = Arrival {
        source: LABEL.word(),
        kernel: false,
        protection: PROTECTION_AUTHENTICATE,
        pinned: LABEL.word(),
        listener: false,
        connected: true,
        opened: false,
    };
    c.bench_function("decide/send", |b| b.iter(|| decide::send(black_box(&verdict))));
    c.bench_function("decide/deliver", |b| {
        b.iter(|| decide::deliver(black_box(&arrival), black_box(&verdict)));
    });
}

/// A policy of two nodes with a zone for each rule.
fn document() -> String {
    let mut text = String::from(
        "<DSP cluster=\"bench\" serial=\"1\">\n\
         <node><SnID>1</SnID><address>10.77.0.1</address></node>\n\
         <node><SnID>2</SnID><address>10.77.0.2</address></node>\n",
    );
    for scid in 1..=RULES {
        let _ = writeln!(text, "<zone><ScID>{scid}</ScID><name>zone{scid}</name></zone>");
    }
    for scid in 1..=RULES {
        let _ = writeln!(
            text,
            "<SOCKET_class_rule><sSnID>1</sSnID><sScID>zone{scid}</sScID><tSnID>2</tSnID>\
             <tScID>zone{scid}</tScID><allow>CREATE</allow></SOCKET_class_rule>"
        );
    }
    text.push_str("</DSP>\n");
    text
}

fn policies(c: &mut Criterion) {
    let document = document();
    let compile = || sigil_policy::compile("bench.xml", document.as_bytes(), None);
    assert!(compile().is_ok(), "the measured policy has no errors");
    let mut group = c.benchmark_group("policy");
    group.sample_size(20);
    group.bench_function("compile 1,000 rules", |b| b.iter(compile));
    group.bench_function("lower 1,000 rules to a node", |b| {
        b.iter_batched(
            || compile().ok(),
            |compiled| compiled.map(|compiled| compiled.policy.rules_for(2)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, macs, options, replay, decisions, policies);
criterion_main!(benches);
