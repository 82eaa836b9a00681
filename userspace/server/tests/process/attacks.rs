//! What an attacker tries who reaches the server's port, holds a token or a node's files, or has an
//! account on the server's host. Each test is an attack that fails.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::KeyPair;
use sigil_cluster::channel::connect;
use sigil_cluster::proto::enrolment_client::EnrolmentClient;
use sigil_cluster::proto::{EnrolRequest, RevokeRequest, StatusRequest};
use sigil_cluster::{Credential, Token, tls};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::alarms::kept;
use crate::bed::{Node, PATIENCE, Server, admin, bytes, channel, csr, join, policy};

/// A connection without a certificate.
async fn guest(server: &Server) -> Result<Channel> {
    let ca = Credential::load(&server.file("admin.toml"))?.ca().context("no CA")?;
    let tls = Arc::new(tls::joining(&Token::new([0; 32], &ca))?);
    Ok(connect(&[server.address], 0, tls, None).await?.channel)
}

#[tokio::test]
async fn a_token_that_many_show_at_once_makes_one_node() -> Result<()> {
    let server = Server::start("lab", "")?;
    let token = server.token(1, 60).await?;
    let mut all = JoinSet::new();
    for _ in 0..12 {
        let (address, token) = (server.address, token.clone());
        all.spawn(async move { join(address, 1, &token).await });
    }
    let mut won = Vec::new();
    while let Some(joined) = all.join_next().await {
        won.extend(joined?);
    }
    assert_eq!(won.len(), 1, "a token was good more than once");
    let mut node = Node::attach(&won[0], 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    let told = kept(&server, "join-refused").await?;
    assert!(told.iter().any(|alarm| alarm.message.contains("used before")), "{told:?}");
    Ok(())
}

/// Guesses come as fast as the line carries them. They cost nobody an alarm, fill no disk, and every
/// one is counted.
#[tokio::test]
async fn guessed_tokens_bury_no_other_alarm() -> Result<()> {
    const GUESSES: u64 = 3000;
    let server = Server::start("lab", "")?;
    let first = server.token(7, 60).await?;
    join(server.address, 7, &first).await?;
    assert!(join(server.address, 7, &first).await.is_err());
    let channel = guest(&server).await?;
    let key = KeyPair::generate()?;
    let csr = csr(&key)?;
    let mut all = JoinSet::new();
    for number in 0..GUESSES {
        let mut client = EnrolmentClient::new(channel.clone());
        let csr = csr.clone();
        all.spawn(async move {
            client.enrol(EnrolRequest { token: number.to_be_bytes().to_vec(), csr, snid: 7 }).await
        });
        if all.len() >= 16 {
            let refused = all.join_next().await.context("none")??;
            assert_eq!(refused.unwrap_err().code(), tonic::Code::PermissionDenied);
        }
    }
    while all.join_next().await.is_some() {}
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        let told = kept(&server, "join-refused").await?;
        let of_guesses = told.iter().filter(|alarm| alarm.snid == 0).map(|alarm| alarm.count);
        if of_guesses.sum::<u64>() == GUESSES {
            break told;
        }
        ensure!(Instant::now() < deadline, "{told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(told.len() < 30, "{} alarms", told.len());
    assert!(told.iter().any(|alarm| alarm.snid == 7 && alarm.message.contains("used before")));
    assert!(fs::metadata(server.file("alarms.jsonl"))?.len() < 20_000);
    Ok(())
}

/// Whoever shows no certificate may show a token, and then has to go: nodes find room.
#[tokio::test]
async fn those_without_a_certificate_fill_no_seats() -> Result<()> {
    let server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut all = JoinSet::new();
    let ca = Credential::load(&server.file("admin.toml"))?.ca().context("no CA")?;
    for _ in 0..300 {
        let tls = Arc::new(tls::joining(&Token::new([0; 32], &ca))?);
        let address = server.address;
        all.spawn(async move { connect(&[address], 0, tls, None).await });
    }
    let mut held = Vec::new();
    while let Some(connected) = all.join_next().await {
        held.extend(connected?);
    }
    assert!(held.len() >= 100, "{}: the test tests nothing", held.len());
    let mut node = Node::attach(&credential, 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let refused = kept(&server, "connection-refused").await?;
        if refused.iter().any(|alarm| alarm.message.contains("without a certificate")) {
            break;
        }
        ensure!(Instant::now() < deadline, "{refused:?}");
        node.step().await?;
    }
    // Their time ends, and whoever holds a token is served again.
    let token = server.token(2, 60).await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = join(server.address, 2, &token).await {
        ensure!(Instant::now() < deadline, "{error:#}");
        node.step().await?;
    }
    drop(held);
    Ok(())
}

/// Connections that say nothing, from one address: others are served meanwhile.
#[tokio::test]
async fn one_host_that_never_shakes_hands_keeps_nobody_out() -> Result<()> {
    let server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut silent = Vec::new();
    for _ in 0..400 {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 2], 0)))?;
        silent.push(socket.connect(server.address).await?);
    }
    let began = Instant::now();
    let mut node = Node::attach(&credential, 1).await?;
    node.until(|node| node.keys.is_some()).await?;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop(silent);
    Ok(())
}

/// Neither its log nor what the system shows of its process tells a secret, and its memory is not
/// another process's to read, not even one of the same user.
#[tokio::test]
async fn logs_arguments_environment_and_memory_tell_no_secret() -> Result<()> {
    let server = Server::start("lab", "")?;
    let token = server.token(1, 60).await?;
    join(server.address, 1, &token).await?;
    let used = join(server.address, 1, &token).await;
    assert!(used.is_err());
    let late = server.token(2, 60).await?;
    server.push(&policy(1, 7)).await?;
    let pid = server.pid().context("no server runs")?;
    let admin = fs::read_to_string(server.file("admin.toml"))?;
    let key = admin.lines().skip_while(|line| !line.contains("PRIVATE KEY")).nth(1);
    let key = key.context("no key")?.to_owned();
    let journal = fs::read_to_string(server.file("alarms.jsonl"))?;
    // Nobody but root can read that of a process that may not be dumped.
    let environment = match fs::read(format!("/proc/{pid}/environ")) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Vec::new(),
        read => read?,
    };
    let shown = [
        server.log()?,
        String::from_utf8_lossy(&environment).into_owned(),
        journal,
        format!("{used:?}"),
        String::from_utf8_lossy(&bytes(format!("/proc/{pid}/cmdline").as_ref())?).into_owned(),
        server.http("/metrics")?,
    ];
    for text in shown {
        for secret in
            [token.emit().as_str(), late.emit().as_str(), &hex::encode(token.secret()), &key]
        {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
    Ok(())
}

/// Nor is its memory another process's to read or to dump, not even one of the same user.
#[tokio::test]
async fn the_servers_memory_is_its_own() -> Result<()> {
    const NOBODY: u32 = 65534;
    let mut server = Server::start("lab", "")?;
    let own = fs::metadata("/proc/self")?.uid();
    if own == 0 {
        // Everything that root runs belongs to root: another user runs it.
        server.kill()?;
        let program = server.file("program");
        fs::copy(env!("CARGO_BIN_EXE_sigil-server"), &program)?;
        for entry in fs::read_dir(server.directory.path())? {
            let path = entry?.path();
            // That one is read here.
            if !path.ends_with("admin.toml") {
                chown(path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        chown(server.directory.path(), Some(NOBODY), Some(NOBODY))?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.args(["run", "--config"]).arg(server.file("server.toml"));
        server.resume_as(command)?;
    }
    let pid = server.pid().context("no server runs")?;
    let memory = fs::metadata(format!("/proc/{pid}/mem"))?;
    assert_eq!(memory.uid(), 0, "its memory belongs to its user");
    assert_eq!(server.status().await?.serial, 0, "it serves");
    Ok(())
}

/// Directories that others can write to would let them put old stores and keys in place, or have a
/// file written through a link.
#[tokio::test]
async fn files_that_others_can_put_in_place_are_not_used() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let init = |out: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_sigil-server"))
            .args(["init", "--cluster", "lab", "--listen", "127.0.0.1:1", "--out"])
            .arg(out)
            .output()
    };
    let open = directory.path().join("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    let made = init(&open)?;
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(!made.status.success() && said.contains("chmod 700"), "{said}");
    assert_eq!(fs::read_dir(&open)?.count(), 0, "it wrote something");
    // A link where the configuration will be, to nothing yet.
    let closed = directory.path().join("closed");
    fs::create_dir(&closed)?;
    let victim = directory.path().join("victim");
    symlink(&victim, closed.join("server.toml"))?;
    let made = init(&closed)?;
    assert!(!made.status.success() && !victim.exists(), "{made:?}");
    // And when it runs.
    let mut server = Server::start("lab", "")?;
    server.kill()?;
    fs::set_permissions(server.directory.path(), fs::Permissions::from_mode(0o777))?;
    let run = server.command().output()?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && said.contains("chmod 700"), "{said}");
    Ok(())
}

/// An administrator's credential opens the administrator's services, and no node's; a node's opens
/// nothing else of the same cluster, and neither is a server to anybody.
#[tokio::test]
async fn no_credential_serves_as_a_server() -> Result<()> {
    let server = Server::start("lab", "")?;
    let node = server.join(1).await?;
    let admin = Credential::load(&server.file("admin.toml"))?;
    for stolen in [node, admin.clone()] {
        let (ca, own) = (stolen.ca().context("no CA")?, stolen.certificate().context("none")?);
        let tls = tls::server(ca, own, stolen.key().context("no key")?)?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let imposter = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            acceptor.accept(stream).await.map(drop)
        });
        let mut victim = admin.clone();
        victim.servers = vec![address];
        assert!(channel(&victim).await.is_err(), "a client believed it");
        assert!(imposter.await?.is_err());
    }
    Ok(())
}

/// Two machines with everything of one node, its counters' instance as well: the second is told from
/// the first as long as that one lives.
#[tokio::test]
async fn a_copy_of_a_live_node_with_all_its_files_is_noticed() -> Result<()> {
    let server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut original = Node::attach(&credential, 1).await?;
    original.until(|node| node.keys.is_some()).await?;
    let copy = tokio::spawn({
        let credential = credential.clone();
        async move { Node::attach(&credential, 1).await.map(drop) }
    });
    let deadline = Instant::now() + PATIENCE;
    while !copy.is_finished() && Instant::now() < deadline {
        original.step().await?;
    }
    assert!(copy.await?.is_err(), "the copy took the original's place");
    assert!(!kept(&server, "node-cloned").await?.is_empty());
    Ok(())
}

/// One node opens connection after connection, and holds them: it gets a few, and others find room.
#[tokio::test]
async fn one_node_takes_a_few_seats_and_no_more() -> Result<()> {
    let server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.extend(admin(&credential).await.ok());
    }
    let mut answered = 0;
    for client in &mut held {
        let refused = client.status(StatusRequest {}).await.unwrap_err();
        answered += usize::from(refused.message().contains("only administrators"));
    }
    assert_eq!(answered, 8, "of {} connections", held.len());
    assert_eq!(server.status().await?.nodes.len(), 1);
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = Node::attach(&credential, 1).await {
        ensure!(Instant::now() < deadline, "its seats are never free again: {error:#}");
    }
    Ok(())
}

/// One who was revoked hears so, and then has to go, whatever it does to stay.
#[tokio::test]
async fn one_who_was_revoked_holds_no_seat() -> Result<()> {
    let server = Server::start("lab", "")?;
    let credential = server.join(1).await?;
    server.admin().await?.revoke(RevokeRequest { snid: 1 }).await?;
    let mut held = admin(&credential).await?;
    let began = Instant::now();
    while held.status(StatusRequest {}).await.unwrap_err().message().contains("administrators") {
        ensure!(began.elapsed() < PATIENCE, "it stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
