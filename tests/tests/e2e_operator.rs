//! What an operator types, on one host with a server and no node: joining, trials, and what a push
//! says before it is one.

use anyhow::{Context, Result};
use sigil_harness::agent::Config;
use sigil_harness::{Lab, Node, Server};
use std::fs;
use std::process::Command;

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");

fn host(name: &str) -> Result<(Lab, Node, Server)> {
    let lab = Lab::new(name)?;
    let host = lab.node("ss", 100)?;
    let server = Server::start(&host, "two-nodes", "")?;
    Ok((lab, host, server))
}

fn document(host: &Node, serial: u32, from: &str, to: &str) -> Result<String> {
    let text = POLICY.replace("serial=\"1\"", &format!("serial=\"{serial}\"")).replace(from, to);
    let path = host.directory().join(format!("policy-{serial}.xml"));
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

#[test]
fn a_trial_needs_no_list_of_nodes_and_something_to_go_back_to() -> Result<()> {
    let (_lab, host, server) = host("trial")?;
    let line =
        server.made().lines().find_map(|line| line.split_once("labelctl ")).context("none")?;
    let words: Vec<_> = line.1.split_whitespace().collect();
    assert_eq!(server.labelctl(&host, &words)?.code, 0, "what `init` printed: {line:?}");
    let first = document(&host, 1, "", "")?;
    for trial in [["--canary", "one"], ["--confirm-within", "3s"]] {
        let said = server.labelctl(&host, &[&["policy", "push", &first], &trial[..]].concat())?;
        assert!(said.code == 2 && said.stderr.contains("could not go back"), "{said:?}");
    }
    // What is checked is what is sent, also where it can be read only once.
    let pipe = format!("exec \"$0\" policy push - <'{first}'");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(pipe).arg(sigil_harness::binary("labelctl")?);
    let said =
        host.start(shell.env("SIGIL_ADMIN", server.admin()))?.wait(sigil_harness::PATIENCE)?;
    assert_eq!(said.code, 0, "{said:?}");
    let shown = server.labelctl(&host, &["policy", "show"])?.stdout;
    assert_eq!(shown, fs::read_to_string(&first)?);
    let second = document(&host, 2, "", "")?;
    let said = server.administer(&host, &["policy", "push", &second, "--confirm-within", "60s"])?;
    assert!(said.ends_with("on trial"), "{said}");
    assert_eq!(server.status(&host)?.serial, 1);
    let trial = server.labelctl(&host, &["policy", "show", "--revision", "2"])?.stdout;
    assert_eq!(trial, fs::read_to_string(&second)?);
    assert_eq!(server.labelctl(&host, &["policy", "show", "--revision", "9"])?.code, 2);
    let third = document(&host, 3, "", "")?;
    let busy = server.labelctl(&host, &["policy", "push", &third])?;
    assert!(busy.stderr.contains("a canary is on trial"), "{busy:?}");
    let said = server.administer(&host, &["policy", "confirm"])?;
    assert_eq!(said, "confirmed; revision 2 goes to all nodes");
    assert_eq!(server.status(&host)?.serial, 2);
    Ok(())
}

#[test]
fn whatever_is_wrong_on_a_node_costs_no_token() -> Result<()> {
    let (_lab, host, server) = host("join")?;
    server.administer(&host, &["policy", "push", &document(&host, 1, "", "")?])?;
    let token = server.administer(&host, &["node", "enroll", "one"])?;
    let mut config = Config::under_server(&host, 2);
    let said = server.join_with(&host, &config.write(&host)?, &token)?;
    assert!(said.stderr.contains("drawn for node 1, and this is node 2"), "{said:?}");
    let alarms = server.administer(&host, &["alarms", "list", "--node", "one"])?;
    assert!(alarms.contains("node one (1)  join-refused: "), "{alarms}");
    config.snid = 1;
    let credential = config.server.as_mut().context("no server")?;
    let good = std::mem::replace(&mut credential.credential, "/proc/sigil/node.toml".into());
    let said = server.join_with(&host, &config.write(&host)?, &token)?;
    assert!(said.code == 2 && said.stderr.contains("/proc/sigil"), "{said:?}");
    config.server.as_mut().context("no server")?.credential = good;
    let said = server.join_with(&host, &config.write(&host)?, &token)?;
    assert_eq!(said.code, 0, "{said:?}");
    Ok(())
}

/// What is asked without a file is what is in force, and a slip is no empty answer.
#[test]
fn names_are_those_of_the_policy_in_force() -> Result<()> {
    let (_lab, host, server) = host("names")?;
    let ask = |line: &str| server.labelctl(&host, &line.split_whitespace().collect::<Vec<_>>());
    let explain =
        "policy explain --source one:web --target two:app --class SOCKET --permission CREATE";
    let said = ask(explain)?;
    assert!(said.code == 2 && said.stderr.contains("no such policy"), "{said:?}");
    server.administer(&host, &["policy", "push", &document(&host, 1, "", "")?])?;
    let said = ask(explain)?;
    assert!(said.code == 0 && said.stdout.starts_with("allow: revision 1:"), "{said:?}");
    let none = document(&host, 2, "<allow> CREATE </allow>", "<deny> CREATE </deny>")?;
    server.administer(&host, &["policy", "push", &none])?;
    let said = ask(explain)?;
    assert!(said.code == 1 && said.stdout.starts_with("deny: revision 2:"), "{said:?}");
    for (line, told) in [
        ("alarms list --zone wbe", "no zone `wbe`: did you mean `web`?"),
        ("alarms follow --zone wbe", "no zone `wbe`: did you mean `web`?"),
        ("alarms ack --zone nonsense", "no zone `nonsense`: there are "),
        ("alarms list --node oen", "no node `oen`: did you mean `one`?"),
        ("alarms list --reason no-ruel", "no-rule"),
    ] {
        let said = ask(line)?;
        assert!(said.code == 2 && said.stdout.is_empty() && said.stderr.contains(told), "{said:?}");
    }
    for line in ["alarms list --zone web", "alarms list --zone 4711 --reason no-rule"] {
        assert_eq!(ask(line)?.code, 0, "{line}");
    }
    Ok(())
}
