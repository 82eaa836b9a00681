//! Documents of policies in the store, and what they compile to.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use sigil_cluster::proto::MAX_MESSAGE;
use sigil_policy::{Compiled, Policy, Slicer, compile};

use crate::ca::hash;
use crate::state::{Draft, State};
use crate::store::Transaction;

/// Bytes of a document in one record: etcd takes no request above 1.5 MB.
const CHUNK: usize = 1 << 20;

/// Records of the longest document that a message brings.
const CHUNKS: usize = MAX_MESSAGE / CHUNK;

/// A document that was accepted: what it compiled to, and its parts.
pub(crate) struct Accepted {
    pub(crate) policy: Policy,
    pub(crate) slicer: Slicer,
}

/// What the documents in use compiled to, by their hashes; or why one does not any more, after a
/// change of release.
pub(crate) type InUse = HashMap<String, Result<Arc<Accepted>, String>>;

impl Accepted {
    /// Compiles a document; the error is its report, as lines. Takes long: not for a thread that
    /// serves nodes.
    pub(crate) fn compile(name: &str, document: &[u8], floor: Option<u64>) -> Result<Self, String> {
        let compiled = compile(name, document, floor);
        let Compiled { policy, .. } = compiled.map_err(|report| report.to_string())?;
        let text = str::from_utf8(document).map_err(|error| error.to_string())?;
        Ok(Self { slicer: Slicer::new(text, &policy), policy })
    }
}

fn key(name: &str, at: usize) -> String {
    format!("document/{name}/{at:04}")
}

impl Draft {
    /// Drops a document, by its hash.
    pub(crate) fn document(&mut self, name: &str) {
        (0..CHUNKS).for_each(|at| self.delete(key(name, at)));
    }
}

impl State {
    /// Keeps a document, and what it compiled to; its hash.
    pub(crate) async fn keep(&self, document: &[u8], accepted: &Arc<Accepted>) -> Result<String> {
        let name = hash(document);
        for (at, chunk) in document.chunks(CHUNK).enumerate() {
            let key = key(&name, at);
            let put = vec![(key.clone(), self.vault.seal(&key, chunk)?)];
            self.store.commit(Transaction { put, ..Transaction::default() }).await?;
        }
        self.place(&mut *self.in_use.lock().await, &name, Ok(Arc::clone(accepted)));
        Ok(name)
    }

    /// What a document compiles to, by its hash.
    pub(crate) async fn policy(&self, name: &str) -> Result<Arc<Accepted>> {
        // Held meanwhile: all nodes ask at once, and one answer serves them.
        let mut in_use = self.in_use.lock().await;
        if let Some(held) = in_use.get(name) {
            return held.clone().map_err(|report| anyhow!("{report}"));
        }
        let document = self.document(name).await?;
        let compiled =
            tokio::task::spawn_blocking(move || Accepted::compile("policy", &document, None));
        let compiled = compiled.await?.map(Arc::new);
        self.place(&mut in_use, name, compiled.clone());
        compiled.map_err(|report| anyhow!("{report}"))
    }

    /// Puts one in the place of what is in use no more.
    fn place(&self, in_use: &mut InUse, name: &str, compiled: Result<Arc<Accepted>, String>) {
        let snapshot = self.snapshot();
        in_use.retain(|name, _| snapshot.policies.value.uses(name));
        in_use.insert(name.to_owned(), compiled);
    }

    pub(crate) async fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut document = Vec::new();
        for stored in self.store.scan(&format!("document/{name}/")).await? {
            let sealed = stored.value.unwrap_or_default();
            document.extend_from_slice(&self.vault.open_value(&stored.key, &sealed)?);
        }
        if hash(&document) != name {
            bail!("the document {name} is not whole in the store: push the policy again");
        }
        Ok(document)
    }
}
