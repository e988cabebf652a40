//! The disk: a thread that owns the store and the journal, and carries out commits in their order.
//!
//! Commits that wait at the same time share the flushes of the disk, unless two are about one
//! address. The journal is written first, for all of them. A store write is conditional on the transaction that the record
//! names, so a repeated one does no harm; an outcome that is not known is settled by a live read.
//! Nothing is decided here.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use berth_ipam::identity::TxnId;
use berth_ipam::ledger::entry::{Entry, Quarantined};
use berth_ipam::ledger::io::{CommitResult, Flush, Input, JournalWrite, Step, StoreResult, StoreWrite};
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_protocol::{fault, spool};
use berth_store::embedded::EmbeddedStore;
use berth_store::journal::{self, Change, Journal, Table};
use berth_store::{LeaseStore, StoreError, Version};
use futures_util::future::join_all;
use tokio::sync::mpsc::UnboundedSender;

/// What the thread is asked for.
#[derive(Debug)]
pub enum Order {
    /// A commit of the ledger.
    Commit(Commit),
    /// A spool entry whose release is in the journal by now.
    ForgetSpooled(PathBuf),
    /// A write of no consequence, answered like a commit of number 0: is there room again?
    Try,
    /// A row of the journal's meta table.
    PutMeta(&'static str, Vec<u8>),
}

/// A commit of the ledger, as [`berth_ipam::ledger::io::Action::Commit`] has it.
#[derive(Debug)]
pub struct Commit {
    /// Repeated in the answer.
    pub op: u64,
    /// For fault points.
    pub step: Step,
    /// First.
    pub journal: Vec<JournalWrite>,
    /// Whether that must reach the disk first.
    pub flush: Flush,
    /// Then.
    pub store: Vec<StoreWrite>,
}

impl Commit {
    fn addresses(&self) -> impl Iterator<Item = AddressKey> + '_ {
        self.store.iter().map(|write| match write {
            StoreWrite::Create(record) | StoreWrite::Replace { record, .. } => record.address_key(),
            StoreWrite::Delete { address, .. } => address.clone(),
        })
    }
}

/// The meta row of [`Order::Try`].
const TRIED: &str = "tried";
/// So many commits share a flush at most.
const BATCH: usize = 64;

/// What was on the disk at start.
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
}

/// Why the files could not be read at start.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file could not be opened or read.
    #[error("open the agent's files in {}", folder.display())]
    Store {
        /// The state folder.
        folder: PathBuf,
        /// The cause.
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
        /// The cause.
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
    /// Opens both files and starts the thread; `inputs` gets [`Input::Committed`].
    pub fn start(state_dir: &Path, inputs: UnboundedSender<Input>) -> Result<(Self, OnDisk), DiskError> {
        let wrong = |cause| DiskError::Store { folder: state_dir.to_owned(), cause };
        let store = EmbeddedStore::open(&state_dir.join(berth_store::embedded::FILE_NAME)).map_err(wrong)?;
        let journal = Journal::open(&state_dir.join(journal::FILE_NAME)).map_err(wrong)?;
        let worker = Worker { store, journal, versions: RefCell::default(), inputs };
        let on_disk = worker.load(state_dir)?;
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

struct Worker {
    store: EmbeddedStore,
    journal: Journal,
    /// Versions of the records as last seen, so that a write needs no read before it.
    versions: RefCell<HashMap<AddressKey, Version>>,
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
        for versioned in wait(self.store.list()).map_err(wrong)? {
            self.learn(versioned.record.address_key(), versioned.version);
            on_disk.records.push(versioned.record);
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
                    let ops: Vec<u64> = batch.iter().map(|commit| commit.op).collect();
                    for (op, result) in ops.into_iter().zip(self.commit(batch)) {
                        if self.inputs.send(Input::Committed(op, result)).is_err() {
                            return;
                        }
                    }
                }
                Order::ForgetSpooled(path) => {
                    if let Err(error) = spool::remove(&path) {
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

    /// The results of the commits, in their order. Until the journal is written for all of them, the
    /// store is touched for none.
    fn commit(&self, batch: Vec<Commit>) -> Vec<CommitResult> {
        let all_fail = |why: &str| batch.iter().map(|_| CommitResult::Failed(why.to_owned())).collect();
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
        // Together: the store makes one durable commit of the writes that wait for it.
        wait(join_all(batch.into_iter().map(|commit| self.store_all(commit.step, commit.store))))
    }

    /// The store writes of one commit, one by one, up to the first that was not done.
    async fn store_all(&self, step: Step, writes: Vec<StoreWrite>) -> CommitResult {
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

    fn learn(&self, key: AddressKey, version: Version) {
        self.versions.borrow_mut().insert(key, version);
    }

    fn known(&self, key: &AddressKey) -> Option<Version> {
        self.versions.borrow().get(key).cloned()
    }

    fn forget(&self, key: &AddressKey) {
        self.versions.borrow_mut().remove(key);
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

/// The commits that wait behind `first` and are about other addresses, and the order that ended that.
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

/// An error with all its causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
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
