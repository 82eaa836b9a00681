//! `sigil-server admin`: an administrator's credential, made on the server's host. For those whose
//! last one was lost, was stolen or has expired.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use sigil_cluster::channel::{NO_IPV6, server_address};
use sigil_cluster::{Credential, Role, identity};
use time::Duration;

use crate::administrators::{DAYS, FIRST, granted};
use crate::ca::Ca;
use crate::config::{Config, FILE};
use crate::record::{Admin, Cluster};
use crate::state::State;
use crate::vault::Vault;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The administrator; what that name had before is void
    #[arg(long, default_value = FIRST)]
    name: String,
    /// Where the credential is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Where administrators reach the servers, if not where this one listens; may be repeated
    #[arg(long = "server", value_name = "ADDRESS:PORT", value_parser = server_address)]
    servers: Vec<SocketAddr>,
    /// The configuration file that `init` wrote
    #[arg(long, value_name = "FILE", default_value = FILE)]
    config: PathBuf,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { name, out, servers, config } = args;
    ensure!(identity::is_cluster(&name), "`{name}` cannot name an administrator");
    let config = Config::read(&config)?;
    let servers = reachable(servers, config.listen)?;
    ensure!(out.symlink_metadata().is_err(), "{} is there already", out.display());
    let vault = Vault::open(&config.store_key)?;
    let store = config.store().context("stop the server first, where it runs")?;
    let state = State::open(store, vault).await?;
    let (credential, admin) = make(&state.cluster, &name, servers)?;
    let done = state.update(|snapshot, draft| {
        draft.admin(snapshot, &name, &admin);
        Ok(())
    });
    done.await.map_err(|refusal| anyhow!("{}", refusal.message()))?;
    credential.store(&out)?;
    writeln!(io::stdout(), "{name} administers with {}, for {DAYS} days", out.display())?;
    Ok(())
}

/// Where administrators and nodes connect.
pub(crate) fn reachable(servers: Vec<SocketAddr>, listen: SocketAddr) -> Result<Vec<SocketAddr>> {
    let servers = if servers.is_empty() { vec![listen] } else { servers };
    ensure!(
        servers.iter().all(|server| !server.ip().is_unspecified()),
        "say with --server where the server is reached: {listen} is no address to connect to"
    );
    ensure!(
        servers.iter().all(SocketAddr::is_ipv4),
        "say with --server where the server is reached: {listen} will not do, {NO_IPV6}"
    );
    Ok(servers)
}

/// A new credential, and its record.
pub(crate) fn make(
    cluster: &Cluster,
    name: &str,
    servers: Vec<SocketAddr>,
) -> Result<(Credential, Admin)> {
    let lifetime = Duration::days(DAYS.into());
    let (issued, key) = Ca::of(cluster)?.grant(Role::Admin(name.to_owned()), lifetime)?;
    let admin = granted(&issued, "");
    let credential = Credential {
        servers,
        ca: cluster.ca.clone(),
        certificate: issued.pem,
        key: key.serialize_pem(),
        policy_key: String::new(),
    };
    Ok((credential, admin))
}
