//! PROCESS and TRANSITION rules: what is refused, how that looks, and who is told.

use anyhow::Result;
use sigil_harness::{PATIENCE, until};

use crate::{Bench, RIGID, SECURE, SINGLE, STRICT, USER, gone, tamper, text};

#[test]
fn an_exec_that_no_rule_allows_fails_with_eperm_and_is_told() -> Result<()> {
    let bench = Bench::without_lsm("rules-exec")?;
    let program = bench.shell("program", false)?;
    let mut watch = bench.node()?.watch()?;
    // labelctl itself becomes the zone's process, and executes: out of a zone without EXECVE, nothing.
    let output = bench.node()?.run_zone(RIGID, &[text(&program)?, "-c", "echo ran"])?;
    assert!(output.stdout.is_empty() && !output.success(), "{output:?}");
    assert!(output.stderr.contains("not permitted"), "{output:?}");
    assert_eq!(output.code, 126, "{output:?}");
    // Where nobody asked, it ends before its first instruction.
    let output = bench.node()?.run_zone(RIGID, &["/bin/echo", "ran"])?;
    assert_eq!((output.code, output.stdout.as_str()), (128 + 9, ""), "{output:?}");
    let event = watch.next(PATIENCE, |event| event.reason == "process-permission")?;
    assert_eq!(event.source.scid, RIGID);
    assert!(bench.node()?.stats()?.dropped("process", "process-permission") >= 1);
    bench.node()?.stats()?.balanced()
}

#[test]
fn a_script_is_judged_as_any_program() -> Result<()> {
    let bench = Bench::start("rules-script")?;
    let shell = bench.shell("sh", false)?;
    let body = format!("#!{}\necho ran\n", text(&shell)?);
    let script = bench.programs.script("script", &body)?;
    assert_eq!(bench.node()?.run_zone(USER, &[text(&script)?])?.stdout.trim(), "ran");
    let refused = bench.node()?.run_zone(RIGID, &[text(&script)?])?;
    assert!(refused.stdout.is_empty() && !refused.success(), "{refused:?}");
    Ok(())
}

#[test]
fn a_program_of_another_zone_needs_a_transition() -> Result<()> {
    let bench = Bench::start("rules-transition")?;
    let program = bench.shell("program", true)?;
    let run = |zone| bench.node()?.run_zone(zone, &[text(&program)?, "-c", "echo ran"]);
    assert_eq!(run(USER)?.stdout.trim(), "ran");
    assert_eq!(run(SECURE)?.stdout.trim(), "ran", "of its own zone");
    let refused = run(SINGLE)?;
    assert!(refused.stdout.is_empty() && refused.code == 126, "{refused:?}");
    Ok(())
}

#[test]
fn a_zone_may_refuse_every_unsigned_and_every_tampered_program() -> Result<()> {
    let bench = Bench::without_lsm("rules-unsigned")?;
    let signed = bench.shell("signed", true)?;
    let unsigned = bench.shell("unsigned", false)?;
    let tampered = bench.programs.copy(&signed, "tampered")?;
    tamper(&tampered)?;
    let run = |program| bench.node()?.run_zone(STRICT, &[text(program)?, "-c", "echo ran"]);
    for _ in 0..2 {
        assert_eq!(run(&signed)?.stdout.trim(), "ran");
        for program in [&unsigned, &tampered] {
            let refused = run(program)?;
            assert!(refused.stdout.is_empty() && refused.code == 126, "{refused:?}");
        }
    }
    // Where the gate is not asked, it ends before its first instruction.
    let output = bench.node()?.run_zone(STRICT, &["/bin/echo", "ran"])?;
    assert_eq!((output.code, output.stdout.as_str()), (128 + 9, ""), "{output:?}");
    assert_eq!(bench.node()?.stats()?.dropped("process", "unsigned"), 1);
    bench.node()?.stats()?.balanced()
}

/// Where nobody sees what becomes code, a zone that demands signed code runs nothing, and that is said.
#[test]
fn a_zone_that_demands_signed_code_runs_nothing_where_nobody_sees_to_it() -> Result<()> {
    let bench = Bench::without_lsm("rules-code")?;
    let signed = bench.shell("signed", true)?;
    let run = || bench.node()?.run_zone(USER, &[text(&signed)?, "-c", "echo ran"]);
    assert_eq!(run()?.stdout.trim(), "ran");
    let demand = "<name> secure </name><code> signed </code>";
    let policy = bench.policy.replace("serial=\"1\"", "serial=\"2\"");
    bench.load(&policy.replace("<name> secure </name>", demand))?;
    let refused = run()?;
    assert_eq!((refused.code, refused.stdout.as_str()), (126, ""), "{refused:?}");
    // Where the gate is not asked, too.
    let output = bench.node()?.run_zone(SECURE, &["/bin/echo", "ran"])?;
    assert_eq!((output.code, output.stdout.as_str()), (128 + 9, ""), "{output:?}");
    assert_eq!(bench.node()?.stats()?.dropped("process", "unsigned-code"), 1);
    for command in ["status", "doctor"] {
        let said = bench.node()?.ctl(&[command])?.stdout;
        assert!(said.contains("zones run nothing here") && said.contains("secure"), "{said}");
    }
    bench.load(&policy.replace("serial=\"2\"", "serial=\"3\""))?;
    assert_eq!(run()?.stdout.trim(), "ran");
    bench.node()?.stats()?.balanced()
}

#[test]
fn a_child_that_no_rule_allows_dies_before_it_does_anything() -> Result<()> {
    let bench = Bench::without_lsm("rules-fork")?;
    let mut watch = bench.node()?.watch()?;
    let program = "import os, socket, sys\n\
                   child = os.fork()\n\
                   if child == 0:\n\
                   \x20   while True:\n\
                   \x20       try:\n\
                   \x20           socket.socket(socket.AF_INET, socket.SOCK_DGRAM); print('free', flush=True)\n\
                   \x20       except OSError: pass\n\
                   _, status = os.waitpid(child, 0)\n\
                   print(child, os.WTERMSIG(status))\n";
    let said = bench.python(SINGLE, program)?;
    let (child, signal) = said.split_once(' ').unwrap_or_default();
    assert_eq!(signal, "9", "{said}");
    gone(child)?;
    let event = watch.next(PATIENCE, |event| event.reason == "process-permission")?;
    assert_eq!(event.process.map(|process| process.pid.to_string()).as_deref(), Some(child));
    // Threads are no children.
    let threads = "import threading\nthreading.Thread(target=lambda: print('ran')).start()";
    assert_eq!(bench.python(SINGLE, threads)?, "ran");
    let counted =
        || Ok((bench.node()?.stats()?.dropped("process", "process-permission") == 1).then_some(()));
    until("count of the refused fork", PATIENCE, counted)?;
    bench.node()?.stats()?.balanced()
}

#[test]
fn status_says_what_keeps_the_rules() -> Result<()> {
    let bench = Bench::without_lsm("rules-status")?;
    let status = bench.node()?.status()?;
    assert_eq!(status["backend"], "fanotify");
    assert_eq!(status["guarded"][0], text(bench.programs.path())?);
    let table = bench.node()?.ctl(&["status"])?.stdout;
    assert!(
        table.contains("a refused fork is killed, not refused (the configuration says so)"),
        "{table}"
    );
    Ok(())
}
