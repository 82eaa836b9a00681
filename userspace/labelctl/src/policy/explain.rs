//! `labelctl policy explain`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use sigil_common::label::Label;
use sigil_policy::{Class, Permission, Policy, Question};

use super::{Document, scid, snid};
use crate::agent;
use crate::cli::{Format, Global};
use crate::output::{self, Answer};
use crate::server::{Access, policy as server};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The document, or `-` for stdin; without it, what is in force: on the Security Server where there
    /// is an administrator's credential, else on this node
    file: Option<PathBuf>,
    /// Who acts; ids or names. For TRANSITION, the process before the exec; for RELABEL, the
    /// socket
    #[arg(long, value_name = "SNID:SCID")]
    source: String,
    /// On whom; without it, the local permissions of the source are asked. For TRANSITION, the
    /// label of the program's file; for RELABEL, the process that uses the socket
    #[arg(long, value_name = "SNID:SCID")]
    target: Option<String>,
    /// The class of rules
    #[arg(long, value_enum, ignore_case = true)]
    class: ClassName,
    /// The permission, such as CREATE; none for TRANSITION and RELABEL
    #[arg(long)]
    permission: Option<String>,
    #[command(flatten)]
    access: Access,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum ClassName {
    /// Conversations, and local operations on sockets
    Socket,
    /// Admission of packets
    Network,
    /// Fork and exec
    Process,
    /// The `ScID` after an exec
    Transition,
    /// The `ScID` of a socket in other hands
    Relabel,
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Self {
        match name {
            ClassName::Socket => Self::Socket,
            ClassName::Network => Self::Network,
            ClassName::Process => Self::Process,
            ClassName::Transition => Self::Transition,
            ClassName::Relabel => Self::Relabel,
        }
    }
}

pub(super) fn run(args: &Args, global: &Global) -> Result<Answer> {
    let class = Class::from(args.class);
    let permission = permission(class, args.permission.as_deref())?;
    let (document, only) = match &args.file {
        Some(file) => (Document::read(file)?, None),
        None if args.access.is_there() => (server::in_force(&args.access)?, None),
        None => agent::show::in_force(&global.socket).context(
            "no FILE is named, and there is no administrator's credential to ask a server with",
        )?,
    };
    let policy = document.policy(global)?;
    let source = label(&policy, &args.source)?;
    let target = args.target.as_deref().map(|target| label(&policy, target)).transpose()?;
    let asked = [Some(source.snid), target.map(|target| target.snid)];
    if let Some(snid) = only.filter(|snid| !asked.contains(&Some(*snid))) {
        bail!(
            "this node has the rules that concern node {snid} only: name a FILE, or ask the server (--admin)"
        );
    }
    match (class, target) {
        (Class::Network | Class::Transition | Class::Relabel, None) => {
            bail!("class {class} needs a --target")
        }
        (Class::Process, Some(_)) => bail!("class PROCESS has no --target"),
        _ => {}
    }
    let answer = policy.explain(Question { class, source, target, permission });
    if global.output == Format::Table {
        let place = answer
            .rule
            .map_or_else(String::new, |rule| format!("{}:{}: ", document.name, rule.line));
        writeln!(io::stdout(), "{}: {place}{}", answer.verdict, answer.reason)?;
    } else {
        output::json(global.output, &answer)?;
    }
    Ok(answer.allows().into())
}

fn permission(class: Class, word: Option<&str>) -> Result<Option<Permission>> {
    let names = || class.names(u32::MAX).join(" ");
    match (class, word) {
        (Class::Transition | Class::Relabel, None) => Ok(None),
        (Class::Transition | Class::Relabel, Some(_)) => {
            bail!("class {class} has no --permission")
        }
        (_, None) => bail!("class {class} needs a --permission, one of: {}", names()),
        (_, Some(word)) => {
            let found = class.permission(&word.to_ascii_uppercase());
            Ok(Some(found.with_context(|| {
                format!("class {class} has no permission `{word}`, but: {}", names())
            })?))
        }
    }
}

/// `SNID:SCID`, each an id or a name.
fn label(policy: &Policy, text: &str) -> Result<Label> {
    let (node, zone) = text
        .split_once(':')
        .with_context(|| format!("`{text}` is no label: write SNID:SCID, as in 1:2 or web1:web"))?;
    Ok(Label { snid: snid(policy, node)?, scid: scid(policy, zone)? })
}
