//! Tokens for certificates, and the end of a node's membership.

use std::sync::Arc;

use sigil_cluster::proto::enrolment_server::Enrolment;
use sigil_cluster::proto::{EnrolReply, EnrolRequest};
use sigil_cluster::{Role, Token as Shown, envelope};
use tonic::{Request, Response, Status as Refusal};
use zeroize::Zeroizing;

use crate::administrators::Caller;
use crate::ca::hash;
use crate::config::Lifetimes;
use crate::keyset::fresh;
use crate::listen::peer;
use crate::record::{Millis, Node, Token, now};
use crate::state::{State, unavailable};
use crate::vault::random;

/// The longest a token may be good for.
const TOKEN_MAX: u32 = 7 * 24 * 3600;

const USED: &str = "the token was used before: whoever did may be an intruder";

/// Draws a token for a node: its text, and when it expires.
pub(crate) async fn draw(
    state: &State,
    by: &Caller,
    snid: u32,
    seconds: u32,
) -> Result<(Zeroizing<String>, Millis), Refusal> {
    if snid == 0 {
        return Err(Refusal::invalid_argument("0 is no node's SnID"));
    }
    let mut secret = Zeroizing::new([0; 32]);
    random(&mut *secret).map_err(|error| unavailable(&error))?;
    let expires = now() + i64::from(seconds.clamp(1, TOKEN_MAX)) * 1000;
    let name = hash(&*secret);
    state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            if snapshot.nodes.get(&snid).is_some_and(|node| !node.value.revoked) {
                return Err(Refusal::already_exists(format!(
                    "node {snid} is enrolled: revoke it first (labelctl node revoke {snid})"
                )));
            }
            for (name, token) in &snapshot.tokens {
                if token.value.expires < now() {
                    draft.drop_token(snapshot, name);
                }
            }
            draft.token(snapshot, &name, &Token { snid, expires, by: by.to_string(), used: false });
            Ok(())
        })
        .await?;
    tracing::info!(%by, snid, "token drawn");
    Ok((Shown::new(*secret, &state.ca.certificate).emit(), expires))
}

/// Cuts a node off: its keys are gone from all others with the next version.
pub(crate) async fn revoke(state: &State, by: &Caller, snid: u32) -> Result<(), Refusal> {
    state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            let held = snapshot.nodes.get(&snid);
            let node = held.map(|held| held.value.clone()).unwrap_or_default();
            let tokens = snapshot.tokens.iter().filter(|(_, token)| token.value.snid == snid);
            let mut any = held.is_some();
            for (name, _) in tokens {
                draft.drop_token(snapshot, name);
                any = true;
            }
            if !any {
                return Err(Refusal::not_found(format!("node {snid} was never enrolled")));
            }
            if held.is_some() && !node.revoked {
                draft.node(snapshot, snid, &Node { revoked: true, ..node });
                let mut keys = snapshot.keys.value.clone();
                keys.version += 1;
                keys.wanted = fresh(&keys);
                draft.keys(snapshot, &keys);
            }
            Ok(())
        })
        .await?;
    tracing::warn!(%by, snid, "node revoked");
    Ok(())
}

/// The service for those without a certificate.
pub(crate) struct Desk {
    pub(crate) state: Arc<State>,
    pub(crate) lifetimes: Lifetimes,
}

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Refusal> {
        let from = peer(&request)?.address;
        let request = request.into_inner();
        // Looked up by its hash: how long that takes tells nothing of the tokens that there are.
        let name = hash(&request.token);
        let state = &self.state;
        let refuse = |snid, why: &str| {
            state.alarm(snid, "join-refused", format!("{from}: {why}"));
            Refusal::permission_denied(why.to_owned())
        };
        let Some(token) = state.snapshot().tokens.get(&name).map(|held| held.value.clone()) else {
            return Err(refuse(
                0,
                "the token is not known here: draw one with `labelctl node enroll`",
            ));
        };
        let (snid, asked) = (token.snid, request.snid);
        if token.expires <= now() {
            return Err(refuse(
                snid,
                "the token has expired: draw another with `labelctl node enroll`",
            ));
        }
        let certified = state
            .ca
            .certify(&request.csr, Role::Node(snid), self.lifetimes.node)
            .map_err(|error| refuse(snid, &format!("{error:#}")))?;
        let outcome = state
            .update(|snapshot, draft| {
                let used = snapshot.tokens.get(&name).is_none_or(|token| token.value.used);
                if used {
                    return Ok(Err(USED.to_owned()));
                }
                if asked != snid {
                    return Ok(Err(format!(
                        "the token was drawn for node {snid}, and this is node {asked}: correct \
                         `snid`, or draw one for it; this one stays good"
                    )));
                }
                let former = snapshot.nodes.get(&snid).map(|held| &held.value);
                if former.is_some_and(|node| !node.revoked) {
                    return Ok(Err("a node with this SnID is enrolled already".to_owned()));
                }
                let mut keys = snapshot.keys.value.clone();
                // A SnID that was enrolled before has stamped before.
                let first_epoch = if former.is_some() { fresh(&keys) } else { keys.stamp.max(1) };
                keys.version += 1;
                keys.wanted = keys.wanted.max(first_epoch);
                let node = Node {
                    key: certified.key.clone(),
                    first_epoch,
                    ends: certified.ends,
                    ..Node::default()
                };
                draft.node(snapshot, snid, &node);
                draft.keys(snapshot, &keys);
                draft.token(snapshot, &name, &Token { used: true, ..token.clone() });
                Ok(Ok(()))
            })
            .await?;
        outcome.map_err(|why| refuse(snid, &why))?;
        tracing::info!(snid, %from, "node enrolled");
        Ok(Response::new(EnrolReply {
            cluster: state.cluster.name.clone(),
            snid,
            certificate: certified.certificate.to_vec(),
            policy_key: envelope::public_key(&state.policy_key),
        }))
    }
}
