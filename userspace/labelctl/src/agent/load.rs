//! `labelctl load`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use sigil_control::{FailureKind, Loaded, Reply, Request};
use sigil_policy::MAX_BYTES;

use super::{ask, unexpected};
use crate::cli::{Format, Global};
use crate::output::{self, Answer};
use crate::policy::{self, Document};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The policy, or `-` for stdin; without it, the agent reads its own policy and keys again
    file: Option<PathBuf>,
    /// Say what would be gained and lost, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let request = match &args.file {
        None => Request::Reload { dry_run: args.dry_run },
        Some(file) => match read(file, args.dry_run, global)? {
            Some(request) => request,
            None => return Ok(Answer::No),
        },
    };
    match ask(&global.socket, &request)? {
        Reply::Loaded(loaded) => {
            say(&loaded, global)?;
            Ok(Answer::Yes)
        }
        Reply::Failed(failure) if failure.kind == FailureKind::Policy => {
            let mut stderr = io::stderr().lock();
            writeln!(stderr, "{}", failure.message.trim_end())?;
            writeln!(stderr, "refused: nothing was changed")?;
            Ok(Answer::No)
        }
        other => Err(unexpected(other)),
    }
}

/// What to send; nothing for a document that no agent could be sent, with its diagnostics printed.
fn read(file: &Path, dry_run: bool, global: &Global) -> Result<Option<Request>> {
    let Document { name, bytes } = Document::read(file)?;
    let name = if file == Path::new("-") {
        name
    } else {
        std::path::absolute(file)?.display().to_string()
    };
    let text = if bytes.len() > MAX_BYTES { None } else { String::from_utf8(bytes.clone()).ok() };
    if let Some(document) = text {
        return Ok(Some(Request::Load { name, document, dry_run }));
    }
    if let Err(report) = sigil_policy::compile(&name, &bytes, None) {
        policy::render(&report, global)?;
    }
    Ok(None)
}

fn say(loaded: &Loaded, global: &Global) -> Result<()> {
    if !loaded.warnings.is_empty() {
        writeln!(io::stderr(), "{}", loaded.warnings.trim_end())?;
    }
    if global.output != Format::Table {
        return output::json(global.output, loaded);
    }
    let Loaded { cluster, serial, generation, peers, verdicts, .. } = loaded;
    for change in &loaded.changes {
        let sign = if change.gained { '+' } else { '-' };
        writeln!(io::stdout(), "{sign} {}", change.text)?;
    }
    if loaded.more > 0 {
        writeln!(io::stdout(), "and {} more", loaded.more)?;
    }
    if loaded.dry_run && loaded.changed && loaded.changes.is_empty() {
        writeln!(io::stdout(), "no difference in what is allowed")?;
    }
    let what = match (loaded.dry_run, loaded.changed) {
        (false, true) => "loaded",
        (false, false) => "unchanged",
        (true, true) => "would be loaded",
        (true, false) => "would change nothing",
    };
    writeln!(
        io::stdout(),
        "{what}: cluster {cluster}, serial {serial}: {peers} peers, {verdicts} verdicts \
         (generation {generation} in force)"
    )?;
    Ok(())
}
