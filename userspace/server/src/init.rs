//! `sigil-server init`.

use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use sigil_cluster::channel::server_address;
use sigil_cluster::identity;
use sigil_common::icv::Suite;

use crate::administrators::FIRST;
use crate::ca::Ca;
use crate::config::{Certificates, Config, HOME, Rotation};
use crate::confine::private;
use crate::grant::{make, reachable};
use crate::record::{Cluster, Secret};
use crate::state::State;
use crate::vault::Vault;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The cluster's name, as in the policy: small letters, digits, `.`, `-`, `_`
    #[arg(long)]
    cluster: String,
    /// Where everything is written
    #[arg(long, value_name = "DIRECTORY", default_value = HOME)]
    out: PathBuf,
    /// Where the server listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// Where nodes and administrators reach the servers, if not at `--listen`; may be repeated
    #[arg(long = "server", value_name = "ADDRESS:PORT", value_parser = server_address)]
    servers: Vec<SocketAddr>,
    /// Where metrics and health are served
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Keep the records in etcd, for several servers; may be repeated
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,
    /// The CA that certifies etcd's members, for https://
    #[arg(long, value_name = "FILE", requires = "etcd")]
    etcd_ca: Option<PathBuf>,
    /// The certificate that etcd knows the server by
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// The MAC of the packets
    #[arg(long, value_name = "SUITE", default_value = "siphash-2-4-96", value_parser = suite)]
    suite: Suite,
}

fn suite(name: &str) -> Result<Suite, String> {
    name.parse().map_err(|_| {
        let known: Vec<_> = Suite::ALL.iter().map(|suite| suite.name()).collect();
        format!("known suites are {}", known.join(", "))
    })
}

pub(crate) async fn run(args: Args) -> Result<()> {
    ensure!(
        identity::is_cluster(&args.cluster),
        "`{}` cannot name a cluster: use 1 to {} small letters, digits, `.`, `-` and `_`",
        args.cluster,
        identity::CLUSTER_MAX
    );
    let servers = reachable(args.servers, args.listen)?;
    let out = &args.out;
    let made = || out.display().to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(out).with_context(made)?;
    private(out)?;
    let file = out.join("server.toml");
    ensure!(
        file.symlink_metadata().is_err(),
        "{} is there already: name another --out",
        file.display()
    );

    let (ca, ca_key) = Ca::create(&args.cluster)?;
    let policy_key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
        .map_err(|_| anyhow!("the system has no randomness"))?;
    let cluster = Cluster {
        name: args.cluster.clone(),
        ca,
        ca_key,
        policy_key: Secret(policy_key.as_ref().to_vec()),
        suite: args.suite as u8,
    };
    let embedded = args.etcd.is_empty();
    let config = Config {
        listen: args.listen,
        metrics: args.metrics,
        alarms: Some("alarms.jsonl".into()),
        store_key: "store.key".into(),
        store: embedded.then(|| "sigil.redb".into()),
        cluster: if embedded { String::new() } else { args.cluster },
        etcd: args.etcd,
        etcd_ca: args.etcd_ca.map(std::path::absolute).transpose()?,
        etcd_cert: args.etcd_cert.map(std::path::absolute).transpose()?,
        etcd_key: args.etcd_key.map(std::path::absolute).transpose()?,
        certificates: Certificates::default(),
        rotation: Rotation::default(),
    };
    let (credential, admin) = make(&cluster, FIRST, servers)?;
    config.check()?;
    let text = toml::to_string(&config)?;
    // What is the most likely to fail comes before anything is written that is in the next try's way.
    let store = config.within(&std::path::absolute(out)?)?.store()?;
    ensure!(store.scan("cluster").await?.is_empty(), "the store holds a cluster already");
    let vault = Vault::create(&out.join("store.key"))?;
    State::create(&*store, &vault, &cluster, (FIRST, &admin)).await?;
    std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    let file_of_admin = out.join("admin.toml");
    credential.store(&file_of_admin)?;
    writeln!(
        io::stdout(),
        "made cluster {}\n  serve:      sigil-server run --config {}\n  administer: labelctl policy status --admin {}",
        cluster.name,
        file.display(),
        file_of_admin.display()
    )?;
    Ok(())
}
