//! Tests of the netlink half on real namespaces. Each makes its own little node: a namespace with a
//! parent link `eth1` that is one end of a cable, and pods beside it. Names are unique, everything is
//! removed on drop, and nothing leaves these namespaces. They need root, and say so without it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail a test as tests do")]

mod change;
mod finder;
mod monitor;
mod namespaces;
mod reads;
mod search;
mod support;
