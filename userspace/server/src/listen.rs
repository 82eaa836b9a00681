//! The server's port: TLS, and who is at the other end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use sigil_cluster::{Identity, Role};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status as Refusal};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::administrators::Caller;
use crate::ca::hash;
use crate::nodes;
use crate::state::{State, lock};

/// A handshake takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once: of nodes, and of administrators, whom no node keeps out.
const SEATS: usize = 16_384;
const DESKS: usize = 1024;
/// Of one node, and of one administrator. A node needs one, and another while it moves.
const OF_A_NODE: usize = 8;
const OF_AN_ADMIN: usize = 64;
/// Connections that are still shaking hands: all, and those of one address.
const HALLWAY: usize = 256;
const OF_ONE: usize = 64;
/// Connections of one address that wait for that; they have no seat yet.
const QUEUE: usize = 4096;
/// Connections without a certificate that is good here, and how long each may stay: they show a token,
/// or hear why they are refused, and go.
const GUESTS: usize = 256;
const VISIT: Duration = Duration::from_secs(10);

/// Who connected.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// None for one without a certificate.
    pub(crate) identity: Option<Identity>,
    /// SHA-256 of the certified public key.
    pub(crate) key: String,
}

/// An authenticated connection.
pub(crate) struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _seat: Seat,
    /// When it has to go, if it is a guest's.
    visit: Option<Pin<Box<Sleep>>>,
}

/// A place among all of its kind, and among those of its identity.
type Seat = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// Who sent a request.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<&Peer, Refusal> {
    request.extensions().get::<Peer>().ok_or_else(|| Refusal::internal("nobody asks"))
}

/// Accepts connections, for as long as the server lives.
pub(crate) async fn accept(
    state: Arc<State>,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    to: mpsc::Sender<io::Result<Secured>>,
) -> Result<()> {
    const BREATHER: Duration = Duration::from_millis(50);
    let entrance = Arc::new(Entrance {
        seats: Arc::new(Semaphore::new(SEATS)),
        desks: Arc::new(Semaphore::new(DESKS)),
        members: Mutex::default(),
        hallway: Semaphore::new(HALLWAY),
        addresses: Mutex::default(),
        guests: Arc::new(Semaphore::new(GUESTS)),
    });
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        let part = entrance.part_of(address.ip());
        let Ok(place) = Arc::clone(&part.queue).try_acquire_owned() else { continue };
        let tls = Arc::clone(&tls.borrow());
        let (state, to, entrance) = (Arc::clone(&state), to.clone(), Arc::clone(&entrance));
        tokio::spawn(async move {
            let secured = entrance.secure(&state, stream, address, tls, &part);
            let secured = timeout(PATIENCE, secured).await;
            drop(place);
            match secured {
                Ok(Ok(secured)) => {
                    // The server may be ending.
                    let _ = to.send(Ok(secured)).await;
                }
                Ok(Err(error)) => {
                    state.alarm(0, "connection-refused", format!("{address}: {error:#}"));
                }
                Err(_) => tracing::debug!(%address, "no handshake in time"),
            }
        });
    }
}

/// What stands between a connection and the services.
struct Entrance {
    seats: Arc<Semaphore>,
    desks: Arc<Semaphore>,
    /// The seats that each identity may take.
    members: Mutex<HashMap<Identity, Weak<Semaphore>>>,
    hallway: Semaphore,
    /// The part of the hallway that each address may take, so that none keeps the others out.
    addresses: Mutex<HashMap<IpAddr, Weak<Part>>>,
    guests: Arc<Semaphore>,
}

struct Part {
    turns: Semaphore,
    queue: Arc<Semaphore>,
}

impl Entrance {
    fn part_of(&self, address: IpAddr) -> Arc<Part> {
        let mut addresses = lock(&self.addresses);
        if let Some(held) = addresses.get(&address).and_then(Weak::upgrade) {
            return held;
        }
        addresses.retain(|_, held| held.strong_count() > 0);
        let queue = Arc::new(Semaphore::new(QUEUE));
        let part = Arc::new(Part { turns: Semaphore::new(OF_ONE), queue });
        addresses.insert(address, Arc::downgrade(&part));
        part
    }

    async fn secure(
        &self,
        state: &State,
        stream: TcpStream,
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        part: &Part,
    ) -> Result<Secured> {
        let _turn = (part.turns.acquire().await?, self.hallway.acquire().await?);
        stream.set_nodelay(true)?;
        let stream = TlsAcceptor::from(tls).accept(stream).await.context("no TLS")?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let mut peer = Peer { address, identity: None, key: String::new() };
        let Some(certificate) = certificate else {
            let seat = self.guest().context("too many connections without a certificate")?;
            let visit = Some(Box::pin(sleep(VISIT)));
            return Ok(Secured { stream, peer, _seat: seat, visit });
        };
        let identity = Identity::of_certificate(certificate)?;
        anyhow::ensure!(
            identity.cluster == state.cluster.name && identity.role != Role::Server,
            "{identity} is nobody here"
        );
        let (_, parsed) = X509Certificate::from_der(certificate)?;
        peer.key = hash(parsed.public_key().raw);
        let good = match &identity.role {
            Role::Node(snid) => nodes::check(&state.snapshot(), *snid, &peer.key).is_ok(),
            Role::Admin(name) => Caller::new(name, &peer.key).check(&state.snapshot()).is_ok(),
            Role::Server => false,
        };
        let seat = if good { self.seat(&identity) } else { self.guest() };
        let seat = seat.with_context(|| format!("too many connections of {identity}"))?;
        peer.identity = Some(identity);
        let visit = (!good).then(|| Box::pin(sleep(VISIT)));
        Ok(Secured { stream, peer, _seat: seat, visit })
    }

    fn guest(&self) -> Option<Seat> {
        Some((Arc::clone(&self.guests).try_acquire_owned().ok()?, None))
    }

    /// A member's seat. What one of them does costs the others none.
    fn seat(&self, identity: &Identity) -> Option<Seat> {
        let (all, most) = match identity.role {
            Role::Admin(_) => (&self.desks, OF_AN_ADMIN),
            Role::Node(_) | Role::Server => (&self.seats, OF_A_NODE),
        };
        let own = self.seats_of(identity, most).try_acquire_owned().ok()?;
        Some((Arc::clone(all).try_acquire_owned().ok()?, Some(own)))
    }

    fn seats_of(&self, identity: &Identity, most: usize) -> Arc<Semaphore> {
        let mut members = lock(&self.members);
        if let Some(held) = members.get(identity).and_then(Weak::upgrade) {
            return held;
        }
        members.retain(|_, held| held.strong_count() > 0);
        let seats = Arc::new(Semaphore::new(most));
        members.insert(identity.clone(), Arc::downgrade(&seats));
        seats
    }
}

impl Connected for Secured {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.visit
            && end.as_mut().poll(poller).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(poller, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        poller: &mut Poller<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(poller, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(poller)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(poller)
    }
}
