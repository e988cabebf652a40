//! Errors of reads and changes in the kernel.
//!
//! Two kinds are kept apart: [`Unknown`] is a read without a valid answer (the caller continues and treats
//! the object as in use), [`Error`] is an operation that failed.

use std::io;
use std::path::PathBuf;

use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;

/// A read without a valid answer, and the reason. It proves neither presence nor absence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown: {0}")]
pub struct Unknown(pub String);

/// A checked read: an answer that counts, or none.
pub type Checked<T> = Result<T, Unknown>;

/// The kernel's refusal: an error number and, where the kernel gave one, its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// The positive error number, as in `errno(3)`.
    pub errno: i32,
    /// The kernel's own message (extended acknowledgement), if any.
    pub message: Option<String>,
}

impl KernelError {
    /// True if the kernel returned this error number (`libc::E...`).
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = io::Error::from_raw_os_error(self.errno);
        match &self.message {
            Some(message) => write!(f, "{text}: {message}"),
            None => write!(f, "{text}"),
        }
    }
}

impl std::error::Error for KernelError {}

/// Reason why an exchange with the kernel failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kernel refused the request.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel's answer is missing or does not count.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

impl Refusal {
    /// True if the kernel refused with this error number (`libc::E...`).
    pub fn is(&self, errno: i32) -> bool {
        matches!(self, Self::Kernel(kernel) if kernel.is(errno))
    }
}

impl From<Refusal> for Unknown {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Kernel(kernel) => Self(kernel.to_string()),
            Refusal::Unknown(unknown) => unknown,
        }
    }
}

/// An operation that did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A namespace's file cannot be opened.
    #[error("cannot open network namespace {}", path.display())]
    OpenNetns {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: io::Error,
    },
    /// A path that leads to another kind of file.
    #[error("{} is not a network namespace; name a file such as /run/netns/NAME or /proc/PID/ns/net", path.display())]
    NotNetns {
        /// Path of the file.
        path: PathBuf,
    },
    /// Failure to start a thread for work inside a namespace.
    #[error("cannot start a thread for work inside a network namespace")]
    Thread(#[source] io::Error),
    /// The thread may not enter.
    #[error("cannot enter a network namespace")]
    EnterNetns(#[source] io::Error),
    /// The work inside a namespace ended in a panic.
    #[error("the work inside a network namespace panicked")]
    Panicked,
    /// Failure to open a netlink socket.
    #[error("cannot open a netlink socket")]
    OpenSocket(#[source] io::Error),
    /// Failure to read a namespace cookie: kernels before 5.14 have none.
    #[error("cannot read the cookie of a network namespace; this needs Linux 5.14 or newer")]
    Cookie(#[source] io::Error),
    /// Failure to subscribe to kernel events.
    #[error("cannot subscribe to kernel events")]
    Subscribe(#[source] io::Error),
    /// Failure to receive kernel events.
    #[error("cannot receive kernel events")]
    Receive(#[source] io::Error),
    /// The number of a namespace cannot be read.
    #[error("cannot read the nsid of a network namespace")]
    ReadNsid(#[source] Refusal),
    /// A namespace got no number.
    #[error("cannot assign an nsid to a network namespace")]
    AssignNsid(#[source] Refusal),
    /// The kernel gave no random bytes.
    #[error("cannot get random bytes from the kernel")]
    Random(#[source] rustix::io::Errno),
    /// [`crate::change::Changer::start`] outside a tokio runtime.
    #[error("a changer needs a running tokio runtime with I/O and time enabled")]
    NoRuntime,
    /// A link was not created.
    #[error("cannot create {kind} link {name}")]
    CreateLink {
        /// `macvlan` or `vlan`.
        kind: &'static str,
        /// The name it should have had.
        name: String,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// Another macvlan of the same parent is up with this MAC; the next salt gives another MAC.
    /// The kernel reports this when the second link is set up, not when it is created.
    #[error("another macvlan of the same parent is up with the same MAC")]
    MacInUse {
        /// The MAC, where it was named in the request.
        mac: Option<Mac>,
    },
    /// The kernel was built without VLAN devices.
    #[error(
        "this kernel has no VLAN devices (8021q); load or build the module 8021q, or use a macvlan network"
    )]
    NoVlanDevices,
    /// The kernel was built without macvlan.
    #[error("this kernel has no macvlan devices; load or build the module macvlan")]
    NoMacvlanDevices,
    /// A link was not changed.
    #[error("cannot {what} of link {ifindex}")]
    ChangeLink {
        /// Operation, as in `rename`.
        what: &'static str,
        /// Interface index of the link.
        ifindex: u32,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// A link was not deleted.
    #[error("cannot delete link {ifindex}")]
    DeleteLink {
        /// Interface index of the link.
        ifindex: u32,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// The index belongs to another link now, so the link was left in place.
    #[error(
        "link {ifindex} of namespace {nsid} has the MAC {found:?}, not {expected}; it is another link and was not deleted"
    )]
    OtherLink {
        /// Nsid of the namespace.
        nsid: Nsid,
        /// Index of the interface.
        ifindex: u32,
        /// The MAC that was expected.
        expected: Mac,
        /// The MAC that is there.
        found: Option<Mac>,
    },
    /// An address was not added.
    #[error("cannot add address {address} to link {ifindex}")]
    AddAddress {
        /// Interface index of the link.
        ifindex: u32,
        /// Address in question.
        address: ipnetwork::IpNetwork,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// An address was not deleted.
    #[error("cannot delete address {address} from link {ifindex}")]
    DeleteAddress {
        /// Interface index of the link.
        ifindex: u32,
        /// Address in question.
        address: ipnetwork::IpNetwork,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// A route was not added.
    #[error("cannot add route to {to}{} on link {ifindex}", via.map_or_else(String::new, |via| format!(" via {via}")))]
    AddRoute {
        /// Interface index of the link.
        ifindex: u32,
        /// Destination of the route.
        to: ipnetwork::IpNetwork,
        /// The next hop.
        via: Option<std::net::IpAddr>,
        /// Cause of the failure.
        #[source]
        cause: Refusal,
    },
    /// A kernel setting was not written.
    #[error("cannot set {} to {value}", path.display())]
    Sysctl {
        /// The file under `/proc/sys`.
        path: PathBuf,
        /// Value of the sysctl.
        value: String,
        /// Cause of the failure.
        #[source]
        cause: io::Error,
    },
}
