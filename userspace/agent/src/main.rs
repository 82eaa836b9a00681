//! `sigild`, the Security Manager: one per node.
//!
//! It puts a policy and keys into the kernel, keeps them there, and answers `labelctl`. What it put
//! there is pinned and enforces without it: no exit, failure or panic takes anything off; only
//! `--detach` does. Whoever starts next adopts what is pinned.

mod alarms;
mod authorise;
mod config;
mod confine;
mod feed;
mod gate;
mod join;
mod keys;
mod lock;
mod metrics;
mod names;
mod node;
mod notify;
mod peer;
mod policy;
mod process;
mod report;
mod seats;
mod serve;
mod signed;
mod spool;
mod uplink;
mod zone;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};
use sigil_datapath::Datapath;

use config::{Config, Origin};
use lock::Lock;
use node::Node;
use notify::Notify;
use uplink::credential;

/// Puts a node's part of a policy in force and keeps it there.
#[derive(Parser)]
#[command(name = "sigild", version)]
#[command(
    after_help = "SIGHUP reads the policy and the keys again. SIGTERM ends the agent; what it \
                        enforces stays in force until --detach.\n\
                        Exit status: 0, or 2 for wrong usage or failure."
)]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/sigil/sigild.toml")]
    config: PathBuf,
    /// Take everything off this node: enforcement ends
    #[arg(long, conflicts_with = "check")]
    detach: bool,
    /// Read the configuration, the keys and the policy, say whether they are good, change nothing
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Become a node of a Security Server's cluster
    Join(join::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    exit_on_panic();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "sigild: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let config = Config::read(&cli.config)?;
    if let Some(Command::Join(args)) = cli.command {
        confine::hide_memory();
        return join::run(&config, args);
    }
    if cli.check {
        return node::check(&config);
    }
    confine::refuse_foreign_pid_namespace()?;
    let _lock = Lock::take(&config.state)?;
    if cli.detach {
        let options = config.options(&[])?;
        let was_there = Datapath::detach(&options)?;
        tracing::info!("{}", if was_there { "detached" } else { "nothing was attached" });
        return Ok(());
    }
    confine::hide_memory();
    let server = match config.origin() {
        Origin::Server(server) => Some(credential(&server.credential, config.snid.get())?),
        Origin::Files { .. } => None,
    };
    let (credential, member) = server.unzip();
    let servers = credential.as_ref().map_or(&[][..], |credential| &credential.servers);
    let options = config.options(servers)?;
    let listener = serve::bind(&config)?;
    let config = Arc::new(config);
    let (node, rings, processes) = Node::start(Arc::clone(&config), &options, member)?;
    let prepare = node.prepare()?;
    let uplink = credential.map(|credential| (credential, prepare));
    // Capabilities belong to threads: those of the runtime start after this and inherit.
    confine::drop_privileges()?;
    serve::run(config, node, rings, processes, listener, &Notify::from_env(), uplink)
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    // That crate warns of every attribute that is newer than itself.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,netlink_packet_route=error"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !plain)
        .with_target(false)
        // What finds no room is not told: telling of that would panic.
        .log_internal_errors(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}

/// A thread that panicked may have left anything half done. The process ends at once and runs no
/// destructor; the kernel goes on enforcing, and the next agent adopts it.
fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = writeln!(
            io::stderr(),
            "sigild: {panic}\nsigild: this is a bug; enforcement goes on, start the agent again"
        );
        std::process::exit(2);
    }));
}
