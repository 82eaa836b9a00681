//! `labelctl binary`: the labels that files carry.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{ArgGroup, Subcommand};
use serde::Serialize;
use sigil_binary::{
    Found, How, Place, PrivateKey, Scids, Signer, Trust, Unsigned, Verified, find, verify,
};
use sigil_policy::public_key;

use crate::cli::{Format, Global};
use crate::output::{self, Answer, Table};
use crate::policy;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key that signs
    Keygen(Keygen),
    /// Give files a label: ELF files in a note, others in an attribute
    Label(Label),
    /// Sign the labels that files have
    Sign(Sign),
    /// Say whether somebody trusted vouches for files; exit 1 if not for all of them
    Verify(Verify),
    /// Show the labels that files have, whoever wrote them; exit 1 if one has none
    Show(Show),
}

#[derive(clap::Args)]
struct Keygen {
    /// The private key's file, PKCS#8 in DER with mode 0600; no file is overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
struct Label {
    /// The zone: its id, or its name in the policy
    #[arg(long, value_name = "ZONE")]
    scid: String,
    /// The policy that declares the zone
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The number of this release; a policy may refuse old ones
    #[arg(long, value_name = "NUMBER")]
    serial: u64,
    /// Sign the label as well, with this private key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    to: To,
}

#[derive(clap::Args)]
struct Sign {
    /// The private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    to: To,
}

#[derive(clap::Args)]
struct To {
    /// Also files that are setuid, setgid or have capabilities
    #[arg(long)]
    privileged: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(clap::Args)]
#[command(group = ArgGroup::new("trust").required(true).multiple(false))]
struct Verify {
    /// The policy that says who is trusted
    #[arg(long, group = "trust", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A public key to trust for every zone, in hexadecimal digits or base64
    #[arg(long, group = "trust", value_name = "KEY")]
    key: Vec<String>,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(clap::Args)]
struct Show {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<Answer> {
    match &args.command {
        Command::Keygen(args) => keygen(args, global),
        Command::Label(args) => label(args, global),
        Command::Sign(args) => {
            let key = PrivateKey::load(&args.key)?;
            write(&args.to, global, |path, how| sigil_binary::sign(path, &key, how))
        }
        Command::Verify(args) => judge(args, global),
        Command::Show(args) => show(args, global),
    }
}

#[derive(Serialize)]
struct NewKey<'a> {
    path: &'a Path,
    dry_run: bool,
    key_id: Option<String>,
    public_key: Option<String>,
}

fn keygen(args: &Keygen, global: &Global) -> Result<Answer> {
    let path = args.out.as_path();
    let (mut key_id, mut public_key) = (None, None);
    if args.dry_run {
        ensure!(
            path.symlink_metadata().is_err(),
            "{} exists already, and keys are never overwritten; choose another name",
            path.display()
        );
    } else {
        let key = PrivateKey::generate(path)?;
        (key_id, public_key) = (Some(key.id().to_string()), Some(hex::encode(key.public())));
    }
    let new = NewKey { path, dry_run: args.dry_run, key_id, public_key };
    if global.output != Format::Table {
        output::json(global.output, &new)?;
        return Ok(Answer::Yes);
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "private key  {}", path.display())?;
    match (&new.key_id, &new.public_key) {
        (Some(id), Some(public)) => {
            writeln!(stdout, "key id       {id}\npublic key   {public}")?;
            writeln!(
                io::stderr(),
                "labelctl: to trust it, add to the policy: \
                 <signer><name> … </name><key> {public} </key><ScID> * </ScID></signer>"
            )?;
        }
        _ => nothing_written()?,
    }
    Ok(Answer::Yes)
}

fn label(args: &Label, global: &Global) -> Result<Answer> {
    let scid = zone(&args.scid, args.policy.as_deref(), global)?;
    let key = args.key.as_ref().map(PrivateKey::load).transpose()?;
    write(&args.to, global, |path, how| {
        sigil_binary::label(path, scid, args.serial, key.as_ref(), how)
    })
}

/// A zone's id; of a policy, a declared zone only.
fn zone(word: &str, file: Option<&Path>, global: &Global) -> Result<u32> {
    let Some(file) = file else {
        return word.parse().ok().filter(|scid| *scid != 0).with_context(|| {
            format!("`{word}` is no ScID (1 to 4294967295); a zone's name needs --policy FILE")
        });
    };
    let policy = policy::load(file, global)?;
    let scid = policy::scid(&policy, word)?;
    ensure!(policy.zone(scid).is_some(), "{} declares no zone {scid}", file.display());
    Ok(scid)
}

fn write(
    to: &To,
    global: &Global,
    write: impl Fn(&Path, How) -> Result<Found, sigil_binary::WriteError>,
) -> Result<Answer> {
    let how = How { dry_run: to.dry_run, privileged: to.privileged };
    let mut rows = Vec::with_capacity(to.files.len());
    for path in &to.files {
        // What was done before a failure is said all the same.
        match write(path, how) {
            Ok(found) => rows.push(Row::of(path, &found)),
            Err(error) => {
                print(&rows, Some(to.dry_run), global)?;
                return Err(error.into());
            }
        }
    }
    print(&rows, Some(to.dry_run), global)?;
    Ok(Answer::Yes)
}

/// A file's label.
#[derive(Serialize)]
struct Row<'a> {
    path: &'a Path,
    label: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    scid: u32,
    serial: u64,
    place: &'static str,
    digest: &'static str,
    key_id: Option<String>,
    signature: Option<String>,
}

impl<'a> Row<'a> {
    fn of(path: &'a Path, found: &Found) -> Self {
        let record = &found.record;
        let signed = record.is_signed();
        let label = Shown {
            scid: record.scid,
            serial: record.serial,
            place: match found.place {
                Place::Note(_) => "note",
                Place::Xattr => "xattr",
            },
            digest: record.form.name(),
            key_id: signed.then(|| record.key.to_string()),
            signature: signed.then(|| record.signature_id().to_string()),
        };
        Self { path, label: Some(label), reason: None }
    }
}

fn print(rows: &[Row<'_>], dry_run: Option<bool>, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Files<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        dry_run: Option<bool>,
        files: &'a [Row<'a>],
    }
    if global.output != Format::Table {
        return output::json(global.output, &Files { dry_run, files: rows });
    }
    let mut table = Table::new(&["FILE", "SCID", "SERIAL", "PLACE", "KEY", "SIGNATURE"]);
    let none = || "-".to_owned();
    for Row { path, label, .. } in rows {
        let path = path.display().to_string();
        table.row(match label {
            Some(label) => [
                path,
                label.scid.to_string(),
                label.serial.to_string(),
                label.place.to_owned(),
                label.key_id.clone().unwrap_or_else(none),
                label.signature.clone().unwrap_or_else(none),
            ],
            None => [path, none(), none(), none(), none(), none()],
        });
    }
    if !table.is_empty() {
        table.print(&mut io::stdout().lock())?;
    }
    for Row { path, reason, .. } in rows {
        if let Some(reason) = reason {
            writeln!(io::stderr(), "labelctl: {}: {reason}", path.display())?;
        }
    }
    if dry_run == Some(true) { nothing_written() } else { Ok(()) }
}

fn nothing_written() -> Result<()> {
    Ok(writeln!(io::stderr(), "labelctl: nothing was written")?)
}

fn show(args: &Show, global: &Global) -> Result<Answer> {
    let mut rows = Vec::with_capacity(args.files.len());
    for path in &args.files {
        rows.push(match find(&open(path)?) {
            Ok(found) => Row::of(path, &found),
            Err(Unsigned::Unreadable { errno }) => return Err(unreadable(path, errno.into())),
            Err(reason) => Row { path, label: None, reason: Some(reason.to_string()) },
        });
    }
    print(&rows, None, global)?;
    Ok(rows.iter().all(|row| row.label.is_some()).into())
}

#[derive(Serialize)]
struct Judged<'a> {
    path: &'a Path,
    signed: bool,
    scid: Option<u32>,
    serial: Option<u64>,
    key_id: Option<String>,
    signature: Option<String>,
    reason: Option<String>,
}

fn judge(args: &Verify, global: &Global) -> Result<Answer> {
    let trust = match &args.policy {
        Some(file) => {
            let policy = policy::load(file, global)?;
            Trust::of(&policy.signer_entries(), &policy.revoked_keys, &policy.revoked_signatures)
        }
        None => trusted(&args.key)?,
    };
    let mut judged = Vec::with_capacity(args.files.len());
    for path in &args.files {
        judged.push(verdict(path, verify(&open(path)?, &trust))?);
    }
    let all = judged.iter().all(|one| one.signed);
    if global.output == Format::Table {
        let mut table = Table::new(&["FILE", "SCID", "SERIAL", "KEY", "VERDICT"]);
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        for one in judged {
            table.row([
                one.path.display().to_string(),
                or_none(one.scid.map(|scid| scid.to_string())),
                or_none(one.serial.map(|serial| serial.to_string())),
                or_none(one.key_id),
                one.reason
                    .map_or_else(|| "signed".to_owned(), |reason| format!("unsigned: {reason}")),
            ]);
        }
        table.print(&mut io::stdout().lock())?;
    } else {
        #[derive(Serialize)]
        struct Files<'a> {
            files: Vec<Judged<'a>>,
        }
        output::json(global.output, &Files { files: judged })?;
    }
    Ok(all.into())
}

fn trusted(keys: &[String]) -> Result<Trust> {
    let mut signers = Vec::with_capacity(keys.len());
    for text in keys {
        let key = public_key(text).with_context(|| format!("--key {text}"))?;
        signers.push(Signer { key, scids: Scids::All, least_serial: 0 });
    }
    Ok(Trust::new(signers, [], []))
}

fn verdict(path: &Path, verdict: Result<Verified, Unsigned>) -> Result<Judged<'_>> {
    Ok(match verdict {
        Ok(verified) => Judged {
            path,
            signed: true,
            scid: Some(verified.scid),
            serial: Some(verified.serial),
            key_id: Some(verified.key.to_string()),
            signature: Some(verified.signature.to_string()),
            reason: None,
        },
        Err(Unsigned::Unreadable { errno }) => return Err(unreadable(path, errno.into())),
        Err(reason) => Judged {
            path,
            signed: false,
            scid: None,
            serial: None,
            key_id: None,
            signature: None,
            reason: Some(reason.to_string()),
        },
    })
}

fn open(path: &Path) -> Result<File> {
    // A pipe would have us wait for a writer.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    match opened {
        Ok(file) => Ok(file),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn unreadable(path: &Path, error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot read {}", path.display()))
}
