//! Administrators by name: who was revoked is out at once, at every server, and none is another.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use sigil_cluster::channel::connect;
use sigil_cluster::credential::pem;
use sigil_cluster::proto::admin_client::AdminClient;
use sigil_cluster::proto::{
    AddAdminRequest, AdminStatus, AdminsRequest, Alarm, AlarmsRequest, DrawTokenRequest,
    RevokeAdminRequest, StatusRequest,
};
use sigil_cluster::{Credential, tls};
use tonic::{Code, Status as Refusal, Streaming};

use crate::alarms::kept;
use crate::bed::{Node, PATIENCE, Server, admin, csr, join};
use crate::etcd::Etcd;

/// What a revocation may take at another server.
const SOON: Duration = Duration::from_secs(2);

async fn add(by: &Credential, name: &str) -> Result<Credential> {
    let key = KeyPair::generate()?;
    let request = AddAdminRequest { name: name.into(), csr: csr(&key)?, days: 1 };
    let reply = admin(by).await?.add_admin(request).await?.into_inner();
    Ok(of(by, &reply.certificate, &key))
}

/// A credential for the same servers.
fn of(other: &Credential, certificate: &[u8], key: &KeyPair) -> Credential {
    let mut credential = other.clone();
    credential.certificate = pem(certificate);
    credential.key = key.serialize_pem();
    credential
}

async fn revoke(by: &Credential, name: &str) -> Result<(), Refusal> {
    let mut client = admin(by).await.map_err(|error| Refusal::unknown(format!("{error:#}")))?;
    client.revoke_admin(RevokeAdminRequest { name: name.into() }).await.map(drop)
}

async fn list(by: &Credential) -> Result<Vec<AdminStatus>> {
    Ok(admin(by).await?.admins(AdminsRequest {}).await?.into_inner().admins)
}

async fn may(credential: &Credential) -> Result<(), Refusal> {
    let mut client = admin(credential).await.map_err(|e| Refusal::unknown(format!("{e:#}")))?;
    client.status(StatusRequest {}).await.map(drop)
}

async fn follow(credential: &Credential) -> Result<Streaming<Alarm>> {
    let request = AlarmsRequest { follow: true, ..AlarmsRequest::default() };
    Ok(admin(credential).await?.alarms(request).await?.into_inner())
}

/// Why a stream ends, within a time.
async fn end(mut stream: Streaming<Alarm>) -> Result<Refusal> {
    tokio::time::timeout(SOON, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Refusal::unknown("it ended without a word"),
                Err(refusal) => return refusal,
            }
        }
    })
    .await
    .context("it goes on")
}

fn own(server: &Server) -> Result<Credential> {
    Ok(Credential::load(&server.file("admin.toml"))?)
}

#[tokio::test]
async fn one_who_was_revoked_is_out_with_all_that_he_had_begun() -> Result<()> {
    let server = Server::start("lab", "")?;
    let first = own(&server)?;
    let bob = add(&first, "bob").await?;
    assert_eq!(bob.identity()?.to_string(), "spiffe://lab/admin/bob");
    let listed = list(&bob).await?;
    let words: Vec<_> =
        listed.iter().map(|a| (a.name.as_str(), a.state.as_str(), a.by.as_str())).collect();
    assert_eq!(words, [("admin", "good", ""), ("bob", "good", "admin")]);
    assert!(listed.iter().all(|admin| admin.ends > 0 && admin.added > 0), "{listed:?}");
    // What he has open, and what he gave away.
    let mut open = admin(&bob).await?;
    open.status(StatusRequest {}).await?;
    let request = DrawTokenRequest { snid: 5, valid_seconds: 60 };
    let token = String::from_utf8(open.draw_token(request).await?.into_inner().token.clone())?;
    let stream = follow(&bob).await?;
    revoke(&first, "bob").await?;
    let refused = end(stream).await?;
    assert!(refused.message().contains("revoked"), "{refused}");
    let refused = open.status(StatusRequest {}).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("revoked"));
    assert_eq!(may(&bob).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(revoke(&bob, "admin").await.unwrap_err().code(), Code::PermissionDenied);
    let late =
        format!("{:#}", join(server.address, 5, &token.parse()?).await.err().context("joined")?);
    assert!(late.contains("not known"), "his token: {late}");
    let told = kept(&server, "admin-refused").await?;
    assert!(told.iter().any(|alarm| alarm.message.contains("bob")), "{told:?}");
    // The name is given again, and not to who had it.
    let again = add(&first, "bob").await?;
    may(&again).await?;
    assert!(may(&bob).await.unwrap_err().message().contains("replaced"));
    let log = server.log()?;
    for act in ["by=admin", "by=bob"] {
        assert!(log.contains(act), "{log}");
    }
    Ok(())
}

/// There is always one left; and where none can ask any more, the server's host makes one.
#[tokio::test]
async fn the_last_administrator_stays_and_a_lost_one_is_made_anew() -> Result<()> {
    let mut server = Server::start("lab", "")?;
    let first = own(&server)?;
    let refused = revoke(&first, "admin").await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("last"));
    assert_eq!(revoke(&first, "eve").await.unwrap_err().code(), Code::NotFound);
    let bob = add(&first, "bob").await?;
    revoke(&bob, "admin").await?;
    assert!(may(&first).await.is_err());
    assert_eq!(revoke(&bob, "bob").await.unwrap_err().code(), Code::FailedPrecondition);
    let make = |server: &Server, out: &str| {
        Command::new(env!("CARGO_BIN_EXE_sigil-server"))
            .args(["admin", "--name", "bob", "--config"])
            .arg(server.file("server.toml"))
            .arg("--out")
            .arg(server.file(out))
            .output()
    };
    let busy = make(&server, "bob.toml")?;
    let said = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(!busy.status.success() && said.contains("stop the server"), "{said}");
    server.kill()?;
    let over = make(&server, "admin.toml")?;
    assert!(!over.status.success(), "it overwrote a credential");
    let done = make(&server, "bob.toml")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    server.resume()?;
    may(&Credential::load(&server.file("bob.toml"))?).await?;
    assert!(may(&bob).await.unwrap_err().message().contains("replaced"));
    Ok(())
}

/// What an administrator tries to be somebody else: by the request, by signing for himself, and in
/// another's role.
#[tokio::test]
async fn an_administrator_is_nobody_else() -> Result<()> {
    let server = Server::start("lab", "")?;
    let first = own(&server)?;
    // The request asks to be another.
    let key = KeyPair::generate()?;
    let mut greedy = CertificateParams::default();
    let other = Ia5String::try_from("spiffe://lab/admin/admin")?;
    greedy.subject_alt_names.push(SanType::URI(other.clone()));
    let csr = greedy.serialize_request(&key)?.der().to_vec();
    let request = AddAdminRequest { name: "bob".into(), csr: csr.clone(), days: 9999 };
    let reply = admin(&first).await?.add_admin(request).await?.into_inner();
    let bob = of(&first, &reply.certificate, &key);
    assert_eq!(bob.identity()?.to_string(), "spiffe://lab/admin/bob");
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs())?;
    assert!(reply.ends <= now + 366 * 24 * 3600, "good for ever");
    // The name is taken, or none.
    for (name, code) in [
        ("admin", Code::AlreadyExists),
        ("Bob", Code::InvalidArgument),
        ("a/b", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        let request = AddAdminRequest { name: name.into(), csr: csr.clone(), days: 1 };
        let refused = admin(&bob).await?.add_admin(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    // He signs for another himself.
    let issuer = Issuer::from_ca_cert_pem(&bob.certificate, KeyPair::from_pem(&bob.key)?)?;
    let forged_key = KeyPair::generate()?;
    let forged = greedy.signed_by(&forged_key, &issuer)?;
    let mut config = tls::client(&bob)?;
    let chain = vec![forged.der().clone(), bob.certificate().context("none")?];
    let key = PrivateKeyDer::from_pem_slice(forged_key.serialize_pem().as_bytes())?;
    config.client_auth_cert_resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::from_der(
            chain,
            key,
            &rustls::crypto::ring::default_provider(),
        )?));
    let asked = match connect(&[server.address], 0, Arc::new(config), None).await {
        Ok(to) => AdminClient::new(to.channel).status(StatusRequest {}).await.map(drop),
        Err(error) => Err(Refusal::unknown(error.to_string())),
    };
    assert!(asked.is_err(), "a certificate that an administrator signed");
    // In the name of a node he is nobody.
    server.join(1).await?;
    let node =
        sigil_cluster::proto::nodes_client::NodesClient::new(crate::bed::channel(&bob).await?)
            .renew(sigil_cluster::proto::RenewRequest { csr })
            .await;
    assert_eq!(node.unwrap_err().code(), Code::PermissionDenied);
    assert!(Node::attach(&bob, 1).await.is_err());
    Ok(())
}

/// A certificate alone opens nothing: whose record is gone is nobody, the last one as well.
#[tokio::test]
async fn an_administrator_without_a_record_is_nobody() -> Result<()> {
    const RECORDS: redb::TableDefinition<&str, (u64, &[u8])> =
        redb::TableDefinition::new("records");
    let mut server = Server::start("lab", "")?;
    let first = own(&server)?;
    may(&first).await?;
    server.kill()?;
    {
        let database = redb::Database::open(server.file("sigil.redb"))?;
        let begun = database.begin_write()?;
        ensure!(begun.open_table(RECORDS)?.remove("admin/admin")?.is_some(), "no record");
        begun.commit()?;
    }
    server.resume()?;
    assert!(may(&first).await.unwrap_err().message().contains("not known"));
    Ok(())
}

#[tokio::test]
#[cfg_attr(not(has_etcd), ignore = "no etcd: apt-get install etcd-server")]
async fn a_revocation_holds_at_every_server_at_once() -> Result<()> {
    let etcd = Etcd::start()?;
    let one = Server::start_on("lab", &etcd.urls())?;
    let two = one.beside()?;
    let (at_one, at_two) = (own(&one)?, own(&two)?);
    let mut bob = add(&at_one, "bob").await?;
    bob.servers = vec![two.address];
    let deadline = Instant::now() + PATIENCE;
    while may(&bob).await.is_err() {
        ensure!(Instant::now() < deadline, "the other server does not know him");
    }
    let stream = follow(&bob).await?;
    let began = Instant::now();
    revoke(&at_one, "bob").await?;
    let refused = end(stream).await?;
    println!("cut off at the other server after {:?}", began.elapsed());
    assert!(refused.message().contains("revoked"), "{refused}");
    assert!(may(&bob).await.is_err());
    // Two who leave at once, each at another server, do not both.
    let mut eve = add(&at_two, "eve").await?;
    eve.servers = vec![one.address];
    let deadline = Instant::now() + PATIENCE;
    while may(&eve).await.is_err() {
        ensure!(Instant::now() < deadline, "the other server does not know her");
    }
    let left = tokio::join!(revoke(&at_two, "admin"), revoke(&eve, "eve"));
    let gone = [left.0.is_ok(), left.1.is_ok()].into_iter().filter(|gone| *gone).count();
    assert_eq!(gone, 1, "{left:?}");
    Ok(())
}
