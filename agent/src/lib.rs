//! The agent's parts, as a library so that tests and the demo reach them.
//!
//! The binary wires them in `main.rs`. Decisions live in `berth_ipam`; what is here carries them
//! out and brings observations in.

pub mod capabilities;
pub mod clock;
pub mod epoch;
pub mod flags;
pub mod logging;
pub mod notify;
pub mod server;
