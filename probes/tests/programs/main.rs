//! The programs in the running kernel: which are taken, which are refused, and what they tell.
//!
//! Needs root and the object that `cargo xtask build-ebpf` makes; without either each test says so.
//! Every test has maps of its own (no pins, or a BPF file system of its own), so several runs at
//! once do not meet; other tests' devices and namespaces are filtered by what is followed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it by panicking")]

mod faults;
mod log;
mod pins;
mod teardown;
mod wire;
mod world;
