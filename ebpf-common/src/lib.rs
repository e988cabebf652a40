//! Definitions shared by the eBPF programs and the agent: events, keys and values of maps, counters, offsets
//! of kernel members, and the frame parser.
//!
//! Layouts and one parser without dependencies, so that both sides compile the same file. Invariant: every
//! layout is `#[repr(C)]`, has no padding added by the compiler, has its size asserted, and all of its bytes
//! are written. User space converts layouts to bytes and back without `unsafe`. A change of any of them
//! requires a new [`LAYOUT`].

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

/// Maximum number of attachments, and of namespaces, that can be followed at the same time.
pub const ATTACHMENTS_MAX: u32 = 4096;

/// Maximum number of addresses that can be watched on all segments of a node together.
pub const WATCHES_MAX: u32 = 16384;

/// Maximum number of segments that can be guarded at the same time.
pub const GUARDS_MAX: u32 = 256;

/// Bytes in the ring of events: some 3,600 of them.
pub const RING_BYTES: u32 = 256 * 1024;
