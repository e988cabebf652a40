//! The kernel as Berth sees and changes it: links, addresses, routes, namespaces, the bridge table
//! of a parent, and the wire.
//!
//! Reading and changing are kept apart. Reads go through one blocking socket with a checked path
//! ([`socket`]): an answer counts only if the kernel finished it without an error and without an
//! interruption, otherwise it is [`error::Unknown`], and unknown means "in use". Changes go through
//! rtnetlink ([`change`]) on a socket that was opened inside the namespace it speaks for, so that no
//! message ever needs to name another namespace.
//!
//! Nothing here decides anything: verdicts are the ledger's business.

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
