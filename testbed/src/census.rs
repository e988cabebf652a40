//! Scan of a segment from outside: the MACs that answer for each address, by ARP for IPv4 and neighbour
//! solicitation for IPv6.
//!
//! Each address is probed in several rounds, and every MAC that answers is recorded: one is a holder, two are
//! a duplicate, none is a free address (or a lost answer, hence the rounds). ARP requests are probes without
//! a sender's address. A station that answers need not remember the sender, and the neighbour table, which
//! all namespaces of a kernel share, holds about a thousand entries. Solicitations carry the sender's own
//! link-local address, so that they are answered by unicast: all-nodes multicast would reach every pod for
//! each answer. An answer to a solicitation can therefore be missing for seconds, until the kernel has made
//! room.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;

use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::sys;
use crate::sys::socket::Socket;

/// The answers: for each probed address, the MACs that answered.
pub type Holders = BTreeMap<IpAddr, BTreeSet<Mac>>;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Number of requests before answers are read: the reader's queue is bounded.
const BURST: usize = 32;
/// Wait for answers to one burst.
const BURST_PAUSE: Duration = Duration::from_millis(4);
/// Wait for late answers at the end of a round.
const ROUND_PAUSE: Duration = Duration::from_millis(300);
/// From one further round to the next: the kernel makes room for neighbours that are five seconds old.
const PATIENCE: Duration = Duration::from_secs(1);
/// Next header: ICMPv6.
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Probes `addresses` on `interface` of the namespace at `netns`, `rounds` times; then up to `more` times
/// those without an answer.
pub fn take(netns: &Path, interface: &str, addresses: &[IpAddr], rounds: u32, more: u32) -> Result<Holders> {
    let work = || {
        let links = Netlink::open()?.links(None)?;
        let link = links.into_iter().find(|link| link.name == interface).ok_or(io::ErrorKind::NotFound)?;
        let own = link.mac.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut asker = Asker {
            own,
            arp: Socket::packet(ARP, link.ifindex)?,
            ipv6: Socket::packet(IPV6, link.ifindex)?,
            holders: addresses.iter().map(|address| (*address, BTreeSet::new())).collect(),
        };
        for _ in 0..rounds {
            asker.ask(addresses)?;
        }
        for _ in 0..more {
            let (_, absent) = judge(&asker.holders);
            if absent.is_empty() {
                break;
            }
            asker.listen(PATIENCE)?;
            asker.ask(&absent)?;
        }
        Ok(asker.holders)
    };
    sys::netns::inside(netns, work).map_err(Error::system("ask for addresses on the wire"))
}

struct Asker {
    own: Mac,
    arp: Socket,
    ipv6: Socket,
    holders: Holders,
}

impl Asker {
    fn ask(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        for some in addresses.chunks(BURST) {
            for address in some {
                match address {
                    IpAddr::V4(address) => self.arp.send(&request(self.own, *address))?,
                    IpAddr::V6(address) => self.ipv6.send(&solicitation(self.own, *address))?,
                }
            }
            self.listen(BURST_PAUSE)?;
        }
        self.listen(ROUND_PAUSE)
    }

    fn listen(&mut self, length: Duration) -> io::Result<()> {
        let until = Instant::now() + length;
        let mut buffer = [0; 256];
        loop {
            while let Some(length) = self.arp.receive_now(&mut buffer)? {
                let heard = arp_answer(&buffer[..length.min(buffer.len())]);
                self.note(heard.map(|(address, mac)| (IpAddr::V4(address), mac)));
            }
            while let Some(length) = self.ipv6.receive_now(&mut buffer)? {
                let heard = advertised(&buffer[..length.min(buffer.len())]);
                self.note(heard.map(|(address, mac)| (IpAddr::V6(address), mac)));
            }
            if Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn note(&mut self, heard: Option<(IpAddr, Mac)>) {
        if let Some((address, mac)) = heard
            && mac != self.own
            && let Some(holders) = self.holders.get_mut(&address)
        {
            holders.insert(mac);
        }
    }
}

/// Those with more than one holder, those with none.
pub fn judge(holders: &Holders) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let those = |wanted: fn(usize) -> bool| {
        let found = holders.iter().filter(|(_, macs)| wanted(macs.len()));
        found.map(|(address, _)| *address).collect()
    };
    (those(|count| count > 1), those(|count| count == 0))
}

fn request(own: Mac, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(own.0);
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, their lengths, "request".
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.0);
    // No sender's address, and an unknown target MAC.
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// The address and the MAC of an ARP answer.
fn arp_answer(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let frame = frame.get(..42)?;
    if frame[12..14] != ARP.to_be_bytes() || frame[14..22] != [0, 1, 8, 0, 6, 4, 0, 2] {
        return None;
    }
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[28..32]).ok()?);
    Some((address, Mac::from_octets(&frame[22..28])?))
}

/// The link-local address that follows from a MAC.
fn link_local(mac: Mac) -> Ipv6Addr {
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 0];
    octets[8..11].copy_from_slice(&mac.0[..3]);
    octets[13..].copy_from_slice(&mac.0[3..]);
    // The bit that means "locally administered" in a MAC has the opposite value in an address.
    octets[8] ^= 2;
    Ipv6Addr::from(octets)
}

fn solicitation(own: Mac, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = wanted.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z]));
    let source = link_local(own);
    let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend(wanted.octets());
    // Option: the sender's MAC.
    body.extend([1, 1]);
    body.extend(own.0);
    let sum = checksum(source, group, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0xff, x, y, z];
    frame.extend(own.0);
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(group.octets());
    frame.extend(body);
    frame
}

/// The Internet checksum of an ICMPv6 message with its pseudo header.
fn checksum(source: Ipv6Addr, target: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let ends = [source.octets(), target.octets()].concat();
    let all = [&ends[..], &length, &[0, 0, 0, ICMPV6], body].concat();
    let mut sum: u32 = 0;
    for pair in all.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The address and the MAC of a neighbour advertisement. Without the option the frame's sender counts.
fn advertised(frame: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    let head = frame.get(..78)?;
    if head[12..14] != IPV6.to_be_bytes() || head[20] != ICMPV6 || head[54] != ADVERTISEMENT {
        return None;
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(&head[62..78]).ok()?);
    let option = frame.get(78..86).filter(|option| option[..2] == [2, 1]);
    let mac = option.map_or(&head[6..12], |option| &option[2..8]);
    Some((address, Mac::from_octets(mac)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_solicitation_is_what_the_standard_wants() {
        let wanted: Ipv6Addr = "fd00:50::1:203".parse().unwrap();
        let frame = solicitation(OWN, wanted);
        assert_eq!(frame.len(), 86);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 2, 3]);
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap());
        let group = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[38..54]).unwrap());
        assert_eq!(source, "fe80::ff:fe00:1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group, "ff02::1:ff01:203".parse::<Ipv6Addr>().unwrap());
        // A message with its right checksum sums up to nothing.
        assert_eq!(checksum(source, group, &frame[54..]), 0);
        assert_eq!(advertised(&frame), None, "a request is not an answer");
    }

    #[test]
    fn answers_of_both_families_name_address_and_mac() {
        let wanted: Ipv6Addr = "fd00::9".parse().unwrap();
        let mut answer = solicitation(OWN, wanted);
        answer[54] = ADVERTISEMENT;
        answer[78] = 2;
        assert_eq!(advertised(&answer), Some((wanted, OWN)));
        assert_eq!(advertised(&answer[..78]), Some((wanted, OWN)), "without the option");
        let mut answer = request(OWN, Ipv4Addr::UNSPECIFIED);
        assert_eq!(arp_answer(&answer), None);
        answer[21] = 2;
        answer[28..32].copy_from_slice(&[10, 50, 0, 9]);
        assert_eq!(arp_answer(&answer), Some((Ipv4Addr::new(10, 50, 0, 9), OWN)));
    }

    #[test]
    fn two_holders_are_a_duplicate_and_none_is_nobody() {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 50, 0, last));
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let holders = Holders::from([
            (address(1), BTreeSet::from([mac(1)])),
            (address(2), BTreeSet::from([mac(1), mac(2)])),
            (address(3), BTreeSet::new()),
        ]);
        assert_eq!(judge(&holders), (vec![address(2)], vec![address(3)]));
    }
}
