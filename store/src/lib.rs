//! Where ownership is written down: the lease store and the agent's journal.
//!
//! [`LeaseStore`] is the one contract; [`memory`], [`embedded`] and [`kubernetes`] keep it. [`journal`] is the agent's own file beside it: intents and what
//! the node alone knows. The crate decides nothing about life and death: it only makes one record
//! per address, refuses a write that was based on an older state, and says so when it cannot know
//! what became of one.
//!
//! Invariant: an acknowledged write is durable, and a file that is damaged or newer than this
//! program is refused untouched.

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
