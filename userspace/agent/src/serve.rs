//! The running agent: clients, signals and upkeep.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use sigil_cluster::Credential;
use sigil_cluster::channel::Prepare;
use sigil_control::{Failure, FailureKind, Lines, MAX_REPLY, Reply, Request, decode, encode};
use sigil_datapath::{NetworkWatch, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::authorise::Permit;
use crate::config::Config;
use crate::feed::{self, Line, Rings, Teller};
use crate::metrics::Site;
use crate::node::{Node, Processes};
use crate::notify::Notify;
use crate::peer::{Living as _, Peer};
use crate::policy::Document;
use crate::process;
use crate::seats::{Guest, Seats};
use crate::uplink::Uplink;

/// A request must be here by then, a reply gone.
const PATIENCE: Duration = Duration::from_secs(10);
const UPKEEP: Duration = Duration::from_secs(1);
/// Every so many upkeeps the kernel's side is looked over as well.
const MAINTAIN: u32 = 3;
/// Every so many seconds it is said that an upkeep does not end.
const STUCK: u32 = 10;
/// A routing daemon may change thousands of routes a second; the agent looks over them this often.
const TOGETHER: Duration = Duration::from_millis(200);

/// Makes the control socket. Clients that come before the agent is ready wait in it.
pub(crate) fn bind(config: &Config) -> Result<net::UnixListener> {
    const ROOT_ONLY: u32 = 0o600;
    // Every request is authorised; who is in no [[run]] gets nothing but a refusal.
    const EVERYONE: u32 = 0o666;
    let path = &config.socket;
    let unusable = || format!("cannot use the socket {}", path.display());
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(unusable)?;
    }
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            bail!("{} is no socket: remove it, or set another `socket`", path.display());
        }
        if net::UnixStream::connect(path).is_ok() {
            bail!("another process serves {}: stop it, or set another `socket`", path.display());
        }
        fs::remove_file(path).with_context(unusable)?;
    }
    let listener = net::UnixListener::bind(path).with_context(unusable)?;
    let mode = if config.run.is_empty() { ROOT_ONLY } else { EVERYONE };
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(unusable)?;
    listener.set_nonblocking(true).with_context(unusable)?;
    Ok(listener)
}

/// Serves until SIGTERM or SIGINT. What is enforced stays in force.
pub(crate) fn run(
    config: Arc<Config>,
    node: Node,
    rings: Rings,
    processes: Processes,
    listener: net::UnixListener,
    notify: &Notify,
    uplink: Option<(Credential, Prepare)>,
) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let served = runtime.block_on(serve(config, node, rings, processes, listener, notify, uplink));
    notify.send("STOPPING=1");
    // A reload that is under way gets its time; a watcher does not.
    runtime.shutdown_timeout(PATIENCE);
    served
}

async fn serve(
    config: Arc<Config>,
    node: Node,
    rings: Rings,
    processes: Processes,
    listener: net::UnixListener,
    notify: &Notify,
    uplink: Option<(Credential, Prepare)>,
) -> Result<()> {
    let tasks = Arc::clone(&processes.tasks);
    let mut reaper = process::reap(processes.doomed, processes.tasks)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = UnixListener::from_std(listener)?;
    let (watchers, _) = broadcast::channel(feed::QUEUE);
    let teller =
        Teller { names: node.names(), watchers: watchers.clone(), samples: node.samples() };
    let mut gate = processes.gate.start(teller.clone())?;
    let mut feed = feed::start(rings, teller)?;
    let socket = config.socket.clone();
    let node = Arc::new(Mutex::new(node));
    let seats = Seats::default();
    let agent = Arc::new(Agent { config, node: Arc::clone(&node), tasks, watchers, seats });
    tokio::spawn(accept(Arc::clone(&agent), listener));
    let mut line =
        uplink.zip(agent.config.server.as_ref()).map(|((credential, prepare), server)| {
            let uplink = Uplink::new(node, server.credential.clone(), credential, Some(prepare));
            tokio::spawn(uplink.run())
        });
    if let Some(address) = agent.config.metrics {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        tokio::spawn(sigil_cluster::web::serve(listener, Arc::new(Site(Arc::clone(&agent.node)))));
    }
    let mut ticks = interval(UPKEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = 0u32;
    let mut network = watch_network()?;
    // What may wait for a disk goes on beside the loop, which would not tell systemd that it lives.
    let (mut upkeep, mut again, mut reloading) = (None, false, None);
    let mut since = Instant::now();
    notify.send("READY=1");
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            error = &mut feed => {
                return Err(error?.context("events are no longer read: start the agent again"));
            }
            error = &mut reaper => return Err(error?),
            error = failed(&mut gate) => {
                return Err(error?.context("execs are no longer judged: start the agent again"));
            }
            ended = ended(&mut line) => ended.context("the line to the server is not kept")?,
            _ = hangup.recv(), if reloading.is_none() => {
                notify.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_usec()));
                reloading = Some(agent.begin(|node| node.reload(false)));
            }
            reloaded = ended(&mut reloading) => {
                reloading = None;
                let reloaded = reloaded?;
                let outcome = match &reloaded {
                    Ok(loaded) => format!("serial {} is in force", loaded.serial),
                    Err(failure) => format!("not reloaded: {}", brief(&failure.message)),
                };
                if let Err(failure) = reloaded {
                    tracing::error!("not reloaded, what was in force stays:\n{}", failure.message.trim_end());
                }
                notify.send(&format!("READY=1\nSTATUS={outcome}"));
            }
            Some(()) = network.recv() => again = true,
            done = ended(&mut upkeep) => {
                done?;
                upkeep = None;
            }
            _ = ticks.tick() => {
                notify.send("WATCHDOG=1");
                tick = tick.wrapping_add(1);
                if upkeep.is_none() {
                    since = Instant::now();
                    let maintain = tick.is_multiple_of(MAINTAIN);
                    upkeep = Some(agent.begin(move |node| node.upkeep(maintain)));
                } else if tick.is_multiple_of(STUCK) {
                    let seconds = since.elapsed().as_secs();
                    tracing::error!("nothing was written down for {seconds} s: the disk may be stuck");
                }
            }
        }
        if again && upkeep.is_none() {
            (since, again) = (Instant::now(), false);
            upkeep = Some(agent.begin(|node| node.upkeep(true)));
        }
    }
    tracing::info!("ending; what is in force stays in force");
    // The next agent would replace it anyway.
    let _ = fs::remove_file(&socket);
    agent.with_node(Node::persist).await?.context("counters are not saved")
}

/// Says on a thread of its own that interfaces or routes changed: the first change at once, what follows
/// it together. Should it end, upkeep still looks now and then.
fn watch_network() -> Result<mpsc::Receiver<()>> {
    let (tell, changes) = mpsc::channel(1);
    let mut network = NetworkWatch::open()?;
    let watch = move || {
        // One that is not taken yet stands for all that follow.
        while network.wait().is_ok() && !tell.is_closed() {
            let _ = tell.try_send(());
            thread::sleep(TOGETHER);
        }
    };
    thread::Builder::new()
        .name("network".to_owned())
        .spawn(watch)
        .context("cannot start a thread")?;
    Ok(changes)
}

/// Why a thread ended, if there is one.
async fn failed(thread: &mut Option<oneshot::Receiver<Error>>) -> Result<Error> {
    match thread {
        Some(thread) => Ok(thread.await?),
        None => std::future::pending().await,
    }
}

fn monotonic_usec() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

/// The head of a message, on one line: of diagnostics, the first one's code and what it says.
pub(crate) fn brief(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.take(2).collect::<Vec<_>>().join(" ")
}

/// What clients share.
struct Agent {
    config: Arc<Config>,
    node: Arc<Mutex<Node>>,
    tasks: Arc<Tasks>,
    watchers: broadcast::Sender<Line>,
    seats: Seats,
}

impl Agent {
    /// Does something with the node where it may take its time.
    async fn with_node<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> Result<T> {
        with_node(&self.node, act).await
    }

    /// The same, beside what goes on here.
    fn begin<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut Node) -> T + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let node = Arc::clone(&self.node);
        tokio::spawn(async move { with_node(&node, act).await })
    }
}

/// Does something with the node where it may take its time.
pub(crate) async fn with_node<T: Send + 'static>(
    node: &Arc<Mutex<Node>>,
    act: impl FnOnce(&mut Node) -> T + Send + 'static,
) -> Result<T> {
    let node = Arc::clone(node);
    Ok(tokio::task::spawn_blocking(move || act(&mut lock(&node))).await?)
}

/// What comes of a task, if there is one: it is to be taken away then.
async fn ended<T>(task: &mut Option<JoinHandle<Result<T>>>) -> Result<T> {
    match task {
        Some(task) => task.await?,
        None => std::future::pending().await,
    }
}

/// A panic ends the process, so nobody sees a poisoned lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(agent: Arc<Agent>, listener: UnixListener) {
    const BREATHER: Duration = Duration::from_millis(100);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a client could not be accepted: {error}");
                sleep(BREATHER).await;
                continue;
            }
        };
        match Peer::of(&stream) {
            Ok(peer) => {
                tokio::spawn(client(Arc::clone(&agent), stream, peer));
            }
            Err(error) => tracing::warn!("a client is not served: {error:#}"),
        }
    }
}

async fn client(agent: Arc<Agent>, mut stream: UnixStream, peer: Peer) {
    let listed = agent.config.run.iter().any(|grant| grant.uid == peer.uid);
    // In this order: alive after the table was read, so the word read was its own.
    let task = agent.tasks.of(peer.pid);
    let free = task.scid() == 0 && !task.is_doomed() && peer.is_alive();
    let guest = Guest::of(peer.uid, listed, free);
    let Some(_seat) = agent.seats.take(guest) else {
        let message = "too many clients at once: wait, or end some".to_owned();
        let _ =
            send(&mut stream, &Reply::Failed(Failure { kind: FailureKind::Busy, message })).await;
        return;
    };
    // Whoever hung up or is too slow has nobody to be told.
    let _ = converse(&agent, &mut stream, peer, guest.longest()).await;
}

async fn converse(
    agent: &Arc<Agent>,
    stream: &mut UnixStream,
    peer: Peer,
    longest: usize,
) -> Result<()> {
    let request = match timeout(PATIENCE, receive(stream, longest)).await? {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => {
            let message = format!("{error:#}");
            let failure = Failure { kind: FailureKind::Malformed, message };
            return send(stream, &Reply::Failed(failure)).await;
        }
    };
    let (purpose, pid, uid) = (request.purpose(), peer.pid, peer.uid);
    let reply = agent.with_node(move |node| answer(node, &peer, request)).await?;
    let reply = reply.unwrap_or_else(|failure| {
        tracing::warn!(pid, uid, "refused to {purpose}: {}", brief(&failure.message));
        Reply::Failed(failure)
    });
    if let Reply::Watching { .. } = reply {
        let events = agent.watchers.subscribe();
        send(stream, &reply).await?;
        let (from, to) = stream.split();
        return feed::follow(from, to, events).await;
    }
    send(stream, &reply).await
}

fn answer(node: &mut Node, peer: &Peer, request: Request) -> Result<Reply, Failure> {
    let (pid, uid) = (peer.pid, peer.uid);
    let (permit, was) = node.authorise(peer, &request)?;
    if let Permit::Zone { scid, name } = permit {
        let labelled = node.enter(peer, was, scid, name)?;
        tracing::info!(pid, uid, scid, zone = labelled.zone, "process labelled");
        return Ok(Reply::Labelled(labelled));
    }
    Ok(match request {
        Request::Status => Reply::Status(node.status()),
        Request::Show => Reply::InForce(node.show()?),
        Request::Stats => Reply::Stats(node.stats()?),
        Request::Load { name, document, dry_run } => {
            let document = Document { name, bytes: document.into_bytes(), given: true };
            Reply::Loaded(node.load(&document, dry_run)?)
        }
        Request::Reload { dry_run } => Reply::Loaded(node.reload(dry_run)?),
        Request::Watch => Reply::Watching { snid: node.status().snid },
        // Its permit is a zone.
        Request::Run { .. } => {
            let message = "no zone was permitted".to_owned();
            return Err(Failure { kind: FailureKind::Refused, message });
        }
    })
}

/// The client's request; nothing when it hung up before it sent one.
async fn receive(stream: &mut UnixStream, limit: usize) -> Result<Option<Request>> {
    let mut lines = Lines::new(limit);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(None);
        }
        lines.push(buffer.get(..length).unwrap_or_default());
        if let Some(line) = lines.next()? {
            return Ok(Some(decode(&line)?));
        }
    }
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> Result<()> {
    let line = encode(reply, MAX_REPLY)?;
    Ok(timeout(PATIENCE, stream.write_all(&line)).await??)
}
