//! Errors of the test world itself. A promise that Berth breaks is not an error here: it is a failed check in
//! the report.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The testbed's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Reason why the world could not be built, driven or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster around a lab does not do what it should.
    #[error("the cluster around the lab: {why}")]
    Outside {
        /// Description of the fault, with its causes.
        why: String,
    },
    /// A system call of the testbed failed.
    #[error("{what}")]
    System {
        /// Failed operation, with its object.
        what: String,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// A command of the machine (`ip`) failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Output of the command.
        output: String,
    },
    /// One of Berth's binaries is missing.
    #[error("no binary at {path}; build with `cargo xtask demo`, or name the folder in BERTH_BIN_DIR")]
    NoBinary {
        /// Path of the missing binary.
        path: PathBuf,
    },
    /// The agent did not respond on its socket in time, or ended.
    #[error("the agent {state} {after:?} after its start; the end of its log:\n{log}")]
    AgentStart {
        /// Text of its state.
        state: String,
        /// For how long it was waited for.
        after: Duration,
        /// The end of its log.
        log: String,
    },
    /// A request over the agent's socket was not answered.
    #[error("cannot call {verb} of the agent")]
    Ask {
        /// The request's name.
        verb: String,
        /// Cause of the missing response.
        #[source]
        cause: io::Error,
    },
    /// The agent answered something that docs/protocol.md does not allow.
    #[error("the agent's response to {verb} does not match docs/protocol.md: {answer}")]
    Answer {
        /// The request's name.
        verb: String,
        /// Text of the response.
        answer: String,
    },
    /// A plugin call that the case needs to succeed failed.
    #[error("{what} failed: {why}")]
    Plugin {
        /// Command, container and interface.
        what: String,
        /// The error object, or how the process ended.
        why: String,
    },
    /// Something that had to come did not.
    #[error("{what} did not happen within {within:?}")]
    Timeout {
        /// Awaited condition, for messages.
        what: String,
        /// For how long.
        within: Duration,
    },
    /// The monitor's thread has ended: nothing watches the addresses.
    #[error("the monitor ended: {0}")]
    Monitor(String),
    /// Ctrl-C or SIGTERM: everything is taken down.
    #[error("interrupted; everything made here was removed")]
    Interrupted,
}

impl Error {
    /// For `map_err`: names what was being done.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::System { what, cause }
    }

    /// The whole chain in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
