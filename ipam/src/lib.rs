//! The pure core of Berth: addresses, pools, leases, the order of allocation, evidence and
//! verdicts, and the ledger that ties them together.
//!
//! Nothing here does I/O, reads a clock or draws a random number; time and randomness are
//! arguments. The crate knows no tokio, no netlink and no Kubernetes, so the same code runs in
//! the agent, in property tests and in a simulator.

pub mod access;
pub mod alloc;
pub mod attachment;
pub mod config;
pub mod evidence;
pub mod identity;
pub mod interval;
pub mod ledger;
pub mod limit;
pub mod mac;
pub mod name;
pub mod ports;
pub mod record;
pub mod time;
pub mod verdict;
