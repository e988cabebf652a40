//! Everything outside the flows of ADD and DEL: the container's namespace, the node, the agent, the spool,
//! the clock. A trait, so that the flows run against a simulation as they run on a node.
//!
//! Each method is one operation without decisions. After [`World::enter`] "the container" is the namespace
//! that was entered.

use std::io;
use std::path::Path;
use std::time::Duration;

use berth_ipam::identity::{BootId, NetnsCookie, Nsid};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::alive::Alive;
use berth_protocol::request::Release;
use berth_protocol::response::{LeaseGrant, LinkPlan};
use berth_protocol::spool::SpoolError;
use berth_protocol::{CallError, Request, Response};
use berth_underlay::error::{Checked, Error as KernelError};
use berth_underlay::facts::{AddressFacts, LinkFacts, RouteFacts};
use ipnetwork::IpNetwork;

use crate::exec::Ended;

/// The container's namespace at the time of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Cookie of the namespace.
    pub cookie: NetnsCookie,
    /// The inode of its file.
    pub inode: u64,
    /// True if it is the plugin's own namespace.
    pub is_own: bool,
}

/// A parent on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentFacts {
    /// MTU in bytes.
    pub mtu: u32,
    /// Its MAC, if it has one.
    pub mac: Option<Mac>,
    /// The bridge or bond that it is a port of.
    pub controller: Option<String>,
}

/// A link to create inside the container, down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink<'a> {
    /// Its kind and parent.
    pub plan: &'a LinkPlan,
    /// The parent's index on the node.
    pub parent_index: u32,
    /// Its temporary name.
    pub name: &'a IfName,
    /// Its MAC; `None`: the kernel's choice.
    pub mac: Option<Mac>,
    /// MTU in bytes; `None`: the parent's.
    pub mtu: Option<u32>,
}

/// An interface to be brought into service inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup<'a> {
    /// Index of the interface.
    pub ifindex: u32,
    /// MAC of the interface.
    pub mac: Mac,
    /// Its present name.
    pub name: &'a IfName,
    /// The name that it is to have.
    pub ifname: &'a IfName,
    /// True if it is down and its MAC is its own: then the kernel announces its addresses by itself.
    pub fresh: bool,
    /// Addresses, routes, router advertisements.
    pub grant: &'a LeaseGrant,
}

/// Outside operations of the flows.
pub trait World {
    /// Opens the container's namespace.
    fn enter(&mut self, path: &Path) -> Result<Entered, KernelError>;

    /// The nsid of the container in the node's namespace, assigned if it has none yet; and true if it was
    /// assigned by Berth.
    fn number(&mut self) -> Result<(Nsid, bool), KernelError>;

    /// All links of the container.
    fn links(&mut self) -> Checked<Vec<LinkFacts>>;

    /// All addresses of the container.
    fn addresses(&mut self) -> Checked<Vec<AddressFacts>>;

    /// All unicast routes of the container.
    fn routes(&mut self) -> Checked<Vec<RouteFacts>>;

    /// Index of an interface of the node; `None`: it does not exist.
    fn node_link(&mut self, name: &IfName) -> Checked<Option<u32>>;

    /// State of a parent; `None`: it does not exist.
    fn parent(&mut self, name: &IfName) -> Checked<Option<ParentFacts>>;

    /// Creates a link inside the container, down.
    fn create_link(&mut self, link: &NewLink<'_>) -> Result<(), KernelError>;

    /// Sets the alias of one of the container's links.
    fn set_alias(&mut self, ifindex: u32, alias: &str) -> Result<(), KernelError>;

    /// Deletes one of the container's links; `Ok` means that it was seen gone.
    fn delete_link(&mut self, ifindex: u32) -> Result<(), KernelError>;

    /// Names, addresses, sets up and routes one of the container's links, and announces it.
    fn configure(&mut self, setup: &Setup<'_>) -> Result<(), KernelError>;

    /// Removes addresses from one of the container's links; those that are gone already are fine.
    fn remove_addresses(&mut self, ifindex: u32, addresses: &[IpNetwork]) -> Result<(), KernelError>;

    /// Calls the agent, over the connection of the last call if that is still usable.
    fn ask(&mut self, request: &Request, within: Duration) -> Result<Response, CallError>;

    /// Runs a plugin of `CNI_PATH` under this call's environment with another verb.
    fn delegate(&mut self, kind: &str, verb: &'static str, input: &[u8]) -> io::Result<Ended>;

    /// Keeps a release for the agent, durably.
    fn spool(&mut self, release: Release) -> Result<(), SpoolError>;

    /// The agent's last sign of life; `None` if it cannot be read.
    fn alive(&self) -> Option<Alive>;

    /// The id of this boot; `None` if it cannot be read.
    fn boot_id(&self) -> Option<BootId>;

    /// Time of `CLOCK_BOOTTIME`.
    fn boottime(&self) -> Duration;

    /// Waits for this duration.
    fn sleep(&mut self, duration: Duration);

    /// 128 random bits.
    fn random(&mut self) -> io::Result<[u8; 16]>;

    /// A line for the runtime's log (standard error).
    fn note(&mut self, text: &str);
}
