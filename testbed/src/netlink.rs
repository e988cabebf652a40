//! The few netlink reads of the testbed, independent of `underlay`: the content of a parent's FDB, the links
//! and addresses of a namespace (by its nsid, without entering it).
//!
//! A dump counts only if it was complete: an interrupted one, or one that ends with an error, is an error
//! here, never a short list.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use berth_ipam::mac::Mac;

use crate::sys::socket::Socket;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const TYPE_DELLINK: u16 = 17;
const TYPE_GETLINK: u16 = 18;
const TYPE_GETADDR: u16 = 22;
const TYPE_GETNEIGH: u16 = 30;
const TYPE_NEWNSID: u16 = 88;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;
const NDA_LLADDR: u16 = 2;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

const HEADER: usize = 16;

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub ifindex: i32,
    /// Its name there.
    pub name: String,
    /// Its MAC, if it has one of six octets.
    pub mac: Option<Mac>,
    /// True if it is administratively up.
    pub up: bool,
}

/// One address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub ifindex: i32,
    /// Address in question.
    pub address: IpAddr,
}

/// A connection to the kernel, in the namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::route()?, sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    /// The MACs in the FDB of the interface `ifindex`: of each macvlan on it that is up.
    pub fn fdb(&mut self, ifindex: i32) -> io::Result<BTreeSet<Mac>> {
        let mut request = vec![libc_u8(libc::AF_BRIDGE), 0, 0, 0];
        request.extend(ifindex.to_ne_bytes());
        request.extend([0; 4]);
        let mut macs = BTreeSet::new();
        for payload in self.dump(TYPE_GETNEIGH, &request)? {
            let belongs = payload.get(4..8).is_some_and(|raw| raw == ifindex.to_ne_bytes());
            if !belongs {
                continue;
            }
            macs.extend(attribute(&payload, 12, NDA_LLADDR).and_then(Mac::from_octets));
        }
        Ok(macs)
    }

    /// The links of the namespace that has number `nsid` here.
    pub fn links(&mut self, nsid: Option<i32>) -> io::Result<Vec<Link>> {
        let mut request = vec![0; 16];
        if let Some(nsid) = nsid {
            push_attribute(&mut request, IFLA_TARGET_NETNSID, nsid.to_ne_bytes());
        }
        let links = self.dump(TYPE_GETLINK, &request)?.into_iter().filter_map(|payload| parse_link(&payload));
        Ok(links.collect())
    }

    /// The addresses of the namespace that has number `nsid` here.
    pub fn addresses(&mut self, nsid: i32, family: i32) -> io::Result<Vec<Address>> {
        let mut request = vec![libc_u8(family), 0, 0, 0, 0, 0, 0, 0];
        push_attribute(&mut request, IFA_TARGET_NETNSID, nsid.to_ne_bytes());
        let found =
            self.dump(TYPE_GETADDR, &request)?.into_iter().filter_map(|payload| parse_address(&payload));
        Ok(found.collect())
    }

    /// Assigns nsid `nsid` to the namespace `netns` here.
    pub fn number(&mut self, netns: &File, nsid: i32) -> io::Result<()> {
        let mut request = vec![0; 4];
        push_attribute(&mut request, NETNSA_NSID, nsid.to_ne_bytes());
        push_attribute(&mut request, NETNSA_FD, netns.as_raw_fd().to_ne_bytes());
        self.change(TYPE_NEWNSID, &request)
    }

    /// Removes a link of the calling namespace; returns when the kernel has done it.
    pub fn remove_link(&mut self, ifindex: i32) -> io::Result<()> {
        let mut request = vec![0; 4];
        request.extend(ifindex.to_ne_bytes());
        request.extend([0; 8]);
        self.change(TYPE_DELLINK, &request)
    }

    fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(payload);
        self.socket.send(&message)
    }

    fn change(&mut self, kind: u16, payload: &[u8]) -> io::Result<()> {
        self.send(kind, ACK, payload)?;
        loop {
            let length = self.socket.receive(&mut self.buffer)?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence == self.sequence && message.kind == TYPE_ERROR {
                    return status(message.payload);
                }
            }
        }
    }

    fn dump(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(kind, DUMP, payload)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let length = self.socket.receive(&mut self.buffer)?;
            for message in messages(&self.buffer[..length]) {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    TYPE_ERROR | TYPE_DONE => {
                        status(message.payload)?;
                        if interrupted {
                            return Err(io::ErrorKind::Interrupted.into());
                        }
                        return Ok(found);
                    }
                    _ => found.push(message.payload.to_vec()),
                }
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// The messages of one datagram; stops at the first that is cut short.
fn messages(mut data: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(data, 0)?).ok()?;
        let message = data.get(..length).filter(|message| message.len() >= HEADER)?;
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            payload: &message[HEADER..],
        })
    })
}

/// The errno at the start of an error or end message.
fn status(payload: &[u8]) -> io::Result<()> {
    match payload.get(..4).and_then(|raw| raw.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let name = attribute(payload, 16, IFLA_IFNAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some(Link {
        ifindex: i32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
        name: String::from_utf8_lossy(name).into_owned(),
        mac: attribute(payload, 16, IFLA_ADDRESS).and_then(Mac::from_octets),
        up: u32_at(payload, 8)? & 1 != 0,
    })
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    // On a point-to-point link the own address is the local one; elsewhere both are the same.
    let raw = attribute(payload, 8, IFA_LOCAL).or_else(|| attribute(payload, 8, IFA_ADDRESS))?;
    let address = match raw.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(raw).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(raw).ok()?)),
    };
    Some(Address { ifindex: i32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?), address })
}

/// The value of the first attribute of that kind after a fixed part of `skip` bytes.
fn attribute(payload: &[u8], skip: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = payload.get(skip..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        // The two upper bits are flags.
        if u16_at(rest, 2)? & 0x3fff == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn push_attribute(request: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    request.extend(8_u16.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// An address family as the header's octet.
fn libc_u8(family: i32) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut raw = u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes().to_vec();
        raw.extend(kind.to_ne_bytes());
        raw.extend(flags.to_ne_bytes());
        raw.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        raw.extend(payload);
        raw
    }

    #[test]
    fn an_end_message_with_an_error_is_an_error() {
        assert!(status(&0_i32.to_ne_bytes()).is_ok());
        assert_eq!(status(&(-22_i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(22));
        assert!(status(&[]).is_err());
    }

    #[test]
    fn a_cut_message_ends_the_list() {
        let mut data = message(16, 2, &[1, 2, 3, 4]);
        data.extend(message(TYPE_DONE, 0, &[0; 4]));
        assert_eq!(messages(&data).map(|m| m.kind).collect::<Vec<_>>(), [16, TYPE_DONE]);
        assert_eq!(messages(&data[..data.len() - 1]).count(), 1);
    }

    #[test]
    fn attributes_are_found_behind_others() {
        let mut payload = vec![0; 12];
        push_attribute(&mut payload, 9, [1, 1, 1, 1]);
        push_attribute(&mut payload, NDA_LLADDR | 0x8000, [2, 2, 2, 2]);
        assert_eq!(attribute(&payload, 12, NDA_LLADDR), Some(&[2, 2, 2, 2][..]));
        assert_eq!(attribute(&payload, 12, 5), None);
    }
}
