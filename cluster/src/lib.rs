//! A Kubernetes cluster on one machine: a real control plane, nodes as network namespaces, a stand-in for each
//! node's kubelet that calls CNI plugins as a real one does, and the bench with pods on it.
//!
//! The parts of a world that it needs (guards that remove what they made, namespaces, the census on the wire)
//! are berth-testbed's. It is a crate of its own because of the Kubernetes client: `cargo xtask` is built
//! with the test bed, and should not take a minute longer for everyone. No code of what is measured is used
//! here, and nothing here listens outside of namespaces that it made.

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
