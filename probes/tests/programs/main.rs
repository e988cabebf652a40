//! The programs in the running kernel: those accepted, those refused, and their events.
//!
//! Needs root and the object of `cargo xtask build-ebpf`; without either each test reports a skip. Every test
//! has its own maps (no pins, or a separate BPF file system), so concurrent runs do not interfere. Devices
//! and namespaces of other tests are filtered out, because they are not followed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it by panicking")]

mod faults;
mod log;
mod pins;
mod teardown;
mod wire;
mod world;
