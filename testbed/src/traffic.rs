//! Frames between two namespaces of a world, in bounded number, to measure the cost of each on its way. No
//! frame leaves the world's own cables.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;

use crate::cleanup;
use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::sys;
use crate::sys::socket::Socket;
use crate::world::{GATEWAY, World};

/// Number of packets in flight: far below every queue's length, so none is lost.
const WINDOW: u32 = 32;
/// A packet that takes longer is lost.
const LIMIT: Duration = Duration::from_secs(2);
/// Payload of a packet.
const PAYLOAD: [u8; 64] = [0x42; 64];
/// Pause between two windows of ARP frames, for their answers.
const PACE: Duration = Duration::from_micros(500);
/// `ETH_P_ARP` in host order.
const PROTOCOL_ARP: u16 = 0x0806;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// An address and the namespace that has it.
pub type Place<'a> = (&'a Path, Ipv4Addr);

/// Number of pairs of messages passed to the kernel at once.
const CHURN_PAIRS: usize = 256;

/// Adds an address to a namespace's loopback and deletes it, over and over for so long, as fast as the kernel takes
/// it. Returns how often.
pub fn churn(netns: &Path, address: Ipv4Addr, time: Duration) -> Result<usize> {
    const NEWADDR: u16 = 20;
    const DELADDR: u16 = 21;
    /// `NLM_F_REQUEST`, and for the first `NLM_F_CREATE` with `NLM_F_EXCL`.
    const FLAGS: [(u16, u16); 2] = [(NEWADDR, 0x601), (DELADDR, 0x1)];
    let mut batch = Vec::new();
    for (kind, flags) in FLAGS.iter().cycle().take(2 * CHURN_PAIRS) {
        batch.extend((16_u32 + 8 + 16).to_ne_bytes());
        batch.extend(kind.to_ne_bytes());
        batch.extend(flags.to_ne_bytes());
        batch.extend([0; 8]);
        // An IPv4 address of full length on the interface of index 1, and both attributes that name it.
        batch.extend([2, 32, 0, 0, 1, 0, 0, 0]);
        for attribute in [1_u16, 2] {
            batch.extend(8_u16.to_ne_bytes());
            batch.extend(attribute.to_ne_bytes());
            batch.extend(address.octets());
        }
    }
    let socket = sys::netns::inside(netns, Socket::route);
    let socket = socket.map_err(Error::system("open a socket to change addresses"))?;
    let (mut count, end) = (0, Instant::now() + time);
    while Instant::now() < end {
        socket.send(&batch).map_err(Error::system(format!("add and delete {address}")))?;
        count += CHURN_PAIRS;
    }
    Ok(count)
}

/// UDP from one namespace to another. Both ends are this thread's, which sends a window and then
/// receives it: the whole way of each packet is within the measured time, and no other thread is.
#[derive(Debug)]
pub struct Stream {
    from: UdpSocket,
    to: UdpSocket,
}

impl Stream {
    /// Opens a stream.
    pub fn open(from: Place<'_>, to: Place<'_>) -> Result<Self> {
        let open = |(netns, address): Place<'_>| {
            let socket = sys::netns::inside(netns, || {
                let socket = UdpSocket::bind((address, 0))?;
                socket.set_read_timeout(Some(LIMIT))?;
                Ok(socket)
            });
            socket.map_err(Error::system(format!("open a UDP socket on {address}")))
        };
        let (from, to) = (open(from)?, open(to)?);
        let target = to.local_addr().map_err(Error::system("read a socket's address"))?;
        from.connect(target).map_err(Error::system(format!("connect to {target}")))?;
        Ok(Self { from, to })
    }

    /// Sends this number of packets (in full windows) and receives each; returns the duration.
    pub fn burst(&self, packets: u32) -> Result<Duration> {
        let mut buffer = [0; PAYLOAD.len()];
        let began = Instant::now();
        for _ in 0..packets.div_ceil(WINDOW) {
            for _ in 0..WINDOW {
                self.from.send(&PAYLOAD).map_err(Error::system("send a packet"))?;
            }
            for _ in 0..WINDOW {
                self.to.recv(&mut buffer).map_err(Error::system("receive a packet that was sent"))?;
            }
            cleanup::interrupted()?;
        }
        Ok(began.elapsed())
    }
}

/// The neighbour, which sends ARP requests to a pod, or claims its address.
#[derive(Debug)]
pub struct Neighbour {
    socket: Socket,
    mac: Mac,
}

impl Neighbour {
    /// Opens the neighbour's side of a world.
    pub fn open(world: &World) -> Result<Self> {
        let opened = sys::netns::inside(world.neighbour(), || {
            let links = Netlink::open()?.links(None)?;
            let link = links.iter().find(|link| link.name == "eth0").ok_or(std::io::ErrorKind::NotFound)?;
            let mac = link.mac.ok_or(std::io::ErrorKind::InvalidData)?;
            Ok(Self { socket: Socket::packet(PROTOCOL_ARP, link.ifindex)?, mac })
        });
        opened.map_err(Error::system("open the neighbour's packet socket"))
    }

    /// Sends this number of requests for a pod's address, to the pod alone; it answers each.
    pub fn ask(&self, address: Ipv4Addr, mac: Mac, count: u32) -> Result<()> {
        self.send(&frame(self.mac, mac, REQUEST, (self.mac, GATEWAY), address), count)
    }

    /// Sends this number of claims of the pod's address at the pod's MAC, to the pod alone: the frames that a
    /// node receives when a pod answers another one of the same parent. They change nothing.
    pub fn repeat(&self, address: Ipv4Addr, mac: Mac, count: u32) -> Result<()> {
        self.send(&frame(self.mac, mac, REPLY, (mac, address), address), count)
    }

    fn send(&self, frame: &[u8], count: u32) -> Result<()> {
        for number in 1..=count {
            self.socket.send(frame).map_err(Error::system("send an ARP frame"))?;
            if number % WINDOW == 0 {
                cleanup::pause(PACE)?;
            }
        }
        Ok(())
    }
}

fn frame(from: Mac, to: Mac, operation: u8, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &PROTOCOL_ARP.to_be_bytes()].concat();
    // Ethernet, IPv4, their lengths.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender.0.0);
    frame.extend(sender.1.octets());
    frame.extend(to.0);
    frame.extend(target.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn packets_arrive_and_are_counted_to_full_windows() {
        if skip::unless_root() {
            return;
        }
        let world = World::build().unwrap();
        let place = (world.neighbour(), GATEWAY);
        let took = Stream::open(place, place).unwrap().burst(WINDOW + 1).unwrap();
        assert!(took > Duration::ZERO && took < LIMIT);
        Neighbour::open(&world).unwrap().ask(GATEWAY, Mac([2, 0, 0, 0, 0, 1]), 2).unwrap();
    }

    #[test]
    fn an_arp_frame_has_its_length_and_its_sender() {
        let (own, pod) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let frame = frame(own, pod, REPLY, (pod, GATEWAY), GATEWAY);
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[22..28]), (&pod.0[..], &pod.0[..]));
        assert_eq!(frame[28..32], GATEWAY.octets());
    }
}
