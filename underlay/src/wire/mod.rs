//! The wire: what the underlay itself says about who uses an address.
//!
//! ARP and IPv6 neighbour discovery frames are built and read in [`frame`] (pure), carried by
//! [`socket`], asked for in rounds by [`probe`] (a pure state machine, and a blocking shell),
//! overheard by [`listener`] (answers by a socket of their own, [`asking`], so that a flood voids no
//! round), and sent on behalf of a new pod by [`announce`]. [`underlay_check`]
//! asks for a gateway, for the operator's diagnosis.
//!
//! Left out: any judgement. An answer is reported with the MAC that gave it, whoever that is; which
//! answers are vetoes is the caller's business. The invariant: *silence is only reported when every
//! probe went out on a running link and no frame was lost meanwhile*; anything less is unknown.

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

/// What failed on the wire. The cause is the source, never part of the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The interface does not exist in the calling thread's namespace.
    #[error("no interface {0} in this network namespace; check the parent's name on this node")]
    NoDevice(String),
    /// The interface is no Ethernet device.
    #[error("interface {0} is no Ethernet device: it cannot carry ARP")]
    NotEthernet(String),
    /// The interface's state could not be read.
    #[error("read the state of interface {device}")]
    ReadDevice {
        /// The interface's name, or its index after `#`.
        device: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The packet socket could not be set up; without `CAP_NET_RAW` the cause is a refusal.
    #[error("{step} (packet socket on interface {ifindex})")]
    Socket {
        /// The step that failed.
        step: &'static str,
        /// The interface it was for.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// A frame could not be sent.
    #[error("send a frame about {address} on interface {ifindex}")]
    Send {
        /// The address that the frame was about.
        address: IpAddr,
        /// The interface.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// Waiting for frames, or reading one, failed.
    #[error("receive frames on interface {ifindex}")]
    Receive {
        /// The interface.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The socket by which the parent's state is read could not be opened.
    #[error("open a socket to read the state of {parent}")]
    Reader {
        /// The parent's name.
        parent: String,
        /// The step that failed.
        #[source]
        cause: crate::error::Error,
    },
    /// The thread that serves a parent could not be started.
    #[error("start the wire thread of {parent}")]
    Thread {
        /// The parent's name.
        parent: String,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The own address and the asked one are of two families.
    #[error("ask for {asked} from {own}: both must be IPv4 or both IPv6")]
    MixedFamilies {
        /// The own address.
        own: IpAddr,
        /// The address asked for.
        asked: IpAddr,
    },
}
