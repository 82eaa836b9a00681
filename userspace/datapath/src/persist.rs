//! What must outlive a reboot: which epochs this node has stamped with, how far each peer's
//! sequence numbers were, and what the agent changed on interfaces and routes.
//!
//! The file is replaced as a whole: written beside, synchronised, renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{Array, MapData};
use serde::{Deserialize, Serialize};
use sigil_common::abi::{
    key::{EPOCH_SLOTS, Node, RxKey},
    name,
};

use sigil_common::icv::Suite;

use crate::error::Error;
use crate::keys::fingerprint;
use crate::load::Datapath;
use crate::net::Reserved;

/// The state file.
#[derive(Debug, Default)]
pub(crate) struct State {
    path: PathBuf,
    data: Data,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Data {
    /// Fingerprints of keys that packets were stamped with.
    used: BTreeSet<String>,
    /// Fingerprint of a peer's key → numbers below this were seen.
    floors: BTreeMap<String, u64>,
    /// Interface → what was changed on it.
    reserved: BTreeMap<String, Reserved>,
}

impl State {
    /// Reads the state; a missing file is an empty state, a broken one is an error: it guards
    /// against replays.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let path = dir.join("datapath.json");
        let data = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::Io { path: path.clone(), source: error.into() })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Data::default(),
            Err(error) => return Err(Error::Io { path, source: error }),
        };
        Ok(Self { path, data })
    }

    pub(crate) fn used(&self, key: &str) -> bool {
        self.data.used.contains(key)
    }

    /// Remembers a key before the first packet is stamped with it.
    pub(crate) fn mark_used(&mut self, key: &str) -> Result<(), Error> {
        if self.data.used.insert(key.to_owned()) { self.write() } else { Ok(()) }
    }

    /// Forgets all keys but these.
    pub(crate) fn retain(&mut self, keys: &BTreeSet<String>) -> Result<(), Error> {
        let before = self.data.clone();
        self.data.used.retain(|key| keys.contains(key));
        self.data.floors.retain(|key, _| keys.contains(key));
        if self.data == before { Ok(()) } else { self.write() }
    }

    pub(crate) fn floor(&self, key: &str) -> u64 {
        self.data.floors.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn reserved(&self, interface: &str) -> Reserved {
        self.data.reserved.get(interface).cloned().unwrap_or_default()
    }

    /// What was changed on all interfaces but this one.
    pub(crate) fn others(&self, interface: &str) -> Vec<Reserved> {
        let all = self.data.reserved.iter().filter(|(name, _)| *name != interface);
        all.map(|(_, reserved)| reserved.clone()).collect()
    }

    pub(crate) fn interfaces(&self) -> Vec<String> {
        self.data.reserved.keys().cloned().collect()
    }

    pub(crate) fn set_reserved(
        &mut self,
        interface: &str,
        r: Option<Reserved>,
    ) -> Result<(), Error> {
        let before = self.data.reserved.clone();
        match r {
            Some(reserved) => self.data.reserved.insert(interface.to_owned(), reserved),
            None => self.data.reserved.remove(interface),
        };
        if self.data.reserved == before { Ok(()) } else { self.write() }
    }

    fn set_floors(&mut self, floors: BTreeMap<String, u64>) -> Result<(), Error> {
        if self.data.floors == floors {
            return Ok(());
        }
        self.data.floors = floors;
        self.write()
    }

    fn write(&self) -> Result<(), Error> {
        let beside = self.path.with_extension("new");
        let bytes = serde_json::to_vec_pretty(&self.data)
            .map_err(|error| Error::Io { path: self.path.clone(), source: error.into() })?;
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            match self.path.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(Error::io(&self.path))
    }
}

impl Datapath {
    /// Writes what must outlive a reboot. To be called about once a second: packets of a peer that
    /// arrived since the last call could be replayed once if this node crashes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Map`].
    pub fn persist(&mut self) -> Result<(), Error> {
        let nodes: Array<&MapData, Node> = self.view(name::NODES)?;
        let keys: Array<&MapData, RxKey> = self.view(name::RX_KEYS)?;
        let mut floors = self.state.data.floors.clone();
        for node in 0..self.options.limits.nodes {
            let entry = nodes.get(&node, 0).map_err(Error::map(name::NODES))?;
            if entry.snid == 0 || entry.snid == self.options.snid {
                continue;
            }
            for slot in 0..EPOCH_SLOTS {
                let key =
                    keys.get(&(node * EPOCH_SLOTS + slot), 0).map_err(Error::map(name::RX_KEYS))?;
                if let Ok(suite) = Suite::try_from(key.suite)
                    && key.top > 0
                {
                    floors.insert(fingerprint(suite, &key.mac), key.top + 1);
                }
            }
        }
        self.state.set_floors(floors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_stays_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut state = State::open(dir.path()).expect("a state");
        state.mark_used("a").expect("written");
        state.set_floors([("b".to_owned(), 9)].into()).expect("written");
        let again = State::open(dir.path()).expect("a state");
        assert!(again.used("a") && !again.used("b"));
        assert_eq!((again.floor("b"), again.floor("a")), (9, 0));
    }

    #[test]
    fn a_broken_state_is_not_an_empty_one() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("datapath.json"), "{\"used\":[").expect("written");
        assert!(State::open(dir.path()).is_err());
    }
}
