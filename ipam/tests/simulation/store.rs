//! The disk, which takes commits in their order, and the store, which takes each write at once.

use super::*;

impl World {
    /// Writes the oldest commit; `half`: the machine dies between journal and store.
    pub fn write_one(&mut self, half: bool) {
        let Some(Action::Commit { op, step, journal, flush, store }) = self.disk.pop_front() else { return };
        if self.refused > 0 && step == berth_ipam::ledger::io::Step::Release {
            self.refused -= 1;
            return self.step(Input::Committed(op, CommitResult::Failed("no space".to_owned())));
        }
        self.lazy.extend(journal);
        if flush == Flush::Durable {
            for write in std::mem::take(&mut self.lazy) {
                match write {
                    JournalWrite::Put(entry) => drop(self.journal.insert(entry.key.to_string(), *entry)),
                    JournalWrite::Remove(key) => drop(self.journal.remove(&key.to_string())),
                    JournalWrite::Quarantine(shut) => drop(self.quarantine.insert(shut.key.clone(), *shut)),
                    JournalWrite::Unquarantine(key) => drop(self.quarantine.remove(&key)),
                }
            }
        }
        if half {
            return;
        }
        let mut results = Vec::new();
        for write in store {
            let result = self.store_write(write);
            let done = result.is_done();
            results.push(result);
            if !done {
                break;
            }
        }
        self.step(Input::Committed(op, CommitResult::Journaled(results)));
    }

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
