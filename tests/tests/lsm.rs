//! What programs at LSM hooks refuse: each attack fails with EPERM, before anything happens. Where the
//! kernel does not take such programs these tests cannot run: `scripts/test-kernels` runs them where it
//! does.

use anyhow::Result;
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Node};

const POLICY: &str = include_str!("processes/policy.xml");
const USER: u32 = 10;
const RIGID: u32 = 30;
const SINGLE: u32 = 40;
const STRICT: u32 = 50;

const PYTHON: &str = "/usr/bin/python3";

/// A node whose agent insists on LSM programs.
fn node() -> Result<Cluster> {
    let mut cluster = Cluster::prepare("lsm", &Setting { suite: None, ..Setting::of(POLICY) })?;
    let member = cluster.member("one")?;
    member.config.backend = "lsm".into();
    member.start()?;
    Ok(cluster)
}

/// Runs a python program in a zone, or in none, to its end: what it printed.
fn python(node: &Node, zone: Option<u32>, program: &str) -> Result<String> {
    let program = format!(
        "import os, socket, sys\n\
         def attempt(act):\n\
         \x20   try: act(); return 'ok'\n\
         \x20   except OSError as error: return type(error).__name__\n\
         {program}"
    );
    let argv = [PYTHON, "-c", &program];
    let output = zone.map_or_else(|| node.run(&argv), |zone| node.run_zone(zone, &argv))?;
    anyhow::ensure!(output.stderr.is_empty(), "{}", output.stderr);
    Ok(output.stdout.trim().to_owned())
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_fork_that_no_rule_allows_fails() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let fork = "child = attempt(lambda: os.fork() or os._exit(0))\nprint(child)";
    assert_eq!(python(one, Some(SINGLE), fork)?, "PermissionError");
    assert_eq!(python(one, Some(USER), fork)?, "ok");
    assert_eq!(python(one, None, fork)?, "ok");
    let vfork = "print(attempt(lambda: os.posix_spawn('/bin/true', ['true'], {})))";
    assert_eq!(python(one, Some(SINGLE), vfork)?, "PermissionError");
    let threads = "import threading\nthreading.Thread(target=lambda: print('ran')).start()";
    assert_eq!(python(one, Some(SINGLE), threads)?, "ran", "threads are no children");
    assert_eq!(one.stats()?.dropped("process", "process-permission"), 2);
    one.stats()?.balanced()
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn an_exec_that_no_rule_allows_fails() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    let mut watch = one.watch()?;
    // Nobody guards the file system of these programs: the gate is not asked.
    for (zone, reason) in [(RIGID, "process-permission"), (STRICT, "unsigned")] {
        let refused = one.run_zone(zone, &["/bin/echo", "ran"])?;
        assert_eq!((refused.code, refused.stdout.as_str()), (126, ""), "{refused:?}");
        let event = watch.next(sigil_harness::PATIENCE, |event| event.reason == reason)?;
        assert_eq!((event.source.scid, event.hook.as_str()), (zone, "process"));
    }
    one.stats()?.balanced()
}

#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn status_says_that_it_refuses() -> Result<()> {
    let cluster = node()?;
    let one = cluster.node("one")?;
    assert_eq!(one.status()?["backend"], "lsm");
    let table = one.ctl(&["status"])?.stdout;
    assert!(table.contains("refused before it happens"), "{table}");
    Ok(())
}
