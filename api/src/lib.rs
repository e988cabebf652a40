//! What an operator declares, `UnderlayNetwork` and `IPPool` in group `berth.dev/v1alpha1`, and what
//! agents write down in a cluster, `IPLease`.
//!
//! The types, their CEL rules and the definitions for an API server are in [`types`]; [`load()`]
//! reads declarations from files; [`Declared::into_config`] makes of them what the core works with;
//! [`lease`] converts records. No client and no I/O but reading those files.
//!
//! Invariant: a [`Config`](berth_ipam::config::Config) that comes out of here is consistent: every
//! pool exists, every address lies in its subnet, and no two pools of a segment share an address.

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
