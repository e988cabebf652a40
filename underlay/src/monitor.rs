//! Kernel events: links, addresses and namespaces that appear, disappear or move, in the node's namespace and
//! in every namespace with an nsid there.
//!
//! Events are hints. They may be read long after they happened, and an nsid may belong to another namespace
//! at that time: read the current state before acting on one. An overrun is an event too: everything must be
//! read again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;
use ipnetwork::IpNetwork;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket as RawSocket, SocketAddr};
use rustix::net::sockopt;

use crate::error::{Error, Unknown};
use crate::facts;
use crate::message::{RTM_DELADDR, RTM_DELLINK, RTM_DELNSID, RTM_NEWADDR, RTM_NEWLINK, u16_at, u32_at};
use crate::netns::NetnsFile;
use crate::nsid;
use crate::socket::Socket;
use crate::syscall;

/// Room for some ten thousand events, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Events are below 4 KiB each; the kernel sends one or few a datagram.
const DATAGRAM: usize = 64 * 1024;

/// Maximum number of datagrams that one [`Monitor::drain`] takes, so that a flood cannot hold the caller.
const BATCH: usize = 20_000;

/// `RTNLGRP_*` (linux/rtnetlink.h): links, IPv4 addresses, IPv6 addresses, namespace numbers.
const GROUPS: [u32; 4] = [1, 5, 9, 28];

/// Family of a bridge's port events, which never report the end of a link.
const AF_BRIDGE: u8 = 7;

/// Something that the kernel reported. `nsid` is `None` for the monitor's own namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link was deleted.
    LinkGone {
        /// The namespace it was in.
        nsid: Option<Nsid>,
        /// Its index there.
        ifindex: u32,
        /// Its name; chosen by the pod.
        name: String,
        /// MAC address of the link.
        mac: Option<Mac>,
        /// The index of its parent in the parent's namespace.
        parent_index: Option<u32>,
    },
    /// A link left for another namespace.
    LinkMoved {
        /// The namespace it left.
        nsid: Option<Nsid>,
        /// Its index there.
        ifindex: u32,
        /// MAC address of the link.
        mac: Option<Mac>,
        /// The new namespace as the *old* one numbers it; `None`: it has no number there.
        new_nsid: Option<i32>,
    },
    /// A link appeared or changed.
    LinkSeen {
        /// Nsid of its namespace.
        nsid: Option<Nsid>,
        /// Its index there.
        ifindex: u32,
        /// Its name; chosen by the pod.
        name: String,
        /// MAC address of the link.
        mac: Option<Mac>,
        /// True if the link is set up.
        up: bool,
    },
    /// An address appeared or changed.
    AddressSeen {
        /// Nsid of the namespace.
        nsid: Option<Nsid>,
        /// Interface index of the link.
        ifindex: u32,
        /// The address with its prefix length.
        address: IpNetwork,
    },
    /// An address went.
    AddressGone {
        /// Nsid of the namespace.
        nsid: Option<Nsid>,
        /// Interface index of the link.
        ifindex: u32,
        /// The address with its prefix length.
        address: IpNetwork,
    },
    /// A namespace lost its number, as a rule because it ended. Its number may be in use again.
    NamespaceGone {
        /// The nsid that ended.
        nsid: Nsid,
    },
    /// Events were lost, or could not be understood: read everything again.
    Overrun,
}

/// Subscription to kernel events.
#[derive(Debug)]
pub struct Monitor {
    raw: RawSocket,
    /// Reads the nsid of the own namespace.
    side: Socket,
    buffer: Vec<u8>,
    all_namespaces: bool,
    /// Nsid of the own namespace in itself. The kernel assigns it when a process reads a link that has its
    /// parent here, and from then on marks the own events with it.
    own: Option<Nsid>,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let (raw, all_namespaces) = subscribe().map_err(Error::Subscribe)?;
        Ok(Self { raw, side: Socket::open()?, buffer: vec![0; DATAGRAM], all_namespaces, own: None })
    }

    /// Becomes readable when there are events.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }

    /// True if events of other namespaces arrive; without `CAP_NET_BROADCAST` only those of the own namespace
    /// and the ends of nsids do.
    pub fn hears_all_namespaces(&self) -> bool {
        self.all_namespaces
    }

    /// Takes all events that wait, in the kernel's order, without waiting for more. After 20,000
    /// datagrams it returns early, and the descriptor stays readable.
    pub fn drain(&mut self) -> Result<Vec<KernelEvent>, Error> {
        let mut events = Vec::new();
        let mut asked = false;
        for _ in 0..BATCH {
            let datagram = match syscall::receive(self.raw.as_fd(), &mut self.buffer) {
                Ok(datagram) => datagram,
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) if cause.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(KernelEvent::Overrun);
                    continue;
                }
                Err(cause) => return Err(Error::Receive(cause)),
            };
            if !datagram.from_kernel {
                continue;
            }
            if datagram.truncated {
                events.push(KernelEvent::Overrun);
                continue;
            }
            let mut nsid = datagram.nsid.map(Nsid);
            if nsid.is_some() && self.own.is_none() && !asked {
                asked = true;
                self.own = NetnsFile::own().and_then(|own| nsid::read(&mut self.side, &own))?;
            }
            if nsid == self.own {
                nsid = None;
            }
            read_events(&self.buffer[..datagram.length], nsid, &mut events);
        }
        Ok(events)
    }
}

fn subscribe() -> io::Result<(RawSocket, bool)> {
    let mut raw = RawSocket::new(NETLINK_ROUTE)?;
    // The buffer is enlarged first, because events may arrive from the first subscription on. The forced size
    // needs CAP_NET_ADMIN; without it the system's limit applies.
    if sockopt::set_socket_recv_buffer_size_force(raw.as_fd(), RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(raw.as_fd(), RECEIVE_BUFFER)?;
    }
    let all_namespaces = raw.set_listen_all_namespaces(true).is_ok();
    raw.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        raw.add_membership(group)?;
    }
    Ok((raw, all_namespaces))
}

/// Reads the messages of one datagram. Pure. What cannot be understood is an overrun: an event that
/// is skipped in silence may be the one that mattered.
pub(crate) fn read_events(mut datagram: &[u8], nsid: Option<Nsid>, events: &mut Vec<KernelEvent>) {
    while !datagram.is_empty() {
        let message = u32_at(datagram, 0)
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length >= 16)
            .and_then(|length| datagram.get(..length));
        let Some(message) = message else {
            events.push(KernelEvent::Overrun);
            return;
        };
        datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        let kind = u16_at(message, 4).unwrap_or_default();
        match read_event(kind, &message[16..], nsid) {
            Ok(event) => events.extend(event),
            Err(Unknown(_)) => events.push(KernelEvent::Overrun),
        }
    }
}

fn read_event(kind: u16, body: &[u8], nsid: Option<Nsid>) -> Result<Option<KernelEvent>, Unknown> {
    match kind {
        RTM_NEWLINK | RTM_DELLINK if body.first() == Some(&AF_BRIDGE) => Ok(None),
        RTM_NEWLINK => {
            let link = facts::link(body)?;
            Ok(Some(KernelEvent::LinkSeen {
                nsid,
                ifindex: link.ifindex,
                name: link.name,
                mac: link.mac,
                up: link.up,
            }))
        }
        RTM_DELLINK => {
            let link = facts::link(body)?;
            Ok(Some(match facts::moved_to(body) {
                Some(to) => KernelEvent::LinkMoved {
                    nsid,
                    ifindex: link.ifindex,
                    mac: link.mac,
                    new_nsid: (to >= 0).then_some(to),
                },
                None => KernelEvent::LinkGone {
                    nsid,
                    ifindex: link.ifindex,
                    name: link.name,
                    mac: link.mac,
                    parent_index: link.parent_index,
                },
            }))
        }
        RTM_NEWADDR => Ok(facts::address(body)?.map(|facts| KernelEvent::AddressSeen {
            nsid,
            ifindex: facts.ifindex,
            address: facts.address,
        })),
        RTM_DELADDR => Ok(facts::address(body)?.map(|facts| KernelEvent::AddressGone {
            nsid,
            ifindex: facts.ifindex,
            address: facts.address,
        })),
        RTM_DELNSID => Ok(facts::nsid(body)?.map(|nsid| KernelEvent::NamespaceGone { nsid: Nsid(nsid) })),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
    }

    fn link_body(ifindex: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0; 16];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        for (kind, value) in attributes {
            body.extend(u16::try_from(value.len() + 4).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    fn read(datagram: &[u8]) -> Vec<KernelEvent> {
        let mut events = Vec::new();
        read_events(datagram, None, &mut events);
        events
    }

    #[test]
    fn the_new_namespace_makes_a_deletion_a_move() {
        let mac = [0xb2, 0, 0, 0, 0, 1];
        let gone = message(RTM_DELLINK, &link_body(3, &[(1, &mac), (3, b"net1\0")]));
        assert!(matches!(&read(&gone)[..], [KernelEvent::LinkGone { ifindex: 3, mac: Some(_), .. }]));
        for (number, new_nsid) in [(5, Some(5)), (-1, None)] {
            let moved = message(RTM_DELLINK, &link_body(3, &[(1, &mac), (45, &i32::to_ne_bytes(number))]));
            let expected = KernelEvent::LinkMoved { nsid: None, ifindex: 3, mac: Some(Mac(mac)), new_nsid };
            assert_eq!(read(&moved), [expected]);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_an_overrun() {
        let whole = message(RTM_DELLINK, &link_body(3, &[(1, &[2; 6])]));
        assert_eq!(read(&whole[..whole.len() - 4]), [KernelEvent::Overrun]);
        assert_eq!(read(&message(RTM_DELLINK, &[0; 3])), [KernelEvent::Overrun]);
        assert_eq!(read(&[0; 7]), [KernelEvent::Overrun]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 16_u16..92) {
            let _ = read(&bytes);
            let _ = read(&message(kind, &bytes));
        }
    }
}
