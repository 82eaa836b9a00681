//! The way to a server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::tls::SERVER_NAME;

/// A server that does not answer by then is passed over.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the channel is probed while nothing is said, and how long the answer may take.
const PROBE: Duration = Duration::from_secs(2);

/// Does something to a socket before it connects.
pub type Prepare = Arc<dyn Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync>;

/// No server could be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Why not, for the last one tried.
    #[error("cannot reach the server at {server}: {reason}")]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// None is known.
    #[error("no server is configured")]
    None,
}

/// Why a server is not reached by IPv6, which carries no labels.
pub const NO_IPV6: &str = "name an address of IPv4, for nothing of IPv6 passes a guarded interface";

/// Reads a server's address, as nodes reach it.
///
/// # Errors
/// What is wrong with it: no `ADDRESS:PORT`, or of IPv6.
pub fn server_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse() {
        Ok(SocketAddr::V6(_)) => Err(NO_IPV6.to_owned()),
        Ok(address) => Ok(address),
        Err(_) => Err("a server is named as ADDRESS:PORT".to_owned()),
    }
}

/// A channel to one server, and that server's CA certificate where it showed one.
#[derive(Debug)]
pub struct Connected {
    /// The channel.
    pub channel: Channel,
    /// The server.
    pub server: SocketAddr,
    /// The last certificate of its chain.
    pub ca: Option<CertificateDer<'static>>,
}

/// Connects to the first server that answers, in their order from the `first`th on.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    servers: &[SocketAddr],
    first: usize,
    tls: Arc<ClientConfig>,
    prepare: Option<Prepare>,
) -> Result<Connected, ConnectError> {
    let mut failed = ConnectError::None;
    for at in 0..servers.len() {
        let turn = first.wrapping_add(at) % servers.len();
        let Some(&server) = servers.get(turn) else { continue };
        let reached = timeout(PATIENCE, one(server, Arc::clone(&tls), prepare.clone())).await;
        let reason = match reached {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        failed = ConnectError::Unreachable { server, reason };
    }
    Err(failed)
}

async fn one(
    server: SocketAddr,
    tls: Arc<ClientConfig>,
    prepare: Option<Prepare>,
) -> io::Result<Connected> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(prepare) = prepare {
        prepare(socket.as_fd())?;
    }
    let stream = socket.connect(server).await?;
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let ca = stream.get_ref().1.peer_certificates().and_then(<[_]>::last).cloned();
    let ca = ca.map(CertificateDer::into_owned);
    // The one connection; a lost one is not made again behind the caller's back.
    let mut stream = Some(TokioIo::new(stream));
    let endpoint = Endpoint::from_static("http://sigil-server")
        .http2_keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE)
        .keep_alive_while_idle(true);
    let connector = service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        async move { stream }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(io::Error::other)?;
    Ok(Connected { channel, server, ca })
}
