//! The agent's parts, as a library so that tests and the demo reach them.
//!
//! The binary wires them in `main.rs`. Decisions live in `berth_ipam`; what is here carries them
//! out and brings observations in.

pub mod agent;
pub mod answers;
pub mod away;
pub mod capabilities;
pub mod changer;
pub mod clock;
pub mod cluster;
pub mod committer;
pub mod deaf;
pub mod doctor;
pub mod epoch;
pub mod event_filter;
pub mod failures;
pub mod fdb;
pub mod flags;
pub mod hints;
pub mod history;
pub mod logging;
pub mod notify;
pub mod object;
pub mod observer;
pub mod parents;
pub mod ports;
pub mod programs;
pub mod readiness;
pub mod reload;
pub mod scanner;
pub mod server;
pub mod shown;
pub mod spooled;
pub mod startup;
pub mod strays;
pub mod survey;
pub mod wires;
pub mod writer;
