//! The disk: a thread that owns the journal, and on a node alone the store, and carries out commits in
//! their order.
//!
//! Commits that wait at the same time share the flushes of the disk, unless two are about one
//! address. The journal is written first, for all of them. Where the store is away, across a network,
//! its writes are handed on, so that a journal write never waits for another machine.
//! Nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use berth_ipam::ledger::entry::{Entry, Quarantined};
use berth_ipam::ledger::io::{CommitResult, Flush, Input, JournalWrite, Step, StoreWrite};
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_protocol::{fault, spool};
use berth_store::StoreError;
pub use berth_store::chain;
use berth_store::embedded::EmbeddedStore;
use berth_store::journal::{self, Change, Damaged, Journal, Table};
use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedSender;

use crate::away;
use crate::writer::Writer;

/// Orders to the thread.
#[derive(Debug)]
pub enum Order {
    /// A commit of the ledger.
    Commit(Commit),
    /// A spool entry with a saved release.
    ForgetSpooled(spool::FileId),
    /// A write of no consequence, answered like a commit of number 0: is there room again?
    Try,
    /// A row of the journal's meta table.
    PutMeta(&'static str, Vec<u8>),
}

/// A commit of the ledger, as [`berth_ipam::ledger::io::Action::Commit`] has it.
#[derive(Debug)]
pub struct Commit {
    /// Repeated in the result.
    pub op: u64,
    /// For fault points.
    pub step: Step,
    /// Writes of the journal, done first.
    pub journal: Vec<JournalWrite>,
    /// Durability of the journal's writes.
    pub flush: Flush,
    /// Writes of the store, done after.
    pub store: Vec<StoreWrite>,
}

impl Commit {
    fn addresses(&self) -> impl Iterator<Item = AddressKey> + '_ {
        self.store.iter().map(StoreWrite::address_key)
    }
}

/// The meta row of [`Order::Try`].
const TRIED: &str = "tried";
/// Maximum number of commits that share a flush.
const BATCH: usize = 64;

/// Content of the files at the start.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// The journal's attachments.
    pub entries: Vec<Entry>,
    /// The journal's quarantine.
    pub quarantine: Vec<Quarantined>,
    /// The journal's meta rows.
    pub meta: BTreeMap<String, Vec<u8>>,
    /// The store's records.
    pub records: Vec<LeaseRecord>,
    /// A damaged journal that was set aside. Only with a remote store: its records and the node are
    /// sufficient then.
    pub damaged: Option<Damaged>,
}

/// Reason why the files could not be read at the start.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be opened or read.
    #[error("open the agent's files in {}", folder.display())]
    Store {
        /// The state folder.
        folder: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: StoreError,
    },
    /// A row of the journal cannot be understood.
    #[error(
        "row {row:?} of ledger.redb is not what this agent writes; it is left as it is: start the version that \
         wrote it, or move ledger.redb away to have the node searched instead"
    )]
    Row {
        /// The row's key.
        row: String,
        /// Cause of the failure.
        #[source]
        cause: serde_json::Error,
    },
    /// The thread could not be started.
    #[error("start the committer's thread")]
    Thread(#[source] std::io::Error),
}

/// The handle of the thread.
#[derive(Debug, Clone)]
pub struct Committer {
    orders: Sender<Order>,
}

impl Committer {
    /// Opens the journal, and the store's file unless the store is `away`, and starts the thread;
    /// `inputs` gets [`Input::Committed`].
    pub fn start(
        state_dir: &Path,
        away: Option<UnboundedSender<away::Order>>,
        inputs: UnboundedSender<Input>,
    ) -> Result<(Self, OnDisk), DiskError> {
        let wrong = |cause| DiskError::Store { folder: state_dir.to_owned(), cause };
        let store = if let Some(orders) = away {
            Store::Away(orders)
        } else {
            let file = state_dir.join(berth_store::embedded::FILE_NAME);
            Store::Here(Box::new(Writer::new(EmbeddedStore::open(&file).map_err(wrong)?)))
        };
        let file = state_dir.join(journal::FILE_NAME);
        let (journal, damaged) = match &store {
            Store::Here(_) => (Journal::open(&file).map_err(wrong)?, None),
            Store::Away(_) => Journal::open_or_set_aside(&file).map_err(wrong)?,
        };
        let worker = Worker { store, journal, inputs };
        let on_disk = OnDisk { damaged, ..worker.load(state_dir)? };
        let (orders, inbox) = channel();
        std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(DiskError::Thread)?;
        Ok((Self { orders }, on_disk))
    }

    /// Hands an order to the thread; they are carried out in order.
    pub fn send(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the committer's thread has ended");
        }
    }
}

/// Store of the records.
enum Store {
    /// By this thread.
    Here(Box<Writer<EmbeddedStore>>),
    /// By a task that reaches the store across a network.
    Away(UnboundedSender<away::Order>),
}

struct Worker {
    store: Store,
    journal: Journal,
    inputs: UnboundedSender<Input>,
}

/// The journal's key of an attachment.
fn row_key(key: &berth_ipam::attachment::AttachmentKey) -> String {
    key.to_string()
}

impl Worker {
    fn load(&self, state_dir: &Path) -> Result<OnDisk, DiskError> {
        let wrong = |cause| DiskError::Store { folder: state_dir.to_owned(), cause };
        let mut on_disk = OnDisk::default();
        for (table, row, value) in self.journal.load().map_err(wrong)? {
            let odd = |cause| DiskError::Row { row: row.clone(), cause };
            match table {
                Table::Attachment => on_disk.entries.push(serde_json::from_slice(&value).map_err(odd)?),
                Table::Quarantine => on_disk.quarantine.push(serde_json::from_slice(&value).map_err(odd)?),
                Table::Meta => drop(on_disk.meta.insert(row, value)),
            }
        }
        if let Store::Here(writer) = &self.store {
            on_disk.records = wait(writer.list()).map_err(wrong)?;
        }
        Ok(on_disk)
    }

    fn run(self, inbox: &Receiver<Order>) {
        let mut put_back = None;
        while let Some(order) = put_back.take().or_else(|| inbox.recv().ok()) {
            match order {
                Order::Commit(first) => {
                    let batch;
                    (batch, put_back) = gather(first, inbox);
                    for (op, result) in self.commit(batch) {
                        if self.inputs.send(Input::Committed(op, result)).is_err() {
                            return;
                        }
                    }
                }
                Order::ForgetSpooled(file) => {
                    if let Err(error) = spool::remove(&file) {
                        tracing::warn!(%error, "forget a spool entry");
                    }
                }
                Order::Try => {
                    let put = Change::Put { table: Table::Meta, key: TRIED.to_owned(), value: vec![b'1'] };
                    let result = match self.journal.apply(&[put], journal::Flush::Durable) {
                        Ok(()) => CommitResult::Journaled(Vec::new()),
                        Err(error) => CommitResult::Failed(chain(&error)),
                    };
                    if self.inputs.send(Input::Committed(0, result)).is_err() {
                        return;
                    }
                }
                Order::PutMeta(key, value) => {
                    let put = Change::Put { table: Table::Meta, key: key.to_owned(), value };
                    if let Err(error) = self.journal.apply(&[put], journal::Flush::Durable) {
                        tracing::warn!(%error, key, "write the journal's meta row");
                    }
                }
            }
        }
    }

    /// The results of the commits, in their order; the result of a commit with remote records comes from
    /// there. The store is not touched before the journal is written for all of them.
    fn commit(&self, batch: Vec<Commit>) -> Vec<(u64, CommitResult)> {
        let all_fail = |why: &str| {
            batch.iter().map(|commit| (commit.op, CommitResult::Failed(why.to_owned()))).collect()
        };
        let writes = batch.iter().flat_map(|commit| &commit.journal);
        let changes = match writes.map(change).collect::<Result<Vec<_>, _>>() {
            Ok(changes) => changes,
            Err(error) => return all_fail(&error.to_string()),
        };
        let durable = batch.iter().any(|commit| commit.flush == Flush::Durable);
        let flush = if durable { journal::Flush::Durable } else { journal::Flush::Lazy };
        if let Err(error) = self.journal.apply(&changes, flush) {
            return all_fail(&chain(&error));
        }
        for commit in &batch {
            hit(commit.step, "journaled");
        }
        match &self.store {
            // Together: the store makes one durable commit of the writes that wait for it.
            Store::Here(store) => wait(join_all(
                batch
                    .into_iter()
                    .map(async |commit| (commit.op, store.store_all(commit.step, commit.store).await)),
            )),
            Store::Away(orders) => {
                let (to_write, done): (Vec<_>, Vec<_>) =
                    batch.into_iter().partition(|commit| !commit.store.is_empty());
                for Commit { op, step, store, .. } in to_write {
                    if orders.send(away::Order::Write { op, step, writes: store }).is_err() {
                        tracing::error!("the task that writes the store has ended");
                    }
                }
                done.into_iter().map(|commit| (commit.op, CommitResult::Journaled(Vec::new()))).collect()
            }
        }
    }
}

/// The commits that wait after `first` and are about other addresses, and the order that ended the search.
fn gather(first: Commit, inbox: &Receiver<Order>) -> (Vec<Commit>, Option<Order>) {
    let mut touched: BTreeSet<AddressKey> = first.addresses().collect();
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match inbox.try_recv() {
            Ok(Order::Commit(next)) if next.addresses().all(|address| !touched.contains(&address)) => {
                touched.extend(next.addresses());
                batch.push(next);
            }
            Ok(other) => return (batch, Some(other)),
            Err(_) => break,
        }
    }
    (batch, None)
}

fn change(write: &JournalWrite) -> Result<Change, serde_json::Error> {
    Ok(match write {
        JournalWrite::Put(entry) => Change::Put {
            table: Table::Attachment,
            key: row_key(&entry.key),
            value: serde_json::to_vec(entry)?,
        },
        JournalWrite::Remove(key) => Change::Remove { table: Table::Attachment, key: row_key(key) },
        JournalWrite::Quarantine(shut) => Change::Put {
            table: Table::Quarantine,
            key: shut.key.record_name(),
            value: serde_json::to_vec(shut)?,
        },
        JournalWrite::Unquarantine(key) => {
            Change::Remove { table: Table::Quarantine, key: key.record_name() }
        }
    })
}

/// The fault point of a step; compiled to nothing without the feature.
pub fn hit(step: Step, what: &str) {
    let step = match step {
        Step::Lease => "lease",
        Step::Bind => "bind",
        Step::Done => "done",
        Step::Release => "release",
        Step::Other => return,
    };
    if cfg!(feature = "fault-points") {
        fault::point(&format!("agent.{step}.{what}"));
    }
}

/// Waits for a future that never sleeps: the embedded store does its work when it is polled.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[test]
    fn a_damaged_journal_is_set_aside_only_where_the_records_are_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(journal::FILE_NAME);
        std::fs::write(&file, b"damaged").unwrap();
        let start = |away| Committer::start(folder.path(), away, unbounded_channel().0);
        assert!(matches!(start(None), Err(DiskError::Store { cause: StoreError::Corrupt { .. }, .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"damaged");

        let (_committer, on_disk) = start(Some(unbounded_channel().0)).unwrap();
        assert!(on_disk.entries.is_empty() && on_disk.meta.is_empty());
        assert_eq!(std::fs::read(on_disk.damaged.unwrap().aside).unwrap(), b"damaged");
    }
}
