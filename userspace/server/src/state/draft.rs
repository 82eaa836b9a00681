//! Records that a decision changes, and those that it rests on.

use serde::Serialize;

use super::encode;
use crate::record::{Admin, Keys, Node, Policies, Snapshot, Token};

/// Records that a decision changes.
#[derive(Default)]
pub(crate) struct Draft {
    pub(super) writes: Vec<(String, u64, Option<Vec<u8>>)>,
    /// Records that it rests on and leaves as they are, and their versions.
    pub(super) reads: Vec<(String, u64)>,
    /// Records that go, whatever they are.
    pub(super) deletes: Vec<String>,
}

impl Draft {
    fn put<T: Serialize>(&mut self, key: String, version: u64, value: &T) {
        self.writes.push((key, version, Some(encode(value))));
    }

    pub(crate) fn expect(&mut self, key: String, version: u64) {
        self.reads.push((key, version));
    }

    pub(crate) fn delete(&mut self, key: String) {
        self.deletes.push(key);
    }

    pub(crate) fn admin(&mut self, snapshot: &Snapshot, name: &str, admin: &Admin) {
        let version = snapshot.admins.get(name).map_or(0, |held| held.version);
        self.put(format!("admin/{name}"), version, admin);
    }

    pub(crate) fn keys(&mut self, snapshot: &Snapshot, keys: &Keys) {
        self.put("keys".to_owned(), snapshot.keys.version, keys);
    }

    pub(crate) fn policies(&mut self, snapshot: &Snapshot, policies: &Policies) {
        self.put("policy".to_owned(), snapshot.policies.version, policies);
    }

    pub(crate) fn node(&mut self, snapshot: &Snapshot, snid: u32, node: &Node) {
        let version = snapshot.nodes.get(&snid).map_or(0, |held| held.version);
        self.put(format!("node/{snid}"), version, node);
    }

    pub(crate) fn token(&mut self, snapshot: &Snapshot, hash: &str, token: &Token) {
        let version = snapshot.tokens.get(hash).map_or(0, |held| held.version);
        self.put(format!("token/{hash}"), version, token);
    }

    pub(crate) fn drop_token(&mut self, snapshot: &Snapshot, hash: &str) {
        let version = snapshot.tokens.get(hash).map_or(0, |held| held.version);
        self.writes.push((format!("token/{hash}"), version, None));
    }
}
