//! Checked reads: links, addresses, routes and the bridge table of a parent, in the socket's own namespace or
//! in another one by its nsid, without entering it.
//!
//! Every answer is either certain or [`Unknown`]. An nsid is valid only in the namespace in which the
//! [`Reader`] was opened; a caller that compares evidence over time checks that the agent's own cookie is
//! still the same.

use std::collections::HashSet;

use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;

use crate::error::{Checked, Error, Refusal, Unknown};
use crate::facts::{self, AddressFacts, LinkFacts, RouteFacts};
use crate::message::{Request, Which};
use crate::netns::{NetnsFile, socket_in};
use crate::socket::Socket;

/// Result of reading one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkRead {
    /// It is there.
    Found(LinkFacts),
    /// The namespace exists and has no such link (`ENODEV`).
    NoDevice,
    /// The nsid is unassigned (`EINVAL`). The nsid may have been lost while the namespace exists.
    NoNamespace,
    /// The reply was invalid or missing.
    Unknown(Unknown),
}

impl LinkRead {
    /// The link, if it was found.
    pub fn found(self) -> Option<LinkFacts> {
        if let Self::Found(facts) = self { Some(facts) } else { None }
    }
}

/// A socket for reads in the namespace in which it was opened.
#[derive(Debug)]
pub struct Reader {
    socket: Socket,
}

impl Reader {
    /// Opens one in the calling thread's namespace.
    pub fn new() -> Result<Self, Error> {
        Socket::open().map(Self::over)
    }

    /// Opens one inside a namespace. It keeps that namespace alive: for one call only.
    pub fn inside(netns: &NetnsFile) -> Result<Self, Error> {
        socket_in(netns).map(Self::over)
    }

    /// Reads over a socket that is open already.
    pub fn over(socket: Socket) -> Self {
        Self { socket }
    }

    /// The socket, for [`crate::nsid`].
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// One link by its index.
    pub fn link(&mut self, nsid: Option<Nsid>, ifindex: u32) -> LinkRead {
        // Index 0 would mean "by name" to the kernel, and no link has it.
        if ifindex == 0 {
            return LinkRead::NoDevice;
        }
        self.get_link(nsid, &Which::Index(ifindex))
    }

    /// One link by its name.
    pub fn link_by_name(&mut self, nsid: Option<Nsid>, name: &IfName) -> LinkRead {
        self.get_link(nsid, &Which::Name(name.as_str()))
    }

    fn get_link(&mut self, nsid: Option<Nsid>, which: &Which<'_>) -> LinkRead {
        match self.socket.one(&Request::get_link(nsid, which), |_, body| facts::link(body)) {
            Ok(facts) => match which {
                Which::Index(index) if facts.ifindex != *index => {
                    LinkRead::Unknown(Unknown(format!("asked for link {index}, got link {}", facts.ifindex)))
                }
                _ => LinkRead::Found(facts),
            },
            Err(refusal) => refused_link(nsid, refusal),
        }
    }

    /// All links of a namespace.
    pub fn links(&mut self, nsid: Option<Nsid>) -> Checked<Vec<LinkFacts>> {
        Ok(self.socket.dump(&Request::dump_links(nsid), |_, body| facts::link(body).map(Some))?)
    }

    /// All IP addresses of a namespace.
    pub fn addresses(&mut self, nsid: Option<Nsid>) -> Checked<Vec<AddressFacts>> {
        Ok(self.socket.dump(&Request::dump_addresses(nsid), |_, body| facts::address(body))?)
    }

    /// All unicast routes of the reader's own namespace. The kernel offers no read of another namespace's
    /// routes.
    pub fn routes(&mut self) -> Checked<Vec<RouteFacts>> {
        Ok(self.socket.dump(&Request::dump_routes(), |_, body| facts::route(body))?)
    }

    /// Unicast MACs that a parent listens to besides its own: those of its macvlans that are up, over all
    /// namespaces. Passthru children and offloaded macvlans are missing.
    ///
    /// The kernel answers with an empty list for an index that does not exist, so the parent is read
    /// afterwards: if it is missing, the answer is unknown.
    pub fn fdb(&mut self, parent_ifindex: u32) -> Checked<HashSet<Mac>> {
        let macs = self
            .socket
            .dump(&Request::dump_fdb(parent_ifindex), |_, body| facts::fdb_entry(body, parent_ifindex))?;
        match self.link(None, parent_ifindex) {
            LinkRead::Found(_) => Ok(macs.into_iter().collect()),
            LinkRead::Unknown(unknown) => Err(unknown),
            LinkRead::NoDevice | LinkRead::NoNamespace => {
                Err(Unknown(format!("the parent link {parent_ifindex} is not in this namespace")))
            }
        }
    }

    /// Deletes a link of the namespace with that nsid, if it has the expected MAC. `Ok(false)`: the link or
    /// its namespace was already gone. Takes 15 to 35 ms in the kernel.
    ///
    /// A passthru child has its parent's MAC, so this check does not identify it: the caller must.
    pub fn delete_link(&mut self, nsid: Nsid, ifindex: u32, expected: Mac) -> Result<bool, Error> {
        match self.link(Some(nsid), ifindex) {
            LinkRead::Found(facts) if facts.mac == Some(expected) => {}
            LinkRead::Found(facts) => {
                return Err(Error::OtherLink { nsid, ifindex, expected, found: facts.mac });
            }
            LinkRead::NoDevice | LinkRead::NoNamespace => return Ok(false),
            LinkRead::Unknown(unknown) => return Err(Error::DeleteLink { ifindex, cause: unknown.into() }),
        }
        match self.socket.acknowledged(&Request::delete_link(nsid, ifindex)) {
            Ok(()) => Ok(true),
            // It went between the look and the deletion.
            Err(cause) if cause.is(libc::ENODEV) => Ok(false),
            Err(cause) => Err(Error::DeleteLink { ifindex, cause }),
        }
    }
}

/// Meaning of a refused GETLINK. `EINVAL` without an extended ack message means an unassigned nsid. With a
/// message the kernel objects to the request itself, which proves nothing.
fn refused_link(nsid: Option<Nsid>, refusal: Refusal) -> LinkRead {
    match refusal {
        Refusal::Kernel(kernel) if kernel.is(libc::ENODEV) => LinkRead::NoDevice,
        Refusal::Kernel(kernel) if kernel.is(libc::EINVAL) && kernel.message.is_none() && nsid.is_some() => {
            LinkRead::NoNamespace
        }
        other => LinkRead::Unknown(other.into()),
    }
}
