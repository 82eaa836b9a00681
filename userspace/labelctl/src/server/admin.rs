//! `labelctl admin`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Subcommand;
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use sigil_cluster::Credential;
use sigil_cluster::credential::pem;
use sigil_cluster::proto::{AddAdminRequest, AdminStatus, AdminsRequest, RevokeAdminRequest};

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
    /// Add an administrator: make a key here, have it certified, and write the credential
    Add {
        /// The administrator's name: small letters, digits, `.`, `-`, `_`
        name: String,
        /// Where the credential is written, if not to NAME.toml
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// For how many days it is good
        #[arg(long, value_name = "DAYS", default_value_t = 365,
              value_parser = clap::value_parser!(u32).range(1..=365))]
        days: u32,
        #[command(flatten)]
        access: Access,
    },
    /// Take an administrator's rights, and the tokens that he drew; the last one's are not taken
    Revoke {
        /// The administrator's name
        name: String,
        #[command(flatten)]
        access: Access,
    },
    /// List the administrators
    List {
        #[command(flatten)]
        access: Access,
    },
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    match &args.command {
        Command::Add { name, out, days, access } => {
            let beside = PathBuf::from(format!("{name}.toml"));
            add(name, out.as_ref().unwrap_or(&beside), *days, access, global)
        }
        Command::Revoke { name, access } => {
            access.with(|mut server| async move {
                let request = RevokeAdminRequest { name: name.clone() };
                server.revoke_admin(request).await.map_err(|e| refused(&e))?;
                Ok(())
            })?;
            writeln!(io::stdout(), "{name} administers no more")?;
            Ok(Answer::Yes)
        }
        Command::List { access } => {
            let admins = access.with(|mut server| async move {
                Ok(server.admins(AdminsRequest {}).await.map_err(|e| refused(&e))?.into_inner())
            })?;
            list(&admins.admins, global)?;
            Ok(Answer::Yes)
        }
    }
}

#[derive(Serialize)]
struct Added<'a> {
    name: &'a str,
    credential: &'a Path,
    ends: i64,
}

fn add(name: &str, out: &Path, days: u32, access: &Access, global: &Global) -> Result<Answer> {
    // Before the server gives the name away.
    ensure!(
        out.symlink_metadata().is_err(),
        "{} is there already: name another --out",
        out.display()
    );
    let own = access.credential()?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.der().to_vec();
    let reply = access.with(|mut server| async move {
        let request = AddAdminRequest { name: name.to_owned(), csr, days };
        Ok(server.add_admin(request).await.map_err(|e| refused(&e))?.into_inner())
    })?;
    let credential = Credential {
        servers: own.servers.clone(),
        ca: own.ca.clone(),
        certificate: pem(&reply.certificate),
        key: key.serialize_pem(),
        policy_key: String::new(),
    };
    credential.store(out)?;
    let ends = reply.ends;
    if global.output == Format::Table {
        let left = span(ends - seconds());
        writeln!(io::stdout(), "{name} administers with {}, for {left}", out.display())?;
    } else {
        output::json(global.output, &Added { name, credential: out, ends })?;
    }
    Ok(Answer::Yes)
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    state: &'a str,
    added: i64,
    by: &'a str,
    ends: i64,
}

impl<'a> Row<'a> {
    fn of(admin: &'a AdminStatus) -> Self {
        let AdminStatus { name, state, added, by, ends } = admin;
        Self { name, state, added: *added, by, ends: *ends }
    }
}

#[derive(Serialize)]
struct List<'a> {
    admins: Vec<Row<'a>>,
}

fn list(admins: &[AdminStatus], global: &Global) -> Result<()> {
    if global.output != Format::Table {
        return output::json(global.output, &List { admins: admins.iter().map(Row::of).collect() });
    }
    let mut table = Table::new(&["NAME", "STATE", "ADDED", "BY", "ENDS IN"]);
    for AdminStatus { name, state, added, by, ends } in admins {
        let added =
            if *added == 0 { "-".into() } else { format!("{} ago", span(seconds() - added)) };
        let by = if by.is_empty() { "the server's host" } else { by };
        let ends = if *ends == 0 { "-".into() } else { span(ends - seconds()) };
        table.row([name.clone(), state.clone(), added, by.to_owned(), ends]);
    }
    table.print(&mut io::stdout().lock())?;
    Ok(())
}
