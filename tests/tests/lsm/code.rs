//! A zone that demands signed code runs no other: neither libraries nor memory that somebody wrote.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use sigil_binary::{How, PrivateKey, find, label};
use sigil_common::abi::name;
use sigil_common::abi::process::Entering;
use sigil_harness::{Cluster, Node, Output, PATIENCE, Programs, binary, until};

use super::{NOBODYS, POLICY, USER, prepared};

const VAULT: u32 = 90;
/// What libraries are signed for: no rule leads there, so that the loader is nobody's way into a zone.
const LIBRARIES: u32 = 91;
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2\0";

const ZONES: &str = "
  <zone><ScID> 90 </ScID><name> vault </name><code> signed </code></zone>
  <zone><ScID> 91 </ScID><name> libraries </name></zone>
  <PROCESS_class_rule><sSnID> * </sSnID><sScID> vault </sScID><allow> FORK EXECVE </allow></PROCESS_class_rule>
  <TRANSITION_class_rule>
    <parentScID> user </parentScID><binaryScID> vault </binaryScID><newScID> vault </newScID>
  </TRANSITION_class_rule>
  <TRANSITION_class_rule>
    <parentScID> vault </parentScID><binaryScID> user </binaryScID><newScID> user </newScID>
  </TRANSITION_class_rule>
  <signer>";

/// A node with a program of the zone `vault` and all its libraries, in a file system of their own.
struct Vault {
    programs: Programs,
    libraries: PathBuf,
    /// Where the programs look for their loader: a short name, in place of the system's.
    loader: PathBuf,
    cluster: Cluster,
    key: PrivateKey,
    policy: String,
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.loader);
    }
}

impl Vault {
    fn open() -> Result<Self> {
        let keys = tempfile::tempdir()?;
        let key = PrivateKey::generate(keys.path().join("key"))?;
        let hex = key.public().map(|byte| format!("{byte:02x}")).concat();
        let policy = POLICY.replace(NOBODYS, &hex).replacen("<signer>", ZONES, 1);
        let cluster = prepared(&policy)?;
        let programs = Programs::mount(cluster.node("one")?)?;
        let libraries = programs.path().join("lib");
        fs::create_dir(&libraries)?;
        let number = std::process::id();
        let loader =
            ["a", "b", "c", "d"].map(|name| PathBuf::from(format!("/tmp/ld-{number}-{name}")));
        let mut free = loader.into_iter();
        let loader = loop {
            let loader = free.next().context("a name for the loader")?;
            if symlink(libraries.join("ld.so"), &loader).is_ok() {
                break loader;
            }
        };
        let mut vault = Self { programs, libraries, loader, cluster, key, policy };
        vault.copy_libraries()?;
        vault.program("attacks", Some(VAULT))?;
        let (programs, libraries) = (vault.programs.path().into(), vault.libraries.clone());
        let member = vault.cluster.member("one")?;
        member.config.guard_exec = vec![programs];
        member.config.libraries = vec![libraries];
        member.start()?;
        Ok(vault)
    }

    /// Those that this very program has are those that its like need.
    fn copy_libraries(&self) -> Result<()> {
        let maps = fs::read_to_string("/proc/self/maps")?;
        let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let paths: std::collections::BTreeSet<_> =
            paths.filter(|path| path.contains(".so")).map(Path::new).collect();
        ensure!(paths.len() >= 3, "{paths:?}");
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
            let name = if name.starts_with("ld-") { "ld.so" } else { name };
            self.library(path, name, true)?;
        }
        let other = Path::new("/usr/lib/x86_64-linux-gnu/libz.so.1");
        self.library(other, "signed.so", true)?;
        self.library(other, "unsigned.so", false)
    }

    fn library(&self, of: &Path, name: &str, signed: bool) -> Result<()> {
        let copy = self.libraries.join(name);
        fs::copy(of, &copy).with_context(|| of.display().to_string())?;
        if signed {
            label(&copy, LIBRARIES, 1, Some(&self.key), How::default())?;
        }
        Ok(())
    }

    /// A copy of the program that attacks, signed for a zone or not, with these libraries' loader.
    fn program(&self, name: &str, scid: Option<u32>) -> Result<PathBuf> {
        let copy = self.programs.copy(&binary("sigil-traffic")?, name)?;
        let mut bytes = fs::read(&copy)?;
        let places = bytes.windows(LOADER.len()).enumerate();
        let found = places.filter(|(_, window)| *window == LOADER.as_bytes()).map(|(at, _)| at);
        let at: Vec<_> = found.collect();
        ensure!(at.len() == 1, "the loader's name stands {} times", at.len());
        let path = self.loader.to_str().context("a path")?;
        ensure!(path.len() < LOADER.len(), "{path} is too long");
        let name = format!("{path:\0<width$}", width = LOADER.len());
        let at = at.first().copied().unwrap_or_default();
        bytes.splice(at..at + LOADER.len(), name.into_bytes());
        fs::write(&copy, bytes)?;
        if let Some(scid) = scid {
            label(&copy, scid, 1, Some(&self.key), How::default())?;
        }
        Ok(copy)
    }

    fn node(&self) -> Result<&Node> {
        self.cluster.node("one")
    }

    fn at(&self, name: &str) -> String {
        self.libraries.join(name).display().to_string()
    }

    /// Runs a program in a zone, with variables of its environment.
    fn run(&self, zone: u32, variables: &[&str], argv: &[&str]) -> Result<Output> {
        let node = self.node()?;
        let (labelctl, socket) = (binary("labelctl")?, node.socket());
        let path = format!("LD_LIBRARY_PATH={}", self.libraries.display());
        let zone = zone.to_string();
        let mut all = vec!["/usr/bin/env"];
        all.extend(variables);
        all.extend([
            &*path,
            labelctl.to_str().context("a path")?,
            "--socket",
            socket.to_str().context("a path")?,
            "run",
            "--scid",
            &zone,
            "--",
        ]);
        all.extend(argv);
        node.run(&all)
    }

    /// What became of each attack, in a zone.
    fn attacks(&self, zone: u32, program: &Path) -> Result<BTreeMap<String, String>> {
        let program = program.to_str().context("a path")?;
        let argv = [program, "code", &self.at("signed.so"), &self.at("unsigned.so")];
        // As soon as the libraries are judged.
        let output = until("program that runs", PATIENCE, || {
            let output = self.run(zone, &[], &argv)?;
            Ok(output.stdout.contains("done").then_some(output))
        })
        .with_context(|| format!("{:?}", self.run(zone, &[], &argv)))?;
        let lines = output.stdout.lines().filter_map(|line| line.split_once(' '));
        Ok(lines.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect())
    }

    fn load(&self, policy: &str) -> Result<()> {
        let file = self.node()?.directory().join("next.xml");
        fs::write(&file, policy)?;
        let output = self.node()?.ctl(&["load", file.to_str().context("a path")?])?;
        ensure!(output.success(), "{}", output.stderr);
        Ok(())
    }
}

/// Each way that there is, by root with all its capabilities; elsewhere all of them succeed.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_zone_that_demands_signed_code_runs_no_other() -> Result<()> {
    let vault = Vault::open()?;
    let mut watch = vault.node()?.watch()?;
    let attacks = vault.programs.path().join("attacks");
    let free = vault.program("free", None)?;
    let allowed = ["signed", "signed-later", "signed-dlopen", "own-memory-read"];

    let outside = vault.attacks(USER, &free)?;
    for (name, outcome) in &outside {
        let expected = if name == "rewrite" { "EPERM" } else { "ok" };
        assert_eq!(outcome, expected, "{name} in a zone that demands nothing");
    }
    // Whatever it does, it runs the vault's libraries, which no zone writes to.
    let inside = vault.attacks(VAULT, &attacks)?;
    assert_eq!(inside.len(), outside.len(), "{inside:?}");
    for (name, outcome) in &inside {
        let expected = match name.as_str() {
            name if allowed.contains(&name) => "ok",
            "unsigned-dlopen" => "ELIBACC",
            "heap" => "SIGKILL",
            _ => "EPERM",
        };
        assert_eq!(outcome, expected, "{name} in the vault");
    }
    let event = watch.next(PATIENCE, |event| event.reason == "unsigned-code")?;
    assert_eq!((event.source.scid, event.hook.as_str()), (VAULT, "process"));
    let stats = vault.node()?.stats()?;
    assert!(stats.dropped("process", "unsigned-code") >= 14, "{stats:?}");
    assert_eq!(stats.dropped("process", "confined"), 2, "rewrites");
    stats.balanced()?;
    let said = vault.node()?.ctl(&["stats", "--explain"])?.stdout;
    assert!(said.contains("demands signed code"), "{said}");
    Ok(())
}

/// A program with arguments that have it say something.
fn with<'a>(argv: &[&'a str]) -> Vec<&'a str> {
    [argv, &["try", "send", "127.0.0.1:9", "1"]].concat()
}

/// By way of the loader, of an exec, and of the process that was there before.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn no_loader_and_no_exec_brings_unsigned_code_into_the_zone() -> Result<()> {
    let vault = Vault::open()?;
    let attacks = vault.programs.path().join("attacks");
    let program = attacks.to_str().context("a path")?.to_owned();
    vault.attacks(VAULT, &attacks)?;
    let try_it = |argv: &[&str]| vault.run(VAULT, &[], argv);

    // Preloaded: the loader says so and goes on without it.
    let preload = format!("LD_PRELOAD={}", vault.at("unsigned.so"));
    let output = vault.run(VAULT, &[&preload], &with(&[&program]))?;
    assert!(output.stderr.contains("cannot be preloaded"), "{output:?}");
    let preload = format!("LD_PRELOAD={}", vault.at("signed.so"));
    let output = vault.run(VAULT, &[&preload], &with(&[&program]))?;
    assert!(!output.stderr.contains("cannot be preloaded"), "{output:?}");

    // The loader as a program: it is signed, and for no zone that has programs.
    let (loader, other) = (vault.at("ld.so"), vault.program("other", None)?);
    let other = other.to_str().context("a path")?;
    let output = try_it(&with(&[&loader, other]))?;
    assert_eq!((output.code, &*output.stdout), (126, ""), "{output:?}");
    // Were it signed for the zone itself, it would load signed programs, and no others.
    let careless = vault.programs.path().join("careless");
    fs::copy("/lib64/ld-linux-x86-64.so.2", &careless)?;
    label(&careless, VAULT, 1, Some(&vault.key), How::default())?;
    let careless = careless.to_str().context("a path")?;
    let output = try_it(&with(&[careless, other]))?;
    assert!(output.code == 127 && output.stdout.is_empty(), "{output:?}");
    let output = try_it(&with(&[careless, &program]))?;
    assert!(!output.stdout.is_empty(), "{output:?}");

    // An unsigned program, also one that lies where nobody guards execs; a script of an unsigned shell.
    let script = vault.programs.script("script", "#!/bin/sh\necho ran\n")?;
    label(&script, VAULT, 1, Some(&vault.key), How::default())?;
    for refused in [other, "/bin/echo", script.to_str().context("a path")?] {
        let output = try_it(&with(&[refused]))?;
        assert_eq!((output.code, &*output.stdout), (126, ""), "{output:?}");
    }
    // A signed program whose loader nobody signed does not start, and one of another zone does.
    let foreign = vault.programs.copy(&binary("sigil-traffic")?, "foreign")?;
    label(&foreign, VAULT, 1, Some(&vault.key), How::default())?;
    let foreign = foreign.to_str().context("a path")?;
    let output = try_it(&with(&[foreign]))?;
    assert!(output.stdout.is_empty() && !output.success(), "{output:?}");
    let from_outside = vault.run(USER, &[], &with(&[foreign]))?;
    assert!(from_outside.stdout.is_empty() && !from_outside.success(), "{from_outside:?}");
    label(Path::new(foreign), USER, 2, Some(&vault.key), How::default())?;
    let output = try_it(&with(&[foreign]))?;
    assert!(!output.stdout.is_empty(), "{output:?}");
    // From a zone that demands nothing into one that does.
    let output = vault.run(USER, &[], &with(&[&program]))?;
    assert!(!output.stdout.is_empty(), "{output:?}");
    // Nothing is left of execs that ended with their process.
    let pin = vault.node()?.bpffs().join("sigil/maps").join(name::ENTERING);
    let entering: HashMap<_, u32, Entering> = Map::HashMap(MapData::from_pin(pin)?).try_into()?;
    until("end of all execs", PATIENCE, || Ok((entering.keys().count() == 0).then_some(())))?;
    vault.node()?.stats()?.balanced()
}

/// What was judged is one state of one file, by signatures that count now.
#[test]
#[ignore = "needs a kernel that runs LSM programs"]
fn a_library_that_changed_or_is_revoked_is_unsigned_and_one_that_is_signed_anew_is_not()
-> Result<()> {
    let vault = Vault::open()?;
    let attacks = vault.programs.path().join("attacks");
    let signed = vault.libraries.join("signed.so");
    let dlopens = |outcome: &str| {
        until(&format!("signed-dlopen {outcome}"), PATIENCE, || {
            let attacks = vault.attacks(VAULT, &attacks)?;
            Ok((attacks.get("signed-dlopen").map(String::as_str) == Some(outcome)).then_some(()))
        })
    };
    dlopens("ok")?;
    OpenOptions::new().append(true).open(&signed)?.write_all(b"x")?;
    dlopens("ELIBACC")?;
    let source = Path::new("/usr/lib/x86_64-linux-gnu/libz.so.1");
    fs::copy(source, &signed)?;
    label(&signed, LIBRARIES, 2, Some(&vault.key), How::default())?;
    dlopens("ok")?;
    let signature = find(&fs::File::open(&signed)?)?.record.signature_id();
    let hex = signature.0.map(|byte| format!("{byte:02x}")).concat();
    let revoked = format!("<revoked><signature> {hex} </signature></revoked>\n</DSP>");
    let next = vault.policy.replace("serial=\"1\"", "serial=\"2\"").replace("</DSP>", &revoked);
    vault.load(&next)?;
    dlopens("ELIBACC")?;
    // Nobody demands it any more: nobody pays for it.
    let hook = vault.node()?.bpffs().join("sigil/links/lsm_mmap");
    assert!(hook.exists());
    let next = next.replace("serial=\"2\"", "serial=\"3\"").replace("<code> signed </code>", "");
    vault.load(&next)?;
    assert!(!hook.exists());
    Ok(())
}
