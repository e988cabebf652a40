//! ARP and neighbour discovery: evidence from the segment about the use of an address.
//!
//! Frames are built and parsed in [`frame`] (pure), carried by [`socket`], sent as probes in rounds by
//! [`probe`] (a pure state machine, and a blocking shell), and received by [`listener`]. Replies have a
//! separate socket, [`asking`], so that a flood voids no round. [`announce`] sends frames on behalf of a new
//! pod. [`underlay_check`] asks for a gateway, for the operator's diagnosis.
//!
//! Left out: judgement. A reply is reported with the MAC of its sender; the caller decides which replies are
//! vetoes. Invariant: *silence is reported only if every probe went out on a running link and no frame was
//! lost in that time*; anything less is unknown.

use std::io;
use std::net::IpAddr;

pub mod announce;
pub mod asking;
pub mod device;
pub mod filter;
pub mod frame;
pub mod listener;
pub mod probe;
pub mod quiet;
pub mod shell;
pub mod socket;
pub mod standstill;
pub mod underlay_check;

pub use announce::{Announcer, announce};
pub use frame::{Kind, Statement};
pub use listener::{Heard, ParentWire, WireEvent};
pub use probe::{Limits, Outcome, Priority, ProbeResult};
pub use shell::probe_now;
pub use socket::Direction;
pub use underlay_check::{Answer, ask_gateway};

/// Failures of probes and listeners. The cause is the source, never part of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The interface does not exist in the calling thread's namespace.
    #[error("interface {0} does not exist in this network namespace; check the parent's name on this node")]
    NoDevice(String),
    /// The interface is not an Ethernet device.
    #[error("interface {0} is not an Ethernet device and cannot carry ARP; choose another parent")]
    NotEthernet(String),
    /// The interface's state could not be read.
    #[error("cannot read the state of interface {device}")]
    ReadDevice {
        /// The interface's name, or its index after `#`.
        device: String,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The packet socket could not be set up; without `CAP_NET_RAW` the cause is a refusal.
    #[error("cannot {step} (packet socket on interface {ifindex})")]
    Socket {
        /// The step that failed.
        step: &'static str,
        /// The interface it was for.
        ifindex: u32,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// A frame could not be sent.
    #[error("cannot send a frame about {address} on interface {ifindex}")]
    Send {
        /// The address that the frame was about.
        address: IpAddr,
        /// Index of the interface.
        ifindex: u32,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// Waiting for frames, or reading one, failed.
    #[error("cannot receive frames on interface {ifindex}")]
    Receive {
        /// Index of the interface.
        ifindex: u32,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The socket by which the parent's state is read could not be opened.
    #[error("cannot open a socket to read the state of {parent}")]
    Reader {
        /// The parent's name.
        parent: String,
        /// The step that failed.
        #[source]
        cause: crate::error::Error,
    },
    /// The thread that serves a parent could not be started.
    #[error("cannot start the wire thread of {parent}")]
    Thread {
        /// The parent's name.
        parent: String,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The own address and the probed one are of two families.
    #[error("cannot ask for {asked} from {own}: both must be IPv4 or both IPv6")]
    MixedFamilies {
        /// The own address.
        own: IpAddr,
        /// The probed address.
        asked: IpAddr,
    },
}
