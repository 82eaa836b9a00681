//! `labelctl policy`: the compiler's front, without an agent.

mod check;
mod explain;
mod tables;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use miette::{GraphicalReportHandler, GraphicalTheme};
use sigil_policy::{Compiled, MAX_BYTES, Policy, Report, Severity, instead};

use crate::cli::{Format, Global};
use crate::output::{self, Answer};
use crate::server::policy as push;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is wrong with a policy; exit 1 if it may not be loaded
    Check {
        /// The document, or `-` for stdin
        file: PathBuf,
        /// The serial in force: the document's must be above it
        #[arg(long, value_name = "SERIAL")]
        in_force: Option<u64>,
    },
    /// Print a node's rule maps, sorted
    Compile {
        /// The document, or `-` for stdin
        file: PathBuf,
        /// The node, by SnID or name
        #[arg(long, value_name = "SNID")]
        node: String,
    },
    /// Say whether an operation is allowed, and by which rule; exit 1 if it is not
    Explain(explain::Args),
    /// Give a policy to the Security Server, which brings it to all nodes; exit 1 if it is refused
    Push(push::PushArgs),
    /// Print the document that is in force, as the Security Server keeps it
    Show(push::ShowArgs),
    /// Say which node runs which policy; exit 1 if one lags
    Status(push::StatusArgs),
    /// End the trial of a policy: all nodes get it
    Confirm(push::ConcludeArgs),
    /// End the trial of a policy: its nodes go back
    Revert(push::ConcludeArgs),
    /// Print the document's XML schema
    Schema,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    match &args.command {
        Command::Check { file, in_force } => check::run(file, *in_force, global),
        Command::Compile { file, node } => compile(file, node, global),
        Command::Explain(args) => explain::run(args, global),
        Command::Push(args) => push::push(args, global),
        Command::Show(args) => push::show(args, global),
        Command::Status(args) => push::status(args, global),
        Command::Confirm(args) => push::conclude(args, true, global),
        Command::Revert(args) => push::conclude(args, false, global),
        Command::Schema => {
            io::stdout().write_all(sigil_policy::XSD.as_bytes())?;
            Ok(Answer::Yes)
        }
    }
}

fn compile(file: &Path, node: &str, global: &Global) -> Result<Answer> {
    let policy = load(file, global)?;
    let snid = snid(&policy, node)?;
    let rules = policy.rules_for(snid)?;
    match global.output {
        Format::Table => tables::print(&policy, &rules)?,
        Format::Json | Format::Jsonl => output::json(global.output, &rules)?,
    }
    Ok(Answer::Yes)
}

/// The policy in a file; its errors are printed, and make a failure.
pub(crate) fn load(file: &Path, global: &Global) -> Result<Policy> {
    Document::read(file)?.policy(global)
}

/// A document, read once: what was checked is what is sent.
pub(crate) struct Document {
    pub(crate) name: String,
    /// Of one that is too large, enough for the compiler to say so.
    pub(crate) bytes: Vec<u8>,
}

impl Document {
    /// `-` is stdin.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let stdin = file == Path::new("-");
        let name = if stdin { "stdin".to_owned() } else { file.display().to_string() };
        let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        let read = if stdin {
            io::stdin().lock().take(most).read_to_end(&mut bytes)
        } else {
            File::open(file).and_then(|file| file.take(most).read_to_end(&mut bytes))
        };
        read.with_context(|| format!("cannot read {name}"))?;
        Ok(Self { name, bytes })
    }

    pub(crate) fn compile(&self, in_force: Option<u64>) -> Result<Compiled, Report> {
        sigil_policy::compile(&self.name, &self.bytes, in_force)
    }

    /// Its policy; errors are printed, and make a failure.
    pub(crate) fn policy(&self, global: &Global) -> Result<Policy> {
        match self.compile(None) {
            Ok(Compiled { policy, warnings }) => {
                render(&warnings, global)?;
                Ok(policy)
            }
            Err(report) => {
                render(&report, global)?;
                let errors = counted(report.count(Severity::Error), "error");
                bail!("{} is refused: {errors}", self.name)
            }
        }
    }
}

/// Prints diagnostics for people, on stderr.
pub(crate) fn render(report: &Report, global: &Global) -> Result<()> {
    let mut stderr = io::stderr().lock();
    let theme = if global.colors(&stderr) {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
    for diagnostic in &report.diagnostics {
        let mut text = String::new();
        handler.render_report(&mut text, diagnostic)?;
        writeln!(stderr, "{}", text.trim_matches('\n'))?;
        writeln!(stderr)?;
    }
    for (more, what) in [(report.more_errors, "error"), (report.more_warnings, "warning")] {
        if more > 0 {
            writeln!(stderr, "and {} more", counted(more, what))?;
        }
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A node or perimeter host by id or name.
pub(crate) fn snid(policy: &Policy, word: &str) -> Result<u32> {
    word.parse().ok().or_else(|| policy.snid(word)).with_context(|| {
        let nodes = policy.nodes.iter().map(|node| node.name.as_str());
        let hosts = policy.perimeter.iter().filter_map(|host| host.name.as_deref());
        format!("the policy declares no node `{word}`: {}", instead(word, nodes.chain(hosts)))
    })
}

/// A zone by id or name.
pub(crate) fn scid(policy: &Policy, word: &str) -> Result<u32> {
    word.parse().ok().or_else(|| policy.scid(word)).with_context(|| {
        let zones = policy.zones.iter().map(|zone| zone.name.as_str());
        format!("the policy declares no zone `{word}`: {}", instead(word, zones))
    })
}
