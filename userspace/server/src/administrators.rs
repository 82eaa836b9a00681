//! Who may administer: names, each with the one key that is certified for it. One who was revoked is
//! refused from then on, at every server, whatever he still holds or has begun.

use std::fmt;
use std::time::Duration;

use sigil_cluster::{Identity, Role, identity};
use time::Duration as Lifetime;
use tonic::{Request, Status as Refusal};

use crate::ca::Issued;
use crate::listen::peer;
use crate::record::{Admin, Snapshot, now};
use crate::state::{Draft, State};

/// The longest that a credential is good for, and what `init` gives.
pub(crate) const DAYS: u32 = 365;
/// Whom `init` makes.
pub(crate) const FIRST: &str = "admin";
/// Names at most, those that were revoked as well.
const NAMES: usize = 256;
/// Whoever asked for something that goes on is checked this often, should nothing happen meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// An administrator who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    name: String,
    key: String,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Caller {
    /// Whose certificate names an administrator, and is of this key.
    pub(crate) fn new(name: &str, key: &str) -> Self {
        Self { name: name.to_owned(), key: key.to_owned() }
    }

    /// Who sent a request, if he may.
    pub(crate) fn of<T>(state: &State, request: &Request<T>) -> Result<Self, Refusal> {
        let peer = peer(request)?;
        let Some(Identity { role: Role::Admin(name), .. }) = &peer.identity else {
            return Err(Refusal::permission_denied(
                "only administrators may ask this: name your credential with --admin",
            ));
        };
        let this = Self::new(name, &peer.key);
        this.check(&state.snapshot()).inspect_err(|refusal| {
            let message = format!("{}: {name}: {}", peer.address, refusal.message());
            state.alarm(0, "admin-refused", message);
        })?;
        Ok(this)
    }

    /// The version of the record that lets him.
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<u64, Refusal> {
        let refuse = |why: &str| Err(Refusal::permission_denied(why.to_owned()));
        match snapshot.admins.get(&self.name) {
            None => refuse("this administrator is not known here"),
            Some(held) if held.value.revoked => refuse("the administrator was revoked"),
            Some(held) if held.value.key != self.key => {
                refuse("the credential was replaced by another")
            }
            Some(held) if held.value.over() => refuse("the credential has expired"),
            Some(held) => Ok(held.version),
        }
    }

    /// Has a decision committed only if he still may.
    pub(crate) fn decides(&self, snapshot: &Snapshot, draft: &mut Draft) -> Result<(), Refusal> {
        let version = self.check(snapshot)?;
        draft.expect(format!("admin/{}", self.name), version);
        Ok(())
    }

    /// Until he may no more: why.
    pub(crate) async fn until_refused(&self, state: &State) -> Refusal {
        let mut snapshots = state.follow();
        loop {
            let checked = self.check(&snapshots.borrow_and_update());
            if let Err(refusal) = checked {
                return refusal;
            }
            if let Ok(Err(_)) = tokio::time::timeout(AGAIN, snapshots.changed()).await {
                return Refusal::unavailable("the server ends");
            }
        }
    }
}

impl Admin {
    fn over(&self) -> bool {
        self.ends <= now()
    }

    /// Whether he may administer; else, why not.
    pub(crate) fn state(&self) -> &'static str {
        match self {
            _ if self.revoked => "revoked",
            _ if self.over() => "expired",
            _ => "good",
        }
    }
}

/// Makes a name an administrator's: his certificate.
pub(crate) async fn add(
    state: &State,
    by: &Caller,
    name: &str,
    csr: &[u8],
    days: u32,
) -> Result<Issued, Refusal> {
    if !identity::is_cluster(name) {
        return Err(Refusal::invalid_argument(format!(
            "a name has 1 to {} small letters, digits, `.`, `-` and `_`",
            identity::CLUSTER_MAX
        )));
    }
    let lifetime = Lifetime::days(days.clamp(1, DAYS).into());
    // What the request asks to be called is not looked at.
    let issued = state
        .ca
        .certify(csr, Role::Admin(name.to_owned()), lifetime)
        .map_err(|error| Refusal::invalid_argument(format!("{error:#}")))?;
    state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            match snapshot.admins.get(name) {
                Some(held) if held.value.state() == "good" => {
                    return Err(Refusal::already_exists(format!(
                        "{name} is an administrator: revoke him first (labelctl admin revoke {name})"
                    )));
                }
                None if snapshot.admins.len() >= NAMES => {
                    return Err(Refusal::resource_exhausted(format!(
                        "there are {NAMES} names already: take one that was revoked"
                    )));
                }
                _ => draft.admin(snapshot, name, &granted(&issued, &by.name)),
            }
            Ok(())
        })
        .await?;
    tracing::warn!(%by, name, "administrator added");
    Ok(issued)
}

/// The record of who was given a certificate; nobody did, where it was made on the server's host.
pub(crate) fn granted(issued: &Issued, by: &str) -> Admin {
    Admin {
        revoked: false,
        key: issued.key.clone(),
        ends: issued.ends,
        added: now(),
        by: by.to_owned(),
    }
}

/// Ends an administrator's rights, and the tokens that he drew. One who may administer remains.
pub(crate) async fn revoke(state: &State, by: &Caller, name: &str) -> Result<(), Refusal> {
    state
        .update(|snapshot, draft| {
            by.decides(snapshot, draft)?;
            let held = snapshot.admins.get(name).map(|held| &held.value);
            let admin = held.ok_or_else(|| {
                Refusal::not_found(format!("{name} is no administrator: see `labelctl admin list`"))
            })?;
            let mut others = snapshot.admins.iter().filter(|(other, _)| *other != name);
            let Some((other, held)) = others.find(|(_, held)| held.value.state() == "good") else {
                return Err(Refusal::failed_precondition(format!(
                    "{name} is the last administrator: add another first (labelctl admin add)"
                )));
            };
            // Two who leave at once do not both.
            draft.expect(format!("admin/{other}"), held.version);
            draft.admin(snapshot, name, &Admin { revoked: true, ..admin.clone() });
            for (hash, token) in &snapshot.tokens {
                if token.value.by == name && !token.value.used {
                    draft.drop_token(snapshot, hash);
                }
            }
            Ok(())
        })
        .await?;
    tracing::warn!(%by, name, "administrator revoked");
    Ok(())
}
