//! The user-space side of Berth's eBPF programs: immediate events about a device, a namespace, a task or a
//! neighbour's frame that concerns an attachment.
//!
//! Everything from here is a hint, which triggers a read and proves nothing: the ledger decides by reads. A
//! node on which none of the programs can be loaded loses time, not correctness. Left out: the kernel side
//! (`ebpf/`), verdicts, and the reads for a verdict.
//!
//! Invariant: the programs are selected by trying them, and verified with a device of which the end must be
//! reported in full. A refusal is kept with its reason, and is not an error of the agent.

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
