//! Scripts and other files that are not ELF: the label is in an attribute that root alone writes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use sigil_binary::{How, Place, Problem, Unsigned, XATTR, label, sign};

use crate::Bench;

const SCRIPT: &str = "#!/bin/sh\necho hello\n";

#[test]
fn a_script_takes_a_label_and_keeps_its_content() {
    let bench = Bench::new();
    let path = bench.write("script", SCRIPT);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    label(&path, 9, 3, None, How::default()).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::NotSigned));
    let found = sign(&path, &bench.key, How::default()).unwrap();
    assert_eq!(found.place, Place::Xattr);
    assert_eq!(fs::read_to_string(&path).unwrap(), SCRIPT);
    assert_eq!(bench.verify(&path).unwrap().scid, 9);
    assert_eq!(Command::new(&path).output().unwrap().stdout, b"hello\n");
    // Another name of the same file is as good.
    fs::hard_link(&path, bench.path("other")).unwrap();
    assert_eq!(bench.verify(&bench.path("other")).unwrap().scid, 9);
}

#[test]
fn an_empty_file_takes_a_label() {
    let bench = Bench::new();
    let path = bench.write("empty", "");
    bench.sign(&path);
    assert!(bench.verify(&path).is_ok());
    fs::write(&path, "x").unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::Length { length: 1, signed: 0 }));
}

#[test]
fn any_other_content_unsigns_a_script() {
    let bench = Bench::new();
    let path = bench.write("script", SCRIPT);
    bench.sign(&path);
    for other in ["#!/bin/sh\necho hellO\n", "#!/bin/sh\necho hell\n", ""] {
        fs::write(&path, other).unwrap();
        assert!(matches!(bench.verify(&path), Err(Unsigned::Content | Unsigned::Length { .. })));
    }
    fs::write(&path, SCRIPT).unwrap();
    assert!(bench.verify(&path).is_ok());
}

#[test]
fn a_copied_attribute_is_worth_nothing() {
    let bench = Bench::new();
    let (good, bad) = (bench.write("good", SCRIPT), bench.write("bad", "#!/bin/sh\necho HELLO\n"));
    bench.sign(&good);
    let mut value = [0; 128];
    getxattr(&good, XATTR, value.as_mut_slice()).unwrap();
    setxattr(&bad, XATTR, &value, XattrFlags::empty()).unwrap();
    assert_eq!(bench.verify(&bad), Err(Unsigned::Content));
    for (length, long) in [(127, false), (0, false), (129, true)] {
        let bytes = if long { vec![1; 129] } else { value[..length].to_vec() };
        setxattr(&bad, XATTR, &bytes, XattrFlags::empty()).unwrap();
        assert!(matches!(bench.verify(&bad), Err(Unsigned::Malformed(_))), "{length}");
    }
}

#[test]
fn a_program_with_a_note_and_an_attribute_is_unsigned() {
    let bench = Bench::new();
    let path = bench.signed("true", "/bin/true");
    let script = bench.write("script", SCRIPT);
    bench.sign(&script);
    let mut value = [0; 128];
    getxattr(&script, XATTR, value.as_mut_slice()).unwrap();
    setxattr(&path, XATTR, &value, XattrFlags::empty()).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::TwoLabels));
}

/// Whoever may edit a script still cannot take its label off or swap it for an older one of it.
#[test]
fn the_owner_of_a_script_cannot_write_its_label() {
    let bench = Bench::new();
    let path = bench.write("script", SCRIPT);
    bench.sign(&path);
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&path, Some(65_534), Some(65_534)).unwrap();
    let refused = std::thread::spawn({
        let path = path.clone();
        move || {
            // Of this thread alone.
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
            let written = setxattr(&path, XATTR, &[0; 128], XattrFlags::empty());
            let removed = rustix::fs::removexattr(&path, XATTR);
            let labelled = label(&path, 1, 1, None, How::default());
            (written, removed, labelled)
        }
    });
    let (written, removed, labelled) = refused.join().unwrap();
    assert_eq!(written, Err(rustix::io::Errno::PERM));
    assert_eq!(removed, Err(rustix::io::Errno::PERM));
    assert!(matches!(labelled.unwrap_err().problem, Problem::NotPermitted));
    assert!(bench.verify(&path).is_ok());
}
