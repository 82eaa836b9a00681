//! Who may ask for what. A pure function, so that every case is one row of a test.

use sigil_control::{Request, ZoneRef};
use sigil_policy::instead;

use crate::config::Grant;
use crate::names::Names;

/// What is known of a client, read in this order: its ScID first, then whether it is alive, so
/// that the ScID is its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) uid: u32,
    /// 0 for none.
    pub(crate) scid: u32,
    pub(crate) alive: bool,
}

/// What a client may do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Permit {
    /// What it asked for.
    Granted,
    /// Enter this zone.
    Zone { scid: u32, name: String },
}

/// Why a client may not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("the client ended before it was answered")]
    Gone,
    #[error(
        "the process is confined to ScID {scid}, and no confined process may {purpose}: \
         ask from one that is not, such as a login shell"
    )]
    Confined { scid: u32, purpose: &'static str },
    #[error("user {uid} may not {purpose}: ask as root{}", grant_hint(*.uid, .purpose))]
    User { uid: u32, purpose: &'static str },
    #[error(
        "user {uid} may not enter zone {zone}: ask as root, or add it to `zones` of user {uid} in sigild.toml"
    )]
    Zone { uid: u32, zone: String },
    #[error("the policy declares no zone {wanted}: {instead}")]
    Undeclared { wanted: ZoneRef, instead: String },
    #[error("zone {zone} is the kernel's own: no process may enter it")]
    Kernel { zone: String },
    #[error(
        "zone {zone} demands signed code, and user {uid} would bring code of its own: ask as root, or let a \
         TRANSITION rule lead there from a signed program"
    )]
    Code { uid: u32, zone: String },
}

fn grant_hint(uid: u32, purpose: &str) -> String {
    if purpose == "enter a zone" {
        format!(", or add a [[run]] with uid = {uid} to sigild.toml")
    } else {
        String::new()
    }
}

/// May this client have its request?
///
/// A process that has a ScID gets nothing, whoever it runs as: it could lift its own confinement.
pub(crate) fn authorise(
    client: Client,
    request: &Request,
    names: &Names,
    grants: &[Grant],
) -> Result<Permit, Denied> {
    let Client { uid, scid, alive } = client;
    let purpose = request.purpose();
    if !alive {
        return Err(Denied::Gone);
    }
    if scid != 0 {
        return Err(Denied::Confined { scid, purpose });
    }
    let root = uid == 0;
    let mut own = grants.iter().filter(|grant| grant.uid == uid).peekable();
    let Request::Run { zone: wanted } = request else {
        return if root { Ok(Permit::Granted) } else { Err(Denied::User { uid, purpose }) };
    };
    if !root && own.peek().is_none() {
        return Err(Denied::User { uid, purpose });
    }
    let Some((scid, name)) = names.zone(wanted) else {
        let zones = names.zones.iter().filter(|(scid, _)| **scid != names.kernel_scid);
        let word = wanted.to_string();
        let instead = instead(word.trim_matches('`'), zones.map(|(_, name)| name.as_str()));
        return Err(Denied::Undeclared { wanted: wanted.clone(), instead });
    };
    let (zone, name) = (format!("{name} ({scid})"), name.to_owned());
    if scid == names.kernel_scid {
        return Err(Denied::Kernel { zone });
    }
    if !root && names.signed_code.contains(&scid) {
        return Err(Denied::Code { uid, zone });
    }
    let covers = |allowed: &ZoneRef| match allowed {
        ZoneRef::Id(id) => *id == scid,
        ZoneRef::Name(allowed) => *allowed == name,
    };
    if root || own.any(|grant| grant.zones.iter().any(covers)) {
        Ok(Permit::Zone { scid, name })
    } else {
        Err(Denied::Zone { uid, zone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: u32 = 10;
    const APP: u32 = 20;
    const VAULT: u32 = 30;
    const KERNEL: u32 = u32::MAX;
    const ALICE: u32 = 1000;
    const MALLORY: u32 = 1001;

    fn names() -> Names {
        let zone = |scid, name: &str| (scid, name.to_owned());
        Names {
            zones: [
                zone(WEB, "web"),
                zone(APP, "app"),
                zone(VAULT, "vault"),
                zone(KERNEL, "kernel"),
            ]
            .into(),
            kernel_scid: KERNEL,
            signed_code: [VAULT].into(),
            ..Names::default()
        }
    }

    fn run(zone: &str) -> Request {
        Request::Run { zone: zone.parse().unwrap() }
    }

    fn load() -> Request {
        Request::Load { name: String::new(), document: String::new(), dry_run: false }
    }

    #[test]
    fn every_case() {
        let alice = Grant { uid: ALICE, zones: vec![ZoneRef::Name("web".to_owned())] };
        let by_number = Grant { uid: ALICE, zones: vec![ZoneRef::Id(APP)] };
        let of_the_vault = Grant { uid: ALICE, zones: vec![ZoneRef::Id(VAULT)] };
        let of_the_kernel = Grant { uid: MALLORY, zones: vec![ZoneRef::Id(KERNEL)] };
        let free = |uid| Client { uid, scid: 0, alive: true };
        let confined = |uid, scid| Client { uid, scid, alive: true };
        let gone = Client { uid: 0, scid: 0, alive: false };
        let some = std::slice::from_ref(&alice);
        // client, request, grants, granted
        let table = [
            ("root reads", free(0), Request::Status, some, true),
            ("root reads the policy", free(0), Request::Show, some, true),
            ("alice reads the policy", free(ALICE), Request::Show, some, false),
            ("confined root reads the policy", confined(0, WEB), Request::Show, some, false),
            ("root loads", free(0), load(), some, true),
            ("root reloads", free(0), Request::Reload { dry_run: true }, some, true),
            ("root watches", free(0), Request::Watch, some, true),
            ("root runs in any zone", free(0), run("app"), some, true),
            ("root runs by number", free(0), run("20"), &[], true),
            ("alice runs where she may", free(ALICE), run("web"), some, true),
            ("alice runs there by number", free(ALICE), run("10"), some, true),
            ("a number grants a name", free(ALICE), run("app"), &[by_number], true),
            ("alice runs elsewhere", free(ALICE), run("app"), some, false),
            ("alice loads", free(ALICE), load(), some, false),
            ("alice reads", free(ALICE), Request::Status, some, false),
            ("alice counts", free(ALICE), Request::Stats, some, false),
            ("alice watches", free(ALICE), Request::Watch, some, false),
            ("mallory runs", free(MALLORY), run("web"), some, false),
            ("nobody is listed", free(ALICE), run("web"), &[], false),
            ("confined root loads", confined(0, WEB), load(), some, false),
            (
                "confined root reloads",
                confined(0, WEB),
                Request::Reload { dry_run: true },
                some,
                false,
            ),
            ("confined root reads", confined(0, WEB), Request::Status, some, false),
            ("confined root watches", confined(0, WEB), Request::Watch, some, false),
            ("confined root changes zone", confined(0, WEB), run("app"), some, false),
            ("confined root asks for its own zone", confined(0, WEB), run("web"), some, false),
            ("confined alice changes zone", confined(ALICE, APP), run("web"), some, false),
            ("the client ended", gone, load(), some, false),
            ("the client ended, to have its id labelled", gone, run("web"), some, false),
            ("an undeclared name", free(0), run("wbe"), some, false),
            ("an undeclared number", free(0), run("11"), some, false),
            ("no ScID", free(0), run("0"), some, false),
            ("root runs where signed code is demanded", free(0), run("vault"), &[], true),
            ("alice brings her own code", free(ALICE), run("vault"), &[of_the_vault], false),
            ("the kernel's zone", free(0), run("kernel"), some, false),
            ("the kernel's zone, granted", free(MALLORY), run("kernel"), &[of_the_kernel], false),
        ];
        for (case, client, request, grants, granted) in table {
            let said = authorise(client, &request, &names(), grants);
            assert_eq!(said.is_ok(), granted, "{case}: {said:?}");
        }
    }

    #[test]
    fn the_permit_names_the_zone() {
        let client = Client { uid: 0, scid: 0, alive: true };
        let permit = authorise(client, &run("web"), &names(), &[]);
        assert_eq!(permit, Ok(Permit::Zone { scid: WEB, name: "web".to_owned() }));
    }

    #[test]
    fn denials_say_what_to_do() {
        let said = |uid, scid, request: &Request| {
            let client = Client { uid, scid, alive: true };
            authorise(client, request, &names(), &[]).unwrap_err().to_string()
        };
        insta::assert_snapshot!(
            [
                said(0, WEB, &load()),
                said(ALICE, 0, &run("web")),
                said(ALICE, 0, &Request::Stats),
                said(0, 0, &run("wbe")),
                said(0, 0, &run("kernel")),
            ]
            .join("\n")
        );
    }
}
