//! `labelctl run`: enters a zone, then becomes the command.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use anyhow::{Context, Result};
use sigil_control::{Reply, Request, ZoneRef};

use super::{ask, unexpected};
use crate::cli::Global;
use crate::output::Answer;

/// As env(1) and shells do.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

#[derive(clap::Args)]
#[command(after_help = "Exit status: the command's; 127 if there is none of that name, 126 if it \
                        cannot be started, 2 if the zone may not be entered.")]
pub(crate) struct Args {
    /// The zone: its ScID or its name
    #[arg(long, visible_alias = "zone", value_name = "ZONE")]
    scid: ZoneRef,
    /// The command and its arguments, behind `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let (program, arguments) = args.command.split_first().context("a command is missing")?;
    match ask(&global.socket, &Request::Run { zone: args.scid.clone() })? {
        Reply::Labelled(_) => {}
        other => return Err(unexpected(other)),
    }
    // The label is this process's, and stays its own over the exec.
    let error = Command::new(program).args(arguments).exec();
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(io::stderr(), "labelctl: cannot run {}: {error}", program.display());
    exit(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN })
}
