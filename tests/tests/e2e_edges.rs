//! Bad input at every edge: exit 2, a message that says what to do, and what runs goes on as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sigil_harness::cluster::Setting;
use sigil_harness::{Cluster, Config, Node, Output, PATIENCE, binary};

const POLICY: &str = include_str!("../harness/dsp/two-nodes.xml");
const WEB: u32 = 10;

/// A cluster whose node `one` must not notice what happens beside its agent.
struct Edge(Cluster);

impl Edge {
    fn new() -> Result<Self> {
        Ok(Self(Cluster::start("edges", &Setting::of(POLICY))?))
    }

    fn node(&self) -> Result<&Node> {
        self.0.node("one")
    }

    fn config(&mut self) -> Result<Config> {
        Ok(self.0.member("one")?.config.clone())
    }

    /// Runs `sigild` with a configuration of its own file.
    fn sigild(&self, config: &str, through: &[&str]) -> Result<Output> {
        let file = self.file("edge.toml");
        fs::write(&file, config)?;
        let sigild = binary("sigild")?;
        let mut command = match through {
            [] => Command::new(&sigild),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(&sigild);
                command
            }
        };
        self.node()?.start(command.arg("--config").arg(file))?.wait(PATIENCE)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.node().map(|node| node.directory().join(name)).unwrap_or_default()
    }

    fn route(&self) -> Result<String> {
        Ok(self.node()?.run(&["ip", "route", "show"])?.stdout)
    }

    /// Refused with exit 2 and these words; policy, generation and traffic as before.
    fn refuses(&self, output: &Output, words: &[&str]) -> Result<()> {
        assert_eq!(output.code, 2, "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "no `{word}` in {}", output.stderr);
        }
        let status = self.node()?.ctl(&["status"])?;
        ensure!(status.success() && status.stdout.contains("enforcing"), "{status:?}");
        let exchange = self.node()?.exchange(Some(WEB), &["ping", "10.77.0.2", "1"])?;
        ensure!(exchange.is_complete(), "{exchange:?}");
        Ok(())
    }
}

fn toml(config: &Config) -> Result<String> {
    Ok(toml::to_string(config)?)
}

/// A configuration beside the running one: same node, own pins, socket and state.
fn apart(config: &Config, directory: &Path) -> Config {
    Config {
        bpffs: config.bpffs.with_file_name("apart"),
        socket: directory.join("apart.sock"),
        state: directory.join("apart"),
        ..config.clone()
    }
}

#[test]
fn a_second_agent_on_one_node() -> Result<()> {
    let mut edge = Edge::new()?;
    let config = toml(&edge.config()?)?;
    let output = edge.sigild(&config, &[])?;
    edge.refuses(&output, &["another sigild", "stop it first"])
}

#[test]
fn a_configuration_that_is_none() -> Result<()> {
    let edge = Edge::new()?;
    let output = edge.sigild("snid = 1\ninterface = \"eth0\"\n", &[])?;
    edge.refuses(&output, &["unknown field `interface`"])?;
    let output = edge.sigild("snid = \n", &[])?;
    edge.refuses(&output, &["edge.toml"])
}

#[test]
fn an_interface_that_is_not_there() -> Result<()> {
    let mut edge = Edge::new()?;
    let mut config = apart(&edge.config()?, &edge.file("."));
    config.interfaces = vec!["eth7".into()];
    let output = edge.sigild(&toml(&config)?, &[])?;
    edge.refuses(&output, &["interface eth7 does not exist"])
}

#[test]
fn a_key_file_that_others_may_read() -> Result<()> {
    let mut edge = Edge::new()?;
    let mut config = apart(&edge.config()?, &edge.file("."));
    let keys = edge.file("readable.toml");
    fs::copy(config.keys.as_ref().context("keys")?, &keys)?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644))?;
    config.keys = Some(keys);
    let output = edge.sigild(&toml(&config)?, &[])?;
    edge.refuses(&output, &["chmod 600"])
}

#[test]
fn a_policy_that_does_not_compile() -> Result<()> {
    let mut edge = Edge::new()?;
    let mut config = apart(&edge.config()?, &edge.file("."));
    let policy = edge.file("broken.xml");
    fs::write(&policy, POLICY.replace("<sScID> web </sScID>", "<sScID> wbe </sScID>"))?;
    config.policy = policy.clone();
    let output = edge.sigild(&toml(&config)?, &[])?;
    edge.refuses(&output, &["no zone `wbe` is declared", "broken.xml"])?;
    let load = edge.node()?.ctl(&["load", &policy.display().to_string()])?;
    assert_eq!(load.code, 1, "{load:?}");
    assert!(load.stderr.contains("nothing was changed"), "{load:?}");
    Ok(())
}

#[test]
fn a_privilege_that_is_missing() -> Result<()> {
    let mut edge = Edge::new()?;
    let config = toml(&apart(&edge.config()?, &edge.file(".")))?;
    let without = ["setpriv", "--bounding-set", "-bpf", "--inh-caps", "-bpf"];
    let output = edge.sigild(&config, &without)?;
    edge.refuses(&output, &["CAP_BPF", "run it as root"])
}

/// A kernel without BTF, met at a restart: what is pinned goes on.
#[test]
fn a_kernel_without_btf() -> Result<()> {
    let mut edge = Edge::new()?;
    let config = toml(&edge.config()?)?;
    edge.0.member("one")?.take_agent()?.stop()?;
    let hidden = "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$0\" \"$@\"";
    let output = edge.sigild(&config, &["unshare", "--mount", "sh", "-c", hidden])?;
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["no BTF", "CONFIG_DEBUG_INFO_BTF"] {
        assert!(output.stderr.contains(word), "no `{word}` in {}", output.stderr);
    }
    edge.0.member("one")?.start()?;
    let found = edge.node()?.status()?;
    assert_eq!(found.pointer("/origin").and_then(|origin| origin.as_str()), Some("adopted"));
    let exchange = edge.node()?.exchange(Some(WEB), &["ping", "10.77.0.2", "1"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    Ok(())
}

/// Kernels that lack something else of what it takes: nothing of a first start stays behind.
#[test]
fn kernel_features_that_are_missing() -> Result<()> {
    const LINK_CREATE: &str = "bpf:28";
    const RAW_TRACEPOINT_OPEN: &str = "bpf:17";
    let mut edge = Edge::new()?;
    let mut config = apart(&edge.config()?, &edge.file("."));
    config.bpffs = edge.file("apart-pins");
    let route = edge.route()?;
    let without = binary("sigil-without")?.display().to_string();
    for (call, errno, words) in [
        ("mount", "ENODEV", ["no BPF", "CONFIG_BPF_SYSCALL"]),
        ("mount", "EPERM", ["cannot mount a bpffs", "mount -t bpf bpf"]),
        ("bpf", "ENOSYS", ["no BPF", "CONFIG_BPF_SYSCALL"]),
        (RAW_TRACEPOINT_OPEN, "EINVAL", ["no programs on tracepoints", "CONFIG_BPF_EVENTS"]),
        (LINK_CREATE, "EINVAL", ["no links to control groups", "CONFIG_CGROUP_BPF"]),
    ] {
        let output = edge.sigild(&toml(&config)?, &[&without, call, errno])?;
        let left = ["links", "maps"].map(|part| config.bpffs.join(part).exists());
        // The agent leaves the bpffs that it mounted.
        let _ = nix::mount::umount(&config.bpffs);
        edge.refuses(&output, &words).with_context(|| format!("{call} {errno}"))?;
        assert_eq!(left, [false; 2], "{call} {errno} leaves links or maps");
        assert_eq!(edge.route()?, route, "{call} {errno}");
    }
    Ok(())
}

#[test]
fn pins_of_an_older_abi() -> Result<()> {
    let mut edge = Edge::new()?;
    let config = edge.config()?;
    edge.0.member("one")?.take_agent()?.stop()?;
    let map = config.bpffs.join("maps/CONFIG").display().to_string();
    let value = raw_value(&map)?;
    let write = |value: &[String]| -> Result<()> {
        let status = Command::new("bpftool")
            .args(["map", "update", "pinned", &map, "key", "0", "0", "0", "0", "value"])
            .args(value)
            .status()?;
        ensure!(status.success(), "bpftool map update");
        Ok(())
    };
    let mut older = value.clone();
    older[0] = "1".into();
    write(&older)?;
    let output = edge.sigild(&toml(&config)?, &[])?;
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["ABI 1", "--detach"] {
        assert!(output.stderr.contains(word), "no `{word}` in {}", output.stderr);
    }
    write(&value)?;
    edge.0.member("one")?.start()?;
    let exchange = edge.node()?.exchange(Some(WEB), &["ping", "10.77.0.2", "1"])?;
    assert!(exchange.is_complete(), "{exchange:?}");
    Ok(())
}

/// The bytes of a one-entry map, as `bpftool` takes them.
fn raw_value(map: &str) -> Result<Vec<String>> {
    let output = Command::new("bpftool").args(["-j", "map", "dump", "pinned", map]).output()?;
    let dump: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let bytes = dump.pointer("/0/value").and_then(|value| value.as_array()).context("a dump")?;
    bytes.iter().map(|byte| Ok(byte.as_str().context("a byte")?.to_owned())).collect()
}
