//! The server as a process, over real TLS on loopback: enrolment, distribution, keys, and what an
//! attacker tries. No privilege is needed.

mod admins;
mod alarms;
mod attacks;
mod bed;
mod etcd;
mod faults;
mod holders;
mod scale;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bed::{Node, PATIENCE, Server, admin, bytes, channel, csr, join, policy};
use rcgen::KeyPair;
use sigil_cluster::credential::pem;
use sigil_cluster::proto::nodes_client::NodesClient;
use sigil_cluster::proto::{
    AlarmsRequest, ConfirmRequest, PushRequest, RenewRequest, RevokeRequest, RotateRequest,
    StatusRequest,
};
use sigil_cluster::{Credential, Token};

const QUICK: &str = "[rotation]\noverlap = 1\n";

async fn alarms(server: &Server) -> Result<Vec<String>> {
    let request = AlarmsRequest { follow: false, ..AlarmsRequest::default() };
    let mut stream = server.admin().await?.alarms(request).await?.into_inner();
    let mut alarms = Vec::new();
    while let Some(alarm) = stream.message().await? {
        let known = sigil_cluster::proto::ALARM_KINDS.contains(&alarm.kind.as_str());
        anyhow::ensure!(known, "{} is not among the kinds", alarm.kind);
        alarms.push(format!("{} {}: {}", alarm.snid, alarm.kind, alarm.message));
    }
    Ok(alarms)
}

async fn alarmed(server: &Server, words: &str) -> Result<()> {
    let alarms = alarms(server).await?;
    anyhow::ensure!(alarms.iter().any(|alarm| alarm.contains(words)), "{words}: {alarms:?}");
    Ok(())
}

fn said<T: std::fmt::Debug>(outcome: Result<T>) -> String {
    match outcome {
        Ok(value) => panic!("it was allowed: {value:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn a_token_is_good_once_for_its_node_and_not_for_ever() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let token = server.token(1, 60).await?;
    let credential = join(server.address, 1, &token).await?;
    assert_eq!(credential.identity()?.to_string(), "spiffe://lab/node/1");
    let again = said(join(server.address, 1, &token).await);
    assert!(again.contains("used before"), "{again}");
    alarmed(&server, "used before").await?;
    let late = server.token(2, 1).await?;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let expired = said(join(server.address, 2, &late).await);
    assert!(expired.contains("expired"), "{expired}");
    alarmed(&server, "2 join-refused").await?;
    let refused = said(server.token(1, 60).await.map(drop));
    assert!(refused.contains("enrolled"), "a duplicate SnID: {refused}");
    let theirs = server.token(4, 60).await?;
    let mistaken = said(join(server.address, 5, &theirs).await);
    assert!(mistaken.contains("drawn for node 4, and this is node 5"), "{mistaken}");
    alarmed(&server, "4 join-refused").await?;
    join(server.address, 4, &theirs).await.context("it was not spent")?;
    let (first, second) = (server.token(3, 60).await?, server.token(3, 60).await?);
    join(server.address, 3, &first).await?;
    let twice = said(join(server.address, 3, &second).await);
    assert!(twice.contains("enrolled already"), "{twice}");
    let guess = said(join(server.address, 1, &guessed(&server)?).await);
    assert!(guess.contains("not known"), "{guess}");
    Ok(())
}

/// A token with the right CA and a wrong secret.
fn guessed(server: &Server) -> Result<Token> {
    let ca = Credential::load(&server.file("admin.toml"))?.ca().context("no CA")?;
    Ok(Token::new([0x42; 32], &ca))
}

#[tokio::test]
async fn nobody_in_the_middle_learns_a_token() -> Result<()> {
    let (server, imposter) = (Server::start("lab", QUICK)?, Server::start("lab", QUICK)?);
    let token = server.token(1, 60).await?;
    let refused = said(join(imposter.address, 1, &token).await);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert!(alarms(&imposter).await?.iter().all(|alarm| !alarm.contains("join")));
    join(server.address, 1, &token).await?;
    Ok(())
}

#[tokio::test]
async fn certificates_of_another_cluster_and_of_other_roles_open_nothing() -> Result<()> {
    let (server, other) = (Server::start("lab", QUICK)?, Server::start("lab", QUICK)?);
    let mut foreign = other.join(1).await?;
    foreign.servers = vec![server.address];
    // It believes the server; the server must not believe it.
    foreign.ca = Credential::load(&server.file("admin.toml"))?.ca.clone();
    assert!(Node::attach(&foreign, 1).await.is_err());
    alarmed(&server, "connection-refused").await?;
    let node = server.join(1).await?;
    let asked = admin(&node).await?.status(StatusRequest {}).await;
    assert_eq!(asked.unwrap_err().code(), tonic::Code::PermissionDenied);
    let pushed = admin(&node).await?.push(PushRequest::default()).await;
    assert_eq!(pushed.unwrap_err().code(), tonic::Code::PermissionDenied);
    let drawn =
        admin(&node).await?.draw_token(sigil_cluster::proto::DrawTokenRequest::default()).await;
    assert_eq!(drawn.unwrap_err().code(), tonic::Code::PermissionDenied);
    let ours = Credential::load(&server.file("admin.toml"))?;
    let renewed = NodesClient::new(channel(&ours).await?).renew(RenewRequest::default()).await;
    assert_eq!(renewed.unwrap_err().code(), tonic::Code::PermissionDenied);
    Ok(())
}

#[tokio::test]
async fn policies_reach_every_node_signed_and_cut_to_its_part() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let mut nodes = Vec::new();
    for snid in [1, 2, 3] {
        nodes.push(Node::attach(&server.join(snid).await?, 1).await?);
    }
    let reply = server.push(&policy(1, 7)).await?;
    assert!(reply.accepted && !reply.changes.is_empty(), "{reply:?}");
    for node in &mut nodes {
        node.until(|node| node.progress.serial == 1).await?;
        let envelope = node.policy.as_ref().context("no policy")?;
        let text = String::from_utf8(envelope.document.clone())?;
        assert_eq!(text.contains("CREATE"), node.recipient.snid != 3, "{text}");
    }
    let stale = server.push(&policy(1, 8)).await?;
    let why = "policy.xml:1:28: error: serial 1 is not above 1, the highest put in force so far";
    assert!(!stale.accepted && stale.report.starts_with(why), "{stale:?}");
    let elsewhere = policy(2, 7).replace("cluster=\"lab\"", "cluster=\"prod\"");
    assert!(!server.push(&elsewhere).await?.accepted);
    let request =
        PushRequest { document: policy(9, 8).into(), dry_run: true, ..Default::default() };
    let dry = server.admin().await?.push(request).await?.into_inner();
    let gained = |gained| dry.changes.iter().any(|change| change.gained == gained);
    assert!(dry.accepted && gained(true) && gained(false), "{dry:?}");
    assert_eq!(server.status().await?.serial, 1, "a dry run changes nothing");
    Ok(())
}

#[tokio::test]
async fn a_canary_that_nobody_confirms_goes_back_and_one_that_is_confirmed_goes_on() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let mut one = Node::attach(&server.join(1).await?, 1).await?;
    let mut two = Node::attach(&server.join(2).await?, 1).await?;
    let first = said(server.push_to(&policy(1, 7), &[1], 1).await);
    assert!(first.contains("could not go back"), "{first}");
    server.push(&policy(1, 7)).await?;
    one.until(|node| node.progress.serial == 1).await?;
    two.until(|node| node.progress.serial == 1).await?;
    assert!(server.push_to(&policy(2, 8), &[1], 1).await?.accepted);
    one.until(|node| node.progress.serial == 2).await?;
    one.until(|node| node.progress.serial == 1).await?;
    let back = one.policy.clone().context("no policy")?;
    assert!(back.revert && back.revision > 2, "{back:?}");
    alarmed(&server, "canary-reverted").await?;
    two.until(|node| node.progress.revision == back.revision).await?;
    assert_eq!(two.progress.serial, 1, "it was never tried there");
    assert!(!server.push(&policy(2, 8)).await?.accepted, "a serial that was tried is used up");
    assert!(server.push_to(&policy(3, 8), &[1], 60).await?.accepted);
    one.until(|node| node.progress.serial == 3).await?;
    let busy = said(server.push(&policy(3, 8)).await);
    assert!(busy.contains("on trial"), "{busy}");
    server.admin().await?.confirm(ConfirmRequest { keep: true }).await?;
    two.until(|node| node.progress.serial == 3).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_the_policy_forgot_is_told_of() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let mut three = Node::attach(&server.join(3).await?, 1).await?;
    server.push(&policy(1, 7)).await?;
    three.until(|node| node.progress.serial == 1).await?;
    let node = "<node><SnID>3</SnID><name>n3</name><address>10.0.0.3</address></node>";
    server.push(&policy(2, 7).replace(node, "")).await?;
    // Whatever it says of itself meanwhile.
    for _ in 0..3 {
        three.step().await?;
    }
    let nodes = server.status().await?.nodes;
    let said = &nodes.iter().find(|node| node.snid == 3).context("no node 3")?.problem;
    assert!(said.contains("serial 2 does not declare it"), "{nodes:?}");
    Ok(())
}

#[tokio::test]
async fn a_revoked_node_is_out_and_the_others_drop_its_keys_at_once() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let lost = server.join(1).await?;
    let one = Node::attach(&lost, 1).await?;
    let mut two = Node::attach(&server.join(2).await?, 1).await?;
    two.until(|node| node.peers() == [1]).await?;
    let mut admin = server.admin().await?;
    let start = Instant::now();
    let revoke = tokio::spawn(async move { admin.revoke(RevokeRequest { snid: 1 }).await });
    two.until(|node| node.keys.as_ref().is_some_and(|keys| keys.revoked == [1])).await?;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    for epoch in &two.keys.as_ref().context("no keys")?.epochs {
        assert!(epoch.pairs.is_empty(), "{epoch:?}");
    }
    two.step().await?;
    assert_eq!(revoke.await??.into_inner().waiting, Vec::<u32>::new());
    let end = one.end().await?;
    assert!(end.contains("revoked"), "{end}");
    assert!(said(Node::attach(&lost, 1).await.map(drop)).contains("revoked"));
    alarmed(&server, "1 node-refused").await?;
    // It may be enrolled anew; what it held before stays worthless.
    let anew = server.join(1).await?;
    assert!(said(Node::attach(&lost, 1).await.map(drop)).contains("replaced"));
    let mut back = Node::attach(&anew, 2).await?;
    // Its epoch is stamped with once both follow.
    tokio::try_join!(
        two.until(|node| node.peers() == [1]),
        back.until(|node| node.peers() == [2])
    )?;
    Ok(())
}

#[tokio::test]
async fn a_rotation_waits_for_every_node_at_every_step() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let mut one = Node::attach(&server.join(1).await?, 1).await?;
    let mut two = Node::attach(&server.join(2).await?, 1).await?;
    one.until(|node| node.peers() == [2]).await?;
    two.until(|node| node.peers() == [1]).await?;
    let first = one.keys.as_ref().context("no keys")?.stamp;
    server.admin().await?.rotate(RotateRequest {}).await?;
    one.until(|node| node.keys.as_ref().is_some_and(|keys| keys.epochs.len() == 2)).await?;
    let prepared = one.keys.as_ref().context("no keys")?.stamp;
    assert_eq!(prepared, first, "the new epoch is not stamped with before all accept it");
    two.until(|node| node.keys.as_ref().is_some_and(|keys| keys.epochs.len() == 2)).await?;
    let done = |node: &Node| {
        node.keys.as_ref().is_some_and(|keys| keys.stamp != first && keys.epochs.len() == 1)
    };
    let both = async { tokio::try_join!(one.until(done), two.until(done)).map(drop) };
    both.await?;
    let key = |node: &Node| {
        let pairs = node.keys.as_ref().map(|keys| keys.epochs[0].pairs.clone()).unwrap_or_default();
        pairs.iter().find(|p| (p.source, p.target) == (1, 2)).map(|p| p.key.clone())
    };
    assert!(key(&one).is_some() && key(&one) == key(&two));
    Ok(())
}

#[tokio::test]
async fn one_without_its_counters_gets_new_keys_and_a_clone_gets_none() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let credential = server.join(1).await?;
    let mut two = Node::attach(&server.join(2).await?, 1).await?;
    let mut one = Node::attach(&credential, 1).await?;
    one.until(|node| node.peers() == [2]).await?;
    let before = one.keys.clone().context("no keys")?;
    // Both live: the second is refused.
    let clone = tokio::spawn({
        let credential = credential.clone();
        async move { Node::attach(&credential, 9).await.map(drop) }
    });
    let refused = loop {
        one.step().await?;
        if clone.is_finished() {
            break said(clone.await?);
        }
    };
    assert!(refused.contains("clone"), "{refused}");
    alarmed(&server, "1 node-cloned").await?;
    drop(one);
    // The first is gone: the second is the node, rebooted.
    let mut back = Node::attach(&credential, 2).await?;
    let driven = async {
        tokio::try_join!(
            back.until(|n| n.peers() == [2]),
            two.until(|n| {
                n.keys.as_ref().is_some_and(|keys| keys.stamp != before.stamp && n.peers() == [1])
            })
        )
        .map(drop)
    };
    driven.await?;
    let after = back.keys.clone().context("no keys")?;
    let held = |keys: &sigil_cluster::proto::Keys| -> Vec<Vec<u8>> {
        keys.epochs.iter().flat_map(|e| e.pairs.iter().map(|p| p.key.clone())).collect()
    };
    assert!(held(&after).iter().all(|key| !held(&before).contains(key)), "a key came twice");
    // The same counters again: the same keys.
    drop(back);
    let mut again = Node::attach(&credential, 2).await?;
    again.until(|node| node.peers() == [2]).await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_server_comes_back_with_everything_and_its_files_tell_nothing() -> Result<()> {
    let mut server = Server::start("lab", QUICK)?;
    let credential = server.join(1).await?;
    let mut node = Node::attach(&credential, 1).await?;
    server.push(&policy(1, 7)).await?;
    node.until(|node| node.progress.serial == 1).await?;
    server.kill()?;
    server.resume()?;
    let mut node = Node::attach(&credential, 1).await?;
    node.until(|node| node.progress.serial == 1 && node.keys.is_some()).await?;
    assert!(!server.push(&policy(1, 7)).await?.accepted, "serials are not forgotten");
    server.kill()?;
    let store = bytes(&server.file("sigil.redb"))?;
    for plain in [&b"CREATE"[..], b"PRIVATE KEY", b"secret", b"<name>n1"] {
        assert!(!store.windows(plain.len()).any(|window| window == plain), "{plain:?}");
    }
    // Another key, a damaged file: refused with what to do.
    let key = bytes(&server.file("store.key"))?;
    fs::write(server.file("store.key"), [7; 32])?;
    let run = server.command().stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && text.contains("store_key"), "{text}");
    fs::write(server.file("store.key"), key)?;
    fs::write(server.file("sigil.redb"), vec![0x55; store.len()])?;
    let run = server.command().stderr(Stdio::piped()).output()?;
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && text.contains("sigil.redb"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_renewed_certificate_replaces_the_old_one() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let old = server.join(1).await?;
    let key = KeyPair::generate()?;
    let request = RenewRequest { csr: csr(&key)? };
    let reply = NodesClient::new(channel(&old).await?).renew(request).await?.into_inner();
    let mut new = old.clone();
    new.certificate = pem(&reply.certificate);
    new.key = key.serialize_pem();
    // Until the node has shown the new one, either may be all that it has.
    drop(Node::attach(&old, 1).await?);
    let mut node = Node::attach(&new, 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    assert!(said(Node::attach(&old, 1).await.map(drop)).contains("replaced"));
    Ok(())
}

#[tokio::test]
async fn health_and_metrics_say_how_the_server_is() -> Result<()> {
    let server = Server::start("lab", QUICK)?;
    let mut node = Node::attach(&server.join(1).await?, 1).await?;
    server.push(&policy(1, 7)).await?;
    node.until(|node| node.progress.serial == 1).await?;
    assert!(server.http("/healthz")?.starts_with("HTTP/1.1 200"));
    assert!(server.http("/readyz")?.starts_with("HTTP/1.1 200"));
    assert!(server.http("/secrets")?.starts_with("HTTP/1.1 404"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        node.step().await?;
        let text = server.http("/metrics")?;
        let wanted = [
            "sigil_server_nodes_enrolled 1",
            "sigil_server_nodes_attached 1",
            "sigil_server_policy_serial 1",
            "sigil_server_nodes_lagging 0",
        ];
        if wanted.iter().all(|line| text.contains(line)) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{text}");
    }
}
