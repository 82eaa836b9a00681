//! The administrators' side.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sigil_cluster::proto::admin_server::Admin;
use sigil_cluster::proto::{
    AcknowledgeReply, AcknowledgeRequest, AddAdminReply, AddAdminRequest, AdminStatus, AdminsReply,
    AdminsRequest, Alarm, AlarmsRequest, ConfirmReply, ConfirmRequest, DrawTokenReply,
    DrawTokenRequest, NodeStatus, Party, PushReply, PushRequest, RevokeAdminReply,
    RevokeAdminRequest, RevokeReply, RevokeRequest, RotateReply, RotateRequest, ShowReply,
    ShowRequest, StatusReply, StatusRequest,
};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status as Refusal};

use crate::administrators::{self, Caller};
use crate::documents::Accepted;
use crate::enrolment;
use crate::keyset::fresh;
use crate::record::{self, Snapshot};
use crate::release;
use crate::state::State;

/// How long a revocation waits for nodes to follow before it says who has not.
const FOLLOW: Duration = Duration::from_secs(5);

/// The service for administrators.
pub(crate) struct Desk {
    pub(crate) state: Arc<State>,
}

#[tonic::async_trait]
impl Admin for Desk {
    type AlarmsStream = Pin<Box<dyn Stream<Item = Result<Alarm, Refusal>> + Send>>;

    async fn draw_token(
        &self,
        request: Request<DrawTokenRequest>,
    ) -> Result<Response<DrawTokenReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let DrawTokenRequest { snid, valid_seconds } = request.into_inner();
        let (token, expires) = enrolment::draw(&self.state, &by, snid, valid_seconds).await?;
        Ok(Response::new(DrawTokenReply {
            token: token.as_bytes().to_vec(),
            expires: expires / 1000,
        }))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        enrolment::revoke(&self.state, &by, request.get_ref().snid).await?;
        let version = self.state.snapshot().keys.value.version;
        let deadline = Instant::now() + FOLLOW;
        loop {
            let waiting = lagging(&self.state, version);
            by.check(&self.state.snapshot())?;
            if waiting.is_empty() || Instant::now() > deadline {
                return Ok(Response::new(RevokeReply { waiting }));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        Ok(Response::new(release::push(&self.state, &by, request.get_ref()).await?))
    }

    async fn confirm(
        &self,
        request: Request<ConfirmRequest>,
    ) -> Result<Response<ConfirmReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let revision = release::conclude(&self.state, &by, request.get_ref().keep).await?;
        Ok(Response::new(ConfirmReply { revision }))
    }

    async fn show(&self, request: Request<ShowRequest>) -> Result<Response<ShowReply>, Refusal> {
        Caller::of(&self.state, &request)?;
        Ok(Response::new(release::show(&self.state, request.get_ref().revision).await?))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Refusal> {
        Caller::of(&self.state, &request)?;
        let snapshot = self.state.snapshot();
        let known = policies(&self.state, &snapshot).await;
        let (keys, policies) = (&snapshot.keys.value, &snapshot.policies.value);
        let current = policies.current.as_ref();
        let canary = policies.canary.as_ref();
        let key_id = |epoch: &record::Epoch| u32::from(epoch.key_id());
        let stamp = keys.epochs.iter().find(|epoch| epoch.number == keys.stamp);
        Ok(Response::new(StatusReply {
            cluster: self.state.cluster.name.clone(),
            revision: current.map_or(0, |release| release.revision),
            serial: current.map_or(0, |release| release.serial),
            canary: canary.map_or(0, |canary| canary.release.revision),
            canary_ends: canary.map_or(0, |canary| canary.ends / 1000),
            keys: keys.version,
            epochs: keys.epochs.iter().map(key_id).collect(),
            stamp: stamp.map_or(0, key_id),
            nodes: nodes(&self.state, &snapshot, &known),
        }))
    }

    async fn rotate(
        &self,
        request: Request<RotateRequest>,
    ) -> Result<Response<RotateReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let wanted = self
            .state
            .update(|snapshot, draft| {
                by.decides(snapshot, draft)?;
                let mut keys = snapshot.keys.value.clone();
                keys.wanted = keys.wanted.max(fresh(&keys));
                draft.keys(snapshot, &keys);
                Ok(keys.wanted)
            })
            .await?;
        self.state.progress.notify_one();
        tracing::info!(%by, epoch = wanted, "rotation asked for");
        #[expect(clippy::cast_possible_truncation, reason = "the key id")]
        Ok(Response::new(RotateReply { epoch: u32::from(wanted as u8) }))
    }

    async fn alarms(
        &self,
        request: Request<AlarmsRequest>,
    ) -> Result<Response<Self::AlarmsStream>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let AlarmsRequest { follow, after, since, all } = request.into_inner();
        // Subscribed before the list is taken: what comes twice is told by its number.
        let mut news = self.state.alarms.subscribe();
        let held = self.state.alarms();
        let (to, from) = mpsc::channel(64);
        let (state, last) = (Arc::clone(&self.state), to.clone());
        let told = async move {
            let mut listed = BTreeSet::new();
            let wanted = |alarm: &record::Alarm| {
                let open = all || alarm.acknowledged.is_empty();
                alarm.number > after && alarm.time / 1000 >= since && open
            };
            for alarm in held.into_iter().filter(wanted) {
                listed.insert(alarm.number);
                if to.send(Ok(message(alarm))).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            loop {
                let alarm = match news.recv().await {
                    // Another server's may come late, with a lower number than the last one's.
                    Ok(alarm) if !listed.remove(&alarm.number) => Ok(message(alarm)),
                    Ok(_) => continue,
                    Err(broadcast::error::RecvError::Lagged(count)) => {
                        Err(Refusal::data_loss(format!("{count} alarms were missed: list them")))
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                if to.send(alarm).await.is_err() {
                    return;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = told => {}
                refusal = by.until_refused(&state) => {
                    // He may have stopped reading: then it ends without a word.
                    let _ = last.try_send(Err(refusal));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let count = self.state.acknowledge(&request.get_ref().numbers, &by.to_string());
        tracing::info!(%by, count, "alarms acknowledged");
        Ok(Response::new(AcknowledgeReply { count }))
    }

    async fn add_admin(
        &self,
        request: Request<AddAdminRequest>,
    ) -> Result<Response<AddAdminReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        let AddAdminRequest { name, csr, days } = request.get_ref();
        let issued = administrators::add(&self.state, &by, name, csr, *days).await?;
        let certificate = issued.certificate.to_vec();
        Ok(Response::new(AddAdminReply { certificate, ends: issued.ends / 1000 }))
    }

    async fn revoke_admin(
        &self,
        request: Request<RevokeAdminRequest>,
    ) -> Result<Response<RevokeAdminReply>, Refusal> {
        let by = Caller::of(&self.state, &request)?;
        administrators::revoke(&self.state, &by, &request.get_ref().name).await?;
        Ok(Response::new(RevokeAdminReply {}))
    }

    async fn admins(
        &self,
        request: Request<AdminsRequest>,
    ) -> Result<Response<AdminsReply>, Refusal> {
        Caller::of(&self.state, &request)?;
        let snapshot = self.state.snapshot();
        let admins = snapshot.admins.iter().map(|(name, held)| AdminStatus {
            name: name.clone(),
            state: held.value.state().to_owned(),
            added: held.value.added / 1000,
            by: held.value.by.clone(),
            ends: held.value.ends / 1000,
        });
        Ok(Response::new(AdminsReply { admins: admins.collect() }))
    }
}

fn message(alarm: record::Alarm) -> Alarm {
    let party =
        |party: record::Party| Party { snid: party.snid, scid: party.scid, zone: party.zone };
    Alarm {
        count: alarm.count,
        hook: alarm.hook,
        reason: alarm.reason,
        source: alarm.source.map(party),
        target: alarm.target.map(party),
        node_number: alarm.node_number,
        acknowledged: alarm.acknowledged,
        number: alarm.number,
        time: alarm.time / 1000,
        snid: alarm.snid,
        kind: alarm.kind,
        message: alarm.message,
    }
}

/// Attached members that do not hold the keys of a version yet.
fn lagging(state: &State, version: u64) -> Vec<u32> {
    let statuses = state.statuses();
    let lags = |snid: &u32| {
        let status = statuses.get(snid);
        status.is_some_and(|status| !status.attached.is_empty() && status.keys < version)
    };
    state.snapshot().members().map(|(snid, _)| snid).filter(lags).collect()
}

/// Policies by their revisions.
type Policies = BTreeMap<u64, Arc<Accepted>>;

/// What is in force, and what is on trial.
async fn policies(state: &State, snapshot: &Snapshot) -> Policies {
    let held = &snapshot.policies.value;
    let trial = held.canary.as_ref().map(|canary| &canary.release);
    let mut policies = Policies::new();
    for release in held.current.iter().chain(trial) {
        match release::parsed(state, release).await {
            Ok(accepted) => drop(policies.insert(release.revision, accepted)),
            Err(error) => tracing::error!("{error:#}"),
        }
    }
    policies
}

fn nodes(state: &State, snapshot: &Snapshot, policies: &Policies) -> Vec<NodeStatus> {
    let current = snapshot.policies.value.current.as_ref();
    let current = current.and_then(|release| policies.get(&release.revision));
    let declared = current.map(|accepted| accepted.policy.nodes.as_slice()).unwrap_or_default();
    let names: BTreeMap<u32, &String> = declared.iter().map(|one| (one.snid, &one.name)).collect();
    let statuses = state.statuses();
    let tokens = snapshot.tokens.values().filter(|token| !token.value.used);
    let invited: BTreeSet<u32> = tokens.map(|token| token.value.snid).collect();
    let known = names.keys().chain(snapshot.nodes.keys()).chain(&invited);
    let snids: BTreeSet<u32> = known.copied().collect();
    let status = |snid: u32| {
        let held = statuses.get(&snid).cloned().unwrap_or_default();
        let node = snapshot.nodes.get(&snid).map(|node| &node.value);
        let word = match node {
            Some(node) if node.revoked => "revoked",
            Some(_) => "enrolled",
            None if invited.contains(&snid) => "token",
            None => "declared",
        };
        let release = snapshot.release(snid);
        let missing = release.filter(|release| {
            let accepted = policies.get(&release.revision);
            word == "enrolled" && accepted.is_some_and(|own| own.policy.node(snid).is_none())
        });
        let problem = match missing {
            Some(release) if release.revision > held.revision => format!(
                "serial {} does not declare it: it keeps what it has; declare it, or revoke it",
                release.serial
            ),
            _ => held.problem,
        };
        let wanted = release.map_or(0, |release| release.revision);
        NodeStatus {
            snid,
            name: names.get(&snid).map(ToString::to_string).unwrap_or_default(),
            state: word.to_owned(),
            attached: !held.attached.is_empty() && word == "enrolled",
            revision: held.revision,
            serial: held.serial,
            keys: held.keys,
            problem,
            seen: held.seen / 1000,
            certificate_ends: node.map_or(0, |node| node.ends / 1000),
            version: held.version,
            wanted,
        }
    };
    snids.into_iter().map(status).collect()
}
