//! `labelctl node`.

use std::io::{self, Write};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use sigil_cluster::proto::{DrawTokenRequest, RevokeRequest};
use sigil_cluster::proto::{NodeStatus, StatusRequest};
use zeroize::Zeroizing;

use super::policy::time;
use super::{Access, refused, seconds, span};
use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print a one-time token with which a node joins (`sigild join`)
    Enroll {
        /// The node, by SnID or name
        #[arg(value_name = "NODE")]
        node: String,
        /// For how long the token is good: 90s, 10m, 2h, at most 7d
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
        valid: u32,
        #[command(flatten)]
        access: Access,
    },
    /// Cut a node off: no other node takes its packets any more; exit 1 if one has yet to follow
    Revoke {
        /// The node, by SnID or name
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        access: Access,
    },
    /// List the nodes
    List {
        #[command(flatten)]
        access: Access,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    match &args.command {
        Command::Enroll { node, valid, access } => enroll(node, *valid, access, global),
        Command::Revoke { node, access } => revoke(node, access, global),
        Command::List { access } => {
            let status = access.with(|mut server| async move {
                Ok(server.status(StatusRequest {}).await.map_err(|e| refused(&e))?.into_inner())
            })?;
            list(&status.nodes, global)?;
            Ok(Answer::Yes)
        }
    }
}

#[derive(Serialize)]
struct Drawn<'a> {
    snid: u32,
    token: &'a str,
    expires: i64,
}

fn enroll(node: &str, valid_seconds: u32, access: &Access, global: &Global) -> Result<Answer> {
    let (snid, reply) = access.with(|mut server| async move {
        let snid = super::snid(&mut server, node).await?;
        let request = DrawTokenRequest { snid, valid_seconds };
        Ok((snid, server.draw_token(request).await.map_err(|e| refused(&e))?.into_inner()))
    })?;
    let expires = reply.expires;
    let token = Zeroizing::new(String::from_utf8(reply.token)?);
    if global.output == Format::Table {
        writeln!(io::stdout(), "{}", *token)?;
        writeln!(io::stderr(), "labelctl: good once, for {}", span(expires - seconds()))?;
    } else {
        output::json(global.output, &Drawn { snid, token: &token, expires })?;
    }
    Ok(Answer::Yes)
}

#[derive(Serialize)]
struct Revoked {
    snid: u32,
    waiting: Vec<u32>,
}

fn revoke(node: &str, access: &Access, global: &Global) -> Result<Answer> {
    let (snid, waiting) = access.with(|mut server| async move {
        let snid = super::snid(&mut server, node).await?;
        let request = RevokeRequest { snid };
        Ok((snid, server.revoke(request).await.map_err(|e| refused(&e))?.into_inner().waiting))
    })?;
    let all = waiting.is_empty();
    if global.output != Format::Table {
        output::json(global.output, &Revoked { snid, waiting })?;
    } else if all {
        writeln!(io::stdout(), "node {snid} is cut off on every attached node")?;
    } else {
        writeln!(io::stdout(), "node {snid} is revoked; these have yet to follow: {waiting:?}")?;
    }
    Ok(all.into())
}

/// A node, as JSON says it.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    snid: u32,
    name: &'a str,
    state: &'a str,
    attached: bool,
    revision: u64,
    wanted: u64,
    serial: u64,
    keys: u64,
    seen: i64,
    certificate_ends: i64,
    version: &'a str,
    problem: &'a str,
}

impl<'a> Row<'a> {
    pub(super) fn of(node: &'a NodeStatus) -> Self {
        Self {
            snid: node.snid,
            name: &node.name,
            state: &node.state,
            attached: node.attached,
            revision: node.revision,
            wanted: node.wanted,
            serial: node.serial,
            keys: node.keys,
            seen: node.seen,
            certificate_ends: node.certificate_ends,
            version: &node.version,
            problem: &node.problem,
        }
    }
}

#[derive(Serialize)]
struct List<'a> {
    nodes: Vec<Row<'a>>,
}

fn list(nodes: &[NodeStatus], global: &Global) -> Result<()> {
    if global.output != Format::Table {
        return output::json(global.output, &List { nodes: nodes.iter().map(Row::of).collect() });
    }
    let mut table = Table::new(&["NODE", "NAME", "STATE", "ATTACHED", "CERTIFICATE ENDS IN"]);
    for node in nodes {
        let attached = match (node.attached, node.seen) {
            (true, _) => "yes".to_owned(),
            (false, 0) => "never".to_owned(),
            (false, seen) => format!("{} ago", span(seconds() - seen)),
        };
        let ends = match node.certificate_ends {
            0 => "-".to_owned(),
            ends => span(ends - seconds()),
        };
        table.row([node.snid.to_string(), node.name.clone(), node.state.clone(), attached, ends]);
    }
    table.print(&mut io::stdout().lock())?;
    Ok(())
}
