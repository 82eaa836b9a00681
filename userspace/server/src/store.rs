//! Where the cluster's records live: one embedded file, or etcd for more than one server.

mod embedded;
mod etcd;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub(crate) use embedded::Embedded;
pub(crate) use etcd::{Credentials, Etcd};

/// A record, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) key: String,
    /// None once it was deleted.
    pub(crate) value: Option<Vec<u8>>,
    /// Rises with every change of anything.
    pub(crate) version: u64,
}

/// Changes that happen all or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Records and the versions they have to have; 0 for those that must not be there.
    pub(crate) expect: Vec<(String, u64)>,
    pub(crate) put: Vec<(String, Vec<u8>)>,
    pub(crate) delete: Vec<String>,
}

/// A store that failed. What was asked of it may have happened or not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the store")]
    Embedded(#[from] Box<redb::Error>),
    #[error("etcd: {}", .0.message())]
    Etcd(#[from] Box<tonic::Status>),
    #[error("`{url}` is no endpoint of etcd")]
    Endpoint { url: String, source: tonic::transport::Error },
    #[error("a task of the store ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// See the module. Values are opaque here, and already encrypted.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// All records whose keys begin with `prefix`.
    async fn scan(&self, prefix: &str) -> Result<Vec<Stored>, StoreError>;
    /// The new version, or nothing if an expectation did not hold. What was committed is on disk.
    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>, StoreError>;
    /// Whether other servers may use it.
    fn shared(&self) -> bool;
    /// Everything that anybody commits from now on; nothing where there is no other writer. The
    /// channel closes when changes may have been missed: scan again then.
    async fn watch(&self) -> Result<Option<mpsc::Receiver<Stored>>, StoreError>;
}
