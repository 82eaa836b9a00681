//! `labelctl keys`: key files for a cluster without a Security Server.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use sigil_common::icv::Suite;

use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};
use crate::policy;
use crate::server::policy as server;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw new keys for every pair of nodes, and write a file for each node
    Generate(Generate),
    /// Have the Security Server make a new epoch; no packet is lost
    Rotate(server::RotateArgs),
}

#[derive(clap::Args)]
struct Generate {
    /// The policy that declares the cluster and its nodes
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The directory to write to, made with mode 0700 if it is missing; a node's file is
    /// `node-SNID.toml`, and no file is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How packets are authenticated
    #[arg(long, value_enum, default_value_t)]
    suite: SuiteName,
    /// How many epochs: so many generations of keys can follow each other without new files. A node
    /// takes the next one whenever it lost its counters, as after a reboot or `sigild --detach`
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=EPOCHS_MAX))]
    epochs: u8,
    /// The key id of the first epoch; above those in use
    #[arg(long, value_name = "ID", default_value_t = 1)]
    first_epoch: u8,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[expect(clippy::cast_possible_wrap, reason = "a handful of epochs")]
const EPOCHS_MAX: i64 = sigil_keys::EPOCHS_MAX as i64;

#[derive(Clone, Copy, Default, ValueEnum)]
enum SuiteName {
    /// HMAC-SHA-256: the conservative choice
    #[value(name = "hmac-sha256-96")]
    HmacSha256,
    /// Keyed BLAKE3: about a third of its cost
    #[value(name = "blake3-96")]
    Blake3,
    /// SipHash-2-4 with 128-bit output: the fastest, as `sigil-server init` chooses
    #[default]
    #[value(name = "siphash-2-4-96")]
    SipHash24,
}

impl From<SuiteName> for Suite {
    fn from(name: SuiteName) -> Self {
        match name {
            SuiteName::HmacSha256 => Self::HmacSha256,
            SuiteName::Blake3 => Self::Blake3,
            SuiteName::SipHash24 => Self::SipHash24,
        }
    }
}

#[derive(Serialize)]
struct Generated {
    cluster: String,
    suite: &'static str,
    epochs: Vec<u8>,
    dry_run: bool,
    files: Vec<KeyFile>,
}

#[derive(Serialize)]
struct KeyFile {
    snid: u32,
    path: PathBuf,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let args = match &args.command {
        Command::Generate(args) => args,
        Command::Rotate(args) => return server::rotate(args, global),
    };
    let policy = policy::load(&args.policy, global)?;
    let snids: Vec<u32> = policy.nodes.iter().map(|node| node.snid).collect();
    let Some(last) = args.first_epoch.checked_add(args.epochs - 1) else {
        bail!("epoch ids end at 255: {} of them cannot begin at {}", args.epochs, args.first_epoch);
    };
    let epochs: Vec<u8> = (args.first_epoch..=last).collect();
    let suite = Suite::from(args.suite);
    let keys =
        sigil_keys::generate(&policy.cluster, &snids, &epochs, suite, sigil_keys::system_random)?;
    let files =
        keys.iter().map(|node| KeyFile { snid: node.snid(), path: path(&args.out, node.snid()) });
    let files: Vec<KeyFile> = files.collect();
    for file in &files {
        if file.path.symlink_metadata().is_ok() {
            bail!(
                "{} is there already, and keys are not overwritten: name another directory",
                file.path.display()
            );
        }
    }
    if !args.dry_run {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&args.out)
            .with_context(|| format!("cannot make {}", args.out.display()))?;
        for (node, file) in keys.iter().zip(&files) {
            node.store(&file.path)?;
        }
    }
    let dry_run = args.dry_run;
    say(
        &Generated { cluster: policy.cluster, suite: suite.name(), epochs, dry_run, files },
        global,
    )?;
    Ok(Answer::Yes)
}

fn path(directory: &Path, snid: u32) -> PathBuf {
    directory.join(format!("node-{snid}.toml"))
}

fn say(generated: &Generated, global: &Global) -> Result<()> {
    if global.output != Format::Table {
        return output::json(global.output, generated);
    }
    let mut table = Table::new(&["NODE", "FILE"]);
    for file in &generated.files {
        table.row([file.snid.to_string(), file.path.display().to_string()]);
    }
    table.print(&mut io::stdout().lock())?;
    if generated.dry_run {
        writeln!(io::stderr(), "labelctl: nothing was written")?;
    }
    Ok(())
}
