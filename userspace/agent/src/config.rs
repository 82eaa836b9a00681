//! The configuration file.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use sigil_cluster::channel::NO_IPV6;
use sigil_common::abi::{CONTROLS, INTERFACES, PASS_ETHERTYPES};
use sigil_control::ZoneRef;
use sigil_datapath as datapath;

/// What the operator decides. `sigild.toml` beside this crate describes each key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) snid: NonZeroU32,
    /// None under a Security Server.
    policy: Option<PathBuf>,
    /// None on a network whose packets carry labels only, and under a Security Server.
    keys: Option<PathBuf>,
    /// The Security Server, where there is one.
    pub(crate) server: Option<Server>,
    #[serde(deserialize_with = "interfaces")]
    pub(crate) interfaces: Vec<String>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    backend: Backend,
    cgroup: Option<PathBuf>,
    /// Where metrics and health are served, without authentication.
    pub(crate) metrics: Option<SocketAddr>,
    #[serde(default = "bpffs")]
    bpffs: PathBuf,
    #[serde(default = "socket")]
    pub(crate) socket: PathBuf,
    #[serde(default = "state")]
    pub(crate) state: PathBuf,
    #[serde(default)]
    pub(crate) observe: bool,
    #[serde(default)]
    doi: Doi,
    #[serde(default, deserialize_with = "pass_ethertypes")]
    pass_ethertypes: Vec<u16>,
    /// Directories whose file systems' programs are judged before they run.
    #[serde(default)]
    pub(crate) guard_exec: Vec<PathBuf>,
    /// Directories whose files may be libraries of zones that demand signed code; not what is below.
    #[serde(default = "libraries")]
    pub(crate) libraries: Vec<PathBuf>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    pub(crate) run: Vec<Grant>,
}

/// The Security Server, which brings the policy and the keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    /// What `sigild join` wrote.
    #[serde(default)]
    pub(crate) credential: PathBuf,
}

/// Where policy and keys come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    /// From files of the operator's.
    Files { policy: &'a Path, keys: Option<&'a Path> },
    /// From a Security Server.
    Server(&'a Server),
}

/// Who besides root may start commands in which zones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    pub(crate) uid: u32,
    #[serde(deserialize_with = "zones")]
    pub(crate) zones: Vec<ZoneRef>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Auto,
    Xdp,
    Tc,
}

/// What keeps the rules on processes.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backend {
    #[default]
    Auto,
    Lsm,
    Fanotify,
}

/// The option's domain of interpretation: eight hexadecimal digits, as on the wire.
#[derive(Clone, Copy, Debug)]
struct Doi([u8; 4]);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    nodes: Option<NonZeroU32>,
    handles: Option<NonZeroU32>,
    conversations: Option<NonZeroU32>,
}

impl Config {
    /// Reads and checks a file; paths in it are relative to its directory.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            read_trusted(path).context("cannot read the configuration: name it with --config")?;
        let text =
            String::from_utf8(text).with_context(|| format!("{} is no text", path.display()))?;
        let whole = std::path::absolute(path)?;
        let base = whole.parent().unwrap_or(Path::new("/"));
        Self::parse(&text, base).with_context(|| format!("{} is no good", path.display()))
    }

    fn parse(text: &str, base: &Path) -> Result<Self> {
        let mut config: Self = toml::from_str(text)?;
        let own = [&mut config.bpffs, &mut config.socket, &mut config.state];
        let optional = config.policy.iter_mut().chain(&mut config.keys);
        let optional = optional.chain(&mut config.cgroup).chain(&mut config.guard_exec);
        let optional = optional.chain(&mut config.libraries);
        for path in own.into_iter().chain(optional) {
            *path = base.join(&*path);
        }
        if let Some(server) = &mut config.server {
            ensure!(
                config.policy.is_none() && config.keys.is_none(),
                "under a [server], policy and keys come from there: delete `policy` and `keys`"
            );
            server.credential = if server.credential.as_os_str().is_empty() {
                config.state.join(CREDENTIAL)
            } else {
                base.join(&server.credential)
            };
        }
        ensure!(
            config.server.is_some() || config.policy.is_some(),
            "say where the policy comes from: `policy`, or a [server]"
        );
        Ok(config)
    }

    /// Where policy and keys come from.
    pub(crate) fn origin(&self) -> Origin<'_> {
        match (&self.server, &self.policy) {
            (None, Some(policy)) => Origin::Files { policy, keys: self.keys.as_deref() },
            (Some(server), _) => Origin::Server(server),
            (None, None) => Origin::Files { policy: Path::new(""), keys: None },
        }
    }

    /// The datapath's part. The servers are those of the credential.
    pub(crate) fn options(&self, servers: &[SocketAddr]) -> Result<datapath::Options> {
        let v4 = |server: &SocketAddr| match server {
            SocketAddr::V4(v4) => Ok(*v4),
            SocketAddr::V6(_) => bail!("the credential names {server}: {NO_IPV6}"),
        };
        let servers = servers.iter().map(v4).collect::<Result<Vec<_>>>()?;
        ensure!(
            servers.len() <= CONTROLS,
            "the credential names more than {CONTROLS} servers: delete some of its `servers`"
        );
        let mut limits = datapath::Limits::default();
        let set = |limit: &mut u32, wanted: Option<NonZeroU32>| {
            *limit = wanted.map_or(*limit, NonZeroU32::get);
        };
        set(&mut limits.nodes, self.limits.nodes);
        set(&mut limits.handles, self.limits.handles);
        set(&mut limits.conversations, self.limits.conversations);
        Ok(datapath::Options {
            snid: self.snid.get(),
            interfaces: self.interfaces.clone(),
            mode: match self.mode {
                Mode::Auto => datapath::Mode::Auto,
                Mode::Xdp => datapath::Mode::Xdp,
                Mode::Tc => datapath::Mode::Tc,
            },
            backend: match self.backend {
                Backend::Auto => datapath::Backend::Auto,
                Backend::Lsm => datapath::Backend::Lsm,
                Backend::Fanotify => datapath::Backend::Fanotify,
            },
            cgroup: self.cgroup.clone().map_or_else(cgroup, Ok)?,
            pins: self.bpffs.clone(),
            state: self.state.clone(),
            observe: self.observe,
            doi: self.doi.0,
            pass_ethertypes: self.pass_ethertypes.clone(),
            limits,
            servers,
        })
    }
}

/// Reads a file that decides what is enforced: nobody but root, the agent's user and the file's group
/// may write to it.
pub(crate) fn read_trusted(path: &Path) -> Result<Vec<u8>> {
    const OTHERS_WRITE: u32 = 0o002;
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let of = file.metadata().with_context(|| path.display().to_string())?;
    let own = rustix::process::geteuid().as_raw();
    ensure!(
        of.uid() == 0 || of.uid() == own,
        "{0} belongs to user {1}, so it is not trusted: chown root {0}",
        path.display(),
        of.uid()
    );
    ensure!(
        of.mode() & OTHERS_WRITE == 0,
        "anybody may write to {0}, so it is not trusted: chmod o-w {0}",
        path.display()
    );
    let mut bytes = Vec::new();
    // One more byte than any document may have shows that it has too many.
    let mut most = io::Read::take(file, sigil_policy::MAX_BYTES as u64 + 1);
    io::Read::read_to_end(&mut most, &mut bytes).with_context(|| path.display().to_string())?;
    Ok(bytes)
}

/// The credential's name in the state directory.
const CREDENTIAL: &str = "credential.toml";

fn bpffs() -> PathBuf {
    "/sys/fs/bpf/sigil".into()
}

fn socket() -> PathBuf {
    sigil_control::SOCKET.into()
}

fn state() -> PathBuf {
    "/var/lib/sigil".into()
}

/// Where the dynamic linker looks by itself.
fn libraries() -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let both = ["/usr/lib", "/lib"].map(PathBuf::from);
    let multiarch = both.iter().map(|directory| directory.join(&triplet)).collect::<Vec<_>>();
    multiarch.into_iter().chain(both).chain(["/usr/lib64", "/lib64"].map(PathBuf::from)).collect()
}

/// The root of the control groups, from `/proc/self/mountinfo`.
fn cgroup() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    cgroup2_mount(&mounts)
        .context("no cgroup2 is mounted: mount one, or name a control group with `cgroup`")
}

/// `36 35 98:0 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw`; blanks in paths are octal escapes.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let (root, point) = (left.split(' ').nth(3)?, left.split(' ').nth(4)?);
        let whole = right.split(' ').next()? == "cgroup2" && root == "/";
        whole.then(|| point.replace("\\040", " ").into())
    })
}

fn interfaces<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    const LONGEST: usize = 15;
    let names = Vec::<String>::deserialize(from)?;
    let most = INTERFACES - 1;
    if names.is_empty() || names.len() > most {
        return Err(D::Error::custom(format!(
            "name 1 to {most} interfaces that lead to the cluster"
        )));
    }
    for (at, name) in names.iter().enumerate() {
        let plain = !name.is_empty() && name.len() <= LONGEST && !name.contains(['/', ' ', '\0']);
        if !plain {
            return Err(D::Error::custom(format!("`{name}` is no interface's name")));
        }
        if name == "lo" {
            return Err(D::Error::custom("`lo` is guarded anyway: delete it"));
        }
        if names.iter().take(at).any(|earlier| earlier == name) {
            return Err(D::Error::custom(format!("`{name}` stands twice: delete one")));
        }
    }
    Ok(names)
}

fn pass_ethertypes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u16>, D::Error> {
    let types = Vec::<u16>::deserialize(from)?;
    if types.len() > PASS_ETHERTYPES {
        return Err(D::Error::custom(format!("at most {PASS_ETHERTYPES} EtherTypes may pass")));
    }
    for ethertype in &types {
        let why = match ethertype {
            0..0x600 => "it is a length, not an EtherType",
            0x0800 => "IPv4 is what the policy governs",
            0x86dd => "IPv6 has no labels and would pass unchecked",
            0x8100 | 0x88a8 => "VLANs would hide IPv4 in it; name the VLAN's own interface instead",
            _ => continue,
        };
        return Err(D::Error::custom(format!("EtherType {ethertype:#06x} must not pass: {why}")));
    }
    Ok(types)
}

fn zones<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ZoneRef>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "zones are names or numbers")]
    enum Written {
        Id(u32),
        Name(String),
    }
    let zones = Vec::<Written>::deserialize(from)?;
    let known = |zone| match zone {
        Written::Id(scid) => ZoneRef::Id(scid),
        Written::Name(name) => name.parse().unwrap_or(ZoneRef::Name(name)),
    };
    Ok(zones.into_iter().map(known).collect())
}

impl Default for Doi {
    fn default() -> Self {
        Self([0x10, 0x00, 0x10, 0x00])
    }
}

impl<'de> Deserialize<'de> for Doi {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u32::from_str_radix(&text, 16) {
            Ok(0) => Err(D::Error::custom("a DOI is never 0")),
            Ok(doi) if digits => Ok(Self(doi.to_be_bytes())),
            _ => Err(D::Error::custom(r#"a DOI is eight hexadecimal digits: "10001000""#)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const LEAST: &str = "snid = 1\npolicy = \"policy.xml\"\ninterfaces = [\"eth0\"]\n";

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = Config::parse(LEAST, Path::new("/etc/sigil")).unwrap();
        assert_eq!(config.policy.as_deref(), Some(Path::new("/etc/sigil/policy.xml")));
        assert_eq!(config.socket, Path::new(sigil_control::SOCKET));
        assert_eq!(config.doi.0, [0x10, 0, 0x10, 0]);
        assert!(!config.observe && config.keys.is_none() && config.run.is_empty());
    }

    #[test]
    fn the_sample_is_good_and_says_the_defaults() {
        let sample = include_str!("../sigild.toml");
        let config = Config::parse(sample, Path::new("/etc/sigil")).unwrap();
        let uncommented: String = sample
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let whole = Config::parse(&uncommented, Path::new("/etc/sigil")).unwrap();
        assert_eq!(
            (whole.bpffs, whole.socket, whole.state),
            (config.bpffs, config.socket, config.state)
        );
        assert_eq!(whole.doi.0, config.doi.0);
        assert_eq!(whole.run.len(), 1);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(whole.libraries, config.libraries);
        }
        let limits = datapath::Limits::default();
        assert_eq!(whole.limits.nodes.map(NonZeroU32::get), Some(limits.nodes));
        assert_eq!(whole.limits.handles.map(NonZeroU32::get), Some(limits.handles));
        assert_eq!(whole.limits.conversations.map(NonZeroU32::get), Some(limits.conversations));
    }

    #[test]
    fn refusals() {
        let cases = [
            "snid = 1\n",
            "snid = 0\n",
            "snit = 1\n",
            "snid = \"one\"\n",
            &LEAST.replace("\"eth0\"", ""),
            &LEAST.replace("eth0", "lo"),
            &LEAST.replace("eth0", "a-name-of-17-chars"),
            &LEAST.replace("\"eth0\"", "\"eth0\", \"eth0\""),
            &format!("{LEAST}mode = \"generic\"\n"),
            &format!("{LEAST}backend = \"selinux\"\n"),
            &format!("{LEAST}doi = \"00000000\"\n"),
            &format!("{LEAST}doi = \"+1000100\"\n"),
            &format!("{LEAST}doi = 268439552\n"),
            &format!("{LEAST}pass_ethertypes = [0x0800]\n"),
            &format!("{LEAST}pass_ethertypes = [0x8100]\n"),
            &format!("{LEAST}pass_ethertypes = [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"),
            &format!("{LEAST}[limits]\nnodes = 0\n"),
            &format!("{LEAST}[limits]\nzones = 1\n"),
            &format!("{LEAST}[[run]]\nuid = 1000\n"),
            &format!("{LEAST}[[run]]\nuid = 1000\nzones = [true]\n"),
            &format!("{LEAST}[[run]]\nuid = \"bob\"\nzones = []\n"),
        ];
        let said: Vec<String> = cases
            .iter()
            .map(|case| Config::parse(case, Path::new("/")).unwrap_err().to_string())
            .collect();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn a_file_that_anybody_may_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sigild.toml");
        fs::write(&file, LEAST).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o646)).unwrap();
        let said = format!("{:#}", Config::read(&file).unwrap_err());
        assert!(said.contains("chmod o-w"), "{said}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Config::read(&file).is_ok());
        if std::os::unix::fs::chown(&file, Some(1000), None).is_ok() {
            let said = format!("{:#}", Config::read(&file).unwrap_err());
            assert!(said.contains("chown root"), "{said}");
        }
    }

    #[test]
    fn a_server_that_its_own_rules_would_cut_off_is_refused() {
        let config = Config::parse(LEAST, Path::new("/")).unwrap();
        let said = config.options(&["[::1]:7443".parse().unwrap()]).unwrap_err().to_string();
        assert!(said.contains("[::1]:7443") && said.contains("IPv4"), "{said}");
        assert_eq!(config.options(&["10.0.0.1:7443".parse().unwrap()]).unwrap().servers.len(), 1);
    }

    #[test]
    fn the_cgroup_mount_is_found_among_others() {
        let mounts = "25 30 0:23 / /proc rw - proc proc rw\n\
                      31 30 0:27 /user.slice /mnt/part rw - cgroup2 cgroup2 rw\n\
                      32 30 0:27 / /sys/fs/my\\040cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/my cgroup".into()));
        assert_eq!(cgroup2_mount(""), None);
    }
}
