//! Stores that are old, full or torn, and nodes that misbehave: nothing is lost that was promised,
//! nothing is granted, and it is said what to do.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sigil_cluster::proto::{Hello, Progress, RotateRequest, node_message};

use crate::alarms::kept;
use crate::bed::{Node, Server, bytes, policy};

/// A store that came back from a copy would give out epochs a second time.
#[tokio::test]
async fn an_old_copy_of_the_store_is_noticed_and_recovered_far_above_it() -> Result<()> {
    let mut server = Server::start("lab", "[rotation]\noverlap = 1\n")?;
    let credential = server.join(1).await?;
    let mut node = Node::attach(&credential, 1).await?;
    server.push(&policy(1, 7)).await?;
    node.until(|node| node.progress.serial == 1).await?;
    server.kill()?;
    let copy = bytes(&server.file("sigil.redb"))?;
    server.resume()?;
    let mut node = Node::attach(&credential, 1).await?;
    server.push(&policy(2, 8)).await?;
    node.until(|node| node.progress.serial == 2 && node.keys.is_some()).await?;
    let first = node.keys.as_ref().context("no keys")?.stamp;
    server.admin().await?.rotate(RotateRequest {}).await?;
    node.until(|node| node.keys.as_ref().is_some_and(|keys| keys.stamp != first)).await?;
    let before = node.keys.clone().context("no keys")?;
    let token = server.token(2, 600).await?;
    server.kill()?;
    fs::write(server.file("sigil.redb"), copy)?;
    server.resume()?;
    let progress = Progress { seen_keys: before.version, ..node.progress.clone() };
    let hello = || Hello {
        version: env!("CARGO_PKG_VERSION").into(),
        instance: vec![1; 16],
        progress: Some(progress.clone()),
        time: 0,
    };
    let mut node = Node::attach_with(&credential, hello()).await?;
    node.until(|node| node.keys.is_some()).await?;
    let old = node.keys.clone().context("no keys")?;
    ensure!(old.version < before.version, "the test tests nothing");
    let alarms = kept(&server, "store-outdated").await?;
    assert!(alarms.iter().any(|alarm| alarm.message.contains("recover")), "{alarms:?}");
    server.kill()?;
    let done = Command::new(env!("CARGO_BIN_EXE_sigil-server"))
        .args(["recover", "--config"])
        .arg(server.file("server.toml"))
        .output()?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    server.resume()?;
    let mut node = Node::attach_with(&credential, hello()).await?;
    node.until(|node| node.keys.is_some() && node.policy.is_some()).await?;
    let keys = node.keys.clone().context("no keys")?;
    assert!(keys.version > before.version);
    let newest = before.epochs.iter().map(|epoch| epoch.number).max();
    assert!(keys.epochs.iter().all(|epoch| Some(epoch.number) > newest), "{keys:?}");
    assert!(node.policy.as_ref().is_some_and(|policy| policy.revert && policy.serial == 1));
    assert!(server.push(&policy(2, 8)).await?.accepted, "what was pushed since is pushed again");
    node.until(|node| node.progress.serial == 2).await?;
    let stale = crate::join(server.address, &token).await;
    assert!(stale.is_err(), "a token of before");
    Ok(())
}

/// What was promised is on disk before the promise; what finds no room is refused, and the server
/// goes on as soon as there is some.
#[tokio::test]
async fn a_full_disk_refuses_and_grants_nothing() -> Result<()> {
    let mut server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    server.kill()?;
    // The store may not grow: as on a full disk.
    let size = fs::metadata(server.file("sigil.redb"))?.len();
    server.resume_with_file_limit(size)?;
    let mut node = Node::attach(&credential, 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    let large = policy(1, 7).replace("</DSP>", &format!("<!-- {} --></DSP>", "x".repeat(4 << 20)));
    let refused = server.push(&large).await;
    let said = format!("{:#}", refused.err().context("it was accepted")?);
    assert!(said.contains("store"), "{said}");
    node.step().await?;
    assert!(node.policy.is_none(), "nothing of it reached a node");
    // Room again: it goes on as it is.
    let pid = server.pid().context("no server runs")?.to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status()?;
    ensure!(raised.success(), "prlimit: {raised}");
    assert!(server.push(&policy(1, 7)).await?.accepted);
    node.until(|node| node.progress.serial == 1).await?;
    server.kill()?;
    server.resume()?;
    assert_eq!(server.status().await?.serial, 1);
    Ok(())
}

/// Half a message, too large a one, one that says nothing, one who never reads.
#[tokio::test]
async fn nodes_that_misbehave_are_let_go_and_hold_nobody_up() -> Result<()> {
    let server = Server::start("lab", "")?;
    let bad = server.join(1).await?;
    let mut good = Node::attach(&server.join(2).await?, 1).await?;
    let mut large = Node::attach(&bad, 1).await?;
    let progress = Progress { problem: "x".repeat(300 << 10), ..Progress::default() };
    large.say(node_message::Body::Progress(progress)).await?;
    let end = large.end().await?;
    assert!(end.contains("too large"), "{end}");
    let mut twice = Node::attach(&bad, 1).await?;
    twice.say(node_message::Body::Hello(Hello::default())).await?;
    assert!(twice.end().await?.contains("not asked"));
    let short = Hello { instance: vec![1; 15], ..Hello::default() };
    let refused = Node::attach_with(&bad, short).await.map(drop);
    assert!(format!("{:#}", refused.err().context("it was allowed")?).contains("malformed"));
    // Attached, and deaf from then on.
    let deaf = Node::attach(&bad, 1).await?;
    for serial in 1..=20 {
        server.push(&policy(serial, 7 + u32::from(serial % 2 == 0))).await?;
        good.until(|node| node.progress.serial == serial).await?;
    }
    drop(deaf);
    // Bytes that are no TLS, and a handshake that stops in its midst.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1, 0, 1], &[0; 4096]] {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect(server.address)?;
        stream.write_all(bytes)?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    good.until(|node| node.progress.serial == 20).await?;
    assert!(server.status().await?.nodes.len() == 3);
    Ok(())
}

/// A file that was cut anywhere is either whole to its last commit or refused by name.
#[tokio::test]
async fn a_torn_store_is_refused_or_whole() -> Result<()> {
    let mut server = Server::start("lab", "")?;
    server.join(1).await?;
    server.push(&policy(1, 7)).await?;
    server.kill()?;
    let whole = bytes(&server.file("sigil.redb"))?;
    for part in [1, 2, 3] {
        let length = whole.len() * part / 4;
        fs::write(server.file("sigil.redb"), &whole[..length])?;
        let run = server.command().stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let output = run.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{length} bytes of {}", whole.len());
        assert!(text.contains("sigil.redb") || text.contains("store"), "{text}");
    }
    fs::write(server.file("sigil.redb"), &whole)?;
    server.resume()?;
    assert_eq!(server.status().await?.serial, 1);
    Ok(())
}
