//! The kernel takes every program. (Needs root.)
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]
use sigil_datapath::{Datapath, Limits, Mode, Options};

#[test]
fn the_kernel_takes_every_program() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        snid: 1,
        interfaces: vec![],
        mode: Mode::Auto,
        cgroup: "/sys/fs/cgroup".into(),
        pins: dir.path().join("bpf"),
        state: dir.path().join("state"),
        observe: false,
        doi: [0x10, 0, 0x10, 0],
        pass_ethertypes: vec![],
        limits: Limits::default(),
    };
    let (mut datapath, _) = Datapath::open(&options).unwrap_or_else(|e| panic!("{e:?}"));
    let r = datapath.load_all();
    let _ = nix::mount::umount(&options.pins);
    for (name, size) in r.unwrap_or_else(|e| panic!("{e:?}")) {
        eprintln!("{name} {size:?}");
    }
}
