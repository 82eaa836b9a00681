//! This node's keys, from its key file to the datapath.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sigil_cluster::proto;
use sigil_common::icv::Suite;
use sigil_datapath::{EpochKeys, Pair};
use sigil_keys::{EPOCHS_MAX, Epoch, NodeKeys};

/// A node's keys, as the datapath takes them. They are wiped from memory when the value goes.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// The cluster that they were made for; none for no keys.
    cluster: Option<String>,
    pub(crate) epochs: Vec<EpochKeys>,
}

impl Keys {
    /// Reads the key file of this node.
    pub(crate) fn read(path: &Path, snid: u32) -> Result<Self> {
        let keys = NodeKeys::load(path).map_err(|error| {
            let path = error.path.display().to_string();
            anyhow::Error::new(error.problem).context(path).context("cannot read the keys")
        })?;
        ensure!(
            keys.snid() == snid,
            "{} holds the keys of node {}, and this is node {snid}: correct `keys` or `snid`",
            path.display(),
            keys.snid(),
        );
        Ok(Self {
            cluster: Some(keys.cluster().to_owned()),
            epochs: keys.epochs().iter().map(epoch).collect(),
        })
    }

    /// Keys of one cluster are not for another's policy.
    pub(crate) fn check_cluster(&self, policy: &str) -> Result<()> {
        if let Some(cluster) = &self.cluster {
            ensure!(
                cluster == policy,
                "the keys are for cluster `{cluster}`, and the policy is for cluster `{policy}`: \
                 make keys for this policy (labelctl keys generate)"
            );
        }
        Ok(())
    }
}

/// Keys that a server sent: those to stamp with first, for the datapath takes the first it may.
pub(crate) fn of_server(keys: &proto::Keys) -> Result<Vec<EpochKeys>> {
    ensure!(keys.epochs.len() <= EPOCHS_MAX, "more than {EPOCHS_MAX} epochs");
    let pair = |pair: &proto::Pair| {
        let key = <[u8; 32]>::try_from(pair.key.as_slice()).context("a key of another length")?;
        Ok(Pair { source: pair.source, target: pair.target, key: key.into() })
    };
    let epoch = |epoch: &proto::Epoch| {
        Ok(EpochKeys {
            key_id: u8::try_from(epoch.key_id).context("a key id above 255")?,
            suite: Suite::try_from(epoch.suite).ok().context("a suite of a later release")?,
            pairs: epoch.pairs.iter().map(pair).collect::<Result<_>>()?,
        })
    };
    let mut epochs = keys.epochs.iter().map(epoch).collect::<Result<Vec<_>>>()?;
    epochs.sort_by_key(|epoch| u32::from(epoch.key_id) != keys.stamp);
    Ok(epochs)
}

fn epoch(epoch: &Epoch) -> EpochKeys {
    let pair = |pair: &sigil_keys::Pair| Pair {
        source: pair.source,
        target: pair.target,
        key: (*pair.key.expose()).into(),
    };
    EpochKeys {
        key_id: epoch.id,
        suite: epoch.suite,
        pairs: epoch.pairs.iter().map(pair).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_keys_are_taken_whole_and_anothers_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node-1.toml");
        let nodes = sigil_keys::generate(
            "lab",
            &[1, 2, 3],
            &[7, 8],
            Suite::Blake3,
            sigil_keys::system_random,
        );
        nodes.unwrap()[0].store(&path).unwrap();
        let keys = Keys::read(&path, 1).unwrap();
        let ids: Vec<_> =
            keys.epochs.iter().map(|epoch| (epoch.key_id, epoch.pairs.len())).collect();
        assert_eq!(ids, [(7, 4), (8, 4)]);
        assert!(keys.check_cluster("lab").is_ok());
        assert!(keys.check_cluster("other").unwrap_err().to_string().contains("cluster `other`"));
        let said = Keys::read(&path, 2).unwrap_err().to_string();
        assert!(said.contains("holds the keys of node 1, and this is node 2"), "{said}");
        assert!(!format!("{keys:?}").contains("key: ["), "a key is printed");
    }
}
