//! Policies: accepting them, trying them on some nodes, going back, and each node's signed part.

use std::sync::Arc;
use std::time::Duration;

use sigil_cluster::envelope;
use sigil_cluster::proto::{self, Envelope, SignedPolicy};
use sigil_policy::{Policy, difference};
use tonic::Status as Refusal;

use crate::administrators::Caller;
use crate::documents::Accepted;
use crate::record::{Canary, Policies, Release, now};
use crate::state::{State, unavailable};

/// Changes that a push lists.
const LISTED: usize = 1000;
/// A node that loses its server goes back after so long.
const CONFIRM: u32 = 30;
/// The longest trial.
const TRIAL_MAX: u32 = 24 * 3600;

/// Accepts a policy, or says what is wrong with it.
pub(crate) async fn push(
    state: &State,
    by: &Caller,
    request: &proto::PushRequest,
) -> Result<proto::PushReply, Refusal> {
    let policies = state.snapshot().policies.value.clone();
    if !request.dry_run {
        busy(&policies)?;
    }
    if !request.canary.is_empty() && policies.current.is_none() {
        return Err(Refusal::failed_precondition(
            "no policy is in force, so a canary could not go back to one: push to all nodes first",
        ));
    }
    let old = match &policies.current {
        Some(release) => Some(parsed(state, release).await.map_err(|e| unavailable(&e))?),
        None => None,
    };
    let floor = policies.any.then_some(policies.serial);
    let (accepted, changes, more) = match examine(request, floor, old, &state.cluster.name).await? {
        Ok(examined) => examined,
        Err(report) => return Ok(proto::PushReply { report, ..Default::default() }),
    };
    let compiled = &accepted.policy;
    let mut reply = proto::PushReply {
        accepted: true,
        revision: policies.revision,
        serial: compiled.serial,
        report: String::new(),
        changes: changes.iter().map(change).collect(),
        more,
    };
    if request.dry_run {
        return Ok(reply);
    }
    let document =
        state.keep(&request.document, &accepted).await.map_err(|error| unavailable(&error))?;
    let seconds = request.confirm_seconds.clamp(1, TRIAL_MAX);
    reply.revision = state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            let mut policies = snapshot.policies.value.clone();
            busy(&policies)?;
            if policies.any && compiled.serial <= policies.serial {
                return Err(Refusal::aborted("another policy was pushed meanwhile"));
            }
            policies.revision += 1;
            (policies.serial, policies.any) = (compiled.serial, true);
            let release = Release {
                revision: policies.revision,
                serial: compiled.serial,
                document: document.clone(),
                revert: false,
            };
            if request.canary.is_empty() {
                policies.current = Some(release);
            } else {
                policies.canary = Some(Canary {
                    release,
                    nodes: request.canary.clone(),
                    ends: now() + i64::from(seconds) * 1000,
                    confirm_seconds: seconds,
                });
            }
            for old in policies.keep(&document) {
                draft.document(&old);
            }
            draft.policies(snapshot, &policies);
            Ok(policies.revision)
        })
        .await?;
    let (revision, serial) = (reply.revision, compiled.serial);
    tracing::info!(%by, revision, serial, canary = ?request.canary, "policy accepted");
    Ok(reply)
}

/// One trial at a time.
fn busy(policies: &Policies) -> Result<(), Refusal> {
    if policies.canary.is_some() {
        return Err(Refusal::failed_precondition(
            "a canary is on trial: `labelctl policy confirm` or `revert` it first",
        ));
    }
    Ok(())
}

/// A document's policy and how it differs from the old one, or what is wrong with it. Worked out
/// beside the threads that serve nodes.
async fn examine(
    request: &proto::PushRequest,
    floor: Option<u64>,
    old: Option<Arc<Accepted>>,
    cluster: &str,
) -> Result<Result<(Arc<Accepted>, Vec<sigil_policy::Change>, u64), String>, Refusal> {
    let (request, cluster) = (request.clone(), cluster.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let accepted = Accepted::compile(&request.name, &request.document, floor)?;
        if let Some(report) = misfit(&accepted.policy, &cluster, &request.canary) {
            return Err(report);
        }
        let old = old.as_ref().map(|old| &old.policy);
        let (changes, more) =
            difference(old, &accepted.policy, None, LISTED).map_err(|error| error.to_string())?;
        Ok((Arc::new(accepted), changes, more))
    });
    work.await.map_err(|error| Refusal::internal(error.to_string()))
}

/// Why a good document is not for this cluster.
fn misfit(policy: &Policy, ours: &str, canary: &[u32]) -> Option<String> {
    if policy.cluster != ours {
        return Some(format!(
            "the policy is for cluster `{}`, and this is `{ours}`: correct `cluster`",
            policy.cluster
        ));
    }
    let unknown = canary.iter().find(|snid| policy.node(**snid).is_none());
    if let Some(snid) = unknown {
        return Some(format!("--canary names node {snid}, which the policy does not declare"));
    }
    None
}

/// Ends a trial. What was kept is in force everywhere; what was not is replaced on the nodes that
/// tried it.
pub(crate) async fn conclude(state: &State, by: &Caller, keep: bool) -> Result<u64, Refusal> {
    let revision = state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            let policies = concluded(&snapshot.policies.value, keep)
                .ok_or_else(|| Refusal::failed_precondition("no canary is on trial"))?;
            draft.policies(snapshot, &policies);
            Ok(policies.revision)
        })
        .await?;
    tracing::info!(%by, revision, keep, "the canary's trial ended");
    Ok(revision)
}

fn concluded(policies: &Policies, keep: bool) -> Option<Policies> {
    let mut next = policies.clone();
    let canary = next.canary.take()?;
    if keep {
        next.current = Some(canary.release);
    } else if let Some(current) = &mut next.current {
        // A new revision of what was: nodes take nothing that is older than what they have.
        next.revision += 1;
        *current = Release { revision: next.revision, revert: true, ..current.clone() };
    }
    Some(next)
}

/// Ends trials that nobody confirmed, for as long as the server lives.
pub(crate) async fn watch_canaries(state: Arc<State>) -> anyhow::Result<()> {
    const TICK: Duration = Duration::from_millis(100);
    loop {
        tokio::time::sleep(TICK).await;
        let snapshot = state.snapshot();
        let Some(canary) = &snapshot.policies.value.canary else { continue };
        if now() < canary.ends {
            continue;
        }
        let revision = canary.release.revision;
        let over = state.update(|snapshot, draft| {
            let held = &snapshot.policies.value;
            let same = held.canary.as_ref().is_some_and(|now| now.release.revision == revision);
            if same && let Some(policies) = concluded(held, false) {
                draft.policies(snapshot, &policies);
            }
            Ok(same)
        });
        match over.await {
            Ok(true) => state.alarm(
                0,
                "canary-reverted",
                format!("nobody confirmed revision {revision} in time: its nodes go back"),
            ),
            Ok(false) => {}
            Err(error) => tracing::error!("the canary cannot be ended yet: {}", error.message()),
        }
    }
}

/// A node's signed part of a release; nothing if the policy does not declare the node.
pub(crate) async fn part(
    state: &State,
    release: &Release,
    snid: u32,
) -> anyhow::Result<Option<SignedPolicy>> {
    let accepted = parsed(state, release).await?;
    if accepted.policy.node(snid).is_none() {
        return Ok(None);
    }
    let canary = &state.snapshot().policies.value.canary;
    let trial = canary.as_ref().filter(|canary| canary.release.revision == release.revision);
    let envelope = Envelope {
        cluster: state.cluster.name.clone(),
        revision: release.revision,
        serial: release.serial,
        snid,
        document: accepted.slicer.part(snid).into_bytes(),
        revert: release.revert,
        confirm_seconds: trial.map_or(CONFIRM, |canary| canary.confirm_seconds.min(CONFIRM)),
    };
    Ok(Some(envelope::sign(&envelope, &state.policy_key)))
}

/// The document of what is in force, or of another revision that is kept.
pub(crate) async fn show(state: &State, revision: u64) -> Result<proto::ShowReply, Refusal> {
    let policies = state.snapshot().policies.value.clone();
    let trial = policies.canary.map(|canary| canary.release);
    let release = match revision {
        0 => policies.current,
        _ => policies.current.into_iter().chain(trial).find(|one| one.revision == revision),
    };
    let Release { revision, serial, document, .. } = release.ok_or_else(|| {
        Refusal::not_found("no such policy: only what is in force and what is on trial is kept")
    })?;
    let document = state.document(&document).await.map_err(|error| unavailable(&error))?;
    Ok(proto::ShowReply { revision, serial, document })
}

/// The policy of a release.
pub(crate) async fn parsed(state: &State, release: &Release) -> anyhow::Result<Arc<Accepted>> {
    state.policy(&release.document).await
}

fn change(change: &sigil_policy::Change) -> proto::Change {
    let [source, target] = [change.source, change.target].map(Option::unwrap_or_default);
    proto::Change {
        gained: change.gained,
        source_snid: source.snid,
        source_scid: source.scid,
        target_snid: target.snid,
        target_scid: target.scid,
        what: change.what.to_owned(),
        text: change.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(revision: u64, serial: u64) -> Release {
        Release { revision, serial, document: serial.to_string(), revert: false }
    }

    fn on_trial() -> Policies {
        Policies {
            revision: 2,
            serial: 2,
            any: true,
            current: Some(release(1, 1)),
            canary: Some(Canary {
                release: release(2, 2),
                nodes: vec![1],
                ends: 0,
                confirm_seconds: 60,
            }),
            documents: vec!["1".into(), "2".into()],
        }
    }

    #[test]
    fn old_documents_go_and_those_in_use_stay() {
        let mut policies = on_trial();
        for serial in 3..100 {
            let gone = policies.keep(&serial.to_string());
            assert!(gone.iter().all(|gone| !policies.uses(gone)), "{gone:?}");
            assert!(policies.documents.len() <= 16);
        }
        let kept = &policies.documents;
        assert!(["1", "2", "99", "86"].iter().all(|n| kept.iter().any(|k| k == n)), "{kept:?}");
        assert!(policies.keep("99").is_empty(), "the same once more");
    }

    #[test]
    fn what_is_kept_is_in_force_and_what_is_not_leaves_a_newer_revision_of_the_old() {
        let kept = concluded(&on_trial(), true).unwrap();
        assert_eq!((kept.current, kept.canary), (Some(release(2, 2)), None));
        let back = concluded(&on_trial(), false).unwrap();
        let again = back.current.unwrap();
        assert_eq!((again.revision, again.serial, again.revert), (3, 1, true));
        assert_eq!(back.serial, 2, "the serial that was tried is used up");
        assert!(concluded(&Policies::default(), true).is_none());
    }
}
