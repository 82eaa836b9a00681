//! The server's port: TLS, and who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::ServerConfig;
use sigil_cluster::{Identity, Role};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status as Refusal};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::hash;
use crate::state::{State, lock};

/// A handshake takes no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once.
const SEATS: usize = 16_384;
/// Connections that are still shaking hands.
const HALLWAY: usize = 256;

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
    _seat: OwnedSemaphorePermit,
}

/// Who sent a request.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<&Peer, Refusal> {
    request.extensions().get::<Peer>().ok_or_else(|| Refusal::internal("nobody asks"))
}

/// The administrator who sent a request.
pub(crate) fn admin<T>(request: &Request<T>) -> Result<String, Refusal> {
    match &peer(request)?.identity {
        Some(Identity { role: Role::Admin(name), .. }) => Ok(name.clone()),
        _ => Err(Refusal::permission_denied(
            "only administrators may ask this: name your credential with --admin",
        )),
    }
}

/// Accepts connections until the receiver is gone.
pub(crate) async fn accept(
    state: Arc<State>,
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    to: mpsc::Sender<io::Result<Secured>>,
) {
    const BREATHER: Duration = Duration::from_millis(50);
    let (seats, hallway) = (Arc::new(Semaphore::new(SEATS)), Arc::new(Semaphore::new(HALLWAY)));
    let quiet = Arc::new(Quiet::default());
    loop {
        let (Ok(seat), Ok(handshake)) =
            (Arc::clone(&seats).acquire_owned().await, Arc::clone(&hallway).acquire_owned().await)
        else {
            return;
        };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        let tls = Arc::clone(&tls.borrow());
        let (state, to, quiet) = (Arc::clone(&state), to.clone(), Arc::clone(&quiet));
        tokio::spawn(async move {
            let secured = timeout(PATIENCE, secure(&state, stream, address, tls, seat)).await;
            drop(handshake);
            match secured {
                Ok(Ok(secured)) => {
                    // The server may be ending.
                    let _ = to.send(Ok(secured)).await;
                }
                Ok(Err(error)) => {
                    if let Some(held) = quiet.pass() {
                        let more =
                            if held == 0 { String::new() } else { format!(", and {held} more") };
                        let message = format!("{address}: {error:#}{more}");
                        state.alarm(0, "connection-refused", message);
                    }
                }
                Err(_) => tracing::debug!(%address, "no handshake in time"),
            }
        });
    }
}

async fn secure(
    state: &State,
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    seat: OwnedSemaphorePermit,
) -> Result<Secured> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(tls).accept(stream).await.context("no TLS")?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let mut peer = Peer { address, identity: None, key: String::new() };
    if let Some(certificate) = certificate {
        let identity = Identity::of_certificate(certificate)?;
        anyhow::ensure!(
            identity.cluster == state.cluster.name && identity.role != Role::Server,
            "{identity} is nobody here"
        );
        let (_, parsed) = X509Certificate::from_der(certificate)?;
        peer.key = hash(parsed.public_key().raw);
        peer.identity = Some(identity);
    }
    Ok(Secured { stream, peer, _seat: seat })
}

/// One alarm a second for what anybody can cause, and how many were held back.
#[derive(Default)]
struct Quiet(Mutex<Option<(Instant, u64)>>);

impl Quiet {
    fn pass(&self) -> Option<u64> {
        const LEAST: Duration = Duration::from_secs(1);
        let mut last = lock(&self.0);
        match &mut *last {
            Some((at, held)) if at.elapsed() < LEAST => {
                *held += 1;
                None
            }
            last => {
                let held = last.map_or(0, |(_, held)| held);
                *last = Some((Instant::now(), 0));
                Some(held)
            }
        }
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
