//! Whole commands: stdout, stderr, exit status.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::CommandCargoExt;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/examples");
/// With errors of many kinds.
const BROKEN: &str = r#"<DSP cluster="lab" serial="7">
  <node><SnID> 1 </SnID><name> web1 </name><address> 10.77.0.1 </address></node>
  <node><SnID> 1 </SnID><name> web2 </name><address> 10.77.0.300 </address></node>
  <zone><ScID> 2 </ScID><name> web </name></zone>
  <SOCKET_class_rule>
    <sSnID> 1 </sSnID> <sScID> wbe </sScID> <tSnID> 2 </tSnID> <tScID> 2 </tScID>
    <allow> CREAT, BIND </allow>
  </SOCKET_class_rule>
</DSP>
"#;
/// With a rule that repeats another.
const REPEATED: &str = r#"<DSP cluster="lab" serial="7">
  <node><SnID> 1 </SnID><address> 10.77.0.1 </address></node>
  <zone><ScID> 2 </ScID></zone>
  <PROCESS_class_rule><sSnID> 1 </sSnID><sScID> 2 </sScID><allow> FORK EXECVE </allow></PROCESS_class_rule>
  <PROCESS_class_rule><sSnID> 1 </sSnID><sScID> 2 </sScID><allow> FORK </allow></PROCESS_class_rule>
</DSP>
"#;

fn labelctl(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("labelctl").unwrap();
    command.args(arguments).current_dir(directory).env_remove("SIGIL_SOCKET").env("COLUMNS", "100");
    command
}

/// Runs a command in a directory with the documents, and shows all that came of it.
fn shown(arguments: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(EXAMPLES).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(directory.path().join("broken.xml"), BROKEN).unwrap();
    fs::write(directory.path().join("repeated.xml"), REPEATED).unwrap();
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let output = labelctl(directory.path(), &words).output().unwrap();
    format!(
        "$ labelctl {arguments}\n{}--- stderr\n{}--- exit {}\n",
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap()
    )
}

macro_rules! commands {
    ($($name:ident: $arguments:expr;)+) => {
        $(#[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), shown($arguments));
        })+
    };
}

const LABEL_ONLY: &str = "label decode 861410001000070e030600000002060600000001";
const AUTHENTICATED: &str =
    "label decode 8628100010000722030600000002060600000001071405820000002a000102030405060708090a0b";

commands! {
    check_yes: "policy check telecom.xml";
    check_yes_json: "policy check telecom.xml -o json";
    check_no: "policy check broken.xml";
    check_no_json: "policy check broken.xml -o json";
    check_warns: "policy check repeated.xml";
    check_serial: "policy check telecom.xml --in-force 1";
    check_no_file: "policy check missing.xml";
    compile_table: "policy compile telecom.xml --node database1";
    compile_json: "policy compile figure3.xml --node 1 -o json";
    compile_jsonl: "policy compile figure3.xml --node 1 -o jsonl";
    compile_unknown_node: "policy compile figure3.xml --node 9";
    compile_broken: "policy compile broken.xml --node 1 -o json";
    explain_allow: "policy explain figure3.xml --source 1:2 --target 2:2 --class SOCKET --permission CREATE";
    explain_allow_jsonl: "policy explain figure3.xml --source 1:2 --target 2:2 --class SOCKET --permission CREATE -o jsonl";
    explain_no_rule: "policy explain figure3.xml --source 2:2 --target 1:2 --class SOCKET --permission CREATE -o json";
    explain_stranger: "policy explain figure3.xml --source 1:2 --target 2:77 --class SOCKET --permission CREATE";
    explain_names: "policy explain telecom.xml --source oam1:oam --target database1:kernel --class network --permission receive";
    explain_local: "policy explain telecom.xml --source oam1:oam --class SOCKET --permission LISTEN";
    explain_process: "policy explain telecom.xml --source 3:20 --class PROCESS --permission EXECVE -o jsonl";
    explain_transition: "policy explain telecom.xml --source 4:oam --target 4:signalling --class TRANSITION";
    explain_no_permission: "policy explain telecom.xml --source 4:oam --class PROCESS";
    explain_no_name: "policy explain telecom.xml --source nobody:oam --class PROCESS --permission FORK";
    decode_label_only: LABEL_ONLY;
    decode_authenticated: AUTHENTICATED;
    decode_authenticated_json: &format!("{AUTHENTICATED} -o json");
    decode_label_only_jsonl: &format!("{LABEL_ONLY} -o jsonl");
    decode_short: "label decode 86:14:10";
    decode_wrong_tlv: "label decode 861410001000070e040600000002060600000001";
    decode_no_hex: "label decode 86xx";
    keys_dry_run: "keys generate --policy figure3.xml --out keys --epochs 2 --dry-run";
    keys_json: "keys generate --policy figure3.xml --out keys --suite blake3-96 -o json";
    keys_epochs: "keys generate --policy figure3.xml --out keys --epochs 9";
    usage: "policy explain figure3.xml";
    help: "--help";
    help_policy: "policy --help";
}

#[test]
fn a_closed_pipe_is_success() {
    let mut child = labelctl(Path::new(EXAMPLES), &["policy", "schema"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_document_comes_from_stdin_too() {
    let document = fs::File::open(format!("{EXAMPLES}/figure3.xml")).unwrap();
    let output =
        labelctl(Path::new("/"), &["policy", "check", "-"]).stdin(document).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "stdin: ok: cluster lab, serial 1: 2 nodes, 1 zone, 2 rules\n");
}

#[test]
fn keys_are_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let policy = format!("{EXAMPLES}/figure3.xml");
    let run = || {
        let arguments = ["keys", "generate", "--policy", &policy, "--out", "keys"];
        labelctl(directory.path(), &arguments).output().unwrap()
    };
    assert!(run().status.success());
    let files =
        || fs::read_dir(directory.path().join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let modes = files().map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes.collect::<Vec<_>>(), [0o600, 0o600]);
    let first: Vec<_> = files().map(|path| fs::read(path).unwrap()).collect();
    let again = run();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("not overwritten"));
    assert_eq!(files().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), first);
}

#[test]
fn colour_is_asked_for_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("broken.xml"), BROKEN).unwrap();
    let stderr =
        |arguments: &[&str]| labelctl(directory.path(), arguments).output().unwrap().stderr;
    assert!(!stderr(&["policy", "check", "broken.xml"]).contains(&0x1b));
    assert!(stderr(&["policy", "check", "broken.xml", "--color", "always"]).contains(&0x1b));
}

#[test]
fn pages_are_generated() {
    for shell in ["bash", "zsh", "fish"] {
        let output = labelctl(Path::new("/"), &["completions", shell]).output().unwrap();
        assert!(
            output.status.success()
                && String::from_utf8(output.stdout).unwrap().contains("explain"),
            "{shell}"
        );
    }
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    assert!(labelctl(Path::new("/"), &["man", "--out", out]).status().unwrap().success());
    for page in ["labelctl.1", "labelctl-policy-explain.1", "labelctl-label-decode.1"] {
        assert!(directory.path().join(page).exists(), "{page}");
    }
    let page = labelctl(Path::new("/"), &["man"]).output().unwrap();
    assert!(String::from_utf8(page.stdout).unwrap().contains(".TH labelctl"));
}
