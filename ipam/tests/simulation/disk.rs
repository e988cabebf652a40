//! The disk, which takes commits in their order and forgets rows that were not flushed, and the store, which takes each
//! write at once.

use std::collections::{BTreeMap, VecDeque};

use berth_ipam::ledger::entry::{Entry, Quarantined};
use berth_ipam::ledger::io::{Action, Flush, JournalWrite, Loaded, StoreResult, StoreWrite};
use berth_ipam::record::{AddressKey, LeaseRecord};

/// Records by their addresses.
pub type Store = BTreeMap<AddressKey, LeaseRecord>;

#[derive(Debug, Default)]
pub struct Disk {
    /// Commits under way, the oldest first.
    pub waiting: VecDeque<Action>,
    pub journal: BTreeMap<String, Entry>,
    pub quarantine: BTreeMap<AddressKey, Quarantined>,
    /// Rows that were written and not flushed.
    lazy: Vec<JournalWrite>,
    pub store: Store,
}

impl Disk {
    /// The rows and records that an agent finds at its start.
    pub fn loaded(&self) -> Loaded {
        Loaded {
            entries: self.journal.values().cloned().collect(),
            quarantine: self.quarantine.values().cloned().collect(),
            records: self.store.values().cloned().collect(),
            hears_all: true,
            ..Loaded::default()
        }
    }

    /// The agent dies: commits under way and rows that were not flushed are lost.
    pub fn crash(&mut self) {
        self.waiting.clear();
        self.lazy.clear();
    }

    /// Writes rows of the journal.
    pub fn write(&mut self, rows: Vec<JournalWrite>, flush: Flush) {
        self.lazy.extend(rows);
        if flush != Flush::Durable {
            return;
        }
        for row in std::mem::take(&mut self.lazy) {
            match row {
                JournalWrite::Put(entry) => drop(self.journal.insert(entry.key.to_string(), *entry)),
                JournalWrite::Remove(key) => drop(self.journal.remove(&key.to_string())),
                JournalWrite::Quarantine(shut) => drop(self.quarantine.insert(shut.key.clone(), *shut)),
                JournalWrite::Unquarantine(key) => drop(self.quarantine.remove(&key)),
            }
        }
    }

    /// Carries out the store's writes of a commit, up to the first that fails.
    pub fn carry_out(&mut self, writes: Vec<StoreWrite>) -> Vec<StoreResult> {
        let mut results = Vec::new();
        for write in writes {
            results.push(store_write(&mut self.store, write));
            if !results.last().is_some_and(StoreResult::is_done) {
                break;
            }
        }
        results
    }
}

/// Carries out one write, which is conditional on the transaction that the record names.
pub fn store_write(store: &mut Store, write: StoreWrite) -> StoreResult {
    let (key, of, new) = match write {
        StoreWrite::Create(record) => (record.address_key(), record.txn.clone(), Some(record)),
        StoreWrite::HandOver { record, .. } if !store.contains_key(&record.address_key()) => {
            return StoreResult::Lost;
        }
        StoreWrite::Replace { record, of } | StoreWrite::HandOver { record, of } => {
            (record.address_key(), of, Some(record))
        }
        StoreWrite::Delete { address, of } => (address, of, None),
    };
    let is_written = |found: &LeaseRecord| new.as_ref().is_some_and(|new| new.txn == found.txn);
    if let Some(found) = store.get(&key).filter(|found| found.txn != of && !is_written(found)) {
        return StoreResult::Others(Box::new(found.clone()));
    }
    match new {
        Some(record) => drop(store.insert(key, *record)),
        None if store.remove(&key).is_none() => return StoreResult::NoneThere,
        None => {}
    }
    StoreResult::Done
}
