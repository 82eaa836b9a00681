//! What it costs to verify a file for the first time, per size, and to find its verdict again.
//!
//! The files are in the page cache: reading them from a disk comes on top.
#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::fs::{self, File};
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sigil_binary::{How, PrivateKey, Scids, Signer, Trust, Verdicts, label, verify};

struct Files {
    _dir: tempfile::TempDir,
    trust: Trust,
    paths: Vec<(u64, PathBuf)>,
}

const KIB: u64 = 1 << 10;

fn files() -> Files {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = PrivateKey::generate(dir.path().join("key")).unwrap();
    let signer = Signer { key: *key.public(), scids: Scids::All, least_serial: 0 };
    let paths = [4 * KIB, 64 * KIB, KIB * KIB, 64 * KIB * KIB].map(|length| {
        let path = dir.path().join(length.to_string());
        fs::write(&path, vec![0x90; usize::try_from(length).unwrap()]).unwrap();
        label(&path, 2, 1, Some(&key), How::default()).unwrap();
        (length, path)
    });
    Files { _dir: dir, trust: Trust::new([signer], [], []), paths: paths.into() }
}

fn first(c: &mut Criterion) {
    let files = files();
    let mut group = c.benchmark_group("first verification");
    group.sample_size(20);
    for (length, path) in &files.paths {
        let file = File::open(path).unwrap();
        assert!(verify(&file, &files.trust).is_ok());
        group.throughput(Throughput::Bytes(*length));
        group.bench_function(format!("{} KiB", length / KIB), |b| {
            b.iter(|| verify(black_box(&file), &files.trust));
        });
    }
    group.finish();
}

fn again(c: &mut Criterion) {
    let files = files();
    let mut verdicts = Verdicts::new(files.trust.clone(), 8);
    let (_, path) = files.paths.last().unwrap();
    let file = File::open(path).unwrap();
    assert!(verdicts.judge(&file).verdict.is_ok() && verdicts.judge(&file).known);
    c.bench_function("known verdict", |b| b.iter(|| verdicts.judge(black_box(&file)).known));
    let unlabelled = File::open("/bin/true").unwrap();
    c.bench_function("no label", |b| b.iter(|| verify(black_box(&unlabelled), &files.trust)));
}

criterion_group!(benches, first, again);
criterion_main!(benches);
