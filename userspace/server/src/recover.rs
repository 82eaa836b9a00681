//! `sigil-server recover`: going on from an old copy of the store.
//!
//! Nodes take no keys and no policy that are older than what they had, so a restored store serves
//! nobody. Its numbers go far above all that it can have given out since the copy was made, and no
//! epoch of before is used again: nothing that a node stamped or accepted can come twice.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, anyhow};

use crate::config::Config;
use crate::keyset::{JUMP, recovered};
use crate::record::{Policies, Release, now};
use crate::state::{State, unavailable};
use crate::vault::Vault;

pub(crate) async fn run(path: &Path) -> Result<()> {
    let config = Config::read(path)?;
    let vault = Vault::open(&config.store_key)?;
    let state = State::open(config.store()?, vault).await?;
    let done = state.update(|snapshot, draft| {
        let keys = recovered(&snapshot.keys.value, now()).map_err(|error| unavailable(&error))?;
        draft.keys(snapshot, &keys);
        draft.policies(snapshot, &policies(&snapshot.policies.value));
        for name in snapshot.tokens.keys() {
            draft.drop_token(snapshot, name);
        }
        Ok(snapshot.members().count())
    });
    let nodes = done.await.map_err(|refusal| anyhow!("{}", refusal.message()))?;
    writeln!(
        io::stdout(),
        "recovered: {nodes} nodes get new keys and the policy of the copy\n  \
         revoke again whom you revoked since it was made, nodes and administrators, and push what you pushed since"
    )?;
    Ok(())
}

fn policies(held: &Policies) -> Policies {
    let revision = held.revision.saturating_add(JUMP);
    let again = |release: &Release| Release { revision, revert: true, ..release.clone() };
    let current = held.current.as_ref().map(again);
    Policies { revision, current, canary: None, ..held.clone() }
}
