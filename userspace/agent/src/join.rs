//! `sigild join`: a token for a certificate.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, KeyPair};
use sigil_cluster::channel::{ConnectError, connect, server_address};
use sigil_cluster::credential::{Reserved, pem};
use sigil_cluster::proto::EnrolRequest;
use sigil_cluster::proto::enrolment_client::EnrolmentClient;
use sigil_cluster::{Credential, Identity, Role, Token, tls};
use zeroize::Zeroizing;

use crate::config::{Config, Origin};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where a server is; may be repeated
    #[arg(long = "server", value_name = "ADDRESS:PORT", required = true, value_parser = server_address)]
    servers: Vec<SocketAddr>,
    /// What `labelctl node enroll` printed; `-` reads it from stdin
    #[arg(long, value_name = "TOKEN", env = "SIGIL_TOKEN", hide_env_values = true)]
    token: String,
}

/// Why a node that enforces may not reach its server without the agent.
const CUT_OFF: &str =
    "what this node enforces stays without its agent and drops this: sigild --detach, then join";

/// Joins, and writes the credential.
pub(crate) fn run(config: &Config, args: Args) -> Result<()> {
    let enforces = config.options(&[]).is_ok_and(|options| options.is_pinned());
    let Origin::Server(server) = config.origin() else {
        anyhow::bail!(
            "the configuration has no [server]: put one in, in place of `policy` and `keys`"
        );
    };
    let mut text = Zeroizing::new(args.token);
    if *text == "-" {
        text.clear();
        io::stdin().take(1024).read_to_string(&mut text)?;
    }
    let token: Token = text.parse()?;
    // Whatever may fail on this node fails before the token is spent.
    if let Some(directory) = server.credential.parent() {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let room = Reserved::new(&server.credential)
        .with_context(|| format!("cannot write {}", server.credential.display()))?;
    let snid = config.snid.get();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let credential = runtime.block_on(join(&args.servers, &token, snid));
    let credential = credential.map_err(|error| match error.downcast_ref() {
        Some(ConnectError::Unreachable { .. }) if enforces => error.context(CUT_OFF),
        _ => error,
    })?;
    let identity = credential.identity();
    let Ok(Identity { cluster, role: Role::Node(given) }) = identity else {
        anyhow::bail!("the server gave no node's certificate: is it of the same release?");
    };
    ensure!(
        given == snid,
        "the server gave node {given}'s certificate: is it of the same release?"
    );
    credential.fill(room)?;
    writeln!(io::stdout(), "joined cluster {cluster} as node {snid}: start sigild")?;
    Ok(())
}

async fn join(servers: &[SocketAddr], token: &Token, snid: u32) -> Result<Credential> {
    let tls = Arc::new(tls::joining(token)?);
    let connected = connect(servers, 0, tls, None).await?;
    let ca = connected.ca.context("the server showed no CA")?;
    let key = KeyPair::generate()?;
    let request = EnrolRequest { token: token.secret().to_vec(), csr: request(&key)?, snid };
    let reply = EnrolmentClient::new(connected.channel).enrol(request).await;
    let reply = reply.map_err(|refusal| anyhow::anyhow!("{}", refusal.message()))?.into_inner();
    Ok(Credential {
        servers: servers.to_vec(),
        ca: pem(&ca),
        certificate: pem(&reply.certificate),
        key: key.serialize_pem(),
        policy_key: hex::encode(&reply.policy_key),
    })
}

/// A request for a certificate of a key. The server decides what the certificate says.
pub(crate) fn request(key: &KeyPair) -> Result<Vec<u8>> {
    Ok(CertificateParams::default().serialize_request(key)?.der().to_vec())
}
