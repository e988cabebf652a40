//! What the programs in the kernel and the agent in user space must agree on: events, keys and
//! values of maps, counters, where the kernel keeps what the programs read, and how a frame is read.
//!
//! Layouts and one parser, no dependency, so that both sides compile the very same file. The
//! invariant: every layout is `#[repr(C)]`, has no padding that the compiler adds, has its size
//! asserted, and all bytes of it are written. User space turns layouts into bytes and back without
//! `unsafe`; a change of any of them is a new [`LAYOUT`].

#![no_std]

mod bytes;
mod event;
pub mod frame;
mod kernel;
mod map;

pub use event::{DeviceEvent, Kind, Source, WireEvent, flag, kind_of};
pub use kernel::{ABSENT, KernelLayout};
pub use map::{
    AttachKey, AttachValue, Counter, DepartedValue, ExitSlot, GuardKey, GuardValue, NetnsValue, PassValue,
    WatchKey, WatchValue, watch_flag,
};

/// The version of all layouts here; in every event and in the path of the pins.
pub const LAYOUT: u8 = 1;

/// How many attachments, and how many namespaces, can be followed at once.
pub const ATTACHMENTS_MAX: u32 = 4096;

/// How many addresses can be watched on all wires of a node together.
pub const WATCHES_MAX: u32 = 16384;

/// How many wires can be guarded at once.
pub const GUARDS_MAX: u32 = 256;

/// Bytes in the ring of events: some 3,600 of them.
pub const RING_BYTES: u32 = 256 * 1024;
