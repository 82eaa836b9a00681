//! A real server on loopback, and nodes and administrators that speak the real protocol.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use sigil_cluster::chain::Head;
use sigil_cluster::channel::connect;
use sigil_cluster::credential::pem;
use sigil_cluster::envelope::{Recipient, open};
use sigil_cluster::proto::admin_client::AdminClient;
use sigil_cluster::proto::enrolment_client::EnrolmentClient;
use sigil_cluster::proto::nodes_client::NodesClient;
use sigil_cluster::proto::{
    DrawTokenRequest, EnrolRequest, Envelope, Hello, Keys, NodeAlarm, NodeMessage, Ping, Pong,
    Progress, PushReply, PushRequest, Report, ServerMessage, StatusReply, StatusRequest,
    node_message, server_message,
};
use sigil_cluster::{Credential, Token, tls};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server's process, killed on drop, and its files.
pub(crate) struct Server {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    child: Option<Child>,
}

/// A port that was free a moment ago.
pub(crate) fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Server {
    /// Makes a cluster and serves it.
    pub(crate) fn start(cluster: &str, settings: &str) -> Result<Self> {
        let mut server = Self::make(cluster, &[])?;
        server.configure(settings)?;
        server.resume()?;
        Ok(server)
    }

    /// Makes a cluster whose records are in etcd, and serves it.
    pub(crate) fn start_on(cluster: &str, etcd: &[String]) -> Result<Self> {
        let mut server = Self::make(cluster, etcd)?;
        server.resume()?;
        Ok(server)
    }

    /// Another server of the same cluster.
    pub(crate) fn beside(&self) -> Result<Self> {
        let (address, metrics) = (free()?, free()?);
        let directory = tempfile::tempdir()?;
        fs::copy(self.file("store.key"), directory.path().join("store.key"))?;
        fs::copy(self.file("admin.toml"), directory.path().join("admin.toml"))?;
        let text = fs::read_to_string(self.file("server.toml"))?;
        let text = text.replace(&self.address.to_string(), &address.to_string());
        let text = text.replace(&self.metrics.to_string(), &metrics.to_string());
        fs::write(directory.path().join("server.toml"), text)?;
        let mut credential = Credential::load(&self.file("admin.toml"))?;
        credential.servers = vec![address];
        credential.store(&directory.path().join("admin.toml"))?;
        let mut server = Self { directory, address, metrics, child: None };
        server.resume()?;
        Ok(server)
    }

    fn make(cluster: &str, etcd: &[String]) -> Result<Self> {
        let (address, metrics) = (free()?, free()?);
        let directory = tempfile::tempdir()?;
        let made = Command::new(env!("CARGO_BIN_EXE_sigil-server"))
            .args(["init", "--cluster", cluster, "--listen", &address.to_string()])
            .args(["--metrics", &metrics.to_string(), "--out"])
            .arg(directory.path())
            .args(etcd.iter().flat_map(|url| ["--etcd", url]))
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { directory, address, metrics, child: None })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the tables of the configuration.
    pub(crate) fn configure(&self, settings: &str) -> Result<()> {
        let file = self.file("server.toml");
        let text = fs::read_to_string(&file)?;
        let head = text.split("\n[").next().unwrap_or_default();
        Ok(fs::write(&file, format!("{head}\n{settings}"))?)
    }

    /// Starts it again.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.spawn(self.command())
    }

    /// Starts it again, by a command of one's own.
    pub(crate) fn resume_as(&mut self, command: Command) -> Result<()> {
        self.spawn(command)
    }

    fn spawn(&mut self, mut command: Command) -> Result<()> {
        // Not the test's own: whoever reads that may be slower than the server may be.
        let log = fs::File::options().create(true).append(true).open(self.file("log"))?;
        self.child = Some(command.stderr(log).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            ensure!(
                ended.is_none() && Instant::now() < deadline,
                "the server does not start: {}",
                fs::read_to_string(self.file("log"))?
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts it again; no file of it may grow beyond so many bytes.
    pub(crate) fn resume_with_file_limit(&mut self, bytes: u64) -> Result<()> {
        let mut command = Command::new("prlimit");
        // Writing on is an error then, and no signal.
        command.arg(format!("--fsize={bytes}:")).args(["env", "--ignore-signal=XFSZ"]);
        command.arg(env!("CARGO_BIN_EXE_sigil-server")).args(["run", "--config"]);
        command.arg(self.file("server.toml"));
        self.spawn(command)
    }

    /// `sigil-server run`, not started.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sigil-server"));
        command.args(["run", "--config"]).arg(self.file("server.toml"));
        command
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no server runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub(crate) async fn admin(&self) -> Result<AdminClient<Channel>> {
        admin(&Credential::load(&self.file("admin.toml"))?).await
    }

    /// A token's text.
    pub(crate) async fn token(&self, snid: u32, valid_seconds: u32) -> Result<Token> {
        let request = DrawTokenRequest { snid, valid_seconds };
        let reply = self.admin().await?.draw_token(request).await?.into_inner();
        Ok(String::from_utf8(reply.token.clone())?.parse()?)
    }

    /// Enrols a node.
    pub(crate) async fn join(&self, snid: u32) -> Result<Credential> {
        join(self.address, snid, &self.token(snid, 60).await?).await
    }

    pub(crate) async fn push(&self, document: &str) -> Result<PushReply> {
        self.push_to(document, &[], 60).await
    }

    pub(crate) async fn push_to(
        &self,
        document: &str,
        canary: &[u32],
        confirm_seconds: u32,
    ) -> Result<PushReply> {
        let request = PushRequest {
            name: "policy.xml".into(),
            document: document.into(),
            dry_run: false,
            canary: canary.to_vec(),
            confirm_seconds,
        };
        Ok(self.admin().await?.push(request).await?.into_inner())
    }

    pub(crate) async fn status(&self) -> Result<StatusReply> {
        Ok(self.admin().await?.status(StatusRequest {}).await?.into_inner())
    }

    /// What it logged, over all its lives.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.file("log"))?)
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        let pid = self.pid().context("no server runs")?;
        let told = Command::new("kill").arg(pid.to_string()).status()?;
        ensure!(told.success(), "kill: {told}");
        self.ended()
    }

    /// Waits until it ends; how it did.
    pub(crate) fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("no server runs")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                bail!("it does not end: {}", self.log()?);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What an HTTP client gets.
    pub(crate) fn http(&self, path: &str) -> Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(self.metrics)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

pub(crate) async fn channel(credential: &Credential) -> Result<Channel> {
    let tls = Arc::new(tls::client(credential)?);
    Ok(connect(&credential.servers, 0, tls, None).await?.channel)
}

pub(crate) async fn admin(credential: &Credential) -> Result<AdminClient<Channel>> {
    Ok(AdminClient::new(channel(credential).await?))
}

pub(crate) fn csr(key: &KeyPair) -> Result<Vec<u8>> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec())
}

/// Shows a token to whatever serves there.
pub(crate) async fn join(server: SocketAddr, snid: u32, token: &Token) -> Result<Credential> {
    let connected = connect(&[server], 0, Arc::new(tls::joining(token)?), None).await?;
    let key = KeyPair::generate()?;
    let request = EnrolRequest { token: token.secret().to_vec(), csr: csr(&key)?, snid };
    let reply = EnrolmentClient::new(connected.channel).enrol(request).await?.into_inner();
    Ok(Credential {
        servers: vec![server],
        ca: pem(&connected.ca.context("no CA")?),
        certificate: pem(&reply.certificate),
        key: key.serialize_pem(),
        policy_key: hex::encode(&reply.policy_key),
    })
}

/// An attached node, without a datapath.
pub(crate) struct Node {
    pub(crate) recipient: Recipient,
    pub(crate) progress: Progress,
    pub(crate) keys: Option<Keys>,
    pub(crate) policy: Option<Envelope>,
    to: mpsc::Sender<NodeMessage>,
    from: Streaming<ServerMessage>,
    pings: u64,
    /// The last alarm that the server has on disk.
    pub(crate) heard: u64,
}

impl Node {
    pub(crate) async fn attach(credential: &Credential, instance: u8) -> Result<Self> {
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: vec![instance; 16],
            progress: Some(Progress::default()),
            time: 0,
        };
        Self::attach_with(credential, hello).await
    }

    /// Attaches once more, as an agent that was started again: with all that it had.
    pub(crate) async fn again(self, credential: &Credential, instance: u8) -> Result<Self> {
        let Self { progress, policy, keys, to, from, .. } = self;
        drop((to, from));
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            instance: vec![instance; 16],
            progress: Some(progress.clone()),
            time: 0,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::attach_with(credential, hello.clone()).await {
                Ok(node) => return Ok(Self { progress, keys, policy, ..node }),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub(crate) async fn attach_with(credential: &Credential, hello: Hello) -> Result<Self> {
        let sigil_cluster::Identity { cluster, role: sigil_cluster::Role::Node(snid) } =
            credential.identity()?
        else {
            bail!("no node");
        };
        let mut client = NodesClient::new(channel(credential).await?)
            .max_decoding_message_size(sigil_cluster::proto::MAX_MESSAGE);
        let (to, from) = mpsc::channel(64);
        to.send(message(node_message::Body::Hello(hello))).await?;
        let from = client.attach(ReceiverStream::new(from)).await?.into_inner();
        let key = credential.policy_key().context("no key")?;
        Ok(Self {
            recipient: Recipient { cluster, snid, key },
            progress: Progress::default(),
            keys: None,
            policy: None,
            to,
            from,
            pings: 0,
            heard: 0,
        })
    }

    pub(crate) async fn say(&mut self, body: node_message::Body) -> Result<()> {
        Ok(self.to.send(message(body)).await?)
    }

    /// Takes what comes, as an agent would, until it is as wanted.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Self) -> bool) -> Result<()> {
        timeout(PATIENCE, async {
            while !fits(self) {
                self.step().await?;
            }
            Ok(())
        })
        .await
        .context("it never came")?
    }

    /// One message, or a ping after half a second without one.
    pub(crate) async fn step(&mut self) -> Result<()> {
        let Ok(received) = timeout(Duration::from_millis(300), self.from.message()).await else {
            self.pings += 1;
            let number = self.pings;
            return self.say(node_message::Body::Ping(Ping { number })).await;
        };
        let ServerMessage { body } = received?.context("the server hung up")?;
        match body.context("nothing in it")? {
            server_message::Body::Keys(keys) => {
                self.progress.keys = keys.version;
                self.keys = Some(keys);
            }
            server_message::Body::Policy(policy) => {
                let envelope = open(&policy, &self.recipient)?;
                self.progress.revision = envelope.revision;
                self.progress.serial = envelope.serial;
                self.policy = Some(envelope);
            }
            server_message::Body::Heard(heard) => {
                self.heard = heard.number;
                return Ok(());
            }
            server_message::Body::Ping(Ping { number }) => {
                return self.say(node_message::Body::Pong(Pong { number })).await;
            }
            server_message::Body::Pong(_) => return Ok(()),
        }
        self.say(node_message::Body::Progress(self.progress.clone())).await
    }

    /// Reports alarms that continue a chain, without waiting to be heard.
    pub(crate) async fn report(&mut self, chain: &mut Head, counts: &[u64]) -> Result<()> {
        let mut alarms = Vec::new();
        for count in counts {
            let alarm = NodeAlarm {
                number: chain.number + 1,
                previous: chain.hash.clone(),
                kind: "drop".into(),
                hook: "ingress".into(),
                reason: "no-rule".into(),
                count: *count,
                ..NodeAlarm::default()
            };
            chain.advance(&alarm);
            alarms.push(alarm);
        }
        let report = Report { chain: chain.chain.clone(), alarms };
        self.say(node_message::Body::Report(report)).await
    }

    /// How the stream ends.
    pub(crate) async fn end(mut self) -> Result<String> {
        timeout(PATIENCE, async {
            loop {
                match self.from.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return "without a word".to_owned(),
                    Err(refusal) => return refusal.message().to_owned(),
                }
            }
        })
        .await
        .context("it goes on")
    }

    /// Other ends of the keys in the epoch that is stamped with.
    pub(crate) fn peers(&self) -> Vec<u32> {
        let Some(keys) = &self.keys else { return Vec::new() };
        let epoch = keys.epochs.iter().find(|epoch| epoch.key_id == keys.stamp);
        let pairs = epoch.map(|epoch| epoch.pairs.as_slice()).unwrap_or_default();
        let own = self.recipient.snid;
        pairs.iter().filter(|pair| pair.source == own).map(|pair| pair.target).collect()
    }
}

fn message(body: node_message::Body) -> NodeMessage {
    NodeMessage { body: Some(body) }
}

/// A policy of three nodes, of which node 3 has nothing to do with node 1's rule.
pub(crate) fn policy(serial: u64, target: u32) -> String {
    let node = |snid: u32| {
        format!(
            "<node><SnID>{snid}</SnID><name>n{snid}</name><address>10.0.0.{snid}</address></node>"
        )
    };
    format!(
        "<DSP cluster=\"lab\" serial=\"{serial}\">\n{}{}{}\n<zone><ScID>7</ScID><name>a</name></zone>\n\
         <zone><ScID>8</ScID><name>b</name></zone>\n\
         <SOCKET_class_rule><sSnID>1</sSnID><sScID>7</sScID><tSnID>2</tSnID><tScID>{target}</tScID>\
         <allow>CREATE</allow></SOCKET_class_rule>\n</DSP>\n",
        node(1),
        node(2),
        node(3)
    )
}

/// Every byte of a file.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}
