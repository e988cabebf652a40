//! What can go wrong at the kernel's door.
//!
//! Two kinds are kept apart on purpose: [`Unknown`] is a read without a valid answer (the caller goes
//! on and treats the thing as in use), [`Error`] is an operation that did not happen.

use std::io;
use std::path::PathBuf;

use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;

/// A read that gave no valid answer, and why. It proves nothing: neither presence nor absence.
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
    /// The kernel's own words (extended acknowledgement), if any.
    pub message: Option<String>,
}

impl KernelError {
    /// Whether the kernel's answer was this error number (`libc::E...`).
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

/// Why an exchange with the kernel had no good end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The kernel said no.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel's answer is missing or does not count.
    #[error(transparent)]
    Unknown(#[from] Unknown),
}

impl Refusal {
    /// Whether the kernel refused with this error number (`libc::E...`).
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
    #[error("open network namespace {}", path.display())]
    OpenNetns {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A path that leads to something else.
    #[error("{} is no network namespace; name a file such as /run/netns/NAME or /proc/PID/ns/net", path.display())]
    NotNetns {
        /// The file.
        path: PathBuf,
    },
    /// No thread for work inside a namespace.
    #[error("start a thread for work inside a network namespace")]
    Thread(#[source] io::Error),
    /// The thread may not enter.
    #[error("enter a network namespace")]
    EnterNetns(#[source] io::Error),
    /// The work inside a namespace ended in a panic.
    #[error("the work inside a network namespace panicked")]
    Panicked,
    /// No netlink socket.
    #[error("open a netlink socket")]
    OpenSocket(#[source] io::Error),
    /// No cookie: kernels before 5.14 have none.
    #[error("read the cookie of a network namespace (it needs Linux 5.14)")]
    Cookie(#[source] io::Error),
    /// No subscription to kernel events.
    #[error("subscribe to kernel events")]
    Subscribe(#[source] io::Error),
    /// Kernel events cannot be received any more.
    #[error("receive kernel events")]
    Receive(#[source] io::Error),
    /// The number of a namespace cannot be read.
    #[error("read the number of a network namespace")]
    ReadNsid(#[source] Refusal),
    /// A namespace got no number.
    #[error("give a network namespace a number")]
    AssignNsid(#[source] Refusal),
    /// The kernel gave no random bytes.
    #[error("draw a random number")]
    Random(#[source] rustix::io::Errno),
    /// [`crate::change::Changer::start`] outside a tokio runtime.
    #[error("a changer needs a running tokio runtime with I/O and time enabled")]
    NoRuntime,
    /// A link was not created.
    #[error("create {kind} link {name}")]
    CreateLink {
        /// `macvlan` or `vlan`.
        kind: &'static str,
        /// The name it should have had.
        name: String,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// Another macvlan of the same parent has this MAC and is up; the next salt gives another one.
    /// The kernel says so when the second one is set up, not when it is created.
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
    #[error("{what} of link {ifindex}")]
    ChangeLink {
        /// What should have been done, as in `rename`.
        what: &'static str,
        /// The link.
        ifindex: u32,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// A link was not deleted.
    #[error("delete link {ifindex}")]
    DeleteLink {
        /// The link.
        ifindex: u32,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// The link at that index is another one by now, so it was left alone.
    #[error(
        "link {ifindex} of namespace {nsid} has the MAC {found:?}, not {expected}: it is another link and was not deleted"
    )]
    OtherLink {
        /// The namespace.
        nsid: Nsid,
        /// The index.
        ifindex: u32,
        /// The MAC that was expected.
        expected: Mac,
        /// The MAC that is there.
        found: Option<Mac>,
    },
    /// An address was not added.
    #[error("add address {address} to link {ifindex}")]
    AddAddress {
        /// The link.
        ifindex: u32,
        /// The address.
        address: ipnetwork::IpNetwork,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// An address was not deleted.
    #[error("delete address {address} from link {ifindex}")]
    DeleteAddress {
        /// The link.
        ifindex: u32,
        /// The address.
        address: ipnetwork::IpNetwork,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// A route was not added.
    #[error("add route to {to}{} on link {ifindex}", via.map_or_else(String::new, |via| format!(" via {via}")))]
    AddRoute {
        /// The link.
        ifindex: u32,
        /// The destination.
        to: ipnetwork::IpNetwork,
        /// The next hop.
        via: Option<std::net::IpAddr>,
        /// Why not.
        #[source]
        cause: Refusal,
    },
    /// A kernel setting was not written.
    #[error("set {} to {value}", path.display())]
    Sysctl {
        /// The file under `/proc/sys`.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}
