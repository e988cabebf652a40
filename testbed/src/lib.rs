//! A small network on one kernel: nodes as network namespaces, a switch, a neighbour and pods, with Berth's
//! real binaries in it, and the cases that Berth promises to survive.
//!
//! Berth is driven through its contracts only: the CNI environment and standard input, the agent's flags and
//! its socket. Measurements use independent means (separate netlink, ARP and clock code), never the agent, so
//! that a fault in the agent cannot hide itself. No code of `agent` or `underlay` is used.
//!
//! Invariant: every created object is removed in any case (a failure, a panic, Ctrl-C).
//!
//! ```text
//!   neighbour ns        switch ns            node ns                 pod ns (many)
//!   [eth0]----veth----[bridge br0]----veth----[eth1]====macvlan======[eth0]
//!   monitor: ARP                              agent, plugin
//!   and nsid reads                            FDB poller
//! ```

pub mod agent;
pub mod callers;
pub mod cases;
pub mod census;
pub mod cleanup;
pub mod client;
pub mod conformance;
pub mod declare;
pub mod demo;
pub mod error;
pub mod fdb;
pub mod guest;
pub mod kubernetes;
pub mod lab;
pub mod lease_watch;
pub mod monitor;
pub mod narrate;
pub mod netns;
pub mod outside;
pub mod plugin;
pub mod report;
pub mod runs;
pub mod skip;
pub mod stats;
pub mod stranger;
pub mod traffic;
pub mod world;

mod netlink;
mod sys;

pub use error::{Error, Result};
