//! The lease store of one machine: a redb file owned by one agent.
//!
//! A thread owns the file, so the agent's runtime never waits for a disk. Writes that wait at the same time
//! share one durable commit, and each is decided in order of arrival; a caller is answered after the commit.
//! It has no watch: the agent is the file's only writer.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use berth_ipam::record::{AddressKey, LeaseRecord, Version, Versioned};
use redb::{ReadableTable, TableDefinition, TableError};
use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::file::{File, Kind};
use crate::lease::{LeaseStore, Write, decide};

/// The name of the file in the agent's state folder.
pub const FILE_NAME: &str = "store.redb";

/// Record name to the record as JSON: readable by any program that opens the file.
const LEASES: TableDefinition<&str, &[u8]> = TableDefinition::new("leases");

const KIND: Kind = Kind { schema: "schema.leases", version: 1, title: "the leases of a Berth agent" };

/// Maximum number of waiting writes that share one commit.
const BATCH: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    List(Reply<Vec<Versioned>>),
    Get(AddressKey, Reply<Option<Versioned>>),
    Write(Box<Write>, Reply<Option<Version>>),
}

/// The embedded store. Dropping it ends its thread and closes the file.
#[derive(Debug)]
pub struct EmbeddedStore {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the file at `path`, or creates it (and its folder, mode 0700) if it does not exist. It first
    /// verifies every checksum and decodes every record. It refuses a file that is damaged, newer, foreign or
    /// in use without changing it.
    ///
    /// Blocks for the time of a few reads and one durable commit.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut owner = Owner { file: File::open(path, KIND)?, epoch: epoch()?, writes: 0 };
        owner.list()?;
        let (requests, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("berth-store".to_owned())
            .spawn(move || owner.run(&inbox))
            .map_err(|cause| StoreError::StartWriter { path: path.to_owned(), cause: Arc::new(cause) })?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    async fn ask<T>(
        &self,
        operation: &'static str,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let sender = self.requests.as_ref().ok_or(StoreError::Closed)?;
        sender.send(request(reply)).map_err(|_| StoreError::Closed)?;
        // A missing reply means that the thread ended while it had the request.
        answer.await.map_err(|cause| StoreError::OutcomeUnknown { operation, cause: Arc::new(cause) })?
    }

    async fn write_record(&self, write: Write) -> Result<Version, StoreError> {
        let key = write.address_key();
        let version = self.ask(write.operation(), |reply| Request::Write(Box::new(write), reply)).await?;
        version.ok_or(StoreError::Gone { key })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        // The thread ends when its inbox closes; waiting for it makes "dropped" mean "file closed".
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl LeaseStore for EmbeddedStore {
    async fn list(&self) -> Result<Vec<Versioned>, StoreError> {
        self.ask("list", Request::List).await
    }

    async fn get(&self, key: &AddressKey) -> Result<Option<Versioned>, StoreError> {
        let key = key.clone();
        self.ask("get", |reply| Request::Get(key, reply)).await
    }

    async fn create(&self, record: &LeaseRecord) -> Result<Version, StoreError> {
        self.write_record(Write::Create(record.clone())).await
    }

    async fn replace(&self, record: &LeaseRecord, version: &Version) -> Result<Version, StoreError> {
        self.write_record(Write::Replace(record.clone(), version.clone())).await
    }

    async fn delete(&self, key: &AddressKey, version: &Version) -> Result<(), StoreError> {
        let write = Write::Delete(key.clone(), version.clone());
        self.ask("delete", |reply| Request::Write(Box::new(write), reply)).await.map(drop)
    }
}

/// The thread's side.
struct Owner {
    file: File,
    /// Drawn at each start, so that versions do not repeat after the file went back to an older copy.
    epoch: String,
    /// Writes decided since the start.
    writes: u64,
}

impl Owner {
    fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        let mut put_back = None;
        while let Some(request) = put_back.take().or_else(|| inbox.recv().ok()) {
            // A caller that is gone needs no result; hence the ignored sends.
            match request {
                Request::List(reply) => drop(reply.send(self.list())),
                Request::Get(key, reply) => drop(reply.send(self.get(&key))),
                Request::Write(write, reply) => {
                    let mut batch = vec![(*write, reply)];
                    while batch.len() < BATCH {
                        match inbox.try_recv() {
                            Ok(Request::Write(write, reply)) => batch.push((*write, reply)),
                            Ok(other) => {
                                put_back = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.write(batch);
                }
            }
        }
    }

    fn list(&mut self) -> Result<Vec<Versioned>, StoreError> {
        let rows = self.file.read(|transaction| {
            let table = match transaction.open_table(LEASES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other?,
            };
            table.iter()?.map(|row| Ok(decode(row?.1.value()))).collect::<Result<Vec<_>, redb::Error>>()
        })?;
        rows.into_iter().collect::<Result<_, _>>().map_err(|cause| self.undecodable(cause))
    }

    fn get(&mut self, key: &AddressKey) -> Result<Option<Versioned>, StoreError> {
        let row = self.file.read(|transaction| {
            let table = match transaction.open_table(LEASES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other?,
            };
            Ok(table.get(key.record_name().as_str())?.map(|row| decode(row.value())))
        })?;
        row.transpose().map_err(|cause| self.undecodable(cause))
    }

    fn write(&mut self, batch: Vec<(Write, Reply<Option<Version>>)>) {
        let (writes, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let operations: Vec<_> = writes.iter().map(Write::operation).collect();
        match self.commit(writes) {
            Ok(answers) => {
                for (answer, reply) in answers.into_iter().zip(replies) {
                    drop(reply.send(answer));
                }
            }
            // Even a refusal was decided on the state that has just been lost, so all fail alike.
            Err(failure) => {
                for (operation, reply) in operations.into_iter().zip(replies) {
                    drop(reply.send(Err(failure.clone().of(operation))));
                }
            }
        }
    }

    /// One durable commit for all writes; the results are valid once it succeeded.
    fn commit(
        &mut self,
        writes: Vec<Write>,
    ) -> Result<Vec<Result<Option<Version>, StoreError>>, crate::file::WriteFailure> {
        let path = self.file.path().to_owned();
        let mut answers = Vec::with_capacity(writes.len());
        let mut changed = false;
        let committed = {
            let (answers, changed, count, epoch) =
                (&mut answers, &mut changed, &mut self.writes, &self.epoch);
            self.file.write(|transaction| {
                let mut table = transaction.open_table(LEASES)?;
                for write in writes {
                    *count += 1;
                    let answer = apply(&mut table, write, &format!("{epoch}.{count}"), &path)?;
                    *changed |= answer.is_ok();
                    answers.push(answer);
                }
                Ok(changed.then_some(()))
            })
        };
        committed.map(|_| answers)
    }

    fn undecodable(&self, cause: serde_json::Error) -> StoreError {
        StoreError::Corrupt { path: self.file.path().to_owned(), cause: Arc::new(cause) }
    }
}

/// Applies one write; the outer error ends the transaction, the inner one is the caller's result.
fn apply(
    table: &mut redb::Table<'_, &str, &[u8]>,
    write: Write,
    stamp: &str,
    path: &Path,
) -> Result<Result<Option<Version>, StoreError>, redb::Error> {
    let key = write.address_key();
    let name = key.record_name();
    let current = match table.get(name.as_str())?.map(|row| decode(row.value())).transpose() {
        Ok(current) => current,
        Err(cause) => {
            return Ok(Err(StoreError::Corrupt { path: path.to_owned(), cause: Arc::new(cause) }));
        }
    };
    let next = match decide(write, current, stamp) {
        Ok(next) => next,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match next {
        None => {
            table.remove(name.as_str())?;
            Ok(Ok(None))
        }
        Some(row) => {
            let bytes = match serde_json::to_vec(&row) {
                Ok(bytes) => bytes,
                Err(cause) => return Ok(Err(StoreError::Encode { key, cause: Arc::new(cause) })),
            };
            table.insert(name.as_str(), bytes.as_slice())?;
            Ok(Ok(Some(row.version)))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Versioned, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// 64 random bits in hexadecimal.
fn epoch() -> Result<String, StoreError> {
    use std::io::Read as _;
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    std::fs::File::open(path)
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|cause| StoreError::Read { path: path.to_owned(), cause: Arc::new(cause) })?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
