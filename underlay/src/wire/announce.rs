//! Announcement of an address's new holder on the segment, so that neighbours update their caches.
//!
//! For the plugin, inside the pod's namespace. Frames go out back to back, because the next step of ADD must
//! not wait for them. Left out: defence of an address later (the kernel does that).
//!
//! The kernel can do the same without a packet socket and its slow close. With `arp_notify` and
//! `ndisc_notify` set to 1 it announces every address of a link when the link goes up, and again each time
//! the MAC is set, even to the current value (tested in `tests/wire.rs`).

use std::net::IpAddr;

use berth_ipam::mac::Mac;

use super::WireError;
use super::frame;
use super::socket::PacketSocket;

/// An open sender. Dropping it costs 8 to 18 ms (the kernel waits for an RCU grace period when a packet
/// socket is closed, measured on Linux 6.18), so drop it after the result is printed.
#[derive(Debug)]
#[must_use = "dropping the sender waits for the kernel; do it after all latency-critical work"]
pub struct Announcer {
    socket: PacketSocket,
    mac: Mac,
}

impl Announcer {
    /// Opens a sender on an interface of the calling thread's namespace. Needs `CAP_NET_RAW`.
    pub fn open(ifindex: u32, mac: Mac) -> Result<Self, WireError> {
        Ok(Self { socket: PacketSocket::sending(ifindex)?, mac })
    }

    /// Sends `count` announcements for each address: gratuitous ARP requests, or unsolicited neighbour
    /// advertisements with override.
    pub fn announce(&self, addresses: &[IpAddr], count: u8) -> Result<(), WireError> {
        let frames: Vec<(IpAddr, Vec<u8>)> =
            addresses.iter().map(|address| (*address, frame::announcement(self.mac, *address))).collect();
        for _ in 0..count {
            for (address, frame) in &frames {
                self.socket.send(frame, *address)?;
            }
        }
        Ok(())
    }
}

/// Announces `addresses` at `mac` from the calling thread's namespace, `count` frames each, and returns the
/// open sender. Dropping the sender waits for the close (see [`Announcer`]); while open it keeps the
/// namespace alive.
pub fn announce(ifindex: u32, mac: Mac, addresses: &[IpAddr], count: u8) -> Result<Announcer, WireError> {
    let announcer = Announcer::open(ifindex, mac)?;
    announcer.announce(addresses, count)?;
    Ok(announcer)
}
