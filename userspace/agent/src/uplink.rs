//! The node's line to its server: it takes keys and policies, says how far the node is, and goes
//! back from a policy that cost it the server.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rcgen::KeyPair;
use sigil_cluster::channel::{Connected, Prepare, connect};
use sigil_cluster::credential::{Credential, pem};
use sigil_cluster::envelope::Recipient;
use sigil_cluster::identity::validity;
use sigil_cluster::proto::nodes_client::NodesClient;
use sigil_cluster::proto::{
    Hello, MAX_MESSAGE, NodeMessage, Ping, Pong, RenewRequest, ServerMessage, node_message,
    server_message,
};
use sigil_cluster::{Identity, Role, tls};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::join::request;
use crate::node::Node;
use crate::serve::{brief, with_node};
use crate::signed::{OldKeys, seconds};

/// A server that says nothing for so long is lost: pings are answered.
const SILENCE: Duration = Duration::from_secs(5);
const PING: Duration = Duration::from_secs(1);
/// Between attempts to reach a server: at first, and at most.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(3);
/// A renewal that failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);

/// Reads a node's credential.
pub(crate) fn credential(path: &std::path::Path, snid: u32) -> Result<(Credential, Recipient)> {
    let credential = Credential::load(path).context("no credential: run `sigild join` first")?;
    let Identity { cluster, role } =
        credential.identity().with_context(|| path.display().to_string())?;
    ensure!(
        role == Role::Node(snid),
        "{} is another member's credential, and this is node {snid}: correct `snid`, or join anew",
        path.display()
    );
    let key = credential.policy_key().with_context(|| {
        format!("{} names no key that signs policies: join anew", path.display())
    })?;
    Ok((credential, Recipient { cluster, snid, key }))
}

/// How the line is, for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// The server, while attached.
    pub(crate) server: Option<std::net::SocketAddr>,
    /// When the server was last heard of, in seconds since 1970; 0 for never.
    pub(crate) heard: i64,
    /// Why it cannot be reached.
    pub(crate) problem: String,
}

/// Keeps the line, for as long as the agent lives.
pub(crate) struct Uplink {
    node: Arc<Mutex<Node>>,
    path: PathBuf,
    credential: Credential,
    prepare: Option<Prepare>,
    /// When to go back from the policy in force.
    trial: Option<Trial>,
    /// When to try a renewal again.
    retry: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Trial {
    ends: Instant,
    /// The ping whose answer confirms it.
    ping: u64,
}

impl Uplink {
    pub(crate) fn new(
        node: Arc<Mutex<Node>>,
        path: PathBuf,
        credential: Credential,
        prepare: Option<Prepare>,
    ) -> Self {
        Self { node, path, credential, prepare, trial: None, retry: None }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) -> Result<()> {
        // One that was cut off from its server by what it started with goes back as well.
        if let Some(confirm) = self.on_node(Node::trial).await? {
            self.trial = Some(Trial { ends: Instant::now() + confirm, ping: 1 });
        }
        let mut wait = SOON;
        let mut turn = 0;
        loop {
            let began = Instant::now();
            let error = match self.attached(turn).await {
                Ok(()) => continue,
                Err(error) => error,
            };
            let text = brief(&format!("{error:#}"));
            tracing::warn!("no server: {text}");
            self.on_node(move |node| {
                node.line(|line| *line = Line { server: None, problem: text, ..line.clone() });
            })
            .await?;
            turn += 1;
            wait = if began.elapsed() > LATER { SOON } else { (wait * 2).min(LATER) };
            let again = Instant::now() + wait + jitter();
            while let Some(trial) = self.trial.filter(|trial| trial.ends < again) {
                sleep_until(trial.ends).await;
                self.go_back().await?;
            }
            sleep_until(again).await;
        }
    }

    async fn on_node<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> Result<T> {
        with_node(&self.node, act).await
    }

    /// One attachment; ends in an error, or in peace to begin another with a new certificate.
    async fn attached(&mut self, turn: usize) -> Result<()> {
        let tls = Arc::new(tls::client(&self.credential)?);
        let servers = self.credential.servers.clone();
        let Connected { channel, server, .. } =
            connect(&servers, turn, tls, self.prepare.clone()).await?;
        let mut client = NodesClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let (to, from) = mpsc::channel(16);
        let (instance, progress) = self.on_node(|node| (node.instance(), node.progress())).await?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello = Hello { version, instance, progress: Some(progress), time: seconds() };
        to.send(message(node_message::Body::Hello(hello))).await?;
        let attached = timeout(SILENCE, client.attach(ReceiverStream::new(from)));
        let stream = attached.await.context("the server does not answer")?;
        let mut stream = stream.map_err(|why| refused(&why))?.into_inner();
        tracing::info!(%server, "attached");

        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        // A report waits to be heard before the next one.
        let mut reporting = false;
        let mut heard = Instant::now();
        if let Some(trial) = &mut self.trial {
            trial.ping = 1;
        }
        loop {
            let ends = self.trial.map(|trial| trial.ends);
            tokio::select! {
                received = stream.message() => {
                    let ServerMessage { body } = received.map_err(|why| refused(&why))?.context("the server hung up")?;
                    heard = Instant::now();
                    match body {
                        Some(server_message::Body::Pong(pong)) => {
                            self.pong(server, pong.number).await?;
                        }
                        Some(server_message::Body::Ping(Ping { number })) => {
                            to.send(message(node_message::Body::Pong(Pong { number }))).await?;
                        }
                        Some(server_message::Body::Heard(all)) => {
                            self.on_node(move |node| node.heard(all.number)).await?;
                            reporting = self.report(&to).await?;
                        }
                        Some(body) => {
                            self.take(body, number + 1).await?;
                            number += 1;
                            let progress = self.on_node(|node| node.progress()).await?;
                            to.send(message(node_message::Body::Progress(progress))).await?;
                            to.send(message(node_message::Body::Ping(Ping { number }))).await?;
                        }
                        None => bail!("the server says what this release does not know"),
                    }
                }
                _ = pings.tick() => {
                    ensure!(heard.elapsed() < SILENCE, "the server is silent");
                    number += 1;
                    let progress = self.on_node(|node| node.progress()).await?;
                    to.send(message(node_message::Body::Progress(progress))).await?;
                    to.send(message(node_message::Body::Ping(Ping { number }))).await?;
                    if !reporting {
                        reporting = self.report(&to).await?;
                    }
                    if self.renewal_is_due() {
                        match self.renew(channel.clone()).await {
                            Ok(()) => return Ok(()),
                            Err(error) => {
                                tracing::error!("the certificate is not renewed: {error:#}");
                                self.retry = Some(Instant::now() + RETRY);
                            }
                        }
                    }
                }
                () = until(ends) => self.go_back().await?,
            }
        }
    }

    /// Sends the next report, and says whether there was one.
    async fn report(&self, to: &mpsc::Sender<NodeMessage>) -> Result<bool> {
        let Some(report) = self.on_node(|node| node.report()).await? else { return Ok(false) };
        to.send(message(node_message::Body::Report(report))).await?;
        Ok(true)
    }

    async fn pong(&mut self, server: std::net::SocketAddr, number: u64) -> Result<()> {
        let confirmed = self.trial.is_some_and(|trial| number >= trial.ping);
        if confirmed {
            self.trial = None;
        }
        self.on_node(move |node| {
            node.line(|line| {
                *line = Line { server: Some(server), heard: seconds(), problem: String::new() };
            });
            if confirmed {
                node.confirm();
            }
        })
        .await
    }

    async fn take(&mut self, body: server_message::Body, ping: u64) -> Result<()> {
        match body {
            server_message::Body::Keys(keys) => {
                let mut keys = keys;
                let installed = self
                    .on_node(move |node| {
                        let installed = node.install(&keys);
                        keys.wipe();
                        installed
                    })
                    .await?;
                match installed {
                    Err(error) if error.is::<OldKeys>() => {
                        tracing::error!("the keys that were here stay: {error:#}");
                        Ok(())
                    }
                    // The server sends them again to whoever attaches again.
                    installed => installed.context("the keys that were here stay"),
                }
            }
            server_message::Body::Policy(policy) => {
                let taken = self.on_node(move |node| node.take(policy)).await?;
                match taken {
                    Ok(Some(confirm)) => {
                        self.trial = Some(Trial { ends: Instant::now() + confirm, ping });
                    }
                    Ok(None) => self.trial = None,
                    Err(error) => {
                        tracing::error!("not applied, what was in force stays: {error:#}");
                    }
                }
                Ok(())
            }
            server_message::Body::Ping(_)
            | server_message::Body::Pong(_)
            | server_message::Body::Heard(_) => Ok(()),
        }
    }

    async fn go_back(&mut self) -> Result<()> {
        self.trial = None;
        self.on_node(Node::go_back).await?
    }

    /// Two thirds of the certificate's time have passed.
    fn renewal_is_due(&self) -> bool {
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            return false;
        }
        let certificate = self.credential.certificate();
        let Some(Ok((from, to))) = certificate.map(|certificate| validity(&certificate)) else {
            return false;
        };
        // Certificates begin some minutes early, for clocks that differ.
        let from = from + 300;
        seconds() >= from + (to - from) * 2 / 3
    }

    async fn renew(&mut self, channel: Channel) -> Result<()> {
        let key = KeyPair::generate()?;
        let csr = request(&key)?;
        let mut client = NodesClient::new(channel);
        let renewed = timeout(SILENCE, client.renew(RenewRequest { csr }));
        let reply = renewed.await.context("the server does not answer")?;
        let reply = reply.map_err(|why| refused(&why))?.into_inner();
        let mut next = self.credential.clone();
        next.certificate = pem(&reply.certificate);
        next.key = key.serialize_pem();
        ensure!(next.identity()? == self.credential.identity()?, "it names another member");
        next.store(&self.path)?;
        self.credential = next;
        tracing::info!("certificate renewed");
        Ok(())
    }
}

/// What the server says, without the protocol's words around it.
fn refused(why: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", why.message())
}

fn message(body: node_message::Body) -> NodeMessage {
    NodeMessage { body: Some(body) }
}

/// For ever without an end.
async fn until(ends: Option<Instant>) {
    match ends {
        Some(ends) => sleep_until(ends).await,
        None => std::future::pending().await,
    }
}

/// Up to 100 ms, so that nodes that lost a server together do not come back together.
fn jitter() -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter.
    let _ = sigil_keys::system_random(&mut byte);
    Duration::from_millis(u64::from(byte[0]) * 100 / 256)
}
