//! `labelctl`, the operator's command.
//!
//! One module for each noun, each with its clap `Args` and a `run`. Data goes to stdout, all else to
//! stderr; exit 0 is yes, 1 is a "no" answer, 2 is wrong usage or failure, and a broken pipe is 0.

mod agent;
mod binary;
mod cli;
mod doctor;
mod keys;
mod label;
mod output;
mod pages;
mod policy;
mod server;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use output::Answer;

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let answer = match command {
        Command::Policy(args) => policy::run(&args, &global),
        Command::Label(args) => label::run(&args, &global),
        Command::Keys(args) => keys::run(&args, &global),
        Command::Node(args) => server::node::run(&args, &global),
        Command::Admin(args) => server::admin::run(&args, &global),
        Command::Alarms(args) => server::alarms::run(&args, &global),
        Command::Binary(args) => binary::run(&args, &global),
        Command::Doctor(args) => doctor::run(&args, &global),
        Command::Load(args) => agent::load::run(&args, &global),
        Command::Status(args) => agent::status::run(&args, &global),
        Command::Stats(args) => agent::stats::run(&args, &global),
        Command::Watch(args) => agent::watch::run(&args, &global),
        Command::Run(args) => agent::run::run(&args, &global),
        Command::Completions(args) => pages::completions(&args),
        Command::Man(args) => pages::man(&args),
    };
    match answer {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "labelctl: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(broken)
}
