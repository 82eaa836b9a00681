//! The tree of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::agent::{load, run, stats, status, watch};
use crate::server::{admin, alarms, node};
use crate::{binary, doctor, keys, label, pages, policy};

/// Checks policies, decodes labels, makes keys and talks to the node's agent.
#[derive(Parser)]
#[command(name = "labelctl", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 for yes, 1 for a \"no\" answer, 2 for wrong usage or failure."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Args)]
pub(crate) struct Global {
    /// How data is printed: table, json, jsonl
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    #[arg(help_heading = "Global options", hide_possible_values = true)]
    pub(crate) output: Format,
    /// Whether to use colour: always, never, or auto (on a terminal, unless `NO_COLOR` is set)
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    #[arg(help_heading = "Global options", hide_possible_values = true)]
    pub(crate) color: Color,
    /// The agent's control socket
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "SIGIL_SOCKET",
        default_value = "/run/sigil/control.sock",
        value_name = "PATH"
    )]
    pub(crate) socket: PathBuf,
}

/// How data is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document on each line
    Jsonl,
}

/// Whether to use colour.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Check, compile, explain and push policies, and conclude their trials
    Policy(policy::Args),
    /// Read labels of packets
    Label(label::Args),
    /// Make key files, or rotate the keys of a Security Server
    Keys(keys::Args),
    /// Enrol, revoke and list the nodes of a Security Server
    Node(node::Args),
    /// Add, revoke and list the administrators of a Security Server
    Admin(admin::Args),
    /// List, follow and acknowledge the alarms of a Security Server
    Alarms(alarms::Args),
    /// Label, sign and verify programs
    Binary(binary::Args),
    /// Say what this kernel has for Sigil, and what is missing costs; exit 1 if it does not serve
    Doctor(doctor::Args),
    /// Put a policy in force on this node; exit 1 if it is refused
    Load(load::Args),
    /// Say how the node's agent is; exit 1 if something is amiss
    Status(status::Args),
    /// Show what was seen, accepted and dropped, by hook, reason and node
    Stats(stats::Args),
    /// Show drops and alarms as they happen, with the time of day (UTC)
    Watch(watch::Args),
    /// Run a command in a zone
    Run(run::Args),
    /// Print the completions of a shell
    Completions(pages::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(pages::ManArgs),
}
