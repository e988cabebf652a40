//! Tests of the netlink half on real namespaces. Each creates a small node: a namespace with a parent link
//! `eth1` that is one end of a cable, and pods next to it. Names are unique, everything is removed on drop,
//! and no traffic leaves these namespaces. They need root, and report a skip without it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail a test as tests do")]

mod change;
mod finder;
mod monitor;
mod namespaces;
mod reads;
mod search;
mod support;
