//! The nodes' side: one stream for each attached node, which gets whatever it should have next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sigil_cluster::proto::nodes_server::Nodes;
use sigil_cluster::proto::{
    Heard, Hello, NodeMessage, Ping, Pong, Progress, RenewReply, RenewRequest, ServerMessage,
    node_message, server_message,
};
use sigil_cluster::{Identity, Role};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status as Refusal, Streaming};

use crate::config::Lifetimes;
use crate::holders::{self, Outcome};
use crate::keyset::{self, fresh};
use crate::listen::peer;
use crate::pace::Pace;
use crate::record::{Node, Snapshot, Status, now};
use crate::release;
use crate::reports::{self, clean};
use crate::sessions::{Line, Sessions};
use crate::state::{State, unavailable};

/// A node that says nothing for so long is gone; it pings every second.
const SILENCE: Duration = Duration::from_secs(5);
/// A node that takes nothing for so long is gone.
const STUCK: Duration = Duration::from_secs(10);
/// A node that went back twice from a policy is not sent it again.
const REVERTS: u32 = 2;
const CLONE: &str = "another machine is attached under this SnID: one of the two is a clone";
/// Longest problem that is kept, in bytes.
const PROBLEM: usize = 2048;

/// The service for nodes.
pub(crate) struct Desk {
    pub(crate) state: Arc<State>,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) sessions: Arc<Sessions>,
    /// Nodes whose counters are new, for which all nodes get new keys.
    pub(crate) instances: Pace,
    pub(crate) renewals: Pace,
}

/// The node that sent a request, if it is a member and the certificate is its own.
fn member<T>(state: &State, request: &Request<T>) -> Result<(u32, Node), Refusal> {
    let peer = peer(request)?;
    let Some(Identity { role: Role::Node(snid), .. }) = peer.identity else {
        return Err(Refusal::permission_denied("only nodes may ask this"));
    };
    let node = check(&state.snapshot(), snid, &peer.key).map_err(|why| {
        state.alarm(snid, "node-refused", format!("{}: {why}", peer.address));
        Refusal::permission_denied(why)
    })?;
    Ok((snid, node))
}

/// The node, if the key is certified for it; else, why it is refused.
pub(crate) fn check(snapshot: &Snapshot, snid: u32, key: &str) -> Result<Node, &'static str> {
    match snapshot.nodes.get(&snid).map(|held| &held.value) {
        None => Err("the node is not enrolled"),
        Some(node) if node.revoked => {
            Err("the node was revoked: to enrol it anew, sigild --detach, then sigild join")
        }
        Some(node) if node.key != key && node.former.as_deref() != Some(key) => Err(
            "the certificate was replaced by another: to enrol the node anew, sigild --detach, \
                 then sigild join",
        ),
        Some(node) => Ok(node.clone()),
    }
}

#[tonic::async_trait]
impl Nodes for Desk {
    type AttachStream = ReceiverStream<Result<ServerMessage, Refusal>>;

    async fn attach(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::AttachStream>, Refusal> {
        let (snid, node) = member(&self.state, &request)?;
        let (key, address) = (peer(&request)?.key.clone(), peer(&request)?.address);
        let mut from = request.into_inner();
        let first = timeout(SILENCE, from.message()).await;
        let Ok(Ok(Some(NodeMessage { body: Some(node_message::Body::Hello(hello)) }))) = first
        else {
            return Err(Refusal::invalid_argument("a node says hello first"));
        };
        if hello.instance.len() != 16 || hello.version.len() > 64 {
            return Err(Refusal::invalid_argument("the hello is malformed"));
        }
        let instance = hex::encode(&hello.instance);
        let fresh = !node.instance.is_empty() && node.instance != instance;
        if fresh && !self.instances.may(snid, Instant::now()) {
            let why = "the node's counters are new too often: wait a minute";
            self.state.alarm(snid, "node-refused", format!("{address}: {why}"));
            return Err(Refusal::resource_exhausted(why));
        }
        let (to, stream) = mpsc::channel(4);
        let (number, ended) = self.enter(snid, &instance, &to).await?;
        admit(&self.state, snid, &instance, &key).await.inspect_err(|_| {
            self.sessions.leave(snid, number);
        })?;
        let session = Run {
            state: Arc::clone(&self.state),
            sessions: Arc::clone(&self.sessions),
            snid,
            number,
            to,
            sent_revision: 0,
            sent_keys: 0,
            progress: Progress::default(),
            saving: Arc::default(),
        };
        tokio::spawn(session.run(hello, from, ended));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Refusal> {
        let (snid, _) = member(&self.state, &request)?;
        let key = peer(&request)?.key.clone();
        if !self.renewals.may(snid, Instant::now()) {
            return Err(Refusal::resource_exhausted("the certificate is renewed too often: wait"));
        }
        let certified = self
            .state
            .ca
            .certify(&request.get_ref().csr, Role::Node(snid), self.lifetimes.node)
            .map_err(|error| Refusal::invalid_argument(format!("{error:#}")))?;
        self.state
            .update(|snapshot, draft| {
                let held = snapshot.nodes.get(&snid).filter(|held| !held.value.revoked);
                let node = held.map(|held| held.value.clone());
                let node =
                    node.ok_or_else(|| Refusal::permission_denied("the node was revoked"))?;
                let renewed = Node {
                    key: certified.key.clone(),
                    // It stays good until the node has shown the new one.
                    former: Some(key.clone()),
                    ends: certified.ends,
                    ..node
                };
                draft.node(snapshot, snid, &renewed);
                Ok(())
            })
            .await?;
        tracing::info!(snid, "certificate renewed");
        Ok(Response::new(RenewReply { certificate: certified.certificate.to_vec() }))
    }
}

impl Desk {
    /// Begins the node's session: its number, and what says that it is over.
    async fn enter(
        &self,
        snid: u32,
        instance: &str,
        line: &Line,
    ) -> Result<(u64, watch::Receiver<()>), Refusal> {
        let shared = self.state.store.shared();
        loop {
            let vacant = self.sessions.vacate(snid, instance).await;
            if !vacant || shared && holders::take(&self.state, snid).await? == Outcome::Lives {
                self.state.alarm(snid, "node-cloned", CLONE.to_owned());
                return Err(Refusal::already_exists(CLONE));
            }
            let Some((number, ended)) = self.sessions.enter(snid, instance, line) else { continue };
            // Whoever takes the node from now on finds the session, and ends it.
            if !shared || self.state.holders.of(snid) == self.state.me {
                return Ok((number, ended));
            }
            self.sessions.leave(snid, number);
        }
    }
}

/// Takes note of who attaches: one without its counters gets keys that nobody had before.
async fn admit(state: &State, snid: u32, instance: &str, key: &str) -> Result<(), Refusal> {
    state
        .update(|snapshot, draft| {
            let held = snapshot.nodes.get(&snid).filter(|held| !held.value.revoked);
            let Some(node) = held.map(|held| &held.value) else {
                return Err(Refusal::permission_denied("the node was revoked"));
            };
            let mut next = node.clone();
            if node.key == key {
                next.former = None;
            }
            if node.instance != instance {
                instance.clone_into(&mut next.instance);
                if !node.instance.is_empty() {
                    let mut keys = snapshot.keys.value.clone();
                    next.first_epoch = fresh(&keys);
                    keys.wanted = keys.wanted.max(next.first_epoch);
                    keys.version += 1;
                    draft.keys(snapshot, &keys);
                    tracing::info!(snid, epoch = next.first_epoch, "the node's counters are new");
                }
            }
            if next != *node {
                draft.node(snapshot, snid, &next);
            }
            Ok(())
        })
        .await
}

/// One attached node.
struct Run {
    state: Arc<State>,
    sessions: Arc<Sessions>,
    snid: u32,
    number: u64,
    to: Line,
    sent_revision: u64,
    sent_keys: u64,
    progress: Progress,
    /// A report is on its way to the disk.
    saving: Arc<AtomicBool>,
}

impl Run {
    async fn run(
        mut self,
        hello: Hello,
        mut from: Streaming<NodeMessage>,
        mut ended: watch::Receiver<()>,
    ) {
        let (snid, me) = (self.snid, self.state.me.clone());
        self.state.note(snid, |status| {
            status.attached = me;
            status.version = clean(&hello.version, PROBLEM);
        });
        self.doubt(&hello);
        self.note(hello.progress.unwrap_or_default());
        tracing::info!(snid, "node attached");
        let outcome = tokio::select! {
            outcome = self.serve(&mut from) => outcome,
            _ = ended.changed() => Err(Refusal::aborted("the node attached once more")),
        };
        if self.sessions.leave(snid, self.number) {
            self.tell(|status| {
                status.attached.clear();
                status.seen = now();
            });
        }
        match outcome {
            Ok(()) => tracing::info!(snid, "node detached"),
            Err(refusal) => {
                tracing::info!(snid, "node detached: {}", refusal.message());
                // It may be gone.
                let _ = self.to.try_send(Err(refusal));
            }
        }
    }

    async fn serve(&mut self, from: &mut Streaming<NodeMessage>) -> Result<(), Refusal> {
        let mut snapshots = self.state.follow();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.bring(&snapshot).await?;
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                message = timeout(SILENCE, from.message()) => {
                    let message = message
                        .map_err(|_| Refusal::deadline_exceeded("nothing was heard of the node"))??;
                    let Some(message) = message else { return Ok(()) };
                    self.sessions.heard(self.snid, self.number);
                    self.hear(message).await?;
                }
            }
        }
    }

    /// Sends what the node should have and has not been sent.
    async fn bring(&mut self, snapshot: &Snapshot) -> Result<(), Refusal> {
        let snid = self.snid;
        if snapshot.nodes.get(&snid).is_none_or(|node| node.value.revoked) {
            return Err(Refusal::permission_denied("the node was revoked"));
        }
        let version = snapshot.keys.value.version;
        if self.sent_keys != version {
            let keys = keyset::of_node(&self.state.cluster, snapshot, snid);
            self.send(server_message::Body::Keys(keys)).await?;
            self.sent_keys = version;
        }
        let Some(release) = snapshot.release(snid) else { return Ok(()) };
        let failed = self.progress.failed == release.revision && self.progress.reverts >= REVERTS;
        let has = self.progress.revision >= release.revision;
        if self.sent_revision != release.revision && !has && !failed {
            self.sent_revision = release.revision;
            match release::part(&self.state, release, snid).await {
                Ok(Some(policy)) => self.send(server_message::Body::Policy(policy)).await?,
                // `labelctl policy status` says so.
                Ok(None) => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Ok(())
    }

    async fn send(&self, body: server_message::Body) -> Result<(), Refusal> {
        let message = ServerMessage { body: Some(body) };
        timeout(STUCK, self.to.send(Ok(message)))
            .await
            .map_err(|_| Refusal::deadline_exceeded("the node takes nothing"))?
            .map_err(|_| Refusal::cancelled("the node is gone"))
    }

    async fn hear(&mut self, message: NodeMessage) -> Result<(), Refusal> {
        match message.body {
            Some(node_message::Body::Progress(progress)) => self.note(progress),
            Some(node_message::Body::Ping(Ping { number })) => {
                self.send(server_message::Body::Pong(Pong { number })).await?;
            }
            Some(node_message::Body::Pong(Pong { number })) => {
                self.sessions.answered(self.snid, self.number, number);
            }
            Some(node_message::Body::Report(report)) => {
                // The next one follows the answer to this one: what waits for the disk is bounded.
                if self.saving.swap(true, Ordering::AcqRel) {
                    return Err(Refusal::invalid_argument("the node does not wait to be heard"));
                }
                let number = reports::take(&self.state, self.snid, &report)?;
                let (state, to) = (Arc::clone(&self.state), self.to.clone());
                let saving = Arc::clone(&self.saving);
                tokio::spawn(async move {
                    state.save_now().await;
                    saving.store(false, Ordering::Release);
                    let body = Some(server_message::Body::Heard(Heard { number }));
                    // The node may be gone, or stuck: then it reports again.
                    let _ = timeout(STUCK, to.send(Ok(ServerMessage { body }))).await;
                });
            }
            Some(node_message::Body::Hello(_)) | None => {
                return Err(Refusal::invalid_argument("the node says what was not asked"));
            }
        }
        Ok(())
    }

    /// What of a node does not fit this server.
    fn doubt(&self, hello: &Hello) {
        const OFF: i64 = 5;
        let (state, snid) = (&self.state, self.snid);
        let off = hello.time.saturating_sub(now() / 1000);
        if hello.time != 0 && off.abs() > OFF {
            state.alarm(snid, "clock-off", format!("the node's clock differs by {off} s"));
        }
        let ours = env!("CARGO_PKG_VERSION");
        if hello.version != ours {
            let theirs = clean(&hello.version, PROBLEM);
            state.alarm(snid, "version-differs", format!("it runs {theirs}, the server {ours}"));
        }
        let snapshot = state.snapshot();
        let (keys, policies) = (snapshot.keys.value.version, snapshot.policies.value.revision);
        let progress = hello.progress.clone().unwrap_or_default();
        if progress.seen_keys > keys || progress.revision > policies {
            let message = format!(
                "the node knows keys {} and revision {}, the store only {keys} and {policies}: if it \
                 was restored from an old copy, stop the server and run `sigil-server recover`",
                progress.seen_keys, progress.revision
            );
            state.alarm(snid, "store-outdated", message);
        }
    }

    /// Changes the node's status, unless another server has the node meanwhile.
    fn tell(&self, change: impl FnOnce(&mut Status)) {
        self.state.note(self.snid, |status| {
            if status.attached == self.state.me {
                change(status);
            }
        });
    }

    fn note(&mut self, mut progress: Progress) {
        progress.problem = clean(&progress.problem, PROBLEM);
        if progress.failed != 0 && progress.failed != self.progress.failed {
            let message =
                format!("revision {} is not in force: {}", progress.failed, progress.problem);
            self.state.alarm(self.snid, "policy-not-applied", message);
        }
        let noted = progress.clone();
        self.tell(|status| {
            status.seen = now();
            status.revision = noted.revision;
            status.serial = noted.serial;
            status.keys = noted.keys;
            status.failed = noted.failed;
            status.problem = noted.problem;
            status.reverts = noted.reverts;
            status.stamped = noted.stamped;
        });
        self.progress = progress;
    }
}
