//! The configuration file, which `sigil-server init` writes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::confine::private;
use crate::keyset::Schedule;
use crate::store::{Credentials, Embedded, Etcd, Store};
use crate::vault::secret;

/// Where everything of the server's is, but for administrators' credentials.
pub(crate) const HOME: &str = "/var/lib/sigil-server";
/// The configuration file there.
pub(crate) const FILE: &str = "/var/lib/sigil-server/server.toml";

/// Ten years, in seconds: no time that is reckoned with is longer.
const LONGEST: u64 = 10 * 365 * 24 * 3600;

/// What the operator decides. Durations are in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where nodes and administrators connect.
    pub(crate) listen: SocketAddr,
    /// Where metrics and health are served, without authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Where alarms go as lines of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alarms: Option<PathBuf>,
    /// The key that the store is encrypted with. Keep it apart from copies of the store.
    pub(crate) store_key: PathBuf,
    /// The embedded store's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<PathBuf>,
    /// etcd's endpoints, where it is the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) etcd: Vec<String>,
    /// The CA that certifies etcd's members, for `https://`. PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// The certificate that etcd knows this server by, and its key. PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_key: Option<PathBuf>,
    /// The cluster's name, where etcd is the store.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) cluster: String,
    #[serde(default)]
    pub(crate) certificates: Certificates,
    #[serde(default)]
    pub(crate) rotation: Rotation,
}

/// How long certificates are good.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Certificates {
    /// A node's, which it renews by itself when two thirds have passed.
    pub(crate) node: u64,
    /// The server's own, made anew at each start and when half has passed.
    pub(crate) server: u64,
}

/// When keys change.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotation {
    /// A new epoch after so long.
    pub(crate) every: u64,
    /// A new epoch when one key stamped so many packets.
    pub(crate) packets: u64,
    /// The old epoch is accepted at least so long.
    pub(crate) overlap: u64,
    /// The old epoch waits so long for nodes that are not attached.
    pub(crate) patience: u64,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { node: 24 * 3600, server: 7 * 24 * 3600 }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self { every: 24 * 3600, packets: 1 << 40, overlap: 10, patience: 3600 }
    }
}

/// [`Certificates`], for who makes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetimes {
    pub(crate) node: time::Duration,
    pub(crate) server: time::Duration,
}

impl Config {
    /// Reads a file; paths in it are relative to its directory.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}: name it with --config", path.display()))?;
        let config: Self =
            toml::from_str(&text).with_context(|| format!("{} is no good", path.display()))?;
        let whole = std::path::absolute(path)?;
        config.check().with_context(|| format!("{} is no good", path.display()))?;
        config.within(whole.parent().unwrap_or(Path::new("/")))
    }

    /// Refuses what cannot be meant.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.store.is_some() == self.etcd.is_empty(),
            "set either `store`, for one server, or `etcd`, for several"
        );
        self.check_etcd()?;
        let Rotation { every, packets, overlap, patience } = self.rotation;
        let Certificates { node, server } = self.certificates;
        let seconds = [
            ("rotation.every", every, 1),
            ("rotation.overlap", overlap, 0),
            ("rotation.patience", patience, 0),
            ("certificates.node", node, 1),
            ("certificates.server", server, 1),
        ];
        for (name, value, least) in seconds {
            ensure!(
                (least..=LONGEST).contains(&value),
                "`{name}` is {value} s: name {least} to {LONGEST}"
            );
        }
        ensure!(packets > 0, "`rotation.packets` is 0: every key would be old at once");
        Ok(())
    }

    /// Who reads or writes the way to etcd could keep records of before, such as that of a node which was
    /// revoked since, for they are sealed one by one.
    fn check_etcd(&self) -> Result<()> {
        for url in &self.etcd {
            let rest = url.strip_prefix("http://");
            let place = rest.map(|rest| rest.trim_end_matches('/'));
            let here = place.and_then(|place| place.parse::<SocketAddr>().ok());
            ensure!(
                url.starts_with("https://") || here.is_some_and(|here| here.ip().is_loopback()),
                "`{url}` leads to another host in the clear: name https://HOST:PORT, and `etcd_ca`"
            );
            ensure!(
                rest.is_some() || self.etcd_ca.is_some(),
                "`{url}` needs `etcd_ca`, the CA that certifies etcd's members"
            );
        }
        ensure!(
            self.etcd_cert.is_some() == self.etcd_key.is_some(),
            "`etcd_cert` and `etcd_key` go together"
        );
        Ok(())
    }

    /// With paths from a directory on. None may lead to where others can write.
    pub(crate) fn within(mut self, base: &Path) -> Result<Self> {
        self.store_key = base.join(&self.store_key);
        self.alarms = self.alarms.map(|alarms| base.join(alarms));
        self.store = self.store.map(|store| base.join(store));
        for file in [&mut self.etcd_ca, &mut self.etcd_cert, &mut self.etcd_key] {
            *file = file.as_ref().map(|file| base.join(file));
        }
        let files = [Some(&self.store_key), self.store.as_ref(), self.alarms.as_ref()];
        for directory in files.into_iter().flatten().filter_map(|file| file.parent()) {
            private(directory)?;
        }
        Ok(self)
    }

    /// Opens the store.
    pub(crate) fn store(&self) -> Result<Box<dyn Store>> {
        if let Some(path) = &self.store {
            let store = Embedded::open(path);
            return Ok(Box::new(store.with_context(|| format!("cannot use {}", path.display()))?));
        }
        let credentials = self.credentials()?;
        Ok(Box::new(Etcd::connect(&self.etcd, &self.cluster, credentials.as_ref())?))
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let Some(ca) = &self.etcd_ca else { return Ok(None) };
        let own = self.etcd_cert.as_ref().zip(self.etcd_key.as_ref());
        let own = own.map(|(certificate, key)| Ok::<_, Error>((read(certificate)?, secret(key)?)));
        Ok(Some(Credentials { ca: read(ca)?, own: own.transpose()? }))
    }

    pub(crate) fn lifetimes(&self) -> Lifetimes {
        let seconds = |seconds: u64| {
            time::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX).max(1))
        };
        Lifetimes {
            node: seconds(self.certificates.node),
            server: seconds(self.certificates.server),
        }
    }

    pub(crate) fn schedule(&self) -> Schedule {
        Schedule {
            rotate: Duration::from_secs(self.rotation.every),
            packets: self.rotation.packets,
            overlap: Duration::from_secs(self.rotation.overlap),
            patience: Duration::from_secs(self.rotation.patience),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_rotate_for_ever_or_never_end_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.toml");
        let read = |settings: &str| {
            let least = "listen = \"127.0.0.1:1\"\nstore_key = \"key\"\nstore = \"db\"\n";
            std::fs::write(&file, format!("{least}{settings}")).unwrap();
            Config::read(&file).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("[rotation]\noverlap = 0\n"), Ok(()));
        for (settings, named) in [
            ("[rotation]\nevery = 0\n", "rotation.every"),
            ("[rotation]\npackets = 0\n", "rotation.packets"),
            ("[rotation]\npatience = 9223372036854775807\n", "rotation.patience"),
            ("[certificates]\nnode = 9223372036854775807\n", "certificates.node"),
            ("[certificates]\nserver = 0\n", "certificates.server"),
            ("etcd = [\"http://127.0.0.1:1\"]\n", "either `store`"),
            ("etcd_key = \"key\"\n", "`etcd_cert`"),
        ] {
            let said = read(settings).unwrap_err();
            assert!(said.contains(named), "{said}");
        }
    }

    #[test]
    fn nothing_goes_to_another_host_in_the_clear() {
        let said = |url: &str, ca: Option<&str>| {
            let text = "listen = \"127.0.0.1:1\"\nstore_key = \"key\"\n";
            let mut config: Config = toml::from_str(text).unwrap();
            config.etcd = vec![url.to_owned()];
            config.etcd_ca = ca.map(PathBuf::from);
            config.check().map_err(|error| error.to_string())
        };
        for good in ["http://127.0.0.1:2379", "http://[::1]:2379/"] {
            assert_eq!(said(good, None), Ok(()), "{good}");
        }
        assert_eq!(said("https://etcd.example:2379", Some("ca.pem")), Ok(()));
        assert!(said("https://etcd.example:2379", None).unwrap_err().contains("etcd_ca"));
        for bad in
            ["http://10.0.0.1:2379", "http://127.0.0.1.example:2379", "http://a@127.0.0.1:1@b"]
        {
            assert!(said(bad, Some("ca.pem")).unwrap_err().contains("in the clear"), "{bad}");
        }
    }
}
