//! A Kubernetes cluster on one machine: a real control plane, nodes as network namespaces, a stand-in for
//! each node's kubelet that calls CNI plugins as a real one does, and the bench with pods on it.
//!
//! The required parts of a world (guards that clean up, namespaces, the scan of the segment) are
//! berth-testbed's. This is a separate crate because of the Kubernetes client: `cargo xtask` is built with
//! the test bed, and should not take a minute longer for every developer. No code of the measured product is
//! used here, and nothing here listens outside of its own namespaces.

pub mod agent;
pub mod api;
pub mod args;
pub mod bench;
pub mod bounds;
pub mod chain;
pub mod cluster;
pub mod cni;
pub mod control;
pub mod demo;
pub mod error;
pub mod habits;
pub mod kubelet;
pub mod network;
pub mod node;
pub mod pki;
pub mod proxy;
pub mod records;
pub mod runtime;
pub mod session;
pub mod tally;
pub mod workload;

pub use error::{Error, Result};
