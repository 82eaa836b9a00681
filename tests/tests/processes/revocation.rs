//! A signature that is revoked ends what runs by it, with all that it holds open.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sigil_binary::{How, find, label};
use sigil_harness::{Process, binary, slower, until};

use crate::{Bench, PATIENCE, SECURE, USER, ready, text};

/// How long a revoked program may go on.
fn at_most() -> Duration {
    Duration::from_secs(1) * slower()
}

impl Bench {
    /// The tests' policy, with one signature taken back.
    fn revoking(&self, program: &Path) -> Result<String> {
        let signature = find(&fs::File::open(program)?)?.record.signature_id();
        let hex = signature.0.map(|byte| format!("{byte:02x}")).concat();
        let revoked = format!("<revoked><signature> {hex} </signature></revoked>\n</DSP>");
        Ok(self.policy.replace("serial=\"1\"", "serial=\"2\"").replace("</DSP>", &revoked))
    }

    /// A program signed for `secure`, by a signature of its own.
    fn release(&self, of: &Path, name: &str, serial: u64) -> Result<std::path::PathBuf> {
        let path = self.programs.copy(of, name)?;
        label(&path, SECURE, serial, Some(&self.key), How::default())?;
        Ok(path)
    }

    pub(crate) fn load(&self, policy: &str) -> Result<()> {
        let file = self.node()?.directory().join("next.xml");
        fs::write(&file, policy)?;
        let output = self.node()?.ctl(&["load", text(&file)?])?;
        ensure!(output.success(), "{}", output.stderr);
        Ok(())
    }
}

fn ended(process: &mut Process) -> Result<()> {
    until("end of the process", PATIENCE, || Ok((!process.is_running()?).then_some(())))
}

/// The child of a shell that waits, in `sleep`: a program without a signature.
fn child_of(process: &Process) -> Result<String> {
    let pid = process.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.split_whitespace().next().context("no child").map(str::to_owned)
}

#[test]
fn what_runs_by_a_revoked_signature_ends_within_a_second_and_nothing_else_does() -> Result<()> {
    let bench = Bench::start("revoked")?;
    let shell = fs::canonicalize("/bin/sh")?;
    let (bad, good) = (bench.release(&shell, "bad", 1)?, bench.release(&shell, "good", 2)?);
    let traffic = bench.release(&binary("sigil-traffic")?, "talks", 3)?;
    let _server = bench.node()?.serve(Some(SECURE), &["tcp-echo", "9000"])?;

    let (mut goes, stays) = (bench.waiting(&bad)?, bench.waiting(&good)?);
    assert_eq!((bench.label_of(&goes)?, bench.label_of(&stays)?), (SECURE, SECURE));
    let child = child_of(&goes)?;
    let mut watch = bench.node()?.watch()?;
    bench.load(&bench.revoking(&bad)?)?;
    let start = Instant::now();
    ended(&mut goes)?;
    crate::gone(&child)?;
    assert!(start.elapsed() < at_most(), "{:?}", start.elapsed());
    let event = watch.next(PATIENCE, |event| event.reason == "revoked")?;
    assert_eq!((event.source.scid, event.hook.as_str()), (SECURE, "process"));
    let told = event.process.context("no process")?;
    assert!([goes.pid().to_string(), child.clone()].contains(&told.pid.to_string()), "{told:?}");
    assert_eq!(bench.label_of(&stays)?, SECURE, "another signature by the same key");
    // Who starts it anew is nobody's.
    assert_ne!(bench.label_of(&bench.waiting(&bad)?)?, SECURE);

    // A live flow.
    let argv = [text(&traffic)?, "tcp-exchange", "127.0.0.1:9000", "60s"];
    let mut flow = bench.node()?.spawn_zone(USER, &argv)?;
    until(
        "flow of the process",
        PATIENCE,
        || Ok((bench.label_of(&flow)? == SECURE).then_some(())),
    )?;
    bench.load(&bench.revoking(&traffic)?.replace("serial=\"2\"", "serial=\"3\""))?;
    let start = Instant::now();
    ended(&mut flow)?;
    assert!(start.elapsed() < at_most(), "{:?}", start.elapsed());
    bench.node()?.stats()?.balanced()
}

/// Not even an agent that was not there when the process started, or the policy came, forgets.
#[test]
fn a_new_agent_ends_what_its_policy_revokes() -> Result<()> {
    let mut bench = Bench::start("revoked-restart")?;
    let shell = fs::canonicalize("/bin/sh")?;
    let bad = bench.programs.copy(&shell, "bad")?;
    // Not root's alone to write: what the agent before found out is all that is known of it.
    std::os::unix::fs::chown(&bad, Some(65534), None)?;
    bench.sign(&bad)?;
    let mut goes = bench.waiting(&bad)?;
    assert_eq!(bench.label_of(&goes)?, SECURE);
    let policy = bench.revoking(&bad)?;
    let member = bench.cluster.member("one")?;
    member.take_agent()?.kill9()?;
    assert!(goes.is_running()?);
    fs::write(&member.config.policy, policy)?;
    member.start()?;
    ended(&mut goes)?;
    assert_ne!(bench.label_of(&bench.waiting(&bad)?)?, SECURE);
    Ok(())
}

/// A process that execs as fast as it can is always between two words of the table.
#[test]
fn nobody_escapes_by_executing_all_the_time() -> Result<()> {
    let bench = Bench::start("revoked-racing")?;
    let bad = bench.release(&fs::canonicalize("/bin/sh")?, "bad", 1)?;
    let race = format!("echo ready; exec {0} -c \"{1}\"", text(&bad)?, {
        let again =
            bench.programs.script("again", &format!("#!{0}\nexec {0} $0\n", text(&bad)?))?;
        format!("exec {} {}", text(&bad)?, text(&again)?)
    });
    let mut racers = (0..8)
        .map(|_| ready(bench.node()?.spawn_zone(USER, &[text(&bad)?, "-c", &race])?))
        .collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_millis(100));
    for racer in &mut racers {
        assert!(racer.is_running()?);
        assert_eq!(bench.label_of(racer)?, SECURE);
    }
    bench.load(&bench.revoking(&bad)?)?;
    racers.iter_mut().try_for_each(ended)?;
    Ok(())
}
