//! Callers that others wrote (libcni, cnitool) and plugins that others wrote, with Berth in every role.
//!
//! What a runtime's library does between its call and the plugins is the library's own here. What came
//! of it is read from the kernel and from the agent by the testbed's code. Left out: what the kernel
//! cannot make here (ipvlan and vlan devices), which skips and says so.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

mod chained;
mod delegate;
mod neighbours;
mod primary;
mod support;
mod tool;
