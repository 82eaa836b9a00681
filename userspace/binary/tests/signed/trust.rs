//! Whose signatures count.

use std::fs::{self, File};

use sigil_binary::{
    How, KeyId, PrivateKey, Scids, SignatureId, Signer, Trust, Unsigned, label, verify,
};

use crate::{Bench, signer};

#[test]
fn nobody_is_trusted_by_default() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let key = bench.key.id();
    let verdict = verify(&File::open(path).unwrap(), &Trust::default());
    assert_eq!(verdict, Err(Unsigned::UnknownKey { key }));
}

#[test]
fn revocations_beat_signers() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let file = File::open(&path).unwrap();
    let (key, signature) = (bench.key.id(), bench.verify(&path).unwrap().signature);
    let with = |keys: &[KeyId], signatures: &[SignatureId]| {
        let (keys, signatures) = (keys.iter().copied(), signatures.iter().copied());
        verify(&file, &Trust::new([signer(&bench.key)], keys, signatures))
    };
    assert!(with(&[], &[]).is_ok());
    assert!(with(&[KeyId([1; 8])], &[SignatureId([1; 32])]).is_ok());
    assert_eq!(with(&[key], &[]), Err(Unsigned::RevokedKey { key }));
    assert_eq!(with(&[], &[signature]), Err(Unsigned::RevokedSignature { signature }));
}

#[test]
fn a_signer_speaks_for_its_zones_alone() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let file = File::open(&path).unwrap();
    let with = |scids: &[u32]| {
        let scids = Scids::Only(scids.iter().copied().collect());
        let trust = Trust::new([Signer { scids, ..signer(&bench.key) }], [], []);
        verify(&file, &trust)
    };
    assert!(with(&[1, 2]).is_ok());
    let key = bench.key.id();
    assert_eq!(with(&[1, 3]), Err(Unsigned::Scid { key, scid: 2 }));
    assert_eq!(with(&[]), Err(Unsigned::Scid { key, scid: 2 }));
}

/// An old release, rightly signed then, is put back.
#[test]
fn a_rolled_back_serial_is_refused() {
    let bench = Bench::new();
    let path = bench.program("true", "/bin/true");
    label(&path, 2, 4, Some(&bench.key), How::default()).unwrap();
    let old = fs::read(&path).unwrap();
    label(&path, 2, 5, Some(&bench.key), How::default()).unwrap();
    let trust = Trust::new([Signer { least_serial: 5, ..signer(&bench.key) }], [], []);
    assert_eq!(verify(&File::open(&path).unwrap(), &trust).unwrap().serial, 5);
    fs::write(&path, old).unwrap();
    let refused = Unsigned::Serial { serial: 4, least: 5 };
    assert_eq!(verify(&File::open(&path).unwrap(), &trust), Err(refused));
}

/// A key of one's own, under the id of a trusted one.
#[test]
fn another_key_under_a_trusted_id_is_refused() {
    let bench = Bench::new();
    let path = bench.program("true", "/bin/true");
    let other = PrivateKey::generate(bench.path("other")).unwrap();
    label(&path, 2, 7, Some(&other), How::default()).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::UnknownKey { key: other.id() }));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).rposition(|id| id == other.id().0).unwrap();
    bytes[at..at + 8].copy_from_slice(&bench.key.id().0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::Signature));
}
