//! What can go wrong in a test cluster itself. What a plugin does wrong is no error here: it is counted.

use std::path::PathBuf;
use std::time::Duration;

/// The cluster's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the cluster could not be built, driven or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces, processes, folders.
    #[error(transparent)]
    World(#[from] berth_testbed::Error),
    /// A file of the cluster could not be made or read.
    #[error("{what}")]
    File {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        #[source]
        cause: std::io::Error,
    },
    /// The programs of a control plane are not here.
    #[error("no {}; `cargo xtask tools kubernetes` builds them and `cargo xtask` passes them on", names.join(", "))]
    NoPrograms {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// A certificate could not be made.
    #[error("make the {what}")]
    Certificate {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        cause: rcgen::Error,
    },
    /// A part of the control plane ended, or does not answer.
    #[error("{part} {state}; the end of {}:\n{end}", log.display())]
    Part {
        /// Its name.
        part: &'static str,
        /// What became of it.
        state: String,
        /// Its log.
        log: PathBuf,
        /// The last lines of it.
        end: String,
    },
    /// A request to the API server failed.
    #[error("{what}")]
    Request {
        /// What was asked for.
        what: String,
        /// The client's or the server's answer.
        #[source]
        cause: Box<kube::Error>,
    },
    /// A kubeconfig of our own cannot be used.
    #[error("read the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: Box<kube::config::KubeconfigError>,
    },
    /// A proxy could not be started.
    #[error("{what} for a proxy")]
    Proxy {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread that talks to the API server is gone.
    #[error("the thread that talks to the API server has ended while {what} was asked for")]
    ApiGone {
        /// What was asked for.
        what: String,
    },
    /// A CNI configuration cannot be used.
    #[error("the CNI configuration {what}; give a list with `cniVersion`, `name` and `plugins`")]
    Configuration {
        /// What is wrong with it.
        what: String,
    },
    /// The numbers asked for do not fit together.
    #[error("{0}")]
    Usage(String),
    /// Something that had to come did not.
    #[error("{what} did not happen within {within:?}")]
    Timeout {
        /// What was waited for.
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
