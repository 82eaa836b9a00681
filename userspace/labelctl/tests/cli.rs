//! Whole commands: stdout, stderr, exit status.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
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

/// The private key of RFC 8032's first test, as PKCS#8; telecom.xml trusts it as `build`.
const KEY: &str = "302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

/// A key, a script, and the shortest of ELF files.
fn binaries(directory: &Path) {
    let path = |name: &str| directory.join(name);
    fs::write(path("key"), hex::decode(KEY).unwrap()).unwrap();
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("script"), "#!/bin/sh\n").unwrap();
    let header = "7f454c4602010100000000000000000002003e0001000000";
    let rest = "0".repeat(56) + "400000000000000000000000";
    fs::write(path("small"), hex::decode(header.to_owned() + &rest).unwrap()).unwrap();
}

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
    binaries(directory.path());
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
    explain_relabel: "policy explain telecom.xml --source 4:oam --target 4:signalling --class RELABEL";
    explain_no_relabel: "policy explain telecom.xml --source 4:signalling --target 4:oam --class RELABEL";
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
    binary_dry_run: "binary label --scid oam --policy telecom.xml --serial 4 --key key --dry-run script";
    binary_label_json: "binary label --scid 2 --serial 4 script -o json";
    binary_label_and_sign: "binary label --scid 20 --serial 4 --key key small script";
    binary_no_zone: "binary label --scid web --serial 4 script";
    binary_undeclared_zone: "binary label --scid web --policy telecom.xml --serial 4 script";
    binary_sign_without_label: "binary sign --key key script";
    binary_sign_without_key: "binary sign --key script small";
    binary_show_none: "binary show script small";
    binary_show_no_file: "binary show missing";
    binary_verify_no: "binary verify --policy telecom.xml script";
    binary_verify_no_json: "binary verify --policy telecom.xml script -o json";
    binary_verify_weak_key: "binary verify --key 0000000000000000000000000000000000000000000000000000000000000000 script";
    binary_verify_nobody: "binary verify script";
    binary_keygen_dry_run: "binary keygen --out new --dry-run";
    binary_keygen_exists: "binary keygen --out key";
    help_admin: "admin --help";
    help_binary: "binary --help";
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

/// From key to verdict, with each answer.
#[test]
fn a_signed_file_is_verified_until_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    binaries(at);
    fs::copy(format!("{EXAMPLES}/telecom.xml"), at.join("telecom.xml")).unwrap();
    let mut all = String::new();
    let mut run = |arguments: &str| {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        let output = labelctl(at, &words).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let code = output.status.code().unwrap();
        write!(all, "$ labelctl {arguments}\n{}--- exit {code}\n", said.concat()).unwrap();
        code
    };
    for (code, arguments) in [
        (0, "binary label --scid 10 --serial 4 script small"),
        (1, "binary verify --policy telecom.xml script small"),
        (0, "binary sign --key key script small"),
        (0, "binary show script small"),
        (0, "binary show script small -o jsonl"),
        (0, "binary verify --policy telecom.xml script small"),
        (0, "binary verify --key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= script -o json"),
        (0, "binary label --scid oam --policy telecom.xml --serial 4 --key key script"),
        (1, "binary verify --policy telecom.xml script"),
        (0, "binary label --scid 10 --serial 2 --key key script"),
        (1, "binary verify --policy telecom.xml script"),
    ] {
        assert_eq!(run(arguments), code, "{arguments}");
    }
    fs::write(at.join("script"), "#!/bin/ls\n").unwrap();
    let mut small = fs::read(at.join("small")).unwrap();
    small[24] ^= 1;
    fs::write(at.join("small"), small).unwrap();
    assert_eq!(run("binary verify --policy telecom.xml small"), 1);
    assert_eq!(run("binary verify --key 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= script"), 1);
    insta::assert_snapshot!("binary_life", all);
}

#[test]
fn a_private_key_is_made_once_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let run =
        || labelctl(directory.path(), &["binary", "keygen", "--out", "key", "-o", "json"]).output();
    let first = run().unwrap();
    assert!(first.status.success());
    let path = directory.path().join("key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let private = fs::read(&path).unwrap();
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(!said.contains(&hex::encode(&private[16..48])), "the seed");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["public_key"].as_str().unwrap().len(), 64);
    assert_eq!(run().unwrap().status.code(), Some(2));
    assert_eq!(fs::read(&path).unwrap(), private);
    // Nobody signs with a key that others can read.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(directory.path().join("script"), "").unwrap();
    let arguments = ["binary", "label", "--scid", "2", "--serial", "1", "--key", "key", "script"];
    let refused = labelctl(directory.path(), &arguments).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("chmod 600"));
}
