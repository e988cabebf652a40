//! Third-party callers (libcni, cnitool) and third-party plugins, with Berth in every role.
//!
//! The library's own code runs between the call and the plugins. The result is read from the kernel and from
//! the agent by the testbed's code. Left out: devices that this kernel cannot create (ipvlan and vlan), which
//! are reported as skips.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at its first surprise")]

mod chained;
mod delegate;
mod neighbours;
mod primary;
mod support;
mod tool;
