//! Writes of records: conditional on the transaction in the record, so a repeated one is harmless, and an
//! unknown outcome is settled by a live read.
//!
//! The same over every store. It takes no decisions and never retries.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_ipam::identity::TxnId;
use berth_ipam::ledger::io::{CommitResult, Step, StoreResult, StoreWrite};
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_store::{LeaseStore, StoreError, Version, Versioned};

use crate::committer::{chain, hit};

/// A store, and the versions of its records as last seen, each with its transaction, so that a write needs no
/// read before it and never changes another holder's record.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    versions: Mutex<HashMap<AddressKey, (TxnId, Version)>>,
}

/// Number of attempts of a write while other clients change the record.
const TRIES: u32 = 3;

/// Result of a read of a record.
enum Found {
    /// It is there in this version.
    Version(Version),
    /// It is another's.
    Others(Box<LeaseRecord>),
    /// No record exists.
    Nothing,
}

impl<S: LeaseStore> Writer<S> {
    /// A writer without cached versions.
    pub fn new(store: S) -> Self {
        Self { store, versions: Mutex::default() }
    }

    /// All records of the store.
    pub async fn list(&self) -> Result<Vec<LeaseRecord>, StoreError> {
        let all = self.store.list().await?;
        Ok(all
            .into_iter()
            .map(|versioned| {
                self.learn(&versioned.record, versioned.version);
                versioned.record
            })
            .collect())
    }

    /// One record, read live.
    pub async fn read(&self, key: &AddressKey) -> Result<Option<LeaseRecord>, StoreError> {
        let found = self.store.get(key).await?;
        Ok(found.map(|found| {
            self.learn(&found.record, found.version);
            found.record
        }))
    }

    /// The store writes of one commit, one by one, up to the first that was not done.
    pub async fn store_all(&self, step: Step, writes: Vec<StoreWrite>) -> CommitResult {
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let result = self.write(write).await;
            let done = result.is_done();
            results.push(result);
            if !done {
                break;
            }
        }
        if !results.is_empty() {
            hit(step, "stored");
        }
        CommitResult::Journaled(results)
    }

    async fn write(&self, write: StoreWrite) -> StoreResult {
        let result = match write {
            StoreWrite::Create(record) => self.create(&record).await,
            StoreWrite::Replace { record, of } => self.replace(&record, &of, true).await,
            StoreWrite::HandOver { record, of } => self.replace(&record, &of, false).await,
            StoreWrite::Delete { address, of } => self.delete(&address, &of).await,
        };
        result.unwrap_or_else(|error| StoreResult::Failed(chain(&error)))
    }

    fn versions(&self) -> MutexGuard<'_, HashMap<AddressKey, (TxnId, Version)>> {
        // A version that is out of date costs a read, and never a wrong write.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, record: &LeaseRecord, version: Version) {
        self.versions().insert(record.address_key(), (record.txn.clone(), version));
    }

    fn forget(&self, key: &AddressKey) {
        self.versions().remove(key);
    }

    /// The version of a record of one of `txns`, from memory or else from the store.
    async fn find(&self, key: &AddressKey, txns: &[&TxnId]) -> Result<Found, StoreError> {
        if let Some((_, version)) = self.versions().get(key).filter(|(txn, _)| txns.contains(&txn)) {
            return Ok(Found::Version(version.clone()));
        }
        Ok(match self.store.get(key).await? {
            Some(found) => self.is_one_of(found, txns),
            None => Found::Nothing,
        })
    }

    fn is_one_of(&self, found: Versioned, txns: &[&TxnId]) -> Found {
        if txns.contains(&&found.record.txn) {
            self.learn(&found.record, found.version.clone());
            Found::Version(found.version)
        } else {
            Found::Others(Box::new(found.record))
        }
    }

    async fn create(&self, record: &LeaseRecord) -> Result<StoreResult, StoreError> {
        match self.store.create(record).await {
            Ok(version) => {
                self.learn(record, version);
                Ok(StoreResult::Done)
            }
            // It may be this transaction's, if the reply of an earlier try was lost.
            Err(StoreError::AlreadyExists { existing }) => {
                Ok(match self.is_one_of(*existing, &[&record.txn]) {
                    Found::Others(record) => StoreResult::Others(record),
                    _ => StoreResult::Done,
                })
            }
            Err(error @ StoreError::OutcomeUnknown { .. }) => {
                let found = self.store.get(&record.address_key()).await?;
                match found.map(|found| self.is_one_of(found, &[&record.txn])) {
                    Some(Found::Others(record)) => Ok(StoreResult::Others(record)),
                    Some(_) => Ok(StoreResult::Done),
                    // It may still be under way.
                    None => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(
        &self,
        record: &LeaseRecord,
        of: &TxnId,
        or_create: bool,
    ) -> Result<StoreResult, StoreError> {
        let key = record.address_key();
        for _ in 0..TRIES {
            let version = match self.find(&key, &[of, &record.txn]).await? {
                Found::Version(version) => version,
                Found::Others(record) => return Ok(StoreResult::Others(record)),
                Found::Nothing if or_create => return self.create(record).await,
                Found::Nothing => return Ok(StoreResult::Lost),
            };
            match self.store.replace(record, &version).await {
                Ok(version) => {
                    self.learn(record, version);
                    return Ok(StoreResult::Done);
                }
                Err(StoreError::Conflict { current, .. }) => {
                    if let Found::Others(record) = self.is_one_of(*current, &[of, &record.txn]) {
                        return Ok(StoreResult::Others(record));
                    }
                }
                Err(StoreError::Gone { .. }) => self.forget(&key),
                Err(error @ StoreError::OutcomeUnknown { .. }) => {
                    self.forget(&key);
                    return match self.find(&key, &[&record.txn]).await? {
                        Found::Version(_) => Ok(StoreResult::Done),
                        _ => Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
        }
        Ok(StoreResult::Failed(format!(
            "the record of {} changes faster than it can be written",
            record.address
        )))
    }

    async fn delete(&self, key: &AddressKey, of: &TxnId) -> Result<StoreResult, StoreError> {
        let mut tried = false;
        for _ in 0..TRIES {
            let version = match self.find(key, &[of]).await? {
                Found::Version(version) => version,
                Found::Others(record) => return Ok(StoreResult::Others(record)),
                // After an attempt with a lost response, the record may have been deleted by that attempt.
                Found::Nothing if tried => return Ok(StoreResult::Done),
                Found::Nothing => return Ok(StoreResult::NoneThere),
            };
            match self.store.delete(key, &version).await {
                Ok(()) => {
                    self.forget(key);
                    return Ok(StoreResult::Done);
                }
                Err(StoreError::Gone { .. }) => {
                    self.forget(key);
                    return Ok(if tried { StoreResult::Done } else { StoreResult::NoneThere });
                }
                Err(StoreError::Conflict { current, .. }) => {
                    if let Found::Others(record) = self.is_one_of(*current, &[of]) {
                        return Ok(StoreResult::Others(record));
                    }
                }
                Err(StoreError::OutcomeUnknown { .. }) => {
                    tried = true;
                    self.forget(key);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(StoreResult::Failed(format!(
            "the record of {} changes faster than it can be deleted",
            key.address
        )))
    }
}

#[cfg(test)]
mod tests {
    use berth_store::memory::MemoryStore;

    use super::*;

    fn record(txn: &str) -> LeaseRecord {
        let text = serde_json::json!({
            "segment": "default", "address": "192.0.2.7", "pool": "p", "network": "lan", "containerID": txn,
            "ifname": "eth0", "cniNetwork": "lan", "role": "main", "node": "n1", "bootId": "b", "machineId": "m",
            "netns": {"cookie": "1", "inode": 1, "nsid": 1, "nsidIsRandom": true}, "txn": txn, "generation": 1,
        });
        serde_json::from_value(text).unwrap()
    }

    fn run(writer: &Writer<MemoryStore>, write: StoreWrite) -> StoreResult {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let CommitResult::Journaled(results) = runtime.block_on(writer.store_all(Step::Other, vec![write]))
        else {
            panic!("the journal is not the writer's")
        };
        results.into_iter().next().unwrap()
    }

    fn create(txn: &str) -> StoreWrite {
        StoreWrite::Create(Box::new(record(txn)))
    }

    fn delete(txn: &str) -> StoreWrite {
        StoreWrite::Delete { address: record(txn).address_key(), of: TxnId(txn.to_owned()) }
    }

    #[test]
    fn the_record_of_another_is_never_deleted_or_replaced_whatever_was_seen_of_it() {
        let writer = Writer::new(MemoryStore::new());
        assert_eq!(run(&writer, create("theirs")), StoreResult::Done);
        // The refusal shows their record, and with it its version.
        let theirs = StoreResult::Others(Box::new(record("theirs")));
        assert_eq!(run(&writer, create("mine")), theirs);
        assert_eq!(run(&writer, delete("mine")), theirs);
        let over = |txn: &str, of: &str| (Box::new(record(txn)), TxnId(of.to_owned()));
        let (wanted, of) = over("heir", "mine");
        assert_eq!(run(&writer, StoreWrite::HandOver { record: wanted, of }), theirs);
        let (wanted, of) = over("heir", "theirs");
        assert_eq!(run(&writer, StoreWrite::HandOver { record: wanted, of }), StoreResult::Done);
        assert_eq!(run(&writer, delete("heir")), StoreResult::Done);
    }

    #[test]
    fn what_is_gone_is_deleted_replaced_anew_and_not_handed_over() {
        let writer = Writer::new(MemoryStore::new());
        assert_eq!(run(&writer, delete("mine")), StoreResult::NoneThere);
        let (heir, of) = (Box::new(record("heir")), TxnId("mine".to_owned()));
        assert_eq!(
            run(&writer, StoreWrite::HandOver { record: heir.clone(), of: of.clone() }),
            StoreResult::Lost
        );
        assert_eq!(run(&writer, StoreWrite::Replace { record: heir, of }), StoreResult::Done);
        assert_eq!(run(&writer, create("heir")), StoreResult::Done, "its own, told twice");
    }
}
