//! What can go wrong with a store, by operation.
//!
//! Three kinds matter to a caller: the world is not as expected (`AlreadyExists`, `Conflict`,
//! `Gone`: read and decide anew), the write did not happen (`Full`, `Write`, `Unavailable`: nothing
//! changed), and [`StoreError::OutcomeUnknown`]: only a live read tells. What a person must mend
//! (`Forbidden`, `NoDefinition` and the like) says how; trying again does no harm.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_api::ApiError;
use berth_ipam::record::{AddressKey, Version, Versioned};

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

    /// The API server could not serve the request, and nothing was changed. It can be asked again.
    #[error("{operation} was not served by the API server, and nothing was changed; it is worth another try")]
    Unavailable {
        /// What was asked for.
        operation: &'static str,
        /// How long the server wants to be left alone, if it said so.
        retry_after: Option<Duration>,
        /// The server's answer, or why there is none.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server does not know this agent. Nothing was changed.
    #[error(
        "{operation}: the API server does not accept this agent's credentials: its token may have expired or be of \
         another cluster; check that its ServiceAccount exists (`kubectl apply -f deploy/berth.yaml`), or renew its \
         kubeconfig"
    )]
    NotAuthenticated {
        /// What was asked for.
        operation: &'static str,
        /// The server's answer.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// This agent may not do that. Nothing was changed.
    #[error(
        "{operation}: this agent may not do that with ipleases.berth.dev: its ServiceAccount lacks the ClusterRole or \
         the ClusterRoleBinding, which `kubectl apply -f deploy/berth.yaml` restores; or the admission policy of \
         deploy/admission-policy.yaml denies it, because the agent's token names another node or none, as \
         `berthctl doctor` tells"
    )]
    Forbidden {
        /// What was asked for.
        operation: &'static str,
        /// The server's answer.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server knows no leases at all. Nothing was changed, and nothing is known of any address.
    #[error("the API server has no definition of ipleases.berth.dev: `kubectl apply -f deploy/berth.yaml`")]
    NoDefinition {
        /// The server's answer.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server finds the object wrong. Nothing was changed.
    #[error(
        "{operation}: the API server refuses {object}: the definitions in the cluster may be older or newer than this \
         agent; apply deploy/crds.yaml of this version"
    )]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// The object.
        object: String,
        /// The server's answer.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A stored object that this agent cannot read, so that nobody knows who holds its address.
    #[error("the lease {object}{} cannot be read; its address counts as taken", and_more(*others))]
    Unreadable {
        /// Its name.
        object: String,
        /// How many more there are.
        others: usize,
        /// What is wrong with it, and what to do.
        #[source]
        cause: Arc<ApiError>,
    },

    /// The object is marked for deletion, and something keeps it. Its address is not free.
    #[error(
        "the lease {object} is kept by finalizers that Berth never sets ({}): have their owner remove them, or \
         `kubectl patch iplease {object} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'`",
        finalizers.join(", ")
    )]
    Finalizers {
        /// Its name.
        object: String,
        /// What keeps it.
        finalizers: Vec<String>,
    },

    /// A client of the Kubernetes API could not be made.
    #[error("make a client of the Kubernetes API from {from}")]
    Connect {
        /// Where its settings come from.
        from: String,
        /// The cause.
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

    /// A damaged file could not be kept under another name. It was not changed.
    #[error("set the damaged {} aside: make its folder writable, or move the file away by hand", path.display())]
    SetAside {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
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

impl StoreError {
    /// How long the server wants to be left alone, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
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
