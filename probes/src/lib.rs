//! The user side of Berth's eBPF programs: what the kernel says at once of a device, a namespace, a
//! task or a neighbour's frame that concerns an attachment.
//!
//! Everything that comes from here is a hint. It says when to look, never what is so: the ledger
//! decides by reads as before, and a node where nothing of this can be loaded loses time, not
//! correctness. Left out: the kernel side (`ebpf/`), verdicts, and any reading that a verdict needs.
//!
//! The invariant: which programs run is chosen by trying, and proved by a device whose end must be
//! told in full; a refusal is kept with its reason, and no refusal is an error of the agent.

#[cfg(any(test, fuzzing))]
pub mod agreement;
pub mod attachments;
pub mod btf;
#[cfg(any(test, fuzzing))]
pub mod btf_blob;
mod canary;
pub mod error;
pub mod event;
pub mod guard;
pub mod kernel;
pub mod ladder;
pub mod log;
mod memory;
pub mod pins;
pub mod probes;
mod proof;
mod readable;
mod ring;
mod slots;
pub mod watch;
pub mod wire;

pub use error::Error;
pub use event::ProbeEvent;
pub use ladder::{Allowed, Refusal, Rung, Stage};
pub use log::LogLevel;
pub use memory::share_one_heap;
pub use probes::{Object, Options, Probes};
pub use proof::Verdict;
pub use readable::Readable;
