//! The store, which takes each write at once.

use super::*;

impl World {
    pub fn store_write(&mut self, write: StoreWrite) -> StoreResult {
        let other = |record: &LeaseRecord| StoreResult::Others(Box::new(record.clone()));
        match write {
            StoreWrite::Create(record) => match self.store.get(&record.address_key()) {
                Some(found) if found.txn != record.txn => other(found),
                _ => {
                    self.store.insert(record.address_key(), *record);
                    StoreResult::Done
                }
            },
            StoreWrite::HandOver { record, .. } if !self.store.contains_key(&record.address_key()) => {
                StoreResult::Lost
            }
            StoreWrite::Replace { record, of } | StoreWrite::HandOver { record, of } => {
                match self.store.get(&record.address_key()) {
                    Some(found) if found.txn != of && found.txn != record.txn => other(found),
                    _ => {
                        self.store.insert(record.address_key(), *record);
                        StoreResult::Done
                    }
                }
            }
            StoreWrite::Delete { address, of } => match self.store.get(&address) {
                Some(found) if found.txn != of => other(found),
                None => StoreResult::NoneThere,
                Some(_) => {
                    self.store.remove(&address);
                    StoreResult::Done
                }
            },
        }
    }
}
