//! Messages on the agent's Unix socket: one JSON object per line, in both directions.
//!
//! The types here define the wire format; docs/protocol.md describes it. Unknown keys are errors on the
//! agent's side, so that a misspelt field is never silently dropped. The crate also holds the blocking
//! client, and the two files that plugin and agent share without a socket (the spool and the sign of life).
//! The server is in the agent.

pub mod alias;
pub mod alive;
pub mod client;
mod durable;
pub mod fault;
pub mod request;
pub mod response;
pub mod spool;

use serde::{Deserialize, Serialize};

pub use client::{CallError, Client};
pub use request::Request;
pub use response::{Failure, Response};

/// The protocol's version; a request of another one is refused with both sides named.
pub const VERSION: u32 = 1;

/// The longest request line in bytes, including its newline. Responses may be longer: `leases` is one line.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// One line from client to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Always [`VERSION`] here.
    pub v: u32,
    /// Chosen by the client; the response repeats it.
    pub id: u64,
    /// Content of the request.
    pub request: Request,
}

/// One line from agent to client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Always [`VERSION`] here.
    pub v: u32,
    /// The id of the call.
    pub id: u64,
    /// Result of the request.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The result of one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "one value at a time exists, on its way to or from the wire")]
pub enum Outcome {
    /// It was done.
    Ok(Response),
    /// It was not.
    Error(Failure),
}
