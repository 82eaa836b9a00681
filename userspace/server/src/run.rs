//! `sigil-server run`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use sigil_cluster::Role;
use sigil_cluster::proto::MAX_MESSAGE;
use sigil_cluster::proto::admin_server::AdminServer;
use sigil_cluster::proto::enrolment_server::EnrolmentServer;
use sigil_cluster::proto::nodes_server::NodesServer;
use sigil_cluster::tls;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::alarms::Journal;
use crate::ca::private_key;
use crate::config::{Config, Lifetimes};
use crate::keyset::{Followers, Schedule, step};
use crate::pace::Pace;
use crate::record::now;
use crate::sessions::Sessions;
use crate::state::State;
use crate::vault::Vault;
use crate::{admin, enrolment, holders, listen, nodes, release, web};

/// What those without a certificate may send: a token and a request.
const MAX_JOIN: usize = 16 << 10;
/// Nodes may have the cluster work for them so often, once they did a few times.
const MINUTE: Duration = Duration::from_mins(1);
/// What a node may send: how far it is, and its alarms.
const MAX_NODE: usize = 256 << 10;

pub(crate) async fn run(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    let vault = Vault::open(&config.store_key)?;
    let state = State::open(config.store()?, vault).await?;
    let lifetimes = config.lifetimes();
    if let Some(path) = &config.alarms {
        let journal = Journal::open(path).with_context(|| path.display().to_string())?;
        state.keep_journal(journal);
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let (certificates, tls) = watch::channel(certificate(&state, lifetimes)?);
    let (accepted, incoming) = mpsc::channel(64);
    let sessions = Arc::new(Sessions::default());

    let mut ends = tokio::task::JoinSet::new();
    ends.spawn(Arc::clone(&state).save());
    ends.spawn(Arc::clone(&state).tell_held());
    ends.spawn(release::watch_canaries(Arc::clone(&state)));
    ends.spawn(rotate(Arc::clone(&state), config.schedule()));
    ends.spawn(renew(Arc::clone(&state), lifetimes, certificates));
    ends.spawn(holders::defend(Arc::clone(&state), Arc::clone(&sessions)));
    ends.spawn(Arc::clone(&state).follow_others());
    ends.spawn(listen::accept(Arc::clone(&state), listener, tls, accepted));
    if let Some(address) = config.metrics {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        let site = web::Site { state: Arc::clone(&state), sessions: Arc::clone(&sessions) };
        tokio::spawn(sigil_cluster::web::serve(listener, Arc::new(site)));
    }

    let node_desk = nodes::Desk {
        state: Arc::clone(&state),
        lifetimes,
        sessions,
        instances: Pace::new(MINUTE),
        // Whose certificates are short-lived renews them the more often.
        renewals: Pace::new(MINUTE.min(lifetimes.node.unsigned_abs() / 4)),
    };
    let enrolment_desk = enrolment::Desk { state: Arc::clone(&state), lifetimes };
    let admin_desk = admin::Desk { state: Arc::clone(&state) };
    let services = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(16)
        .add_service(EnrolmentServer::new(enrolment_desk).max_decoding_message_size(MAX_JOIN))
        .add_service(
            NodesServer::new(node_desk)
                .max_decoding_message_size(MAX_NODE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            AdminServer::new(admin_desk)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        )
        .serve_with_incoming(ReceiverStream::new(incoming));
    let (cluster, address) = (&state.cluster.name, config.listen);
    tracing::info!(cluster, %address, "serving");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        served = services => served.context("the services ended")?,
        Some(ended) = ends.join_next() => ended?.context("a part of the server ended")?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    state.end().await;
    tracing::info!("ending; nodes go on with what they have");
    Ok(())
}

fn certificate(state: &State, lifetimes: Lifetimes) -> Result<Arc<ServerConfig>> {
    let (issued, key) = state.ca.grant(Role::Server, lifetimes.server)?;
    let ca = state.ca.certificate.clone();
    Ok(Arc::new(tls::server(ca, issued.certificate, private_key(&key)?)?))
}

/// Makes the server's certificate anew before it ends.
async fn renew(
    state: Arc<State>,
    lifetimes: Lifetimes,
    certificates: watch::Sender<Arc<ServerConfig>>,
) -> Result<()> {
    loop {
        tokio::time::sleep(lifetimes.server.unsigned_abs() / 2).await;
        certificates.send_replace(certificate(&state, lifetimes)?);
    }
}

/// Takes the steps of rotations.
async fn rotate(state: Arc<State>, schedule: Schedule) -> Result<()> {
    const TICK: Duration = Duration::from_millis(100);
    loop {
        let due = |snapshot: &crate::record::Snapshot| {
            let followers = Followers::of(snapshot, &state.statuses());
            step(&snapshot.keys.value, followers, &schedule, now())
        };
        if matches!(due(&state.snapshot()), Ok(None)) {
            // A node may report that it follows, or time may pass.
            let _ = tokio::time::timeout(TICK, state.progress.notified()).await;
            continue;
        }
        let stepped = state
            .update(|snapshot, draft| {
                let next = due(snapshot).map_err(|error| crate::state::unavailable(&error))?;
                if let Some(keys) = &next {
                    draft.keys(snapshot, keys);
                }
                Ok(next.map(|keys| (keys.version, keys.epochs.len(), keys.stamp)))
            })
            .await;
        match stepped {
            Ok(Some((version, epochs, stamp))) => {
                tracing::info!(version, epochs, stamp, "keys changed");
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!("keys cannot be changed: {}", error.message());
                tokio::time::sleep(TICK).await;
            }
        }
    }
}
