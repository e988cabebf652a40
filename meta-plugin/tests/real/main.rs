//! The built plugin against real namespaces and a scripted agent.
//!
//! Each test creates its own node (a namespace with a parent link and a neighbour behind it), so the tests
//! run in parallel and leave the machine unchanged.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

mod attach;
mod calls;
mod detach;
mod support;
