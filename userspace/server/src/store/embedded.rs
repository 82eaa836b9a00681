//! One server's own file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Store, StoreError, Stored, Transaction};

/// Key → version and value.
const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");
const VERSION: TableDefinition<(), u64> = TableDefinition::new("version");

/// A redb database. After an error of the disk it has to be opened again.
#[derive(Clone)]
pub(crate) struct Embedded {
    path: PathBuf,
    database: Arc<RwLock<Option<Database>>>,
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Embedded(Box::new(error.into()))
}

impl Embedded {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Arc::new(RwLock::new(Some(open(path)?)));
        Ok(Self { path: path.to_owned(), database })
    }

    /// Does something with the database, which is opened again if the disk failed.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        {
            let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = &*held {
                let outcome = act(database);
                if !outcome.as_ref().is_err_and(of_the_disk) {
                    return outcome;
                }
                drop(held);
                self.reopen()?;
                // Whether it happened is not known: the caller decides.
                return outcome;
            }
        }
        self.reopen()?;
        let held = self.database.read().unwrap_or_else(PoisonError::into_inner);
        act(held.as_ref().ok_or_else(|| failed(redb::Error::PreviousIo))?)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut held = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Its lock on the file goes first.
        drop(held.take());
        *held = Some(open(&self.path)?);
        Ok(())
    }
}

fn of_the_disk(error: &StoreError) -> bool {
    let StoreError::Embedded(error) = error else { return false };
    matches!(**error, redb::Error::PreviousIo | redb::Error::Io(_))
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(redb::StorageError::Io(error)))?;
    let database = redb::Builder::new().create_file(file).map_err(failed)?;
    let begun = database.begin_write().map_err(failed)?;
    begun.open_table(RECORDS).map_err(failed)?;
    begun.open_table(VERSION).map_err(failed)?;
    begun.commit().map_err(failed)?;
    Ok(database)
}

fn scan(database: &Database, prefix: &str) -> Result<Vec<Stored>, StoreError> {
    let begun = database.begin_read().map_err(failed)?;
    let records = begun.open_table(RECORDS).map_err(failed)?;
    let mut found = Vec::new();
    for record in records.range(prefix..).map_err(failed)? {
        let (key, value) = record.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (version, value) = value.value();
        let (key, value) = (key.value().to_owned(), Some(value.to_owned()));
        found.push(Stored { key, value, version });
    }
    Ok(found)
}

fn commit(database: &Database, transaction: &Transaction) -> Result<Option<u64>, StoreError> {
    let begun = database.begin_write().map_err(failed)?;
    let version = {
        let mut records = begun.open_table(RECORDS).map_err(failed)?;
        for (key, expected) in &transaction.expect {
            let held = records.get(key.as_str()).map_err(failed)?;
            if held.map_or(0, |held| held.value().0) != *expected {
                return Ok(None);
            }
        }
        let mut versions = begun.open_table(VERSION).map_err(failed)?;
        let version = versions.get(()).map_err(failed)?.map_or(0, |held| held.value()) + 1;
        versions.insert((), version).map_err(failed)?;
        for (key, value) in &transaction.put {
            records.insert(key.as_str(), (version, value.as_slice())).map_err(failed)?;
        }
        for key in &transaction.delete {
            records.remove(key.as_str()).map_err(failed)?;
        }
        version
    };
    begun.commit().map_err(failed)?;
    Ok(Some(version))
}

#[async_trait]
impl Store for Embedded {
    async fn scan(&self, prefix: &str) -> Result<Vec<Stored>, StoreError> {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        spawn_blocking(move || this.with(|database| scan(database, &prefix))).await?
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>, StoreError> {
        let this = self.clone();
        spawn_blocking(move || this.with(|database| commit(database, &transaction))).await?
    }

    fn shared(&self) -> bool {
        false
    }

    async fn watch(&self) -> Result<Option<mpsc::Receiver<Stored>>, StoreError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, expected: u64, value: &[u8]) -> Transaction {
        Transaction {
            expect: vec![(key.to_owned(), expected)],
            put: vec![(key.to_owned(), value.to_owned())],
            ..Transaction::default()
        }
    }

    #[test]
    fn a_transaction_whose_expectation_fails_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("db")).unwrap();
        let first = store.with(|db| commit(db, &put("a", 0, b"1"))).unwrap().unwrap();
        assert_eq!(store.with(|db| commit(db, &put("a", 0, b"2"))).unwrap(), None);
        let second = store.with(|db| commit(db, &put("a", first, b"2"))).unwrap().unwrap();
        assert!(second > first);
        store.with(|db| commit(db, &put("b", 0, b""))).unwrap().unwrap();
        let found = store.with(|db| scan(db, "a")).unwrap();
        assert_eq!(
            found,
            [Stored { key: "a".into(), value: Some(b"2".to_vec()), version: second }]
        );
        let gone = Transaction { delete: vec!["a".into()], ..Transaction::default() };
        store.with(|db| commit(db, &gone)).unwrap().unwrap();
        assert!(store.with(|db| scan(db, "a")).unwrap().is_empty());
    }

    #[test]
    fn what_was_committed_is_there_when_it_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        Embedded::open(&path).unwrap().with(|db| commit(db, &put("a", 0, b"1"))).unwrap().unwrap();
        let again = Embedded::open(&path).unwrap();
        assert_eq!(again.with(|db| scan(db, "")).unwrap().len(), 1);
        assert_eq!(again.with(|db| commit(db, &put("a", 0, b"2"))).unwrap(), None);
    }
}
