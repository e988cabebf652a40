//! Declarations of the operator, `UnderlayNetwork` and `IPPool` in group `berth.dev/v1alpha1`, and records of
//! the agents in a cluster, `IPLease`.
//!
//! The types, their CEL rules and the definitions for an API server are in [`types`]. [`load()`] reads
//! declarations from files; [`Declared::into_config`] converts them into the core's configuration; [`lease`]
//! converts records. No client and no I/O except reading those files.
//!
//! Invariant: a [`Config`](berth_ipam::config::Config) from this crate is consistent: every pool exists,
//! every address is inside its subnet, and no two pools of a segment share an address.

mod access;
mod convert;
mod duration;
mod error;
pub mod lease;
mod load;
mod members;
pub mod types;

pub use error::{ApiError, LeaseFault, Place};
pub use load::{Declared, load};
pub use types::{IPLease, IPPool, UnderlayNetwork, crds, definitions};
