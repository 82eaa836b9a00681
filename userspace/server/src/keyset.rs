//! Which keys a node holds, and when epochs come and go.
//!
//! A pair's key exists in an epoch if both nodes may have that epoch. A node whose counters of
//! sequence numbers were lost (a reboot, a clone) may have only epochs that were made after it came
//! back, so that no number is ever used twice under one key and no old packet is taken again.
//!
//! A rotation has three steps, and each waits until all attached nodes have followed: a new epoch is
//! accepted everywhere, then stamped with, then the old ones go.

use std::time::Duration;

use anyhow::Result;
use sigil_cluster::proto;
use sigil_keys::{EPOCHS_MAX, EpochSecret};

use crate::record::{Cluster, Epoch, Keys, Millis, Secret, Snapshot, Status};
use crate::vault::random;

/// When epochs change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// A new epoch after so long.
    pub(crate) rotate: Duration,
    /// A new epoch when one key stamped so many packets.
    pub(crate) packets: u64,
    /// The old epoch is accepted at least so long after the new one is stamped with.
    pub(crate) overlap: Duration,
    /// For a node that is not attached the old epoch stays so long.
    pub(crate) patience: Duration,
}

/// An attached node that does not follow holds up the others so long.
const SLOW: Duration = Duration::from_secs(10);

/// All keys that a node should hold.
pub(crate) fn of_node(cluster: &Cluster, snapshot: &Snapshot, snid: u32) -> proto::Keys {
    let keys = &snapshot.keys.value;
    let revoked = snapshot.nodes.iter().filter(|(_, node)| node.value.revoked);
    let first = snapshot.nodes.get(&snid).map_or(u64::MAX, |node| node.value.first_epoch);
    let epoch = |epoch: &Epoch| {
        let secret = EpochSecret::new(epoch.secret.0);
        let peers = snapshot
            .members()
            .filter(|(peer, node)| *peer != snid && epoch.number >= node.first_epoch);
        let derive = |source, target| proto::Pair {
            source,
            target,
            key: secret.derive(&cluster.name, source, target, epoch.key_id()).expose().to_vec(),
        };
        proto::Epoch {
            key_id: u32::from(epoch.key_id()),
            suite: u32::from(cluster.suite),
            pairs: peers.flat_map(|(peer, _)| [derive(snid, peer), derive(peer, snid)]).collect(),
            number: epoch.number,
        }
    };
    let epochs = keys.epochs.iter().filter(|epoch| epoch.number >= first).map(epoch).collect();
    let stamp = keys.epochs.iter().find(|epoch| epoch.number == keys.stamp);
    proto::Keys {
        version: keys.version,
        epochs,
        stamp: stamp.map_or(0, |epoch| u32::from(epoch.key_id())),
        revoked: revoked.map(|(snid, _)| *snid).collect(),
    }
}

/// The first epoch that a node may have which comes back without its counters.
pub(crate) fn fresh(keys: &Keys) -> u64 {
    keys.epochs.last().map_or(1, |newest| newest.number + 1)
}

/// How nodes follow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Followers {
    /// Every attached node holds the keys of the version.
    pub(crate) attached: bool,
    /// So does every other one.
    pub(crate) others: bool,
    /// The most packets that one key stamped.
    pub(crate) stamped: u64,
}

impl Followers {
    /// Counts them.
    pub(crate) fn of(
        snapshot: &Snapshot,
        statuses: &std::collections::BTreeMap<u32, Status>,
    ) -> Self {
        let version = snapshot.keys.value.version;
        let mut this = Self { attached: true, others: true, stamped: 0 };
        for (snid, _) in snapshot.members() {
            let Some(status) = statuses.get(&snid) else { continue };
            // What is newer says as much.
            let follows = status.keys >= version;
            if status.attached.is_empty() {
                this.others &= follows;
            } else {
                this.attached &= follows;
            }
            if status.keys == version {
                this.stamped = this.stamped.max(status.stamped);
            }
        }
        this
    }
}

/// The next step, if it is time for one. No I/O but the randomness of a new epoch.
pub(crate) fn step(
    keys: &Keys,
    followers: Followers,
    schedule: &Schedule,
    now: Millis,
) -> Result<Option<Keys>> {
    let since = Duration::from_millis(u64::try_from(now - keys.since).unwrap_or_default());
    let Some(newest) = keys.epochs.last() else { return next_epoch(keys, now).map(Some) };
    let age = Duration::from_millis(u64::try_from(now - newest.created).unwrap_or_default());
    let followed = followers.attached || since >= SLOW;
    if keys.stamp != newest.number {
        // Prepared: stamped with once all accept it.
        let stamped =
            Keys { version: keys.version + 1, stamp: newest.number, since: now, ..keys.clone() };
        return Ok(followed.then_some(stamped));
    }
    let wanted = keys.wanted > newest.number
        || age >= schedule.rotate
        || followers.stamped >= schedule.packets;
    let retire =
        followed && since >= schedule.overlap && (followers.others || since >= schedule.patience);
    let full = keys.epochs.len() >= EPOCHS_MAX;
    if keys.epochs.len() > 1 && (retire || full && wanted && followed && since >= schedule.overlap)
    {
        let epochs = vec![newest.clone()];
        return Ok(Some(Keys { version: keys.version + 1, epochs, since: now, ..keys.clone() }));
    }
    if wanted && !full {
        return next_epoch(keys, now).map(Some);
    }
    Ok(None)
}

/// A further epoch, which nobody stamps with yet unless it is the first.
fn next_epoch(keys: &Keys, now: Millis) -> Result<Keys> {
    let mut secret = Secret([0; 32]);
    random(&mut secret.0)?;
    let number = fresh(keys);
    let mut next = keys.clone();
    next.epochs.push(Epoch { number, secret, created: now });
    next.version += 1;
    next.since = now;
    if next.epochs.len() == 1 {
        next.stamp = number;
    }
    Ok(next)
}

/// What follows a store that was restored from an old copy: far above all that was given out since,
/// and with nothing of what was.
pub(crate) fn recovered(keys: &Keys, now: Millis) -> Result<Keys> {
    let number = fresh(keys).saturating_add(JUMP);
    let mut secret = Secret([0; 32]);
    random(&mut secret.0)?;
    Ok(Keys {
        version: keys.version.saturating_add(JUMP),
        epochs: vec![Epoch { number, secret, created: now }],
        stamp: number,
        since: now,
        wanted: 0,
    })
}

/// More than any cluster's numbers rise between a copy and its return.
pub(crate) const JUMP: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Held, Node, Policies};
    use std::collections::BTreeMap;

    const SCHEDULE: Schedule = Schedule {
        rotate: Duration::from_hours(1),
        packets: 1000,
        overlap: Duration::from_secs(5),
        patience: Duration::from_mins(10),
    };
    const ALL: Followers = Followers { attached: true, others: true, stamped: 0 };

    fn step_at(keys: &Keys, followers: Followers, now: Millis) -> Option<Keys> {
        step(keys, followers, &SCHEDULE, now).unwrap()
    }

    fn numbers(keys: &Keys) -> Vec<u64> {
        keys.epochs.iter().map(|epoch| epoch.number).collect()
    }

    #[test]
    fn a_rotation_prepares_stamps_and_retires_and_waits_for_nodes_each_time() {
        let first = step_at(&Keys::default(), ALL, 0).unwrap();
        assert_eq!((numbers(&first), first.stamp), (vec![1], 1));
        assert!(step_at(&first, ALL, 1000).is_none(), "nothing to do");
        let wanted = Keys { wanted: 2, ..first };
        let prepared = step_at(&wanted, ALL, 1000).unwrap();
        assert_eq!((numbers(&prepared), prepared.stamp), (vec![1, 2], 1));
        let slow = Followers { attached: false, ..ALL };
        assert!(step_at(&prepared, slow, 2000).is_none(), "a node does not accept it yet");
        let stamped = step_at(&prepared, ALL, 2000).unwrap();
        assert_eq!((numbers(&stamped), stamped.stamp), (vec![1, 2], 2));
        assert!(step_at(&stamped, ALL, 3000).is_none(), "packets may be under way");
        let away = Followers { others: false, ..ALL };
        assert!(step_at(&stamped, away, 8000).is_none(), "a node may be partitioned");
        assert!(step_at(&stamped, away, 700_000).is_some(), "not for ever");
        let retired = step_at(&stamped, ALL, 8000).unwrap();
        assert_eq!((numbers(&retired), retired.stamp), (vec![2], 2));
        assert!(retired.version > stamped.version && stamped.version > prepared.version);
    }

    #[test]
    fn time_and_packets_bring_a_new_epoch() {
        let first = step_at(&Keys::default(), ALL, 0).unwrap();
        assert!(step_at(&first, Followers { stamped: 999, ..ALL }, 1).is_none());
        assert!(step_at(&first, Followers { stamped: 1000, ..ALL }, 1).is_some());
        assert!(step_at(&first, ALL, 3_600_000).is_some());
    }

    #[test]
    fn never_more_than_four_epochs_and_no_gaps() {
        let mut keys = Keys::default();
        let mut now = 0;
        for _ in 0..64 {
            now += 20_000;
            keys.wanted = u64::MAX;
            // Nodes that are away keep old epochs as long as there is room.
            let away = Followers { others: false, ..ALL };
            if let Some(next) = step_at(&keys, away, now) {
                keys = next;
            }
            let numbers = numbers(&keys);
            assert!((1..=EPOCHS_MAX).contains(&numbers.len()));
            assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
            assert!(numbers.contains(&keys.stamp));
        }
        assert!(keys.stamp > 16);
    }

    fn snapshot(firsts: &[(u32, u64)], epochs: u64) -> (Cluster, Snapshot) {
        let cluster = Cluster {
            name: "lab".into(),
            ca: String::new(),
            ca_key: Secret(String::new()),
            policy_key: Secret(Vec::new()),
            suite: 3,
        };
        let epochs = (1..=epochs)
            .map(|number| Epoch {
                number,
                secret: Secret([u8::try_from(number).unwrap(); 32]),
                created: 0,
            })
            .collect();
        let keys = Keys { epochs, stamp: 1, ..Keys::default() };
        let node =
            |first_epoch| Held { version: 1, value: Node { first_epoch, ..Node::default() } };
        let nodes: BTreeMap<_, _> =
            firsts.iter().map(|(snid, first)| (*snid, node(*first))).collect();
        let snapshot = Snapshot {
            keys: Held { version: 1, value: keys },
            policies: Held { version: 0, value: Policies::default() },
            nodes,
            ..Snapshot::default()
        };
        (cluster, snapshot)
    }

    #[test]
    fn a_node_gets_its_own_pairs_alone() {
        let (cluster, snapshot) = snapshot(&[(1, 1), (2, 1), (3, 1)], 2);
        let keys = of_node(&cluster, &snapshot, 1);
        for epoch in &keys.epochs {
            let pairs: Vec<_> = epoch.pairs.iter().map(|pair| (pair.source, pair.target)).collect();
            assert_eq!(pairs, [(1, 2), (2, 1), (1, 3), (3, 1)]);
        }
        let theirs = of_node(&cluster, &snapshot, 2);
        let find = |keys: &proto::Keys| {
            let pairs = keys.epochs[0].pairs.iter();
            pairs.clone().find(|p| (p.source, p.target) == (1, 2)).map(|p| p.key.clone())
        };
        assert_eq!(find(&keys), find(&theirs), "both ends hold the same key");
    }

    #[test]
    fn one_who_came_back_shares_only_what_was_made_since() {
        let (cluster, snapshot) = snapshot(&[(1, 1), (2, 2)], 2);
        for snid in [1, 2] {
            let keys = of_node(&cluster, &snapshot, snid);
            let pairs: Vec<_> =
                keys.epochs.iter().map(|epoch| (epoch.key_id, epoch.pairs.len())).collect();
            assert_eq!(pairs, if snid == 1 { vec![(1, 0), (2, 2)] } else { vec![(2, 2)] });
        }
    }

    #[test]
    fn the_revoked_have_no_keys_and_nobody_has_keys_for_them() {
        let (cluster, mut snapshot) = snapshot(&[(1, 1), (2, 1)], 1);
        snapshot.nodes.get_mut(&2).unwrap().value.revoked = true;
        let keys = of_node(&cluster, &snapshot, 1);
        assert!(keys.epochs[0].pairs.is_empty());
        assert_eq!(keys.revoked, [2]);
    }
}
