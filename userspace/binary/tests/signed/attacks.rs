//! What an attacker does to a signed ELF file who holds no key.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;
use sigil_binary::{Place, Unsigned, find};

use crate::Bench;

/// Of a 64-bit little-endian file's header.
const SHOFF: usize = 40;
const SHNUM: usize = 60;

fn record_at(path: &Path) -> usize {
    match find(&fs::File::open(path).unwrap()).unwrap().place {
        Place::Note(at) => usize::try_from(at).unwrap(),
        Place::Xattr => panic!("a note was expected"),
    }
}

fn section_table(bytes: &[u8]) -> (usize, usize) {
    let at = u64::from_le_bytes(bytes[SHOFF..SHOFF + 8].try_into().unwrap());
    let count = u16::from_le_bytes(bytes[SHNUM..SHNUM + 2].try_into().unwrap());
    (usize::try_from(at).unwrap(), usize::from(count))
}

/// Small, so that each of its bytes can be turned.
fn small(bench: &Bench) -> std::path::PathBuf {
    let mut bytes = vec![0; 64];
    bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    bytes[52..54].copy_from_slice(&[64, 0]);
    bytes.extend(b"the code of a program");
    let path = bench.write("small", bytes);
    bench.sign(&path);
    path
}

#[test]
fn every_single_byte_counts() {
    let bench = Bench::new();
    let path = small(&bench);
    let good = fs::read(&path).unwrap();
    assert!(bench.verify(&path).is_ok());
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            fs::write(&path, &bad).unwrap();
            assert!(bench.verify(&path).is_err(), "byte {at} ^ {bit}");
        }
    }
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert!(bench.verify(&path).is_err(), "cut to {length}");
    }
    for more in [&[0][..], &[0; 64], b"code"] {
        fs::write(&path, [&good, more].concat()).unwrap();
        assert!(matches!(bench.verify(&path), Err(Unsigned::Length { .. })));
    }
    fs::write(&path, &good).unwrap();
    assert!(bench.verify(&path).is_ok());
}

#[test]
fn a_copied_note_is_worth_nothing() {
    let bench = Bench::new();
    let good = fs::read(bench.signed("true", "/bin/true")).unwrap();
    let at = record_at(&bench.path("true"));
    // Into a program that has room for a note at the same place: another content.
    let other = bench.signed("false", "/bin/false");
    let mut bytes = fs::read(&other).unwrap();
    let to = record_at(&other);
    bytes[to..to + 128].copy_from_slice(&good[at..at + 128]);
    fs::write(&other, &bytes).unwrap();
    assert!(matches!(
        bench.verify(&other),
        Err(Unsigned::Content | Unsigned::Length { .. } | Unsigned::Signature)
    ));
    // Into the same file with one byte of code turned.
    let mut bytes = good.clone();
    bytes[0x1000] ^= 1;
    fs::write(&other, &bytes).unwrap();
    assert_eq!(bench.verify(&other), Err(Unsigned::Content));
}

#[test]
fn a_moved_note_is_refused() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let at = record_at(&path);
    let mut bytes = fs::read(&path).unwrap();
    // The same note again at the end, and the section pointed there: one note, another place.
    let note = bytes[at - 20..at + 128].to_vec();
    let end = bytes.len();
    bytes.extend(note);
    let (table, count) = section_table(&bytes);
    let offset = table + (count - 1) * 64 + 24;
    bytes[offset..offset + 8].copy_from_slice(&(end as u64).to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert_eq!(record_at(&path), end + 20, "the note is where the attacker wants it");
    assert!(bench.verify(&path).is_err());
}

#[test]
fn a_second_note_is_refused() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let mut bytes = fs::read(&path).unwrap();
    // The section before the note's becomes its twin.
    let (table, count) = section_table(&bytes);
    let note = table + (count - 1) * 64;
    bytes.copy_within(note..note + 64, note - 64);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::TwoLabels));
}

#[test]
fn other_program_headers_are_refused() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let good = fs::read(&path).unwrap();
    // The entry point, where the program headers are, how many, and a segment's file offset.
    for at in [24, 32, 56, 64 + 8, 64 + 56 + 8] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        assert_eq!(bench.verify(&path), Err(Unsigned::Content), "byte {at}");
    }
}

/// Digest and signature are what the digest leaves out: they are checked by themselves.
#[test]
fn bytes_that_the_digest_leaves_out_hide_nothing() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let (good, at) = (fs::read(&path).unwrap(), record_at(&path));
    for (byte, expected) in [
        (32, Unsigned::Signature),
        (63, Unsigned::Signature),
        (64, Unsigned::Signature),
        (127, Unsigned::Signature),
    ] {
        let mut bad = good.clone();
        bad[at + byte] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(bench.verify(&path), Err(expected), "byte {byte} of the record");
    }
    // What else the record says is signed as well.
    for byte in [4, 7, 8, 15] {
        let mut bad = good.clone();
        bad[at + byte] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(bench.verify(&path), Err(Unsigned::Signature), "byte {byte} of the record");
    }
}

/// A file as long as the disk allows, under a label that is somebody's: nothing of it is read.
#[test]
fn a_huge_sparse_file_costs_nothing() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(
        matches!(bench.verify(&path), Err(Unsigned::Length { length, .. }) if length == 1 << 40)
    );
}

/// One key is enough for all cases.
fn shared() -> &'static Bench {
    static BENCH: OnceLock<Bench> = OnceLock::new();
    BENCH.get_or_init(Bench::new)
}

fn signed_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| fs::read(small(shared())).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a file holds: an answer, no panic, and no trust.
    #[test]
    fn bytes_of_any_kind_are_unsigned(
        magic in any::<bool>(),
        class in 1..=2u8,
        order in 1..=2u8,
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        table in 0..400u64,
        count in 0..8u16,
    ) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 64 {
            bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
            bytes[20..24].copy_from_slice(&[1, 0, 0, 0]);
            bytes[SHOFF..SHOFF + 8].copy_from_slice(&table.to_le_bytes());
            bytes[58..60].copy_from_slice(&[64, 0]);
            bytes[SHNUM..SHNUM + 2].copy_from_slice(&count.to_le_bytes());
        }
        let bench = shared();
        let path = bench.write("bytes", &bytes);
        prop_assert!(bench.verify(&path).is_err());
    }

    /// Damage anywhere in a signed file is seen.
    #[test]
    fn damage_is_seen(at in any::<prop::sample::Index>(), value in any::<u8>(), length in 1..16usize) {
        let bench = shared();
        let path = bench.path("damaged");
        let good = signed_bytes();
        let mut bad = good.to_vec();
        let at = at.index(good.len());
        let end = (at + length).min(good.len());
        bad[at..end].fill(value);
        fs::write(&path, &bad).unwrap();
        prop_assert_eq!(bench.verify(&path).is_ok(), bad == good);
    }
}
