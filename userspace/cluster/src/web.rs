//! Metrics and health over plain HTTP, for a monitor on the same host or network. Nothing that is
//! served may be secret.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Monitors at once.
const SEATS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process says of itself.
pub trait Health: Send + Sync + 'static {
    /// All metrics, in Prometheus' text format.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// Why it cannot do its work, if it cannot.
    fn trouble(&self) -> impl Future<Output = Option<String>> + Send;
}

/// Serves `/metrics`, `/healthz` (the process lives) and `/readyz` (it does its work), for ever.
pub async fn serve(listener: TcpListener, health: Arc<impl Health>) {
    let seats = Arc::new(Semaphore::new(SEATS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let _seat = seat;
            let service = service_fn(|request: Request<Incoming>| {
                let health = Arc::clone(&health);
                async move { Ok::<_, Infallible>(answer(request.uri().path(), &*health).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever hung up needs no answer.
            let _ = timeout(PATIENCE, connection).await;
        });
    }
}

async fn answer(path: &str, health: &impl Health) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" => (StatusCode::OK, health.metrics().await),
        "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => match health.trouble().await {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
