//! What can go wrong with a store, by operation.
//!
//! Three kinds matter to a caller: the world is not as expected (`AlreadyExists`, `Conflict`,
//! `Gone`: read and decide anew), the write did not happen (`Full`, `Write`: nothing changed), and
//! [`StoreError::OutcomeUnknown`]: only a live read tells.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use berth_ipam::record::AddressKey;

use crate::lease::{Version, Versioned};

/// An operation on a store or journal that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Create found a record of that address. It is here, so that the caller can see whether it
    /// names the caller's own transaction, whose first reply was lost.
    #[error(
        "address {} of segment {} is already recorded for {} by transaction {}",
        existing.record.address, existing.record.segment, existing.record.key, existing.record.txn
    )]
    AlreadyExists {
        /// The record that is there.
        existing: Box<Versioned>,
    },

    /// The record is not the one that the caller had read.
    #[error(
        "the record of address {} of segment {} changed since it was read: expected {expected}, found {}",
        current.record.address, current.record.segment, current.version
    )]
    Conflict {
        /// What the caller had read.
        expected: Version,
        /// The record that is there now.
        current: Box<Versioned>,
    },

    /// There is no record of that address.
    #[error("address {} of segment {} has no record", key.address, key.segment)]
    Gone {
        /// The address that was meant.
        key: AddressKey,
    },

    /// The write was sent and nobody knows what became of it. Only a live read settles that.
    #[error("{operation} has an unknown outcome: read the record again before deciding on it")]
    OutcomeUnknown {
        /// What was asked for.
        operation: &'static str,
        /// Why the answer is missing.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The folder of a store file could not be made.
    #[error("create the folder {}: make it writable for this process, or choose another --state-dir", path.display())]
    CreateFolder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: Arc<io::Error>,
    },

    /// A store file could not be created.
    #[error("create {}", path.display())]
    CreateFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A store file could not be opened.
    #[error("open {}: it must be a file that this process may read and write, of this version's format", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// Another process, or another handle of this one, has the file open.
    #[error(
        "{} is in use by another process: only one agent may own it. Stop the other agent, or give this one \
         its own --state-dir",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },

    /// The file is damaged. It was not changed.
    #[error(
        "{} is damaged and was left as it is: move it away (keep it for diagnosis) and start again, or restore \
         a copy of it. The agent then repairs the records of live attachments before it serves",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The file was written by a newer Berth. It was not changed.
    #[error(
        "{} has schema version {found}, and this program knows versions up to {supported}: start the newer \
         version of Berth that wrote it, or move the file away",
        path.display()
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u64,
        /// The newest version that this program knows.
        supported: u64,
    },

    /// The file is a valid database, but of something else.
    #[error(
        "{} does not hold {expected}: it belongs to something else and was left as it is. Check the path, or \
         move the file away",
        path.display()
    )]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },

    /// No room on the device. Nothing was changed; the same call works when there is room again.
    #[error("no space left for {}: nothing was changed. Free space on its file system", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A read failed. It proves nothing about what is stored.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A write failed. Nothing was changed.
    #[error("write {}: nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A record could not be put into its stored form. Nothing was changed.
    #[error("encode the record of address {} of segment {}", key.address, key.segment)]
    Encode {
        /// The address.
        key: AddressKey,
        /// The encoder's answer.
        #[source]
        cause: Arc<serde_json::Error>,
    },

    /// The thread that owns the file could not be started.
    #[error("start the thread that owns {}", path.display())]
    StartWriter {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: Arc<io::Error>,
    },

    /// The thread that owns the file has ended before it took the request. Nothing was changed.
    #[error("the store is closed")]
    Closed,
}
