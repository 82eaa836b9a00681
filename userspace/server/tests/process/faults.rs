//! Stores that are old, full or torn, and nodes that misbehave: nothing is lost that was promised,
//! nothing is granted, and it is said what to do.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sigil_cluster::proto::{
    AlarmsRequest, Hello, Progress, PushRequest, RotateRequest, node_message,
};
use tokio::task::JoinSet;

use crate::alarms::{chain, kept};
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
    let stale = crate::join(server.address, 1, &token).await;
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

/// At whatever moment a push is cut short: one serial is current, every node ends on it and has that
/// serial's rules, and nothing goes back.
#[tokio::test]
async fn a_server_killed_in_the_midst_of_a_push_did_it_or_did_not() -> Result<()> {
    const NODES: u32 = 4;
    const ROUNDS: u32 = 14;
    let mut server = Server::start("lab", "")?;
    let mut credentials = Vec::new();
    let mut nodes = Vec::new();
    for snid in 1..=NODES {
        let credential = server.join(snid).await?;
        nodes.push(Some(Node::attach(&credential, 1).await?));
        credentials.push(credential);
    }
    // Several records, so that there is a midst.
    let large = |serial: u64| {
        let target = if serial.is_multiple_of(2) { 7 } else { 8 };
        let node = "<node><SnID>4</SnID><name>n4</name><address>10.0.0.4</address></node><zone>";
        policy(serial, target)
            .replacen("<zone>", node, 1)
            .replace("</DSP>", &format!("<!-- {} --></DSP>", "x".repeat(3 << 20)))
    };
    let began = Instant::now();
    assert!(server.push(&large(1)).await?.accepted);
    let takes = began.elapsed();
    let (mut done, mut cut, mut current) = (0, 0, 1);
    for round in 2..=ROUNDS {
        let mut admin = server.admin().await?;
        let request = PushRequest { document: large(round.into()).into(), ..Default::default() };
        let push = tokio::spawn(async move { admin.push(request).await });
        tokio::time::sleep(takes * round * 3 / (2 * ROUNDS)).await;
        server.kill()?;
        let answered = push.await?.is_ok_and(|reply| reply.into_inner().accepted);
        server.resume()?;
        let round = u64::from(round);
        let status = server.status().await?;
        ensure!(status.serial == current || status.serial == round, "{status:?}");
        ensure!(!answered || status.serial == round, "what was promised is lost: {status:?}");
        *(if status.serial == round { &mut done } else { &mut cut }) += 1;
        current = status.serial;
        for (slot, credential) in nodes.iter_mut().zip(&credentials) {
            let node = slot.take().context("no node")?;
            let before = node.progress.revision;
            let mut node = node.again(credential, 1).await?;
            node.until(|node| node.progress.serial == current).await?;
            assert!(node.progress.revision >= before, "it went back");
            let text = node.policy.as_ref().context("no policy")?.document.clone();
            let text = String::from_utf8(text)?;
            assert!(text.contains(&format!("serial=\"{current}\"")), "another serial's rules");
            *slot = Some(node);
        }
    }
    println!("{done} pushes done, {cut} not");
    assert!(done > 0 && cut > 0, "{done} done, {cut} cut: the test tests nothing");
    assert!(kept(&server, "store-outdated").await?.is_empty(), "a node knew more than the store");
    // And it goes on.
    assert!(server.push(&large(99)).await?.accepted);
    for (node, credential) in nodes.into_iter().flatten().zip(&credentials) {
        node.again(credential, 1).await?.until(|node| node.progress.serial == 99).await?;
    }
    Ok(())
}

/// They come back at once while a policy is pushed: all have it, no alarm is lost or counted twice,
/// nobody is taken for a clone and no key changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_of_the_agents_starting_again_at_once_is_no_event() -> Result<()> {
    const NODES: u32 = 60;
    let server = Server::start("lab", "")?;
    let mut all = JoinSet::new();
    for snid in 1..=NODES {
        let credential = server.join(snid).await?;
        all.spawn(async move {
            let mut node = Node::attach(&credential, 1).await?;
            node.until(|node| node.peers().len() + 1 == NODES as usize).await?;
            anyhow::Ok((snid, credential, node))
        });
    }
    let mut nodes = Vec::new();
    // All hold the keys of all, and those who wait meanwhile say that they live.
    while let Some(joined) = all.join_next().await {
        nodes.push(joined??);
        for (_, _, node) in &mut nodes {
            node.say(node_message::Body::Ping(sigil_cluster::proto::Ping { number: 0 })).await?;
        }
    }
    let before = server.status().await?;
    for (snid, credential, mut node) in nodes {
        all.spawn(async move {
            let mut head = chain(u8::try_from(snid)?);
            if snid % 10 < 3 {
                // What it reported may or may not have been heard; it reports it again.
                node.report(&mut head, &[2]).await?;
                node = node.again(&credential, 1).await?;
                head = chain(u8::try_from(snid)?);
            }
            node.report(&mut head, &[2]).await?;
            node.until(|node| node.progress.serial == 1 && node.heard == 1).await?;
            Ok((snid, credential, node))
        });
    }
    let nodes_4 = (4..=NODES).fold(String::new(), |text, snid| {
        text + &format!(
            "<node><SnID>{snid}</SnID><name>n{snid}</name><address>10.0.0.{snid}</address></node>"
        )
    });
    let document = policy(1, 7).replacen("<zone>", &format!("{nodes_4}<zone>"), 1);
    assert!(server.push(&document).await?.accepted);
    while let Some(joined) = all.join_next().await {
        joined??;
    }
    let after = server.status().await?;
    assert_eq!((after.keys, after.stamp), (before.keys, before.stamp), "keys changed");
    let mut kinds = Vec::new();
    let mut stream = server.admin().await?.alarms(AlarmsRequest::default()).await?.into_inner();
    let mut sum = 0;
    while let Some(alarm) = stream.message().await? {
        // Before it started, the test knocked.
        if alarm.kind != "connection-refused" {
            sum += alarm.count;
            kinds.push(alarm.kind);
        }
    }
    assert!(kinds.iter().all(|kind| kind == "drop"), "{kinds:?}");
    assert_eq!((kinds.len(), sum), (60, 120));
    Ok(())
}

/// The disk is full when it is asked to end: it says what is not written and ends all the same. What
/// is in the journal are whole lines, before and after.
#[tokio::test]
async fn a_full_disk_holds_up_no_end_and_tears_no_line() -> Result<()> {
    let mut server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut node = Node::attach(&credential, 1).await?;
    let mut head = chain(1);
    node.report(&mut head, &[1; 3]).await?;
    node.until(|node| node.heard == 3).await?;
    server.kill()?;
    let start = head.clone();
    server.resume_with_file_limit(1 << 40)?;
    let mut node = Node::attach(&credential, 1).await?;
    // Room for half a line, and none in the store.
    let pid = server.pid().context("no server runs")?.to_string();
    let size = fs::metadata(server.file("alarms.jsonl"))?.len();
    let limit = format!("--fsize={}:", size + 40);
    let lowered = Command::new("prlimit").args(["--pid", &pid, &limit]).status()?;
    ensure!(lowered.success(), "prlimit: {lowered}");
    node.report(&mut head, &[5; 2]).await?;
    let waiting = tokio::time::timeout(Duration::from_secs(1), node.until(|node| node.heard == 5));
    assert!(!matches!(waiting.await, Ok(Ok(()))), "heard, and not on disk");
    let ready = server.http("/readyz")?;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the store takes nothing"));
    assert!(fs::read_to_string(server.file("alarms.jsonl"))?.ends_with('\n'), "half a line");
    // Its log has no room either.
    assert!(server.terminate()?.success());
    assert!(!server.log()?.contains("panicked"));
    server.resume()?;
    let mut node = Node::attach(&credential, 1).await?;
    let mut again = start;
    node.report(&mut again, &[5; 2]).await?;
    node.until(|node| node.heard == 5).await?;
    let drops = kept(&server, "drop").await?;
    assert_eq!(drops.iter().map(|alarm| alarm.count).sum::<u64>(), 13, "{drops:?}");
    for line in fs::read_to_string(server.file("alarms.jsonl"))?.lines() {
        serde_json::from_str::<serde_json::Value>(line)?;
    }
    Ok(())
}

/// The store does not grow with every policy: old documents go, and what is in force stays.
#[tokio::test]
async fn old_documents_leave_the_store() -> Result<()> {
    const RECORDS: redb::TableDefinition<&str, (u64, &[u8])> =
        redb::TableDefinition::new("records");
    let mut server = Server::start("lab", "")?;
    let mut node = Node::attach(&server.join(1).await?, 1).await?;
    assert!(server.push(&policy(1, 7)).await?.accepted);
    for serial in 2..30 {
        assert!(server.push(&policy(serial, 7 + u32::from(serial % 2 == 0))).await?.accepted);
    }
    node.until(|node| node.progress.serial == 29).await?;
    server.kill()?;
    {
        use redb::ReadableDatabase as _;
        let database = redb::Database::open(server.file("sigil.redb"))?;
        let begun = database.begin_read()?;
        let records = begun.open_table(RECORDS)?;
        let documents = records.range("document/".."document0")?.count();
        assert_eq!(documents, 16, "documents in the store");
    }
    server.resume()?;
    let mut node = Node::attach(&server.join(2).await?, 1).await?;
    node.until(|node| node.progress.serial == 29).await?;
    Ok(())
}
