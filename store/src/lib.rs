//! Durable state of ownership: the lease store and the agent's journal.
//!
//! [`LeaseStore`] is the one contract; [`memory`], [`embedded`] and [`kubernetes`] implement it. [`journal`]
//! is the agent's own file: intents, and state that only the node needs. The crate takes no decision about
//! the life of an attachment. It creates one record per address, refuses a write that was based on an older
//! state, and reports an outcome that it cannot determine.
//!
//! Invariant: an acknowledged write is durable, and a file that is damaged or newer than this program is
//! refused unchanged.

pub mod embedded;
mod error;
mod file;
pub mod journal;
pub mod kubernetes;
mod lease;
pub mod memory;
mod overlay;

pub use berth_ipam::record::{Version, Versioned};
pub use error::{StoreError, chain};
pub use lease::LeaseStore;
