//! ARP (RFC 826, 5227) and IPv6 neighbour discovery (RFC 4861, 4862) frames: built and read.
//!
//! Pure: bytes in, values out. Left out: IPv6 extension headers before a neighbour message (no
//! system sends them) and every other ICMPv6 type. The invariant: [`read`] never panics and believes
//! no frame that a host would have to discard (hop limit, code, checksum, hardware type, lengths).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_ipam::mac::Mac;

/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// Next header number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERNET_HEADER: usize = 14;
const IPV6_HEADER: usize = 40;
const ARP_LENGTH: usize = 28;
/// Type, code, checksum, flags or reserved, target.
const ND_FIXED: usize = 24;
const OPTION_SOURCE_LINK: u8 = 1;
const OPTION_TARGET_LINK: u8 = 2;
const FLAG_SOLICITED: u8 = 0x40;
const FLAG_OVERRIDE: u8 = 0x20;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// In what way a frame named an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The sender asks for another address and names its own one in the request.
    Request,
    /// The sender replies that it holds the address.
    Reply,
    /// The sender announces, unasked, that it holds the address.
    Announcement,
    /// A query for a holder of the address, without a claim. Another node's probe has the same form, so this
    /// alone is not evidence of use.
    Dad,
}

impl Kind {
    /// True if the sender claims to hold the address now.
    pub fn is_claim(self) -> bool {
        self != Self::Dad
    }
}

/// Statement of one frame about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// The address: the sender's own, or for [`Kind::Dad`] the probed one.
    pub address: IpAddr,
    /// The MAC of the address in the frame; the frame's own source if it names none.
    pub mac: Mac,
    /// The VLAN id (1 to 4095); `None` if untagged or only priority-tagged.
    pub vlan: Option<u16>,
    /// Kind of the statement.
    pub kind: Kind,
}

/// Reason why a frame was not parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The frame ends before its own contents do.
    #[error("the frame is truncated")]
    Short,
    /// Neither ARP nor a neighbour solicitation or advertisement.
    #[error("the frame is neither ARP nor neighbour discovery")]
    Other,
    /// ARP for other hardware or protocol types or lengths, or an unknown operation.
    #[error("the ARP packet is not for Ethernet and IPv4")]
    NotEthernetArp,
    /// A neighbour message that a host must discard: hop limit, code, length, options.
    #[error("the neighbour message violates RFC 4861, section 7.1")]
    BadNeighbourMessage,
    /// The ICMPv6 checksum is wrong.
    #[error("the ICMPv6 checksum is wrong")]
    BadChecksum,
    /// It names no unicast address.
    #[error("the frame names no unicast address")]
    NoUnicastAddress,
    /// Neither the message nor the frame's source is the MAC of one station.
    #[error("the frame names no unicast MAC")]
    NoUnicastMac,
    /// One VLAN tag inside another: a segment that no wire here is on.
    #[error("the frame has one VLAN tag inside another")]
    NestedTags,
}

/// The probe for one address, which claims nothing: ARP with sender 0.0.0.0 or a solicitation from `::`.
pub fn probe(own: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(target) => arp_request(own, Ipv4Addr::UNSPECIFIED, target),
        IpAddr::V6(target) => neighbour_solicitation(own, None, target),
    }
}

/// The announcement of one address: gratuitous ARP, or an unsolicited advertisement with override.
pub fn announcement(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_request(mac, address, address),
        IpAddr::V6(address) => neighbour_advertisement(mac, address),
    }
}

/// An ARP request, broadcast. With `sender` 0.0.0.0 it is a probe, with `sender == target` an announcement.
pub fn arp_request(own: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, own, ETHERTYPE_ARP, ARP_LENGTH);
    frame.extend_from_slice(&[0, 1, 0x08, 0, 6, 4]);
    frame.extend_from_slice(&ARP_REQUEST.to_be_bytes());
    frame.extend_from_slice(&own.0);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

/// A neighbour solicitation to the target's solicited-node group. Without a source it is sent from `::`
/// and carries no link-layer address, as duplicate address detection demands.
pub fn neighbour_solicitation(own: Mac, source: Option<Ipv6Addr>, target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    if source.is_some() {
        message.extend_from_slice(&[OPTION_SOURCE_LINK, 1]);
        message.extend_from_slice(&own.0);
    }
    icmpv6(own, source.unwrap_or(Ipv6Addr::UNSPECIFIED), group, message)
}

/// An unsolicited neighbour advertisement to all nodes, with the override flag.
pub fn neighbour_advertisement(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[OPTION_TARGET_LINK, 1]);
    message.extend_from_slice(&mac.0);
    icmpv6(mac, address, ALL_NODES, message)
}

fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_HEADER + payload);
    frame.extend_from_slice(&to.0);
    frame.extend_from_slice(&from.0);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

fn icmpv6(from: Mac, source: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, group, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let [.., a, b, c, d] = group.octets();
    let mut frame =
        ethernet(Mac([0x33, 0x33, a, b, c, d]), from, ETHERTYPE_IPV6, IPV6_HEADER + message.len());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, 255]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&group.octets());
    frame.extend_from_slice(&message);
    frame
}

/// The ICMPv6 checksum over pseudo header and message. Over a message that already carries its
/// checksum the result is 0 if that is right.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        bytes
            .chunks(2)
            .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
            .sum()
    };
    let mut sum = words(&source.octets())
        + words(&destination.octets())
        + message.len() as u64
        + u64::from(ICMPV6)
        + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Reads one Ethernet frame, untagged or with one tag.
pub fn read(frame: &[u8]) -> Result<Statement, Unreadable> {
    read_stripped(frame, None)
}

/// Reads one Ethernet frame out of which the kernel has taken a tag with this VLAN id, or none.
pub fn read_stripped(frame: &[u8], stripped: Option<u16>) -> Result<Statement, Unreadable> {
    let source = Mac(array(frame, 6)?);
    let is_tag = |ethertype| ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN;
    let mut id = stripped;
    let mut at = 12;
    let mut ethertype = u16::from_be_bytes(array(frame, at)?);
    if is_tag(ethertype) {
        let inner = u16::from_be_bytes(array(frame, at + 2)?) & 0x0fff;
        at += 4;
        ethertype = u16::from_be_bytes(array(frame, at)?);
        if stripped.is_some() || is_tag(ethertype) {
            return Err(Unreadable::NestedTags);
        }
        id = Some(inner);
    }
    // A tag of id 0 carries a priority alone.
    let vlan = id.filter(|id| *id != 0);
    let payload = frame.get(at + 2..).ok_or(Unreadable::Short)?;
    let (address, mac, kind) = match ethertype {
        ETHERTYPE_ARP => read_arp(payload, source)?,
        ETHERTYPE_IPV6 => read_neighbour(payload, source)?,
        _ => return Err(Unreadable::Other),
    };
    Ok(Statement { address, mac, vlan, kind })
}

fn read_arp(packet: &[u8], source: Mac) -> Result<(IpAddr, Mac, Kind), Unreadable> {
    let packet = packet.get(..ARP_LENGTH).ok_or(Unreadable::Short)?;
    if packet[..6] != [0, 1, 0x08, 0, 6, 4] {
        return Err(Unreadable::NotEthernetArp);
    }
    let operation = u16::from_be_bytes(array(packet, 6)?);
    let hardware = Mac(array(packet, 8)?);
    let sender = Ipv4Addr::from(array::<4>(packet, 14)?);
    let target = Ipv4Addr::from(array::<4>(packet, 24)?);
    let (address, kind) = match operation {
        ARP_REQUEST if sender.is_unspecified() => (target, Kind::Dad),
        ARP_REQUEST | ARP_REPLY if sender == target => (sender, Kind::Announcement),
        ARP_REQUEST => (sender, Kind::Request),
        ARP_REPLY => (sender, Kind::Reply),
        _ => return Err(Unreadable::NotEthernetArp),
    };
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Err(Unreadable::NoUnicastAddress);
    }
    let mac = usable(hardware).or(usable(source)).ok_or(Unreadable::NoUnicastMac)?;
    Ok((IpAddr::V4(address), mac, kind))
}

fn read_neighbour(packet: &[u8], link_source: Mac) -> Result<(IpAddr, Mac, Kind), Unreadable> {
    let header = packet.get(..IPV6_HEADER).ok_or(Unreadable::Short)?;
    if header[0] >> 4 != 6 || header[6] != ICMPV6 {
        return Err(Unreadable::Other);
    }
    let length = usize::from(u16::from_be_bytes(array(header, 4)?));
    let message = packet.get(IPV6_HEADER..IPV6_HEADER + length).ok_or(Unreadable::Short)?;
    let kind = *message.first().ok_or(Unreadable::Short)?;
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return Err(Unreadable::Other);
    }
    // Hop limit 255 proves that no router forwarded the packet: it originates on this segment.
    if length < ND_FIXED || header[7] != 255 || message[1] != 0 {
        return Err(Unreadable::BadNeighbourMessage);
    }
    let source = Ipv6Addr::from(array::<16>(header, 8)?);
    let destination = Ipv6Addr::from(array::<16>(header, 24)?);
    if checksum(source, destination, message) != 0 {
        return Err(Unreadable::BadChecksum);
    }
    let target = Ipv6Addr::from(array::<16>(message, 8)?);
    let wanted = if kind == SOLICITATION { OPTION_SOURCE_LINK } else { OPTION_TARGET_LINK };
    let option = link_option(&message[ND_FIXED..], wanted)?;
    let (address, kind) = match kind {
        SOLICITATION if source.is_unspecified() => (target, Kind::Dad),
        SOLICITATION => (source, Kind::Request),
        _ if message[4] & FLAG_SOLICITED != 0 => (target, Kind::Reply),
        _ => (target, Kind::Announcement),
    };
    if address.is_unspecified() || address.is_multicast() {
        return Err(Unreadable::NoUnicastAddress);
    }
    let source = usable(link_source).ok_or(Unreadable::NoUnicastMac)?;
    Ok((IpAddr::V6(address), option.and_then(usable).unwrap_or(source), kind))
}

/// The link-layer address in a list of options; an option of length 0 spoils the message.
fn link_option(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Unreadable> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty());
        let option = option.ok_or(Unreadable::BadNeighbourMessage)?;
        if kind == wanted && length == 8 {
            found = found.or(Mac::from_octets(&option[2..8]));
        }
        options = &options[length..];
    }
    Ok(found)
}

/// The MAC if it can belong to a holder: neither zero nor a group.
fn usable(mac: Mac) -> Option<Mac> {
    (mac.0 != [0; 6] && mac.0[0] & 1 == 0).then_some(mac)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unreadable> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Unreadable::Short)
}

#[cfg(test)]
mod tests;
