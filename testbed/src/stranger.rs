//! A neighbour on the switch that answers for addresses of others, like a host with a copied configuration:
//! its kernel answers ARP and neighbour solicitations, and it announces itself.
//!
//! Its namespace is not among those that the monitor reads: a stranger is not a pod.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_ipam::mac::Mac;

use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::sys;
use crate::sys::socket::Socket;
use crate::world::{self, World};

/// Name of its interface.
const INTERFACE: &str = "eth0";
/// Its MAC: one that no pod can have.
const MAC: Mac = Mac([0x02, 0x57, 0x72, 0x61, 0x6e, 0x67]);
/// Any protocol (`ETH_P_ALL`): it only sends.
const ANY_PROTOCOL: u16 = 0x0003;
const ETHERTYPE_ARP: [u8; 2] = 0x0806_u16.to_be_bytes();
const ETHERTYPE_IPV6: [u8; 2] = 0x86dd_u16.to_be_bytes();
const ICMPV6: u8 = 58;

/// A host that claims others' addresses.
#[derive(Debug)]
pub struct Stranger {
    netns: PathBuf,
    socket: Socket,
}

impl Stranger {
    /// Plugs one into the world's switch. It is removed with the world.
    pub fn join(world: &World) -> Result<Self> {
        let netns = world.plug("stranger", INTERFACE, &format!("address {MAC}"))?;
        let socket = socket_on(&netns, INTERFACE)?;
        Ok(Self { netns, socket })
    }

    /// MAC of its interface.
    pub fn mac(&self) -> Mac {
        MAC
    }

    /// Answers for an address from now on, without an announcement.
    pub fn take(&self, address: IpAddr) -> Result<()> {
        let line = match address {
            IpAddr::V4(v4) => format!("addr add {v4}/16 dev {INTERFACE}\n"),
            // It skips duplicate address detection: that is the fault.
            IpAddr::V6(v6) => format!("addr add {v6}/64 dev {INTERFACE} nodad\n"),
        };
        world::ip(&self.netns, &line)
    }

    /// Announces an address to all: a gratuitous ARP request, or an unsolicited advertisement.
    pub fn announce(&self, address: IpAddr) -> Result<()> {
        send(&self.socket, MAC, address)
    }

    /// Broadcasts an ARP request in which this MAC claims the address.
    pub fn claim(&self, address: Ipv4Addr, sender: Mac) -> Result<()> {
        let mut frame = gratuitous(MAC, address.octets());
        frame[22..28].copy_from_slice(&sender.0);
        self.socket.send(&frame).map_err(Error::system(format!("claim {address} as {sender}")))
    }

    /// The IPv4 announcements that came since the last call, with their MACs.
    pub fn heard(&self) -> Result<Vec<(IpAddr, Mac)>> {
        let mut claims = Vec::new();
        let mut buffer = [0; 128];
        let doing = || Error::system("read the stranger's received frames");
        while let Some(length) = self.socket.receive_now(&mut buffer).map_err(doing())? {
            let frame = &buffer[..length.min(buffer.len())];
            let is_arp = frame.get(12..14) == Some(&ETHERTYPE_ARP) && frame.len() >= 42;
            if is_arp && frame[28..32] == frame[38..42] {
                let mac = Mac::from_octets(&frame[22..28]).unwrap_or(MAC);
                claims.push((IpAddr::from([frame[28], frame[29], frame[30], frame[31]]), mac));
            }
        }
        Ok(claims)
    }

    /// Sends ARP requests for its own address as fast as it can until it must stop, each time from another
    /// address outside of all pools; returns the number of frames.
    pub fn flood(&self, stop: &AtomicBool) -> Result<u64> {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            let [.., high, low] = u64::to_be_bytes(sent);
            let frame = gratuitous(MAC, [10, 77, 128 | high, low]);
            match self.socket.send(&frame) {
                Ok(()) => sent += 1,
                // Its own queue is full: that is as fast as it can.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(Error::system("flood the segment")(error)),
            }
        }
        Ok(sent)
    }

    /// Stops answering for all addresses.
    pub fn fall_silent(&self) -> Result<()> {
        world::ip(&self.netns, &format!("link set {INTERFACE} down\naddr flush dev {INTERFACE}\n"))
    }
}

/// Announces an address from an interface of a namespace, regardless of the addresses on it.
pub fn announce_from(netns: &Path, interface: &str, mac: Mac, address: IpAddr) -> Result<()> {
    send(&socket_on(netns, interface)?, mac, address)
}

/// A socket that sends and receives on an interface of a namespace.
pub(crate) fn socket_on(netns: &Path, interface: &str) -> Result<Socket> {
    let socket = sys::netns::inside(netns, || {
        let links = Netlink::open()?.links(None)?;
        let link = links.iter().find(|link| link.name == interface).ok_or(std::io::ErrorKind::NotFound)?;
        Socket::packet(ANY_PROTOCOL, link.ifindex)
    });
    socket.map_err(Error::system(format!("open a socket on {interface} in {}", netns.display())))
}

fn send(socket: &Socket, mac: Mac, address: IpAddr) -> Result<()> {
    let frame = match address {
        IpAddr::V4(v4) => gratuitous(mac, v4.octets()),
        IpAddr::V6(v6) => unsolicited(mac, v6.octets()),
    };
    socket.send(&frame).map_err(Error::system(format!("announce {address}")))
}

fn gratuitous(mac: Mac, address: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6], &mac.0[..], &ETHERTYPE_ARP].concat();
    // Ethernet, IPv4, their lengths, "request".
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address);
    frame.extend([0; 6]);
    frame.extend(address);
    frame
}

fn unsolicited(mac: Mac, address: [u8; 16]) -> Vec<u8> {
    let mut all_nodes = [0_u8; 16];
    (all_nodes[0], all_nodes[1], all_nodes[15]) = (0xff, 0x02, 1);
    // Neighbour advertisement that overrides, its target, and the option with its MAC.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address);
    body.extend([2, 1]);
    body.extend(mac.0);
    let length = u16::try_from(body.len()).unwrap_or_default().to_be_bytes();
    let pseudo = [&address[..], &all_nodes, &[0, 0], &length, &[0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[pseudo, body.clone()].concat());
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [&[0x33, 0x33, 0, 0, 0, 1], &mac.0[..], &ETHERTYPE_IPV6].concat();
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length);
    // The greatest hop limit proves that no router passed it on.
    frame.extend([ICMPV6, 255]);
    frame.extend(address);
    frame.extend(all_nodes);
    frame.extend(body);
    frame
}

/// The Internet checksum of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_lengths_and_the_checksum_adds_up() {
        assert_eq!(gratuitous(MAC, [10, 77, 0, 10]).len(), 42);
        let frame = unsolicited(MAC, [0xfd; 16]);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // The sum of a message with its checksum in place is zero.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, ICMPV6]].concat();
        assert_eq!(checksum(&[&pseudo[..], &frame[54..]].concat()), 0);
    }
}
