//! The built plugin against real namespaces and a scripted agent.
//!
//! Each test makes a node of its own (a namespace with a parent link and a neighbour behind it), so
//! the tests run side by side and touch nothing of the machine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

mod attach;
mod calls;
mod detach;
mod support;
