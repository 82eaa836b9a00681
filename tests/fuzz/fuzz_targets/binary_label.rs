//! Files of any content are unsigned, and so is a signed one that was touched anywhere.
#![no_main]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sigil_binary::{How, PrivateKey, Scids, Signer, Trust, find, label, verify};

/// The shortest ELF file, signed, and who trusts its signer.
fn signed() -> &'static (Vec<u8>, Trust) {
    static SIGNED: OnceLock<(Vec<u8>, Trust)> = OnceLock::new();
    SIGNED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate(dir.path().join("key")).unwrap();
        let path = dir.path().join("small");
        let mut header = [0; 64];
        header[..24].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
        header[52] = 64;
        std::fs::write(&path, header).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        label(&path, 2, 7, Some(&key), How::default()).unwrap();
        let signer = Signer { key: *key.public(), scids: Scids::All, least_serial: 0 };
        (std::fs::read(&path).unwrap(), Trust::new([signer], [], []))
    })
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all(content).unwrap();
    file
}

fuzz_target!(|bytes: &[u8]| {
    let (good, trust) = signed();
    let any = file(bytes);
    let _ = find(&any);
    assert!(verify(&any, trust).is_err());

    // The same bytes over a signed file, at the place that the first two of them name.
    let [low, high, patch @ ..] = bytes else { return };
    let at = usize::from(u16::from_le_bytes([*low, *high])) % good.len();
    let mut bad = good.clone();
    bad.resize(good.len().max(at + patch.len()), 0);
    bad[at..at + patch.len()].copy_from_slice(patch);
    let touched = file(good);
    touched.write_all_at(patch, at as u64).unwrap();
    assert_eq!(verify(&touched, trust).is_ok(), bad == *good);
});
