//! The commands that talk to the agent, against one that says what the test wants.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use assert_cmd::cargo::CommandCargoExt;
use sigil_control::{
    Counts, Endpoint, Event, EventKind, Failure, FailureKind, HeldKeys, InForce, Labelled, Loaded,
    MAX_REPLY, Pair, Reply, Request, Stats, Status, decode, encode,
};

const POLICY: &str = "<DSP cluster=\"lab\" serial=\"7\"/>\n";

fn labelctl(directory: &Path, arguments: &str) -> Command {
    let mut command = Command::cargo_bin("labelctl").unwrap();
    command.args(["--socket", "agent.sock"]).args(arguments.split_whitespace());
    command
        .current_dir(directory)
        .env_remove("SIGIL_SOCKET")
        .env_remove("SIGIL_ADMIN")
        .env("COLUMNS", "100");
    command
}

/// Runs a command against an agent that gives these replies; the request, and what came out.
fn told(arguments: &str, replies: &[Reply]) -> (Request, Output) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.xml"), POLICY).unwrap();
    let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
    thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            let mut line = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
            for reply in replies {
                (&stream).write_all(&encode(reply, MAX_REPLY).unwrap()).unwrap();
            }
            decode(&line).unwrap()
        });
        let output = labelctl(directory.path(), arguments).output().unwrap();
        (agent.join().unwrap(), output)
    })
}

fn shown(arguments: &str, replies: &[Reply]) -> String {
    let (request, output) = told(arguments, replies);
    // The document's name has the temporary directory in it.
    let request = format!("{request:?}");
    let request = request.split("name: ").next().unwrap_or_default().to_owned();
    format!(
        "$ labelctl {arguments}\n--- request\n{request}\n--- stdout\n{}--- stderr\n{}--- exit {}\n",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}

fn failed(kind: FailureKind, message: &str) -> Reply {
    Reply::Failed(Failure { kind, message: message.to_owned() })
}

/// The agent has this in force.
fn shows(part_of: Option<u32>) -> Reply {
    let document = r#"<DSP cluster="lab" serial="7">
  <node><SnID> 1 </SnID><name> one </name><address> 10.77.0.1 </address></node>
  <node><SnID> 2 </SnID><name> two </name><address> 10.77.0.2 </address></node>
  <zone><ScID> 10 </ScID><name> web </name></zone>
  <SOCKET_class_rule>
    <sSnID> * </sSnID><sScID> web </sScID><tSnID> * </tSnID><tScID> web </tScID><allow> CREATE </allow>
  </SOCKET_class_rule>
</DSP>"#;
    let (name, document) = ("/etc/sigil/dsp.xml".to_owned(), document.to_owned());
    Reply::InForce(InForce { name, document, part_of })
}

fn held((key_id, stamps): (u8, bool)) -> HeldKeys {
    HeldKeys { key_id, suite: "siphash-2-4-96".to_owned(), pairs: 4, stamps }
}

fn labelled() -> Reply {
    Reply::Labelled(Labelled { scid: 10, zone: "web".to_owned() })
}

fn event(time_ns: u64) -> Reply {
    Reply::Event(Event {
        time_ns,
        time_us: 86_399_000_000 + time_ns,
        kind: EventKind::Drop,
        hook: "ingress".to_owned(),
        reason: "bad-icv".to_owned(),
        protocol: Some("udp".to_owned()),
        source: Endpoint { snid: 2, scid: 10, ..Endpoint::default() },
        target: Endpoint { snid: 1, ..Endpoint::default() },
        process: None,
        line: None,
        suppressed: 0,
    })
}

macro_rules! commands {
    ($($name:ident: $arguments:expr => $replies:expr;)+) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(shown($arguments, &$replies));
        })+
    };
}

commands! {
    load_says_what_is_in_force: "load policy.xml" => [Reply::Loaded(Loaded {
        changed: true,
        cluster: "lab".to_owned(),
        serial: 7,
        generation: 2,
        peers: 12,
        verdicts: 30,
        ..Loaded::default()
    })];
    load_refused_is_a_no: "load policy.xml" => [failed(FailureKind::Policy, "dsp::serial\n  × serial 7 is not above 7")];
    load_forbidden_is_a_failure: "load --dry-run" => [failed(FailureKind::Refused, "user 1000 may not load a policy: ask as root")];
    status_in_order: "status" => [Reply::Status(Status {
        snid: 1,
        node: Some("one".to_owned()),
        enforcing: true,
        uptime: 61,
        ..Status::default()
    })];
    explain_of_the_agents_policy: "policy explain --source one:web --target 1:web --class SOCKET --permission CREATE" => [shows(None)];
    explain_of_a_nodes_part: "policy explain --source 1:10 --class PROCESS --permission FORK" => [shows(Some(1))];
    explain_of_others_is_the_servers: "policy explain --source 2:10 --class PROCESS --permission FORK" => [shows(Some(1))];
    explain_of_nothing: "policy explain --source 1:10 --class PROCESS --permission FORK"
        => [failed(FailureKind::Failed, "no policy came yet: nothing is allowed")];
    explain_slips: "policy explain --source one:wbe --class PROCESS --permission FORK" => [shows(None)];
    status_warns_of_the_last_epoch: "status" => [Reply::Status(Status {
        keys: [(1, false), (2, true)].map(held).to_vec(),
        spare_epochs: Some(0),
        warnings: vec!["key id 2 is the last epoch of the key file".to_owned()],
        ..Status::default()
    })];
    status_amiss_is_a_no: "status -o json" => [Reply::Status(Status {
        problems: vec!["tc_stamp on eth0 is gone".to_owned()],
        ..Status::default()
    })];
    stats_as_json: "stats -o json --explain" => [Reply::Stats(Stats {
        hooks: [("ingress".to_owned(), Counts {
            seen: 9,
            accepted: 7,
            observed: 0,
            dropped: [("bad-icv".to_owned(), 2)].into(),
        })].into(),
        pairs: vec![Pair { snid: 2, node: Some("two".to_owned()), hook: "ingress".to_owned(), reason: "bad-icv".to_owned(), count: 2 }],
        ..Stats::default()
    })];
    watch_counts_events_and_tells_of_missed_ones: "watch -o jsonl --count 2" =>
        [Reply::Watching { snid: 1 }, event(1), Reply::Missed { count: 40 }, event(42), event(43)];
    watch_ends_with_the_agent: "watch" => [Reply::Watching { snid: 1 }, event(1)];
    run_refused: "run --scid app -- true" => [failed(FailureKind::Refused, "user 1000 may not enter zone app (20)")];
    run_becomes_the_command: "run --scid 10 -- sh -c echo" => [labelled()];
    run_of_nothing: "run --zone web -- no-such-command" => [labelled()];
    run_of_what_cannot_run: "run --zone web -- ./policy.xml" => [labelled()];
    a_mute_agent: "stats" => [];
    an_answer_to_another_question: "stats" => [labelled()];
}

#[test]
fn run_passes_the_exit_code_on() {
    let (_, output) = told("run --scid 10 -- false", &[labelled()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn without_an_agent_nothing_works_and_it_says_why() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in ["status", "stats", "watch", "load", "run --scid 1 -- true"] {
        let output = labelctl(directory.path(), arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("start sigild"), "{arguments}: {said}");
        assert_eq!(output.status.code(), Some(2), "{arguments}");
    }
}

#[test]
fn a_document_that_is_no_text_is_refused_here() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.xml"), [0xff]).unwrap();
    let output = labelctl(directory.path(), "load policy.xml").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("UTF-8"));
}

#[test]
fn a_reader_that_left_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
    let mut command = labelctl(directory.path(), "watch -o jsonl");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    drop(child.stdout.take());
    for reply in [Reply::Watching { snid: 1 }, event(1), event(2)] {
        // It may have ended already.
        let _ = stream.write_all(&encode(&reply, MAX_REPLY).unwrap());
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
