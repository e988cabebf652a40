//! Errors of a test cluster itself. A fault of a plugin is not an error here: it is counted.

use std::path::PathBuf;
use std::time::Duration;

/// The cluster's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why the cluster could not be built, driven or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces, processes, folders.
    #[error(transparent)]
    World(#[from] berth_testbed::Error),
    /// A file of the cluster could not be made or read.
    #[error("{what}")]
    File {
        /// The failed operation.
        what: String,
        /// Error from the kernel.
        #[source]
        cause: std::io::Error,
    },
    /// The programs of a control plane are not here.
    #[error("no {}; `cargo xtask tools kubernetes` builds them and `cargo xtask` passes them on", names.join(", "))]
    NoPrograms {
        /// Names of the programs.
        names: Vec<&'static str>,
    },
    /// A certificate could not be made.
    #[error("cannot create the {what}")]
    Certificate {
        /// Name of the file.
        what: &'static str,
        /// Cause of the failure.
        #[source]
        cause: rcgen::Error,
    },
    /// A part of the control plane ended, or does not respond.
    #[error("{part} {state}; the end of {}:\n{end}", log.display())]
    Part {
        /// Name of the part.
        part: &'static str,
        /// Text of its state.
        state: String,
        /// Path of its log.
        log: PathBuf,
        /// The last lines of it.
        end: String,
    },
    /// A request to the API server failed.
    #[error("{what}")]
    Request {
        /// The requested operation.
        what: String,
        /// Error of the client or of the server.
        #[source]
        cause: Box<kube::Error>,
    },
    /// A generated kubeconfig cannot be used.
    #[error("cannot read the kubeconfig {}", path.display())]
    Kubeconfig {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: Box<kube::config::KubeconfigError>,
    },
    /// A proxy could not be started.
    #[error("cannot {what} for a proxy")]
    Proxy {
        /// The failed operation.
        what: &'static str,
        /// Cause of the failure.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread that talks to the API server is gone.
    #[error("the thread that talks to the API server has ended during the request: {what}")]
    ApiGone {
        /// The requested operation.
        what: String,
    },
    /// A CNI configuration cannot be used.
    #[error("the CNI configuration {what}; use a list with `cniVersion`, `name` and `plugins`")]
    Configuration {
        /// Description of the fault.
        what: String,
    },
    /// The requested numbers do not fit together.
    #[error("{0}")]
    Usage(String),
    /// Something that had to come did not.
    #[error("{what} did not happen within {within:?}")]
    Timeout {
        /// Awaited condition, for messages.
        what: String,
        /// For how long.
        within: Duration,
    },
}

impl Error {
    /// For `map_err`: names the file operation.
    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |cause| Self::File { what, cause }
    }

    /// For `map_err`: names the request.
    pub(crate) fn request(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |cause| Self::Request { what, cause: Box::new(cause) }
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        berth_testbed::error::chain(self)
    }
}
