//! Writes of records: conditional on the transaction that the record names, so a repeated one does no
//! harm, and an outcome that is not known is settled by a live read.
//!
//! The same over every store. Nothing is decided here, and nothing is tried again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use berth_ipam::identity::TxnId;
use berth_ipam::ledger::io::{CommitResult, Step, StoreResult, StoreWrite};
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_store::{LeaseStore, StoreError, Version};

use crate::committer::{chain, hit};

/// A store, and the versions of its records as last seen, so that a write needs no read before it.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    versions: Mutex<HashMap<AddressKey, Version>>,
}

impl<S: LeaseStore> Writer<S> {
    /// A writer that knows no record yet.
    pub fn new(store: S) -> Self {
        Self { store, versions: Mutex::default() }
    }

    /// All records.
    pub async fn list(&self) -> Result<Vec<LeaseRecord>, StoreError> {
        let all = self.store.list().await?;
        Ok(all
            .into_iter()
            .map(|versioned| {
                self.learn(versioned.record.address_key(), versioned.version);
                versioned.record
            })
            .collect())
    }

    /// One record, read live.
    pub async fn read(&self, key: &AddressKey) -> Result<Option<LeaseRecord>, StoreError> {
        let found = self.store.get(key).await?;
        Ok(found.map(|found| {
            self.learn(key.clone(), found.version);
            found.record
        }))
    }

    /// The store writes of one commit, one by one, up to the first that was not done.
    pub async fn store_all(&self, step: Step, writes: Vec<StoreWrite>) -> CommitResult {
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let result = self.write(write).await;
            let done = result == StoreResult::Done;
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
            StoreWrite::Replace { record, of } => self.replace(&record, &of).await,
            StoreWrite::Delete { address, of } => self.delete(&address, &of).await,
        };
        result.unwrap_or_else(|error| StoreResult::Failed(chain(&error)))
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<AddressKey, Version>> {
        // A version that is out of date costs a read, and never a wrong write.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, key: AddressKey, version: Version) {
        self.versions().insert(key, version);
    }

    fn known(&self, key: &AddressKey) -> Option<Version> {
        self.versions().get(key).cloned()
    }

    fn forget(&self, key: &AddressKey) {
        self.versions().remove(key);
    }

    async fn create(&self, record: &LeaseRecord) -> Result<StoreResult, StoreError> {
        match self.store.create(record).await {
            Ok(version) => {
                self.learn(record.address_key(), version);
                Ok(StoreResult::Done)
            }
            Err(StoreError::AlreadyExists { existing }) if existing.record.txn == record.txn => {
                // The reply of an earlier try was lost: the record names this transaction.
                self.learn(record.address_key(), existing.version);
                Ok(StoreResult::Done)
            }
            Err(StoreError::AlreadyExists { existing }) => {
                self.learn(record.address_key(), existing.version);
                Ok(StoreResult::Others(Box::new(existing.record)))
            }
            Err(StoreError::OutcomeUnknown { operation, cause }) => {
                self.settle(record, operation, cause).await
            }
            Err(error) => Err(error),
        }
    }

    /// A create of unknown outcome: only a live read tells.
    async fn settle(
        &self,
        record: &LeaseRecord,
        operation: &'static str,
        cause: std::sync::Arc<dyn std::error::Error + Send + Sync>,
    ) -> Result<StoreResult, StoreError> {
        match self.store.get(&record.address_key()).await? {
            Some(found) if found.record.txn == record.txn => {
                self.learn(record.address_key(), found.version);
                Ok(StoreResult::Done)
            }
            Some(found) => Ok(StoreResult::Others(Box::new(found.record))),
            None => Err(StoreError::OutcomeUnknown { operation, cause }),
        }
    }

    async fn replace(&self, record: &LeaseRecord, of: &TxnId) -> Result<StoreResult, StoreError> {
        let key = record.address_key();
        for _ in 0..2 {
            let Some(version) = self.known(&key) else {
                if !self.look(&key).await? {
                    return self.create(record).await;
                }
                continue;
            };
            match self.store.replace(record, &version).await {
                Ok(version) => {
                    self.learn(key, version);
                    return Ok(StoreResult::Done);
                }
                Err(StoreError::Conflict { current, .. })
                    if current.record.txn == *of || current.record.txn == record.txn =>
                {
                    self.learn(key.clone(), current.version);
                }
                Err(StoreError::Conflict { current, .. }) => {
                    return Ok(StoreResult::Others(Box::new(current.record)));
                }
                Err(StoreError::Gone { .. }) => self.forget(&key),
                Err(error) => return Err(error),
            }
        }
        Ok(StoreResult::Failed(format!(
            "the record of {} changes faster than it can be written",
            record.address
        )))
    }

    async fn delete(&self, key: &AddressKey, of: &TxnId) -> Result<StoreResult, StoreError> {
        for _ in 0..2 {
            let Some(version) = self.known(key) else {
                if !self.look(key).await? {
                    return Ok(StoreResult::Done);
                }
                continue;
            };
            match self.store.delete(key, &version).await {
                Ok(()) | Err(StoreError::Gone { .. }) => {
                    self.forget(key);
                    return Ok(StoreResult::Done);
                }
                Err(StoreError::Conflict { current, .. }) if current.record.txn == *of => {
                    self.learn(key.clone(), current.version);
                }
                Err(StoreError::Conflict { current, .. }) => {
                    return Ok(StoreResult::Others(Box::new(current.record)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(StoreResult::Failed(format!(
            "the record of {} changes faster than it can be deleted",
            key.address
        )))
    }

    /// Reads the record's version. False if there is none.
    async fn look(&self, key: &AddressKey) -> Result<bool, StoreError> {
        let found = self.store.get(key).await?;
        if let Some(found) = &found {
            self.learn(key.clone(), found.version.clone());
        }
        Ok(found.is_some())
    }
}
