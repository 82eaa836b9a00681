//! Verdicts that are remembered, and what an attacker does to a file between verdict and use.
//!
//! Mounts and leases need root, as other privileged tests do.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sigil_binary::{
    Clock, How, Judgement, PrivateKey, Scids, Signer, SystemClock, Trust, Unsigned, Verdicts, label,
};

use crate::{Bench, signer};

const SCRIPT: &[u8] = b"#!/bin/sh\necho good\n";
const OTHER: &[u8] = b"#!/bin/sh\necho EVIL\n";

fn signed_script(bench: &Bench) -> PathBuf {
    let path = bench.write("script", SCRIPT);
    bench.sign(&path);
    path
}

fn judge<C: Clock>(verdicts: &mut Verdicts<C>, path: &Path) -> Judgement {
    verdicts.judge(&File::open(path).unwrap())
}

/// In a mount namespace of its own, that ends with the thread.
fn with_mounts(test: impl FnOnce() + Send + 'static) {
    let run = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .unwrap();
        test();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

fn mount_at(kind: &str, at: &Path, options: &str) {
    fs::create_dir_all(at).unwrap();
    mount(Some("test"), at, Some(kind), MsFlags::empty(), Some(options)).unwrap();
}

/// A shared mapping that may be written, of an open file that is closed again.
struct Mapping(*mut std::ffi::c_void);

impl Mapping {
    #[expect(unsafe_code, reason = "mapping a file")]
    fn new(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever the kernel likes.
        Self(
            unsafe { mmap(std::ptr::null_mut(), 4096, flags, MapFlags::SHARED, &file, 0) }.unwrap(),
        )
    }

    #[expect(unsafe_code, reason = "reading the mapping")]
    fn read(&self) -> u8 {
        // SAFETY: within the mapping's first page, of a file that has as many bytes.
        unsafe { self.0.cast::<u8>().add(15).read_volatile() }
    }

    #[expect(unsafe_code, reason = "writing the mapping")]
    fn write(&self) {
        // SAFETY: as above.
        unsafe { self.0.cast::<u8>().add(15).write_volatile(b'G') };
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "unmapping")]
    fn drop(&mut self) {
        // SAFETY: this very mapping, and nobody refers to it.
        unsafe { munmap(self.0, 4096) }.unwrap();
    }
}

#[test]
fn a_verdict_is_known_until_the_file_changes() {
    let bench = Bench::new();
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    let path = signed_script(&bench);
    let first = judge(&mut verdicts, &path);
    assert!(!first.known && first.verdict.is_ok());
    let second = judge(&mut verdicts, &path);
    assert!(second.known);
    assert_eq!((second.key, second.verdict), (first.key, first.verdict));
    fs::write(&path, OTHER).unwrap();
    let third = judge(&mut verdicts, &path);
    assert_eq!((third.known, third.verdict), (false, Err(Unsigned::Content)));
    assert_ne!(third.key, first.key);

    let plain = bench.write("plain", OTHER);
    thread::sleep(Duration::from_millis(50));
    assert!(!judge(&mut verdicts, &plain).known);
    let known = judge(&mut verdicts, &plain);
    assert_eq!((known.known, known.verdict), (true, Err(Unsigned::NoLabel)));
    let directory = verdicts.judge(&File::open(bench.dir.path()).unwrap());
    assert_eq!((directory.key, directory.verdict), (None, Err(Unsigned::NotRegular)));
}

/// As fast as this machine can: a write, a verdict, a write, a verdict.
#[test]
fn a_write_in_the_tick_of_the_verification_is_seen() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let file = OpenOptions::new().read(true).open(&path).unwrap();
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    for _ in 0..40 {
        fs::write(&path, SCRIPT).unwrap();
        assert!(verdicts.judge(&file).verdict.is_ok());
        fs::write(&path, OTHER).unwrap();
        assert_eq!(verdicts.judge(&file).verdict, Err(Unsigned::Content));
    }
}

/// Whatever the verdict was: a file that still is in the state of the verdict holds what was signed.
#[test]
fn a_storm_of_writes_gets_nothing_past_the_verdicts() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let mut verdicts = Verdicts::new(bench.trust.clone(), 64);
    let done = AtomicBool::new(false);
    let (mut trusted, mut untrusted) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for content in [SCRIPT, OTHER].into_iter().cycle() {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.write_all_at(content, 0).unwrap();
                drop(file);
                thread::sleep(Duration::from_millis(if content == SCRIPT { 30 } else { 3 }));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let file = File::open(&path).unwrap();
            let judged = verdicts.judge(&file);
            let content = fs::read(&path).unwrap();
            // The state is asked of a cache that knows no file, so that it says the state alone.
            let state = Verdicts::new(Trust::default(), 1).judge(&file).key;
            if judged.verdict.is_ok() && state == judged.key {
                assert_eq!(content, SCRIPT);
                trusted += 1;
            } else {
                untrusted += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(trusted > 10 && untrusted > 10, "{trusted} and {untrusted}: both must have been tried");
}

#[test]
fn a_mapping_from_before_the_verification_refuses_it() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    let mapping = Mapping::new(&path);
    assert_eq!(judge(&mut verdicts, &path).verdict, Err(Unsigned::Busy));
    assert_eq!(mapping.read(), b'g');
    mapping.write();
    assert_eq!(judge(&mut verdicts, &path).verdict, Err(Unsigned::Busy));
    drop(mapping);
    assert_eq!(judge(&mut verdicts, &path).verdict, Err(Unsigned::Content));
    fs::write(&path, SCRIPT).unwrap();
    let writer = OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(judge(&mut verdicts, &path).verdict, Err(Unsigned::Busy));
    drop(writer);
    assert!(judge(&mut verdicts, &path).verdict.is_ok());
}

/// Read first, so that a file system that does not watch its mappings has the page writable already.
#[test]
fn a_mapping_from_after_the_verification_is_seen() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    assert!(judge(&mut verdicts, &path).verdict.is_ok());
    let mapping = Mapping::new(&path);
    assert_eq!(mapping.read(), b'g');
    mapping.write();
    drop(mapping);
    let judged = judge(&mut verdicts, &path);
    assert_eq!((judged.known, judged.verdict), (false, Err(Unsigned::Content)));
}

/// There a page that was read can be written with no change of the change time: the lease has to stay.
#[test]
fn on_tmpfs_a_writer_waits_until_the_verdict_is_gone() {
    with_mounts(|| {
        let base = tempfile::tempdir().unwrap();
        mount_at("tmpfs", base.path(), "size=16m");
        let bench = Bench::within(base.path());
        let path = signed_script(&bench);
        let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
        let first = judge(&mut verdicts, &path);
        assert!(first.verdict.is_ok());
        assert!(judge(&mut verdicts, &path).known);
        assert!(verdicts.sweep().is_empty());

        // Who will not wait is sent away.
        let hasty = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert_eq!(hasty.unwrap_err().raw_os_error(), Some(libc::EWOULDBLOCK));
        let broken = verdicts.sweep();
        assert_eq!(broken.iter().map(|one| Some(one.key)).collect::<Vec<_>>(), [first.key]);
        drop(broken);

        let again = judge(&mut verdicts, &path);
        assert_eq!((again.known, again.key), (false, first.key));
        let opened = Rc::new(Cell::new(false));
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mapping = Mapping::new(&path);
                mapping.read();
                mapping.write();
            });
            let deadline = Instant::now() + Duration::from_secs(10);
            let evicted = loop {
                let evicted = verdicts.sweep();
                if !evicted.is_empty() {
                    break evicted;
                }
                assert!(Instant::now() < deadline, "nobody waited");
                thread::sleep(Duration::from_millis(5));
            };
            assert!(!writer.is_finished(), "the writer waits for the last copy of the verdict");
            opened.set(true);
            drop(evicted);
            writer.join().unwrap();
        });
        let judged = judge(&mut verdicts, &path);
        assert_eq!(judged.key, first.key, "the change time alone would not have told");
        assert_eq!(judged.verdict, Err(Unsigned::Content));
    });
}

/// The kernel may look up before the sweep: a lease that somebody waits for is no verdict any more.
#[test]
fn a_broken_lease_is_seen_without_a_sweep() {
    with_mounts(|| {
        let base = tempfile::tempdir().unwrap();
        mount_at("tmpfs", base.path(), "size=16m");
        let bench = Bench::within(base.path());
        let path = signed_script(&bench);
        let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
        assert!(judge(&mut verdicts, &path).verdict.is_ok());
        let hasty = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
        assert!(hasty.is_err());
        let judged = judge(&mut verdicts, &path);
        assert_eq!((judged.known, judged.evicted.len()), (false, 1));
    });
}

#[test]
fn a_bind_mount_is_the_same_file_and_an_overlay_none_to_vouch_for() {
    with_mounts(|| {
        let bench = Bench::new();
        let path = signed_script(&bench);
        let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
        let first = judge(&mut verdicts, &path);
        let [bound, upper, work, merged] =
            ["bound", "upper", "work", "merged"].map(|name| bench.path(name));
        for directory in [&bound, &upper, &work] {
            fs::create_dir(directory).unwrap();
        }
        let flags = MsFlags::MS_BIND;
        mount(Some(bench.dir.path()), &bound, None::<&str>, flags, None::<&str>).unwrap();
        let judged = judge(&mut verdicts, &bound.join("script"));
        assert_eq!((judged.known, judged.key), (true, first.key));

        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            bound.display(),
            upper.display(),
            work.display()
        );
        mount_at("overlay", &merged, &options);
        let judged = judge(&mut verdicts, &merged.join("script"));
        assert_eq!(judged.verdict, Err(Unsigned::FileSystem { magic: 0x794c_7630 }));
    });
}

#[test]
fn a_hard_link_has_the_files_verdict() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    fs::hard_link(&path, bench.path("other")).unwrap();
    let first = judge(&mut verdicts, &path);
    let second = judge(&mut verdicts, &bench.path("other"));
    assert_eq!((second.known, second.key), (true, first.key));
    // What is written through one name is seen through the other.
    fs::write(bench.path("other"), OTHER).unwrap();
    assert_eq!(judge(&mut verdicts, &path).verdict, Err(Unsigned::Content));
}

struct Set {
    ahead: Rc<Cell<i64>>,
}

impl Clock for Set {
    fn file_time(&self) -> i64 {
        SystemClock.file_time() + self.ahead.get()
    }

    fn setting(&self) -> i64 {
        SystemClock.setting() + self.ahead.get()
    }
}

#[test]
fn a_clock_that_is_set_empties_the_cache() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let ahead = Rc::new(Cell::new(0));
    let clock = Set { ahead: Rc::clone(&ahead) };
    let mut verdicts = Verdicts::with_clock(bench.trust.clone(), 8, clock);
    judge(&mut verdicts, &path);
    assert!(judge(&mut verdicts, &path).known);
    for second in [-1, 0, 3600] {
        ahead.set(second * 1_000_000_000);
        let judged = judge(&mut verdicts, &path);
        assert_eq!((judged.known, judged.evicted.len()), (false, 1), "set to {second} s");
    }
    ahead.set(0);
    assert_eq!(verdicts.sweep().len(), 1, "nobody need ask for the file");
}

/// Never gets anywhere, and counts how often it is looked at.
struct Stopped(Rc<Cell<usize>>);

impl Clock for Stopped {
    fn file_time(&self) -> i64 {
        self.0.set(self.0.get() + 1);
        0
    }

    fn setting(&self) -> i64 {
        0
    }
}

/// A user could have all execs of the node wait for the clock of a file that he writes over and over.
#[test]
fn nobody_waits_for_a_users_file_that_has_no_good_label() {
    let bench = Bench::new();
    let stranger = PrivateKey::generate(bench.path("stranger")).unwrap();
    let looks = Rc::new(Cell::new(0));
    let mut verdicts = Verdicts::with_clock(bench.trust.clone(), 8, Stopped(Rc::clone(&looks)));
    let unlabelled = bench.write("unlabelled", SCRIPT);
    let strange = bench.write("strange", SCRIPT);
    label(&strange, 2, 7, Some(&stranger), How::default()).unwrap();
    for (path, unsigned) in [(&unlabelled, "no label"), (&strange, "a strange key")] {
        judge(&mut verdicts, path);
        assert!(looks.replace(0) > 1, "root's file, {unsigned}: it must be known for good");
        std::os::unix::fs::chown(path, Some(1000), None).unwrap();
        let judged = judge(&mut verdicts, path);
        assert!(judged.verdict.is_err() && verdicts.is_empty(), "{unsigned}: {judged:?}");
        assert_eq!(looks.replace(0), 1, "{unsigned}");
    }
}

/// Set back, the clock would reach the change time once more: the lease has to stay.
#[test]
fn a_file_from_the_future_keeps_its_lease() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let clock = Set { ahead: Rc::new(Cell::new(-3_600_000_000_000)) };
    let mut verdicts = Verdicts::with_clock(bench.trust.clone(), 8, clock);
    assert!(judge(&mut verdicts, &path).verdict.is_ok());
    let hasty = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    assert_eq!(hasty.unwrap_err().raw_os_error(), Some(libc::EWOULDBLOCK));
    assert_eq!(verdicts.sweep().len(), 1);
}

#[test]
fn the_oldest_verdict_makes_room() {
    let bench = Bench::new();
    let mut verdicts = Verdicts::new(bench.trust.clone(), 2);
    let paths = ["a", "b", "c"].map(|name| {
        let path = bench.write(name, SCRIPT);
        bench.sign(&path);
        path
    });
    let first = judge(&mut verdicts, &paths[0]);
    judge(&mut verdicts, &paths[1]);
    let third = judge(&mut verdicts, &paths[2]);
    assert_eq!(third.evicted.iter().map(|one| Some(one.key)).collect::<Vec<_>>(), [first.key]);
    assert_eq!(verdicts.len(), 2);
    assert!(judge(&mut verdicts, &paths[1]).known);
    assert!(!judge(&mut verdicts, &paths[0]).known);
}

#[test]
fn a_revocation_empties_what_it_concerns() {
    let bench = Bench::new();
    let mut verdicts = Verdicts::new(bench.trust.clone(), 8);
    let [bad, good] = ["bad", "good"].map(|name| {
        let path = bench.write(name, name);
        bench.sign(&path);
        path
    });
    let plain = bench.write("plain", OTHER);
    thread::sleep(Duration::from_millis(50));
    let revoked = judge(&mut verdicts, &bad);
    judge(&mut verdicts, &good);
    judge(&mut verdicts, &plain);
    let signature = revoked.verdict.unwrap().signature;
    let gone = verdicts.replace(Trust::new([signer(&bench.key)], [], [signature]));
    assert_eq!(gone.iter().map(|one| Some(one.key)).collect::<Vec<_>>(), [revoked.key]);
    assert_eq!(judge(&mut verdicts, &bad).verdict, Err(Unsigned::RevokedSignature { signature }));
    assert!(judge(&mut verdicts, &good).known && judge(&mut verdicts, &plain).known);
    // Back again: what was refused because of the trust is asked again.
    let gone = verdicts.replace(bench.trust.clone());
    assert_eq!(gone.len(), 1);
    assert!(judge(&mut verdicts, &bad).verdict.is_ok());
    let zones = Signer { scids: Scids::Only([3].into()), ..signer(&bench.key) };
    assert_eq!(verdicts.replace(Trust::new([zones], [], [])).len(), 2);
}

#[test]
fn without_the_right_to_a_lease_nothing_is_verified() {
    let bench = Bench::new();
    let path = signed_script(&bench);
    let file = File::open(&path).unwrap();
    let trust = bench.trust.clone();
    let verdict = thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
        Verdicts::new(trust, 8).judge(&file).verdict
    });
    let expected = Err(Unsigned::Unreadable { errno: rustix::io::Errno::ACCESS });
    assert_eq!(verdict.join().unwrap(), expected);
}
