//! Labs and their nodes.

use crate::cgroup::{self, Cgroup};
use crate::netns::{self, Netns};
use crate::programs::PROGRAMS;
use crate::{Output, PATIENCE, Process, binary, until};
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Everything made here is named `sigil-<pid>-<count>-<name>…`, so that left-overs show their owner.
const PREFIX: &str = "sigil-";
/// Holds the runtime directories of the nodes.
const RUN: &str = "/run/sigil";
/// How long a command may run in [`Node::run`].
const COMMAND: Duration = Duration::from_mins(1);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A bridge in a namespace of its own, to plug nodes into.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

/// Lives until the last node is gone.
#[derive(Debug)]
struct Shared {
    id: String,
    cgroup: Cgroup,
    switch: Netns,
}

impl Lab {
    /// Makes an empty lab, after sweeping those of dead processes.
    ///
    /// # Errors
    ///
    /// This is not root, or the kernel lacks something.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a lab of network namespaces needs root");
        Self::sweep();
        let id = format!("{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = Cgroup::create(cgroup::mount()?.join(format!("{PREFIX}{id}")))?;
        let switch = Netns::create(format!("{PREFIX}{id}-switch"))?;
        switch.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                   link set br0 up")?;
        // Where netfilter watches bridges, it would look into the frames.
        drop(switch.sysctl("bridge/bridge-nf-call-iptables", "0"));
        Ok(Self { shared: Arc::new(Shared { id, cgroup, switch }) })
    }

    /// A node at 10.77.0.`number` on the bridge.
    ///
    /// # Errors
    ///
    /// The name or number is taken.
    pub fn node(&self, name: &str, number: u8) -> Result<Node> {
        let node = self.unplugged(name, number)?;
        self.connect(&node)?;
        Ok(node)
    }

    /// Makes a node's `eth0` on the bridge; again, where it was deleted.
    ///
    /// # Errors
    ///
    /// It is there.
    pub fn connect(&self, node: &Node) -> Result<()> {
        self.plug(node, &node.port())?;
        self.shared.switch.ip(&format!("link set {} master br0", node.port()))
    }

    /// Two nodes, 10.77.0.1 and 10.77.0.2, on the two ends of one veth pair, with no bridge between.
    ///
    /// # Errors
    ///
    /// The names are the same.
    pub fn pair(&self, first: &str, second: &str) -> Result<(Node, Node)> {
        let (first, second) = (self.unplugged(first, 1)?, self.unplugged(second, 2)?);
        first.netns.ip(&format!(
            "link add eth0 address {} type veth peer name eth0 address {} netns {}",
            mac(1),
            mac(2),
            second.netns.name()
        ))?;
        first.bring_up()?;
        second.bring_up()?;
        Ok((first, second))
    }

    /// A node without a network.
    pub(crate) fn unplugged(&self, name: &str, number: u8) -> Result<Node> {
        let id = format!("{}-{name}", self.shared.id);
        let netns = Netns::create(format!("{PREFIX}{id}"))?;
        // The default may be one that paces. Absent where the kernel has it not.
        netns.sysctl("ipv4/tcp_congestion_control", "reno")?;
        Ok(Node {
            name: name.into(),
            number,
            cgroup: Cgroup::create(self.shared.cgroup.path().join(name))?,
            directory: Directory::create(Path::new(RUN).join(id))?,
            netns,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Connects a node's `eth0` to `port`, a device in the switch's namespace.
    pub(crate) fn plug(&self, node: &Node, port: &str) -> Result<()> {
        self.shared.switch.ip(&format!(
            "link add {port} type veth peer name eth0 address {} netns {}\nlink set {port} up",
            mac(node.number),
            node.netns.name()
        ))?;
        node.bring_up()
    }

    /// The namespace of the bridge, `br0`; node N hangs on its port `pN`.
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.shared.switch
    }

    /// Removes what dead processes left behind.
    pub fn sweep() {
        let own = std::process::id();
        let dead = |pid: u32| pid != own && !Path::new("/proc").join(pid.to_string()).exists();
        if let Err(error) = remove_labs(dead) {
            eprintln!("cannot remove the left-overs of a dead process: {error:#}");
        }
    }

    /// Removes all labs of this process, for those who leave without unwinding; again and again, since
    /// other threads may still be adding to them.
    ///
    /// # Errors
    ///
    /// Something stays.
    pub fn remove_own() -> Result<()> {
        let own = |pid| pid == std::process::id();
        until("end of the labs", PATIENCE, || Ok(remove_labs(own).ok()))
    }
}

/// A network namespace with `eth0`, a control group, a directory and a bpffs.
///
/// The fields are in the order in which they are removed: what runs, what is pinned, the network.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: u8,
    cgroup: Cgroup,
    directory: Directory,
    netns: Netns,
    shared: Arc<Shared>,
}

impl Node {
    /// The node's name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node's name outside the lab, unique on the machine.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.shared.id, self.name)
    }

    /// The address of `eth0`, 10.77.0.N.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.number)
    }

    /// The node's port on the bridge, a device of [`Lab::switch`].
    #[must_use]
    pub fn port(&self) -> String {
        format!("p{}", self.number)
    }

    /// The hardware address of `eth0`.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        mac_bytes(self.number)
    }

    /// The node's network.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node's control group.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The node's directory, gone with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// The node's bpffs.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.directory.bpffs()
    }

    /// The agent's control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path.join("sigild.sock")
    }

    /// Starts a command on the node.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn spawn(&self, argv: &[&str]) -> Result<Process> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        self.start(Command::new(program).args(arguments))
    }

    /// Starts a command on the node.
    ///
    /// # Errors
    ///
    /// There is no such program.
    pub fn start(&self, command: &mut Command) -> Result<Process> {
        Process::spawn(command, self.netns.open()?, self.cgroup.procs()?)
    }

    /// Runs a command on the node to its end, whatever its exit code.
    ///
    /// # Errors
    ///
    /// There is no such program, or it does not end.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.spawn(argv)?.wait(COMMAND)
    }

    /// Starts a command in the security zone `scid`, by way of `labelctl run`.
    ///
    /// # Errors
    ///
    /// `labelctl` is not built.
    pub fn spawn_zone(&self, scid: u32, argv: &[&str]) -> Result<Process> {
        let mut command = self.labelctl()?;
        self.start(command.args(["run", "--scid", &scid.to_string(), "--"]).args(argv))
    }

    /// Runs a command in the security zone `scid` to its end, whatever its exit code.
    ///
    /// # Errors
    ///
    /// `labelctl` is not built, or the command does not end.
    pub fn run_zone(&self, scid: u32, argv: &[&str]) -> Result<Output> {
        self.spawn_zone(scid, argv)?.wait(COMMAND)
    }

    /// `labelctl` with the socket of the node's agent.
    ///
    /// # Errors
    ///
    /// It is not built.
    pub fn labelctl(&self) -> Result<Command> {
        let mut command = Command::new(binary("labelctl")?);
        command.arg("--socket").arg(self.socket());
        Ok(command)
    }

    /// Waits until something listens on a TCP port of the node.
    ///
    /// # Errors
    ///
    /// Nothing does.
    pub fn wait_listening(&self, port: u16) -> Result<()> {
        self.wait_socket("tcp", "0A", port)
    }

    /// Waits until something is bound to a UDP port of the node.
    ///
    /// # Errors
    ///
    /// Nothing is.
    pub fn wait_bound(&self, port: u16) -> Result<()> {
        self.wait_socket("udp", "07", port)
    }

    /// `sl local_address rem_address st …`, with addresses such as `00000000:1F40`.
    fn wait_socket(&self, protocol: &str, state: &str, port: u16) -> Result<()> {
        // A socket of IPv6 serves IPv4 as well.
        let tables = ["", "6"].map(|v| format!("/proc/thread-self/net/{protocol}{v}"));
        let port = format!(":{port:04X}");
        let bound = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&port))
                && fields.nth(1) == Some(state)
        };
        let what = format!("{protocol} socket on port {port} (hex) of {}", self.name);
        let probe = || {
            let lines: String = tables.iter().flat_map(fs::read_to_string).collect();
            Ok(lines.lines().any(bound).then_some(()))
        };
        self.netns.enter(|| until(&what, PATIENCE, probe))
    }

    fn bring_up(&self) -> Result<()> {
        self.netns.ip(&format!("addr add {}/24 dev eth0\nlink set eth0 up", self.address()))
    }
}

/// A node's runtime directory and the bpffs in it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create(path: PathBuf) -> Result<Self> {
        let directory = Self { path };
        let bpffs = directory.bpffs();
        fs::create_dir_all(&bpffs).with_context(|| format!("{}", bpffs.display()))?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("bpffs at {}", bpffs.display()))?;
        Ok(directory)
    }

    fn bpffs(&self) -> PathBuf {
        self.path.join("bpf")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = remove_directory(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn remove_directory(path: &Path) -> std::io::Result<()> {
    for mounted in ["bpf", PROGRAMS] {
        let _ = umount2(&path.join(mounted), MntFlags::MNT_DETACH);
    }
    fs::remove_dir_all(path)
}

/// Control groups first: they hold what uses the rest. Removes all that it can; the first error.
fn remove_labs(whose: impl Fn(u32) -> bool) -> Result<()> {
    let mut outcome = Ok(());
    for path in owned(&cgroup::mount()?, PREFIX, &whose) {
        outcome = outcome.and(cgroup::remove(&path));
    }
    for path in owned(Path::new(RUN), "", &whose) {
        outcome = outcome.and(remove_directory(&path).map_err(Into::into));
    }
    for path in owned(Path::new(netns::DIRECTORY), PREFIX, &whose) {
        let name = path.file_name().and_then(|name| name.to_str());
        outcome = outcome.and(netns::remove(name.unwrap_or_default()));
    }
    outcome
}

/// The entries `<prefix><pid>-…` of a directory.
fn owned(directory: &Path, prefix: &str, whose: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let owner = |path: &PathBuf| -> Option<u32> {
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
        name.split_once('-')?.0.parse().ok()
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| owner(path).is_some_and(&whose)).collect()
}

/// Locally administered, "SIGI", and the node's number.
fn mac_bytes(number: u8) -> [u8; 6] {
    [0x02, b'S', b'I', b'G', b'I', number]
}

fn mac(number: u8) -> String {
    mac_bytes(number).map(|byte| format!("{byte:02x}")).join(":")
}
