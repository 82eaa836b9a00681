//! `WireGuard` over the pair.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sigil_harness::{Node, Process, binary};

use super::wait_file;
use crate::mode::Runs;

const PORT: u16 = 51820;
/// What it adds to a packet at most: over IPv6.
const OVERHEAD: u32 = 80;

/// An open tunnel.
pub(super) struct Tunnel {
    /// The second node's address in it.
    pub(super) server: Ipv4Addr,
    /// What carries it.
    pub(super) processes: Vec<Process>,
}

/// Where scripts/bench installs it, or beside the other programs.
///
/// # Errors
/// It is not installed.
pub fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let installed = own.ancestors().nth(2).map(|target| target.join("peers/bin/boringtun-cli"));
    installed
        .filter(|path| path.is_file())
        .map_or_else(|| binary("boringtun-cli"), Ok)
        .context("boringtun-cli; scripts/bench installs it")
}

/// Opens one over devices of this MTU.
pub(super) fn open(nodes: [&Node; 2], mtu: u32, runs: Runs) -> Result<Tunnel> {
    let address = |number: usize| Ipv4Addr::new(10, 79, 0, u8::try_from(number).unwrap_or(0));
    let (mut processes, mut keys) = (Vec::new(), Vec::new());
    for (number, node) in nodes.into_iter().enumerate() {
        let private = node.directory().join("wireguard.key");
        keys.push(make_key(&private)?);
        let interface = interface(number);
        match runs {
            Runs::Kernel => node.netns().ip(&format!("link add {interface} type wireguard"))?,
            Runs::UserSpace => processes.push(carry(node, &interface)?),
        }
    }
    for (number, node) in nodes.into_iter().enumerate() {
        let other = 1 - number;
        let interface = interface(number);
        let (key, peer) = (keys.get(other).context("a key")?, nodes.get(other).context("a node")?);
        let mut wg = Command::new("wg");
        wg.args(["set", &interface, "listen-port", &PORT.to_string(), "private-key"])
            .arg(node.directory().join("wireguard.key"))
            .args(["peer", key, "allowed-ips", &format!("{}/32", address(other + 1))])
            .args(["endpoint", &format!("{}:{PORT}", peer.address())]);
        let output = node.netns().enter(|| Ok(wg.output()?))?;
        ensure!(output.status.success(), "wg: {}", String::from_utf8_lossy(&output.stderr));
        node.netns().ip(&format!(
            "addr add {}/24 dev {interface}\nlink set {interface} mtu {} up",
            address(number + 1),
            mtu - OVERHEAD
        ))?;
    }
    Ok(Tunnel { server: address(2), processes })
}

/// Starts the process that carries an end in user space.
fn carry(node: &Node, interface: &str) -> Result<Process> {
    let program = program()?;
    let program = program.to_str().context("a path that is no text")?;
    let process = node.spawn(&[program, "--foreground", "--disable-drop-privileges", interface])?;
    // Its control socket is named after the interface, for all namespaces in one directory.
    wait_file(&Path::new("/var/run/wireguard").join(interface).with_extension("sock"))?;
    Ok(process)
}

fn interface(number: usize) -> String {
    format!("sw{}x{}", number + 1, std::process::id())
}

/// Makes a private key in a file of the owner's alone, and returns the public one.
fn make_key(file: &Path) -> Result<String> {
    let private = Command::new("wg").arg("genkey").output().context("wg; see scripts/setup")?;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?
        .write_all(&private.stdout)?;
    let public =
        Command::new("wg").arg("pubkey").stdin(Stdio::from(fs::File::open(file)?)).output()?;
    ensure!(public.status.success(), "wg pubkey failed");
    Ok(String::from_utf8(public.stdout)?.trim().to_owned())
}
