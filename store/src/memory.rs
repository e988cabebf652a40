//! A lease store that forgets: for tests of what is built on the contract.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_ipam::record::{AddressKey, LeaseRecord, Version, Versioned};

use crate::error::StoreError;
use crate::lease::{LeaseStore, Write, decide};

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<AddressKey, Versioned>,
    /// Writes so far: the source of versions that never repeat.
    writes: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A write either happens as a whole or not at all, so a panic elsewhere leaves a state that
    /// is still whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: Write) -> Result<Option<Version>, StoreError> {
        let mut state = self.state();
        state.writes += 1;
        let stamp = format!("m{}", state.writes);
        let key = write.address_key();
        let current = state.records.get(&key).cloned();
        let next = decide(write, current, &stamp)?;
        let version = next.as_ref().map(|row| row.version.clone());
        match next {
            Some(row) => state.records.insert(key, row),
            None => state.records.remove(&key),
        };
        Ok(version)
    }

    fn write_record(&self, write: Write) -> Result<Version, StoreError> {
        let key = write.address_key();
        self.write(write)?.ok_or(StoreError::Gone { key })
    }
}

impl LeaseStore for MemoryStore {
    async fn list(&self) -> Result<Vec<Versioned>, StoreError> {
        Ok(self.state().records.values().cloned().collect())
    }

    async fn get(&self, key: &AddressKey) -> Result<Option<Versioned>, StoreError> {
        Ok(self.state().records.get(key).cloned())
    }

    async fn create(&self, record: &LeaseRecord) -> Result<Version, StoreError> {
        self.write_record(Write::Create(record.clone()))
    }

    async fn replace(&self, record: &LeaseRecord, version: &Version) -> Result<Version, StoreError> {
        self.write_record(Write::Replace(record.clone(), version.clone()))
    }

    async fn delete(&self, key: &AddressKey, version: &Version) -> Result<(), StoreError> {
        self.write(Write::Delete(key.clone(), version.clone())).map(drop)
    }
}
