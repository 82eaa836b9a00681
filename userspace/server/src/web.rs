//! Metrics and health over plain HTTP, for a monitor on the same host or network. Nothing here is
//! secret.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::nodes::Attached;
use crate::state::State;

/// Monitors at once.
const SEATS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves `/metrics`, `/healthz` (the process lives) and `/readyz` (it can decide).
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>, attached: Arc<Attached>) {
    let seats = Arc::new(Semaphore::new(SEATS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (state, attached) = (Arc::clone(&state), Arc::clone(&attached));
        tokio::spawn(async move {
            let _seat = seat;
            let service = service_fn(|request: Request<Incoming>| {
                let response = answer(request.uri().path(), &state, &attached);
                async { Ok::<_, Infallible>(response) }
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

fn answer(path: &str, state: &State, attached: &Attached) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" => (StatusCode::OK, metrics(state, attached)),
        "/healthz" => (StatusCode::OK, "alive\n".to_owned()),
        "/readyz" if state.snapshot().keys.value.epochs.is_empty() => {
            (StatusCode::SERVICE_UNAVAILABLE, "no keys yet\n".to_owned())
        }
        "/readyz" => (StatusCode::OK, "ready\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn metrics(state: &State, attached: &Attached) -> String {
    let snapshot = state.snapshot();
    let statuses = state.statuses();
    let lagging = snapshot.members().filter(|(snid, _)| {
        let wanted = snapshot.release(*snid).map_or(0, |release| release.revision);
        statuses.get(snid).is_none_or(|status| status.revision < wanted)
    });
    let (keys, policies) = (&snapshot.keys.value, &snapshot.policies.value);
    let current = policies.current.as_ref();
    let revoked = snapshot.nodes.values().filter(|node| node.value.revoked).count();
    let values = [
        ("nodes_enrolled", "Nodes that hold keys", number(snapshot.members().count())),
        ("nodes_revoked", "Nodes that were cut off", number(revoked)),
        ("nodes_attached", "Nodes attached to this server", number(attached.count())),
        (
            "nodes_lagging",
            "Enrolled nodes without the policy they should have",
            number(lagging.count()),
        ),
        (
            "policy_serial",
            "Serial of the policy in force",
            current.map_or(0, |now| signed(now.serial)),
        ),
        (
            "policy_revision",
            "Revision of the policy in force",
            current.map_or(0, |now| signed(now.revision)),
        ),
        ("policy_canary", "1 while a policy is on trial", i64::from(policies.canary.is_some())),
        ("key_epochs", "Epochs that are accepted", number(keys.epochs.len())),
        ("key_epoch", "Number of the epoch that is stamped with", signed(keys.stamp)),
        ("alarms_held", "Alarms that are kept", number(state.alarms().len())),
    ];
    let mut registry = Registry::with_prefix("sigil_server");
    for (name, help, value) in values {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
