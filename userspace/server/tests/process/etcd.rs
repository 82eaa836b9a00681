//! Several servers on one etcd: any server and any member of etcd may die.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sigil_cluster::Credential;
use sigil_cluster::proto::StatusReply;

use crate::bed::{Node, PATIENCE, Server, free, join, policy};

/// Three members on loopback, killed on drop.
pub(crate) struct Etcd {
    directory: tempfile::TempDir,
    members: Vec<(SocketAddr, Child)>,
}

impl Etcd {
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let places = (0..3).map(|_| Ok((free()?, free()?))).collect::<Result<Vec<_>>>()?;
        let all = places.iter().enumerate().map(|(at, (_, peer))| format!("m{at}=http://{peer}"));
        let all = all.collect::<Vec<_>>().join(",");
        let member = |(at, (client, peer)): (usize, &(SocketAddr, SocketAddr))| {
            let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
            let child = Command::new("etcd")
                .args(["--name", &format!("m{at}"), "--data-dir"])
                .arg(directory.path().join(at.to_string()))
                .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url, "--initial-cluster", &all])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Ok((*client, child))
        };
        let members = places.iter().enumerate().map(member).collect::<Result<_>>()?;
        let this = Self { directory, members };
        this.leader()?;
        Ok(this)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|(client, _)| format!("http://{client}")).collect()
    }

    /// The leader's place among the members, once there is one.
    fn leader(&self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (at, (client, _)) in self.members.iter().enumerate() {
                let metrics = get(*client, "/metrics").unwrap_or_default();
                if metrics.contains("etcd_server_is_leader 1") {
                    return Ok(at);
                }
            }
            ensure!(Instant::now() < deadline, "etcd elects no leader");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(&mut self, at: usize) -> Result<()> {
        let (_, mut member) = self.members.remove(at);
        member.kill()?;
        member.wait()?;
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        while !self.members.is_empty() {
            let _ = self.kill(0);
        }
    }
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

fn post(address: SocketAddr, path: &str, body: &str) -> Result<String> {
    let (head, length) = ("HTTP/1.1\r\nhost: x\r\nconnection: close", body.len());
    ask(address, &format!("POST {path} {head}\r\ncontent-length: {length}\r\n\r\n{body}"))
}

fn ask(address: SocketAddr, request: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[tokio::test]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn servers_on_one_etcd_agree_and_any_may_die() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let mut one = Server::start_on("lab", &etcd.urls())?;
    let two = one.beside()?;
    let token = one.token(1, 60).await?;
    // The other server hears of it in a moment.
    let invited = |status: &StatusReply| status.nodes.iter().any(|node| node.state == "token");
    while !invited(&two.status().await?) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut credential = join(two.address, 1, &token).await?;
    let again = join(one.address, 1, &token).await;
    assert!(again.is_err(), "a token that was used at the other server");
    // Attached to one, pushed to the other.
    credential.servers = vec![two.address];
    let mut node = Node::attach(&credential, 1).await?;
    one.push(&policy(1, 7)).await?;
    node.until(|node| node.progress.serial == 1 && node.keys.is_some()).await?;
    let refused = two.push(&policy(1, 8)).await?;
    assert!(!refused.accepted, "serials rise whichever server is asked");
    // The leader dies: what is asked meanwhile is refused or done, and then it goes on.
    let leader = etcd.leader()?;
    etcd.kill(leader)?;
    let deadline = Instant::now() + PATIENCE;
    let mut serial = 2;
    while !matches!(two.push(&policy(serial, 8)).await, Ok(reply) if reply.accepted) {
        ensure!(Instant::now() < deadline, "no push is accepted after the leader died");
        // Whether the one before was done is not known.
        serial += 1;
    }
    node.until(|node| node.progress.serial >= 2).await?;
    // A server dies: its nodes go to the other, and get what they had.
    credential.servers = vec![one.address, two.address];
    let mut moved = Node::attach(&credential, 1).await?;
    moved.until(|node| node.progress.serial >= 2 && node.keys.is_some()).await?;
    one.kill()?;
    let mut moved = Node::attach(&credential, 1).await?;
    moved.until(|node| node.progress.serial >= 2 && node.keys.is_some()).await?;
    Ok(())
}

/// What is in etcd tells whoever reads it nothing.
#[tokio::test]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn what_is_in_etcd_is_encrypted() -> Result<()> {
    let etcd = Etcd::start()?;
    let server = Server::start_on("lab", &etcd.urls())?;
    server.join(1).await?;
    server.push(&policy(1, 7)).await?;
    let admin = Credential::load(&server.file("admin.toml"))?;
    assert!(admin.ca().context("no CA")?.len() > 100);
    for (at, _) in etcd.members.iter().enumerate() {
        let mut files = vec![etcd.directory.path().join(at.to_string())];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(path)?.flatten().map(|entry| entry.path()));
                continue;
            }
            let bytes = fs::read(&path)?;
            for plain in [&b"CREATE"[..], b"PRIVATE KEY"] {
                let found = bytes.windows(plain.len()).any(|window| window == plain);
                assert!(!found, "{}", path.display());
            }
        }
    }
    Ok(())
}

/// A server that cannot read what another wrote would not hear of a revocation: it ends, and says why.
#[tokio::test]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn a_record_that_cannot_be_read_ends_the_server() -> Result<()> {
    let etcd = Etcd::start()?;
    let mut server = Server::start_on("lab", &etcd.urls())?;
    server.join(1).await?;
    let (member, _) = etcd.members.first().context("no member")?;
    // /sigil/lab/node/7, a word in the clear.
    let body = r#"{"key":"L3NpZ2lsL2xhYi9ub2RlLzc=","value":"d29yZA=="}"#;
    post(*member, "/v3/kv/put", body)?;
    let ended = server.ended()?;
    assert!(!ended.success() && server.log()?.contains("node/7"), "{ended}: {}", server.log()?);
    Ok(())
}

/// Makes a CA's certificate of a key for some names, in PEM, and the key's.
fn certified(by: &Issuer<'_, KeyPair>, names: &[&str]) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names)?.signed_by(&key, by)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The way to etcd: both ends certified; and what failed on it can be tried again.
#[tokio::test]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn etcd_and_server_know_each_other_by_their_certificates() -> Result<()> {
    let files = tempfile::tempdir()?;
    let path = |name: &str| files.path().join(name).display().to_string();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(path("ca.pem"), params.self_signed(&key)?.pem())?;
    let ca = Issuer::new(params, key);
    for (name, names) in [("etcd", &["127.0.0.1"][..]), ("server", &["sigil"][..])] {
        let (certificate, key) = certified(&ca, names)?;
        fs::write(path(&format!("{name}.pem")), certificate)?;
        fs::write(path(&format!("{name}.key")), key)?;
        fs::set_permissions(path(&format!("{name}.key")), fs::Permissions::from_mode(0o600))?;
    }
    let (client, peer) = (free()?, free()?);
    let url = format!("https://{client}");
    let mut member = Command::new("etcd")
        .args(["--data-dir", &path("data"), "--listen-client-urls", &url])
        .args(["--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &format!("http://{peer}")])
        .args(["--cert-file", &path("etcd.pem"), "--key-file", &path("etcd.key")])
        .args(["--client-cert-auth", "--trusted-ca-file", &path("ca.pem")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let done = async {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(client).is_err() {
            ensure!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let out = files.path().join("out");
        let (ca, certificate, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
        let init = |credential: &[&str]| {
            Command::new(env!("CARGO_BIN_EXE_sigil-server"))
                .args(["init", "--cluster", "lab", "--listen", "127.0.0.1:1", "--etcd", &url])
                .args(["--etcd-ca", &ca])
                .args(credential)
                .arg("--out")
                .arg(&out)
                .output()
        };
        let made = init(&[])?;
        ensure!(!made.status.success(), "etcd takes whoever comes");
        ensure!(!out.join("store.key").exists(), "the next try finds a key");
        let made = init(&["--etcd-cert", &certificate, "--etcd-key", &key])?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let made = init(&["--etcd-cert", &certificate, "--etcd-key", &key])?;
        ensure!(!made.status.success(), "a cluster was made twice");
        Ok(())
    };
    let done = done.await;
    member.kill()?;
    member.wait()?;
    done
}
