//! `sigil-server`, the Security Server: one policy for the cluster, its keys and its nodes.
//!
//! It holds the policy, the epochs' secrets and the cluster's certificate authority, encrypted in a
//! store; nodes and administrators reach it over mutually authenticated TLS 1.3. What nodes enforce
//! does not depend on it: without it, they go on.

mod admin;
mod administrators;
mod alarms;
mod ca;
mod config;
mod confine;
mod documents;
mod enrolment;
mod grant;
mod holders;
mod init;
mod keyset;
mod listen;
mod nodes;
mod pace;
mod record;
mod recover;
mod release;
mod reports;
mod run;
mod sessions;
mod state;
mod store;
mod valve;
mod vault;
mod web;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Holds a cluster's policy and keys, and brings them to its nodes.
#[derive(Parser)]
#[command(name = "sigil-server", version)]
#[command(after_help = "Exit status: 0, or 2 for wrong usage or failure.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster: its CA, the key that signs policies, the first administrator's credential
    Init(init::Args),
    /// Make an administrator's credential on this host, where no other administrator can; stop the
    /// server first, unless the records are in etcd
    Admin(grant::Args),
    /// After the store came back from an old copy, and before `run`: new keys and revisions that
    /// are above all that nodes may have seen. Tokens are void; revoke again whom you revoked since
    Recover {
        /// The configuration file that `init` wrote
        #[arg(long, value_name = "FILE", default_value = config::FILE)]
        config: PathBuf,
    },
    /// Serve until SIGTERM
    Run {
        /// The configuration file that `init` wrote
        #[arg(long, value_name = "FILE", default_value = config::FILE)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    confine::hide_memory();
    match serve(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "sigil-server: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn serve(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match cli.command {
        Command::Init(args) => runtime.block_on(init::run(args)),
        Command::Admin(args) => runtime.block_on(grant::run(args)),
        Command::Recover { config } => runtime.block_on(recover::run(&config)),
        Command::Run { config } => {
            confine::open_many_files();
            let served = runtime.block_on(run::run(&config));
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            served
        }
    }
}

fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        // What finds no room is not told: telling of that would panic.
        .log_internal_errors(false)
        .init();
}
