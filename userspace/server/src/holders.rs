//! Which server has a node, where several share a store: a node is attached to one of them at most.
//!
//! A server to which somebody comes in the name of another server's node claims the node. The other
//! asks the node over the line that it has ([`Sessions::lives`]). One that answers lives, so two
//! machines say to be it: the claim is refused. Else the line is over, and the node is handed over. A
//! server that died does neither, and loses the node after a while. Whoever came is sent nothing before
//! that is decided. Times are each server's own; the store's versions say what was first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::Status as Refusal;

use crate::record::{Claim, Held, Holder};
use crate::sessions::{PROOF, Sessions};
use crate::state::{State, lock, unavailable};
use crate::vault::random;

/// A server that does not answer a claim by then is dead.
const ANSWER: Duration = PROOF.saturating_add(Duration::from_secs(1));
/// Before the store is asked again, and how often it is.
const BREATHER: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 5;
/// Steps that one claim takes at most.
const STEPS: usize = 16;

/// What this server knows of all nodes' holders.
#[derive(Default)]
pub(crate) struct Holders {
    slots: Mutex<BTreeMap<u32, Arc<Slot>>>,
    /// Nodes whose holders changed, for [`defend`].
    changed: Mutex<BTreeSet<u32>>,
    news: Notify,
}

struct Slot {
    /// One at a time claims the node here; the others wait for what comes of it.
    turn: tokio::sync::Mutex<()>,
    now: watch::Sender<Held<Holder>>,
}

impl Holders {
    fn slot(&self, snid: u32) -> Arc<Slot> {
        let new = || {
            let now = watch::channel(Held::default()).0;
            Arc::new(Slot { turn: tokio::sync::Mutex::new(()), now })
        };
        Arc::clone(lock(&self.slots).entry(snid).or_insert_with(new))
    }

    /// Takes note of a record; false if what is known is newer.
    pub(crate) fn note(&self, snid: u32, version: u64, value: Holder) -> bool {
        let newer = self.slot(snid).now.send_if_modified(|held| {
            let newer = version > held.version;
            if newer {
                *held = Held { version, value };
            }
            newer
        });
        if newer {
            lock(&self.changed).insert(snid);
            self.news.notify_one();
        }
        newer
    }

    /// The server that has a node.
    pub(crate) fn of(&self, snid: u32) -> String {
        self.slot(snid).now.borrow().value.server.clone()
    }
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This server has the node.
    Ours,
    /// The node lives at another server.
    Lives,
}

/// Makes this server the one that has a node.
pub(crate) async fn take(state: &State, snid: u32) -> Result<Outcome, Refusal> {
    let slot = state.holders.slot(snid);
    let _turn = slot.turn.lock().await;
    let mut now = slot.now.subscribe();
    for _ in 0..STEPS {
        let held = now.borrow_and_update().clone();
        let Holder { server, claim, .. } = held.value;
        if claim.is_none() && server == state.me {
            return Ok(Outcome::Ours);
        }
        // Another server's is decided first. One of this server's is left of a node that gave up.
        let others = claim.is_some_and(|claim| claim.server != state.me);
        if others && timeout(ANSWER, now.changed()).await.is_ok() {
            continue;
        }
        let ours = Holder { server: state.me.clone(), ..Holder::default() };
        if server.is_empty() || server == state.me {
            put(state, snid, held.version, &ours).await?;
            continue;
        }
        let mut id = [0; 16];
        random(&mut id).map_err(|error| unavailable(&error))?;
        let id = hex::encode(id);
        let claim = Some(Claim { id: id.clone(), server: state.me.clone() });
        let claimed = Holder { server, claim, refused: String::new() };
        if !put(state, snid, held.version, &claimed).await? {
            continue;
        }
        let waits = |held: &Held<Holder>| held.value.claim.as_ref().is_some_and(|c| c.id == id);
        let decided = timeout(ANSWER, now.wait_for(|held| !waits(held))).await;
        match decided.map(|held| held.map(|held| held.value.refused == id)) {
            Ok(Ok(true)) => return Ok(Outcome::Lives),
            Ok(_) => {}
            Err(_) => {
                let held = slot.now.borrow().clone();
                if waits(&held) {
                    tracing::info!(snid, "its server does not answer: the node is taken over");
                    put(state, snid, held.version, &ours).await?;
                }
            }
        }
    }
    Err(Refusal::aborted("other servers ask for the node, too: try again"))
}

/// Tries again where the store failed: if it was done all the same, the record says so.
async fn put(state: &State, snid: u32, version: u64, next: &Holder) -> Result<bool, Refusal> {
    for _ in 1..ATTEMPTS {
        match state.put_holder(snid, version, next).await {
            Ok(done) => return Ok(done),
            Err(error) => tracing::warn!(snid, "the node's server is not written yet: {error:#}"),
        }
        sleep(BREATHER).await;
    }
    state.put_holder(snid, version, next).await.map_err(|error| unavailable(&error))
}

/// Answers other servers' claims and lets go what they have, for as long as the server lives.
pub(crate) async fn defend(state: Arc<State>, sessions: Arc<Sessions>) -> anyhow::Result<()> {
    loop {
        state.holders.news.notified().await;
        let changed = std::mem::take(&mut *lock(&state.holders.changed));
        for snid in changed {
            let held = state.holders.slot(snid).now.borrow().clone();
            if held.value.server != state.me {
                sessions.end(snid);
            } else if let Some(claim) = held.value.claim
                && claim.server != state.me
            {
                let (state, sessions) = (Arc::clone(&state), Arc::clone(&sessions));
                tokio::spawn(async move {
                    answer(&state, &sessions, snid, held.version, claim).await;
                });
            }
        }
    }
}

async fn answer(state: &State, sessions: &Sessions, snid: u32, version: u64, claim: Claim) {
    let next = if sessions.lives(snid).await {
        Holder { server: state.me.clone(), claim: None, refused: claim.id }
    } else {
        Holder { server: claim.server, ..Holder::default() }
    };
    let decide = async {
        // One that did not hold leaves what another server decided.
        while let Err(error) = state.put_holder(snid, version, &next).await {
            tracing::warn!(snid, "a claim to the node is not answered yet: {error:#}");
            sleep(BREATHER).await;
        }
    };
    // The other server waits no longer.
    let _ = timeout(ANSWER, decide).await;
}
