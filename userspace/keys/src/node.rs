//! The keys that one node holds.

use std::collections::BTreeSet;

use sigil_common::icv::Suite;

use crate::{EpochSecret, GenerateError, PairKey, Problem, RandomError};

/// Epochs that a node holds at once; the kernel has as many slots, by key id modulo.
pub const EPOCHS_MAX: usize = 4;

/// Bytes of a cluster's name at most.
pub const CLUSTER_MAX: usize = 64;

/// What a node needs to stamp to its peers and to verify what they send.
#[derive(Debug)]
pub struct NodeKeys {
    cluster: String,
    snid: u32,
    epochs: Vec<Epoch>,
}

/// The keys of one epoch.
#[derive(Debug)]
pub struct Epoch {
    /// The key id on the wire.
    pub id: u8,
    /// The MAC of the epoch.
    pub suite: Suite,
    /// The pairs that the node is part of.
    pub pairs: Vec<Pair>,
}

/// A key and its direction.
#[derive(Debug)]
pub struct Pair {
    /// `SnID` of the node that stamps.
    pub source: u32,
    /// `SnID` of the node that verifies.
    pub target: u32,
    /// The key.
    pub key: PairKey,
}

impl NodeKeys {
    /// Puts together what a node holds.
    ///
    /// # Errors
    /// If the cluster's name is not to be had, an id is 0, epochs are none, too many or not
    /// consecutive, or a pair stands twice or is no concern of the node's.
    pub fn new(cluster: String, snid: u32, epochs: Vec<Epoch>) -> Result<Self, Problem> {
        check_cluster(&cluster)?;
        if snid == 0 {
            return Err(Problem::Zero { field: "snid" });
        }
        if epochs.is_empty() || epochs.len() > EPOCHS_MAX {
            return Err(Problem::Epochs { count: epochs.len() });
        }
        for (before, after) in epochs.iter().zip(epochs.iter().skip(1)) {
            if after.id != before.id.wrapping_add(1) {
                return Err(Problem::EpochOrder { before: before.id, after: after.id });
            }
        }
        for epoch in &epochs {
            let mut seen = BTreeSet::new();
            for &Pair { source, target, .. } in &epoch.pairs {
                check_pair(snid, source, target)?;
                if !seen.insert((source, target)) {
                    return Err(Problem::Duplicate {
                        epoch: epoch.id,
                        source_snid: source,
                        target,
                    });
                }
            }
        }
        Ok(Self { cluster, snid, epochs })
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The node's own `SnID`.
    #[must_use]
    pub const fn snid(&self) -> u32 {
        self.snid
    }

    /// The epochs, the newest last.
    #[must_use]
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }
}

pub(crate) fn check_cluster(cluster: &str) -> Result<(), Problem> {
    if cluster.is_empty() || cluster.len() > CLUSTER_MAX || cluster.contains(char::is_control) {
        return Err(Problem::Cluster);
    }
    Ok(())
}

pub(crate) fn check_pair(snid: u32, source: u32, target: u32) -> Result<(), Problem> {
    if source == 0 || target == 0 {
        return Err(Problem::Zero { field: if source == 0 { "source" } else { "target" } });
    }
    if source == target {
        return Err(Problem::Loop { snid: source });
    }
    if source != snid && target != snid {
        return Err(Problem::Stranger { snid, source_snid: source, target });
    }
    Ok(())
}

/// Draws a secret for each epoch and derives from it the keys of every node. The secrets are gone
/// then: nodes that join later need new epochs.
///
/// # Errors
/// If `random` fails, or the result would be no good; see [`NodeKeys::new`].
pub fn generate(
    cluster: &str,
    snids: &[u32],
    epochs: &[u8],
    suite: Suite,
    mut random: impl FnMut(&mut [u8]) -> Result<(), RandomError>,
) -> Result<Vec<NodeKeys>, GenerateError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = snids.iter().find(|snid| !seen.insert(**snid)) {
        return Err(GenerateError::Twice { snid: *twice });
    }
    let mut secrets = Vec::with_capacity(epochs.len());
    for id in epochs {
        secrets.push((*id, EpochSecret::draw(&mut random)?));
    }
    let of_node = |snid: u32| {
        let derive = |(id, secret): &(u8, EpochSecret)| Epoch {
            id: *id,
            suite,
            pairs: snids
                .iter()
                .filter(|peer| **peer != snid)
                .flat_map(|peer| [(snid, *peer), (*peer, snid)])
                .map(|(source, target)| Pair {
                    source,
                    target,
                    key: secret.derive(cluster, source, target, *id),
                })
                .collect(),
        };
        NodeKeys::new(cluster.to_owned(), snid, secrets.iter().map(derive).collect())
    };
    snids.iter().map(|snid| of_node(*snid).map_err(GenerateError::Keys)).collect()
}
