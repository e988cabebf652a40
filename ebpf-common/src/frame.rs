//! ARP and IPv6 neighbour discovery frames: the claims in them.
//!
//! Pure, and the same code runs in the kernel: there a frame is a packet's buffer, in tests and in the fuzzer
//! it is a slice. As strict as user space's own parser (hardware type, lengths, hop limit, code), with
//! exceptions: the ICMPv6 checksum, IPv6's own version and length, and options beyond the first are not
//! checked. Invariant: no input causes a panic or an endless loop, and every claim of user space's parser is
//! a claim here. A claim of this parser is a hint, which a probe on the segment verifies.
#![expect(
    clippy::inline_always,
    reason = "calls between functions cost in the kernel, and the verifier more"
)]

/// An untagged Ethernet header.
pub const ETHERNET: usize = 14;
const TAG: usize = 4;
/// `EtherType` of ARP.
pub const ARP: u16 = 0x0806;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// `EtherType` of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// `EtherType` of an 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
const IPV6_HEADER: usize = 40;
/// Type, code, checksum, flags, target.
const ND_FIXED: usize = 24;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Metadata that the kernel has of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The `EtherType` after the addresses and the removed tag, if any.
    pub protocol: u16,
    /// The tag that the device or the kernel took out of the frame, with its priority bits.
    pub tag: Option<u16>,
}

/// A frame with bytes that are fetched one piece at a time.
pub trait Frame {
    /// Metadata of the frame.
    fn meta(&self) -> Meta;
    /// The `N` bytes at an offset from the Ethernet header; `None`: the frame ends before.
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
}

/// Claim of an address by a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The VLAN id; 0: untagged.
    pub vlan: u16,
    /// 4 or 6.
    pub family: u8,
    /// Operation of ARP, or type of `ICMPv6`.
    pub operation: u16,
    /// An IPv4 address is in the first four bytes.
    pub address: [u8; 16],
    /// MAC of the claim.
    pub mac: [u8; 6],
}

/// Kind of a frame that is not a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Neither ARP nor neighbour discovery, or a message without a claim.
    Nothing,
    /// A probe: ARP from no address, or duplicate address detection. It claims nothing.
    Asks,
    /// A host would have to discard it.
    Bad,
    /// One VLAN tag inside another.
    Nested,
}

/// Parses a frame. Most frames are neither ARP nor IPv6 and cost one comparison.
#[inline(always)]
pub fn read(frame: &impl Frame) -> Result<Claim, Other> {
    let Meta { mut protocol, tag } = frame.meta();
    let mut vlan = tag.unwrap_or(0) & 0x0fff;
    let mut at = ETHERNET;
    if protocol == VLAN || protocol == SERVICE_VLAN {
        let inner: [u8; TAG] = frame.load(at).ok_or(Other::Bad)?;
        protocol = u16::from_be_bytes([inner[2], inner[3]]);
        if tag.is_some() || protocol == VLAN || protocol == SERVICE_VLAN {
            return Err(Other::Nested);
        }
        vlan = u16::from_be_bytes([inner[0], inner[1]]) & 0x0fff;
        at += TAG;
    }
    match protocol {
        ARP => arp(frame, at, vlan),
        IPV6 => neighbour(frame, at, vlan),
        _ => Err(Other::Nothing),
    }
}

#[inline(always)]
fn arp(frame: &impl Frame, at: usize, vlan: u16) -> Result<Claim, Other> {
    let packet: [u8; 28] = frame.load(at).ok_or(Other::Bad)?;
    // Ethernet and IPv4, with their lengths.
    if packet[..6] != [0, 1, 0x08, 0, 6, 4] || packet[6] != 0 || !(packet[7] == 1 || packet[7] == 2) {
        return Err(Other::Bad);
    }
    let sender = [packet[14], packet[15], packet[16], packet[17]];
    if sender == [0; 4] {
        return Err(Other::Asks);
    }
    let mac = [packet[8], packet[9], packet[10], packet[11], packet[12], packet[13]];
    // Multicast or broadcast.
    if sender[0] & 0xf0 == 224 || sender == [0xff; 4] {
        return Err(Other::Bad);
    }
    let mac = if is_holder(mac) { mac } else { frame_source(frame)? };
    let mut address = [0; 16];
    address[0] = sender[0];
    address[1] = sender[1];
    address[2] = sender[2];
    address[3] = sender[3];
    Ok(Claim { vlan, family: 4, operation: u16::from(packet[7]), address, mac })
}

#[inline(always)]
fn neighbour(frame: &impl Frame, at: usize, vlan: u16) -> Result<Claim, Other> {
    // Next header and hop limit first: nearly all IPv6 traffic ends here.
    let [next, hops]: [u8; 2] = frame.load(at + 6).ok_or(Other::Bad)?;
    if next != ICMPV6 {
        return Err(Other::Nothing);
    }
    let message = at + IPV6_HEADER;
    let [kind, code]: [u8; 2] = frame.load(message).ok_or(Other::Bad)?;
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return Err(Other::Nothing);
    }
    if hops != 255 || code != 0 {
        return Err(Other::Bad);
    }
    let target: [u8; 16] = frame.load(message + 8).ok_or(Other::Bad)?;
    let source: [u8; 16] = frame.load(at + 8).ok_or(Other::Bad)?;
    let (address, option) = if kind == ADVERTISEMENT { (target, 2) } else { (source, 1) };
    if is_zero(&address) {
        return Err(if kind == SOLICITATION { Other::Asks } else { Other::Nothing });
    }
    if address[0] == 0xff {
        return Err(Other::Bad);
    }
    let sender = frame_source(frame)?;
    let mac = match frame.load::<8>(message + ND_FIXED) {
        Some([kind, 1, mac @ ..]) if kind == option && is_holder(mac) => mac,
        _ => sender,
    };
    Ok(Claim { vlan, family: 6, operation: u16::from(kind), address, mac })
}

impl Claim {
    /// True if the address means the same on every link, so that it has no lease.
    #[inline(always)]
    pub fn is_link_local(&self) -> bool {
        let [first, second, ..] = self.address;
        match self.family {
            4 => first == 169 && second == 254,
            _ => first == 0xfe && second & 0xc0 == 0x80,
        }
    }
}

/// The source MAC in the Ethernet header; `None`: the frame has no whole header.
#[inline(always)]
pub fn source(frame: &impl Frame) -> Option<[u8; 6]> {
    frame.load(6)
}

/// The frame's source, which is the claimant if the message names none. Bad: a group or zero.
#[inline(always)]
fn frame_source(frame: &impl Frame) -> Result<[u8; 6], Other> {
    let mac = frame.load(6).ok_or(Other::Bad)?;
    if is_holder(mac) { Ok(mac) } else { Err(Other::Bad) }
}

/// True if a MAC can belong to a holder: neither a group nor zero.
#[inline(always)]
fn is_holder(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[inline(always)]
fn is_zero(address: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*address) == 0
}

/// A frame in memory, as tests and the fuzzer have it.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    /// Metadata that the kernel would have.
    pub meta: Meta,
    /// From the Ethernet header on, without a tag that was taken out.
    pub bytes: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// The form that a frame has in the kernel while all of its tags are in place; `None`: its header is
    /// incomplete.
    pub fn whole(bytes: &'a [u8]) -> Option<Self> {
        let [high, low] = *bytes.get(12..)?.first_chunk()?;
        Some(Self { meta: Meta { protocol: u16::from_be_bytes([high, low]), tag: None }, bytes })
    }
}

impl Frame for Bytes<'_> {
    fn meta(&self) -> Meta {
        self.meta
    }
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
