//! ELF files of every kind: they take a label, run as before, and `readelf -n` shows it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use sigil_binary::{How, Place, Problem, Unsigned, label, sign};

use crate::Bench;

const SOURCE: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) { printf("%s %d\n", "hello", argc); return 42; }
"#;

/// Compiles the program; setup installs what it takes.
fn compile(bench: &Bench, name: &str, flags: &[&str]) -> PathBuf {
    let (source, path) = (bench.write("main.c", SOURCE), bench.path(name));
    let compiled = Command::new("gcc").args(flags).arg("-o").args([&path, &source]).output();
    let compiled = compiled.expect("gcc: run scripts/setup");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    path
}

fn runs(path: &Path) {
    let output = Command::new(path).args(["a", "b"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello 3\n");
    assert_eq!(output.status.code(), Some(42));
}

fn readelf(path: &Path, flags: &str) -> String {
    let output = Command::new("readelf").arg(flags).arg(path).output().expect("binutils");
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && warnings.is_empty(), "{warnings}");
    String::from_utf8(output.stdout).unwrap()
}

fn takes_a_label(bench: &Bench, path: &Path) {
    let segments = readelf(path, "-lW");
    let found = bench.sign(path);
    assert!(matches!(found.place, Place::Note(_)), "{found:?}");
    let verified = bench.verify(path).unwrap();
    assert_eq!((verified.scid, verified.serial, verified.key), (2, 7, bench.key.id()));
    let notes = readelf(path, "-nW");
    assert!(notes.contains(".note.sigil") && notes.contains("Sigil "), "{notes}");
    assert!(notes.contains("0x00000080"), "{notes}");
    // Segments and what is loaded stay where they were.
    assert_eq!(
        readelf(path, "-lW").lines().filter(|line| line.contains("LOAD")).count(),
        segments.lines().filter(|line| line.contains("LOAD")).count()
    );
}

#[test]
fn every_kind_of_program_runs_on() {
    let bench = Bench::new();
    for (name, flags) in [
        ("pie", ["-O1", "-pie"].as_slice()),
        ("fixed", &["-no-pie"]),
        ("static", &["-static"]),
        ("static-pie", &["-static-pie"]),
        ("stripped", &["-s"]),
        ("debug", &["-g3", "-O0"]),
        ("packed", &["-Wl,-z,noseparate-code", "-Wl,--build-id=none"]),
    ] {
        let path = compile(&bench, name, flags);
        takes_a_label(&bench, &path);
        runs(&path);
    }
}

/// Not to be run: there may be no 32-bit C library here, and the kernel may run no such programs.
#[test]
fn a_32_bit_program_takes_a_label() {
    let bench = Bench::new();
    let source =
        bench.write("start.S", ".globl _start\n_start: mov $1, %eax\n mov $42, %ebx\n int $0x80\n");
    let path = bench.path("small");
    let flags = ["-m32", "-nostdlib", "-static", "-Wl,--build-id"];
    let compiled = Command::new("gcc").args(flags).arg("-o").args([&path, &source]).status();
    assert!(compiled.unwrap().success());
    assert!(readelf(&path, "-h").contains("ELF32"));
    takes_a_label(&bench, &path);
    let Ok(status) = Command::new(&path).status() else { return };
    assert_eq!(status.code(), Some(42));
}

#[test]
fn a_program_without_section_table_gets_one() {
    let bench = Bench::new();
    let path = compile(&bench, "bare", &["-static", "-s"]);
    let mut bytes = fs::read(&path).unwrap();
    let table = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    bytes.truncate(usize::try_from(table).unwrap());
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    fs::write(&path, bytes).unwrap();
    runs(&path);
    takes_a_label(&bench, &path);
    runs(&path);
}

#[test]
fn strip_and_objcopy_read_a_labelled_file_and_unsign_it() {
    let bench = Bench::new();
    let path = compile(&bench, "again", &["-g"]);
    bench.sign(&path);
    assert!(Command::new("strip").arg(&path).status().unwrap().success());
    runs(&path);
    assert!(bench.verify(&path).is_err());
    // The label is there still, and may be signed again.
    sign(&path, &bench.key, How::default()).unwrap();
    assert_eq!(bench.verify(&path).unwrap().scid, 2);
    runs(&path);
}

#[test]
fn a_second_label_takes_the_place_of_the_first() {
    let bench = Bench::new();
    let path = bench.program("true", "/bin/true");
    let first = label(&path, 5, 1, None, How::default()).unwrap();
    assert_eq!(bench.verify(&path), Err(Unsigned::NotSigned));
    let length = fs::metadata(&path).unwrap().len();
    let second = label(&path, 6, 2, Some(&bench.key), How::default()).unwrap();
    assert_eq!(first.place, second.place);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let verified = bench.verify(&path).unwrap();
    assert_eq!((verified.scid, verified.serial), (6, 2));
}

#[test]
fn a_running_program_is_relabelled() {
    let bench = Bench::new();
    let path = bench.program("sleep", "/bin/sleep");
    let mut child = Command::new(&path).arg("60").spawn().unwrap();
    bench.sign(&path);
    assert!(bench.verify(&path).is_ok());
    assert!(child.try_wait().unwrap().is_none(), "it runs on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn owner_mode_and_attributes_stay() {
    let bench = Bench::new();
    let path = bench.program("true", "/bin/true");
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let file = fs::File::open(&path).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.origin", b"here");
    set("security.ima", b"a hash of the old content");
    bench.sign(&path);
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.uid(), after.gid(), after.mode() & 0o7777), (1234, 4321, 0o750));
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(&path, "user.origin", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"here");
    let stale = rustix::fs::getxattr(&path, "security.ima", value.as_mut_slice());
    assert_eq!(stale, Err(rustix::io::Errno::NODATA));
    assert_eq!(bench.dir.path().read_dir().unwrap().count(), 2, "no copy is left behind");
}

#[test]
fn what_would_surprise_is_refused_and_left_alone() {
    let bench = Bench::new();
    let path = bench.program("true", "/bin/true");
    let before = fs::read(&path).unwrap();
    let refusal =
        |path: &Path, how| label(path, 2, 7, Some(&bench.key), how).expect_err("refused").problem;

    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    assert!(matches!(refusal(&path, How::default()), Problem::Privileged));
    let how = How { privileged: true, dry_run: true };
    let would = label(&path, 2, 7, Some(&bench.key), how).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "a dry run writes nothing");
    let done = label(&path, 2, 7, Some(&bench.key), How { dry_run: false, ..how }).unwrap();
    assert_eq!(done, would);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4755, "setuid stays");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(&path, bench.path("other")).unwrap();
    assert!(matches!(refusal(&path, How::default()), Problem::HardLinks { links: 2 }));
    std::os::unix::fs::symlink(&path, bench.path("link")).unwrap();
    assert!(matches!(refusal(&bench.path("link"), How::default()), Problem::Symlink));
    assert!(matches!(refusal(bench.dir.path(), How::default()), Problem::NotRegular));
    fs::remove_file(bench.path("other")).unwrap();
    let none = label(&path, 0, 7, None, How::default()).unwrap_err();
    assert!(matches!(none.problem, Problem::Zero));
    let unlabelled = bench.program("plain", "/bin/true");
    let none = sign(&unlabelled, &bench.key, How::default()).unwrap_err();
    assert!(matches!(none.problem, Problem::NoLabel));
}
