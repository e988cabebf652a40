//! Errors of a store, by operation.
//!
//! Three kinds matter to a caller. The state is not as expected (`AlreadyExists`, `Conflict`, `Gone`: read
//! and decide again). The write did not happen (`Full`, `Write`, `Unavailable`: nothing changed).
//! [`StoreError::OutcomeUnknown`]: only a live read settles it. Errors that require an operator (`Forbidden`,
//! `NoDefinition` and similar) contain advice; retrying is harmless.

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
    /// Create found a record of that address. It is included, so that the caller can recognise its own
    /// transaction after a lost reply.
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
        /// Version that the caller had read.
        expected: Version,
        /// The record that is there now.
        current: Box<Versioned>,
    },

    /// The address has no record.
    #[error("address {} of segment {} has no record", key.address, key.segment)]
    Gone {
        /// The address that was meant.
        key: AddressKey,
    },

    /// The write was sent, and its outcome is unknown. Only a live read settles it.
    #[error("{operation} has an unknown outcome; read the record again before a decision")]
    OutcomeUnknown {
        /// The requested operation.
        operation: &'static str,
        /// Cause of the missing response.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server could not serve the request, and nothing was changed. A retry is possible.
    #[error("{operation} was not served by the API server, and nothing was changed; try again")]
    Unavailable {
        /// The requested operation.
        operation: &'static str,
        /// Pause that the server requested, if any.
        retry_after: Option<Duration>,
        /// The server's response, or the reason for its absence.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server rejects this agent's credentials. Nothing was changed.
    #[error(
        "{operation}: the API server does not accept this agent's credentials: its token may have expired or be of \
         another cluster; check that its ServiceAccount exists (`kubectl apply -f deploy/berth.yaml`), or renew its \
         kubeconfig"
    )]
    NotAuthenticated {
        /// The requested operation.
        operation: &'static str,
        /// Response of the server.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// This agent may not do that. Nothing was changed.
    #[error(
        "{operation}: this agent lacks the permission on ipleases.berth.dev: its ServiceAccount lacks the ClusterRole or \
         the ClusterRoleBinding, which `kubectl apply -f deploy/berth.yaml` restores; or the admission policy of \
         deploy/admission-policy.yaml denies it, because the agent's token names another node or none, as \
         `berthctl doctor` reports"
    )]
    Forbidden {
        /// The requested operation.
        operation: &'static str,
        /// Response of the server.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server does not serve the kind. Nothing was changed, and the state of every address is
    /// unknown.
    #[error(
        "the API server has no definition of ipleases.berth.dev; run `kubectl apply -f deploy/berth.yaml`"
    )]
    NoDefinition {
        /// Response of the server.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The API server finds the object wrong. Nothing was changed.
    #[error(
        "{operation}: the API server refuses {object}: the definitions in the cluster may be older or newer than this \
         agent; apply deploy/crds.yaml of this version"
    )]
    Refused {
        /// The requested operation.
        operation: &'static str,
        /// Name of the object.
        object: String,
        /// Response of the server.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A stored object that this agent cannot read, so that the holder of its address is unknown.
    #[error("the lease {object}{} cannot be read; its address counts as taken", and_more(*others))]
    Unreadable {
        /// Name of the object.
        object: String,
        /// Number of further unreadable objects.
        others: usize,
        /// Description of the fault, and advice.
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
        /// Name of the object.
        object: String,
        /// Finalizers that delay its deletion.
        finalizers: Vec<String>,
    },

    /// A client of the Kubernetes API could not be made.
    #[error("cannot build a client of the Kubernetes API from {from}")]
    Connect {
        /// Source of its settings.
        from: String,
        /// Cause of the failure.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The folder of a store file could not be made.
    #[error("cannot create the folder {}; make it writable for this process, or choose another --state-dir", path.display())]
    CreateFolder {
        /// Path of the folder.
        path: PathBuf,
        /// Error from the system.
        #[source]
        cause: Arc<io::Error>,
    },

    /// A store file could not be created.
    #[error("cannot create {}", path.display())]
    CreateFile {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A store file could not be opened.
    #[error("cannot open {}; it must be a file of this version's format that this process may read and write", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
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
        /// Path of the file.
        path: PathBuf,
    },

    /// The file is damaged. It was not changed.
    #[error(
        "{} is damaged and was left unchanged; move it away (keep it for diagnosis) and start again, or restore \
         a copy of it. The agent then repairs the records of live attachments before it serves",
        path.display()
    )]
    Corrupt {
        /// Path of the file.
        path: PathBuf,
        /// The detected damage.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A damaged file could not be kept under another name. It was not changed.
    #[error("cannot set the damaged {} aside; make its folder writable, or move the file away", path.display())]
    SetAside {
        /// Path of the file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The file was written by a newer Berth. It was not changed.
    #[error(
        "{} has schema version {found}, and this program supports versions up to {supported}; start the newer \
         version of Berth that wrote it, or move the file away",
        path.display()
    )]
    NewerSchema {
        /// Path of the file.
        path: PathBuf,
        /// The version in it.
        found: u64,
        /// The newest version that this program supports.
        supported: u64,
    },

    /// The file is a valid database of another program.
    #[error(
        "{} does not hold {expected}: it belongs to another program and was left unchanged; check the path, or \
         move the file away",
        path.display()
    )]
    WrongKind {
        /// Path of the file.
        path: PathBuf,
        /// Description of the expected content.
        expected: &'static str,
    },

    /// The device is full. Nothing was changed; the same call works when there is room again.
    #[error("no space left for {}: nothing was changed; free space on its file system", path.display())]
    Full {
        /// Path of the file.
        path: PathBuf,
        /// Error from the system.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A read failed. It proves nothing about what is stored.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A write failed. Nothing was changed.
    #[error("cannot write {}; nothing was changed", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// A record could not be put into its stored form. Nothing was changed.
    #[error("cannot encode the record of address {} of segment {}", key.address, key.segment)]
    Encode {
        /// Address in question.
        key: AddressKey,
        /// Error of the encoder.
        #[source]
        cause: Arc<serde_json::Error>,
    },

    /// The thread that owns the file could not be started.
    #[error("cannot start the thread that owns {}", path.display())]
    StartWriter {
        /// Path of the file.
        path: PathBuf,
        /// Error from the system.
        #[source]
        cause: Arc<io::Error>,
    },

    /// The thread that owns the file ended before it took the request. Nothing was changed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Pause that the server requested, if any.
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
