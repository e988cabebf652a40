//! The kernel as Berth reads and changes it: links, addresses, routes, namespaces, the bridge table of a
//! parent, and frames on the segment.
//!
//! Reads and changes are separate. Reads use one blocking socket with a checked path ([`socket`]): an answer
//! counts only if the kernel completed it without an error and without an interruption. Otherwise it is
//! [`error::Unknown`], and unknown means "in use". Changes use rtnetlink ([`change`]) on a socket opened
//! inside the namespace concerned, so that no message needs to name another namespace.
//!
//! Left out: verdicts, which the ledger reaches.

pub mod change;
pub mod error;
pub mod facts;
pub mod finder;
mod message;
pub mod monitor;
pub mod netns;
pub mod nsid;
pub mod offload;
pub mod random;
pub mod read;
mod reply;
pub mod search;
pub mod socket;
mod syscall;
pub mod sysctl;
pub mod tasks;
#[cfg(any(test, fuzzing))]
pub mod trial;
pub mod wire;
