//! Which label a program has from its first instruction on, in every odd way to start one.

use std::fs;

use anyhow::Result;

use crate::{Bench, PYTHON, SECURE, USER, WAIT, ready, tamper, text};

#[test]
fn a_signed_program_gets_to_its_zone_and_a_copy_or_a_tampered_one_does_not() -> Result<()> {
    let bench = Bench::start("exec-signed")?;
    let signed = bench.shell("signed", true)?;
    let unsigned = bench.shell("unsigned", false)?;
    let tampered = bench.programs.copy(&signed, "tampered")?;
    tamper(&tampered)?;
    for (program, label) in [(&signed, SECURE), (&unsigned, 0), (&tampered, 0), (&signed, SECURE)] {
        let process = bench.waiting(program)?;
        assert_eq!(bench.label_of(&process)?, label, "{}", program.display());
    }
    // The label is gone with the first byte that changes, also of a file that was judged before.
    tamper(&signed)?;
    assert_eq!(bench.label_of(&bench.waiting(&signed)?)?, 0);
    Ok(())
}

#[test]
fn a_scripts_own_label_counts() -> Result<()> {
    let bench = Bench::start("exec-script")?;
    let shell = bench.shell("sh", false)?;
    let body = format!("#!{}\n{WAIT}\n", text(&shell)?);
    let good = bench.programs.script("good", &body)?;
    bench.sign(&good)?;
    let unsigned = bench.programs.script("unsigned", &body)?;
    for _ in 0..3 {
        let process = ready(bench.node()?.spawn(&[text(&good)?])?)?;
        assert_eq!(bench.label_of(&process)?, SECURE);
        let process = ready(bench.node()?.spawn(&[text(&unsigned)?])?)?;
        assert_eq!(bench.label_of(&process)?, 0);
        // Read as data: the interpreter's label counts, and it has none.
        let process = ready(bench.node()?.spawn(&[text(&shell)?, text(&good)?])?)?;
        assert_eq!(bench.label_of(&process)?, 0);
    }
    // An interpreter that others may write to decides for itself what happens.
    let loose = bench.shell("loose", false)?;
    fs::set_permissions(&loose, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let script = bench.programs.script("on-loose", &format!("#!{}\n{WAIT}\n", text(&loose)?))?;
    bench.sign(&script)?;
    let process = ready(bench.node()?.spawn(&[text(&script)?])?)?;
    assert_eq!(bench.label_of(&process)?, 0);
    Ok(())
}

/// A good script whose exec fails leaves nothing behind for what the same thread executes next, where
/// the gate does not see that: in memory, by a descriptor, on a file system that nobody guards.
#[test]
fn a_failed_exec_lends_its_label_to_nobody() -> Result<()> {
    let bench = Bench::start("exec-stale")?;
    let shell = bench.shell("sh", false)?;
    let body = format!("#!{}\n{WAIT}\n", text(&shell)?);
    let good = bench.programs.script("good", &body)?;
    bench.sign(&good)?;
    let by_itself = ready(bench.node()?.spawn(&[text(&good)?])?)?;
    assert_eq!(bench.label_of(&by_itself)?, SECURE, "there is a label to take");
    let elsewhere = bench.node()?.directory().join("elsewhere");
    fs::write(&elsewhere, &body)?;
    fs::set_permissions(&elsewhere, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let attack = |then: &str| {
        format!(
            "import os\n\
             try: os.execv('{good}', ['x', 'y' * (64 << 20)])\n\
             except OSError as error: pass\n\
             {then}\n",
            good = good.display()
        )
    };
    let in_memory = format!(
        "fd = os.memfd_create('m', 0); os.write(fd, b'#!{}\\n{WAIT}\\n'); os.execve(fd, ['m'], {{}})",
        shell.display()
    );
    let unguarded = format!("os.execv('{0}', ['{0}'])", elsewhere.display());
    for then in [in_memory, unguarded] {
        let program = attack(&then);
        let process = ready(bench.node()?.spawn(&[PYTHON, "-c", &program])?)?;
        assert_eq!(bench.label_of(&process)?, 0, "{then}");
    }
    Ok(())
}

#[test]
fn a_descriptor_is_as_good_as_a_path_for_a_program_but_not_for_a_script() -> Result<()> {
    let bench = Bench::start("exec-fd")?;
    let signed = bench.shell("signed", true)?;
    let shell = bench.shell("sh", false)?;
    let script = bench.programs.script("good", &format!("#!{}\n{WAIT}\n", text(&shell)?))?;
    bench.sign(&script)?;
    let by = |open: &str, exec: &str| format!("import os\nfd = os.open({open})\n{exec}\n");
    let run = |path: &str, flags: &str, exec: &str| -> Result<u32> {
        let program = by(&format!("'{path}', {flags}"), exec);
        let process = ready(bench.node()?.spawn(&[PYTHON, "-c", &program])?)?;
        bench.label_of(&process)
    };
    let fexecve = format!("os.execve(fd, ['x', '-c', '{WAIT}'], {{'PATH': '/bin'}})");
    let proc_fd = format!("os.execv(f'/proc/self/fd/{{fd}}', ['x', '-c', '{WAIT}'])");
    for (flags, exec) in
        [("os.O_RDONLY", &fexecve), ("os.O_PATH", &fexecve), ("os.O_RDONLY", &proc_fd)]
    {
        assert_eq!(run(text(&signed)?, flags, exec)?, SECURE, "{flags} {exec}");
    }
    let by_path = ready(bench.node()?.spawn(&[text(&script)?])?)?;
    assert_eq!(bench.label_of(&by_path)?, SECURE);
    // Its interpreter opens the descriptor again: what it reads is not what was judged.
    let inherited = "os.set_inheritable(fd, True)\nos.execve(fd, ['x'], {'PATH': '/bin'})";
    assert_eq!(run(text(&script)?, "os.O_RDONLY", inherited)?, 0);
    // In memory there is no signature that anybody could have checked.
    let program = format!(
        "import os\nfd = os.memfd_create('m', os.MFD_CLOEXEC)\n\
         os.write(fd, open('{}', 'rb').read())\n{fexecve}\n",
        signed.display()
    );
    let process = ready(bench.node()?.spawn(&[PYTHON, "-c", &program])?)?;
    assert_eq!(bench.label_of(&process)?, 0);
    Ok(())
}

#[test]
fn threads_share_a_label_and_any_of_them_may_execute() -> Result<()> {
    let bench = Bench::start("exec-thread")?;
    let signed = bench.shell("signed", true)?;
    let shell = bench.shell("sh", false)?;
    let script = bench.programs.script("good", &format!("#!{}\n{WAIT}\n", text(&shell)?))?;
    bench.sign(&script)?;
    for (path, arguments) in [(&signed, format!("'-c', '{WAIT}'")), (&script, String::new())] {
        let path = path.display();
        let program = format!(
            "import os, threading, time\n\
             threading.Thread(target=lambda: os.execv('{path}', ['{path}', {arguments}])).start()\n\
             time.sleep(60)\n"
        );
        let process = ready(bench.node()?.spawn(&[PYTHON, "-c", &program])?)?;
        assert_eq!(bench.label_of(&process)?, SECURE, "{path}");
    }
    Ok(())
}

#[test]
fn a_setuid_program_follows_the_same_rules() -> Result<()> {
    let bench = Bench::start("exec-setuid")?;
    for (name, signed, label) in [("signed", true, SECURE), ("unsigned", false, 0)] {
        let program = bench.shell(name, signed)?;
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755))?;
        let process = bench.waiting(&program)?;
        assert_eq!(bench.label_of(&process)?, label, "{name}");
        // And where it makes a difference to everybody else.
        let nobody = ["setpriv", "--reuid=65534", "--clear-groups", text(&program)?, "-pc", WAIT];
        let process = ready(bench.node()?.spawn(&nobody)?)?;
        assert_eq!(bench.label_of(&process)?, label, "{name}, of nobody's");
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
        assert!(status.contains("\nUid:\t65534\t0\t0\t0\n"), "{status}");
    }
    Ok(())
}

#[test]
fn children_inherit_and_stay_where_they_are() -> Result<()> {
    let bench = Bench::start("exec-fork")?;
    let signed = bench.shell("signed", true)?;
    let unsigned = bench.shell("unsigned", false)?;
    let script = format!("{} -c 'echo ready; sleep 60' & echo $!; wait", text(&unsigned)?);
    let parent = bench.node()?.spawn(&[text(&signed)?, "-c", &script])?;
    let child = parent.wait_line(crate::PATIENCE, |line| line.parse::<u32>().is_ok())?;
    parent.wait_line(crate::PATIENCE, |line| line == "ready")?;
    // An unsigned program is nobody's: the policy does not say where it leads.
    assert_eq!(bench.task(child.parse()?)?.scid(), SECURE);
    let user = bench.node()?.spawn_zone(USER, &[text(&signed)?, "-c", WAIT])?;
    assert_eq!(bench.label_of(&ready(user)?)?, SECURE, "by labelctl run");
    Ok(())
}

/// An ended process's id, given to a child of somebody without a label.
#[test]
fn a_reused_id_has_nothing_of_who_had_it_before() -> Result<()> {
    let bench = Bench::start("exec-reuse")?;
    let signed = bench.waiting(&bench.shell("signed", true)?)?;
    let id = signed.pid();
    assert_eq!(bench.label_of(&signed)?, SECURE);
    drop(signed);
    assert_eq!(bench.task(id)?.scid(), SECURE, "the entry is still there");
    // clone3 with set_tid.
    let program = format!(
        "import ctypes, time\n\
         tid = ctypes.c_int32({id})\n\
         args = (ctypes.c_uint64 * 11)()\n\
         args[4], args[8], args[9] = 17, ctypes.addressof(tid), 1\n\
         child = ctypes.CDLL(None, use_errno=True).syscall(435, args, ctypes.sizeof(args))\n\
         if child: print(child, ctypes.get_errno(), flush=True)\n\
         time.sleep(60)\n"
    );
    let parent = bench.node()?.spawn(&[PYTHON, "-c", &program])?;
    let expected = format!("{id} 0");
    let said = parent.wait_line(crate::PATIENCE, |_| true)?;
    assert_eq!(said, expected);
    assert_eq!(bench.task(id)?.scid(), 0);
    Ok(())
}

#[test]
fn what_ran_before_the_agent_is_labelled_and_outlives_it() -> Result<()> {
    let mut bench = Bench::prepare("exec-before")?;
    let signed = bench.shell("signed", true)?;
    let unsigned = bench.shell("unsigned", false)?;
    let before = (bench.waiting(&signed)?, bench.waiting(&unsigned)?);
    bench.cluster.member("one")?.start()?;
    let labels =
        |bench: &Bench| anyhow::Ok((bench.label_of(&before.0)?, bench.label_of(&before.1)?));
    assert_eq!(labels(&bench)?, (SECURE, 0), "it was there before");
    assert!(bench.task(before.1.pid())?.is_known());
    let known = bench.waiting(&signed)?;

    bench.cluster.member("one")?.take_agent()?.kill9()?;
    assert_eq!(labels(&bench)?, (SECURE, 0), "the agent was killed");
    assert_eq!(bench.label_of(&known)?, SECURE);
    // What was judged keeps its label; what was not counts as unsigned, and nothing waits.
    assert_eq!(bench.label_of(&bench.waiting(&signed)?)?, SECURE);
    let unseen = bench.shell("unseen", true)?;
    assert_eq!(bench.label_of(&bench.waiting(&unseen)?)?, 0);

    bench.cluster.member("one")?.start()?;
    assert_eq!(labels(&bench)?, (SECURE, 0), "the agent is back");
    assert_eq!(bench.label_of(&bench.waiting(&unseen)?)?, SECURE);
    Ok(())
}
