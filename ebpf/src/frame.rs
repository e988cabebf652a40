//! ARP and IPv6 neighbour discovery frames: who speaks for which address.
//!
//! As strict as user space's own reading (hardware type, lengths, hop limit, code), except for the
//! ICMPv6 checksum, which is not computed, and options beyond the first, which are not looked at:
//! what a program says is a hint, and whoever acts on it asks the wire.

use aya_ebpf::programs::TcContext;

const ETHERNET: usize = 14;
const TAG: usize = 4;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const IPV6_HEADER: usize = 40;
/// Type, code, checksum, flags, target.
const ND_FIXED: usize = 24;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Who says what.
pub struct Claim {
    /// The VLAN id; 0: untagged.
    pub vlan: u16,
    /// 4 or 6.
    pub family: u8,
    /// Operation of ARP, or type of ICMPv6.
    pub operation: u16,
    /// An IPv4 address is in the first four bytes.
    pub address: [u8; 16],
    /// Who speaks for it.
    pub mac: [u8; 6],
}

/// What a frame is, if it is no claim.
pub enum Other {
    /// Neither ARP nor neighbour discovery, or one that claims nothing.
    Nothing,
    /// A host would have to discard it.
    Bad,
    /// One VLAN tag inside another.
    Nested,
}

/// Reads a frame. The most are neither ARP nor IPv6 and cost one comparison.
#[inline(always)]
pub fn read(ctx: &TcContext) -> Result<Claim, Other> {
    // SAFETY: the context is valid while the program runs; these members are always there.
    let (protocol, present, tci) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).protocol as u16, (*skb).vlan_present, (*skb).vlan_tci)
    };
    let mut protocol = u16::from_be(protocol);
    let mut vlan = if present == 0 { 0 } else { tci as u16 & 0x0fff };
    let mut at = ETHERNET;
    if protocol == VLAN || protocol == SERVICE_VLAN {
        let tag: [u8; TAG] = ctx.load(at).map_err(|_| Other::Bad)?;
        protocol = u16::from_be_bytes([tag[2], tag[3]]);
        if present != 0 || protocol == VLAN || protocol == SERVICE_VLAN {
            return Err(Other::Nested);
        }
        vlan = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        at += TAG;
    }
    match protocol {
        ARP => arp(ctx, at, vlan),
        IPV6 => neighbour(ctx, at, vlan),
        _ => Err(Other::Nothing),
    }
}

#[inline(always)]
fn arp(ctx: &TcContext, at: usize, vlan: u16) -> Result<Claim, Other> {
    let packet: [u8; 28] = ctx.load(at).map_err(|_| Other::Bad)?;
    // Ethernet and IPv4, with their lengths.
    if packet[..6] != [0, 1, 0x08, 0, 6, 4] || packet[6] != 0 || !(packet[7] == 1 || packet[7] == 2) {
        return Err(Other::Bad);
    }
    let sender = [packet[14], packet[15], packet[16], packet[17]];
    if sender == [0; 4] {
        // A probe: it asks, and claims nothing.
        return Err(Other::Nothing);
    }
    let mac = [packet[8], packet[9], packet[10], packet[11], packet[12], packet[13]];
    // Multicast, broadcast, or nobody.
    if sender[0] >= 224 || mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Other::Bad);
    }
    let mut address = [0; 16];
    address[0] = sender[0];
    address[1] = sender[1];
    address[2] = sender[2];
    address[3] = sender[3];
    Ok(Claim { vlan, family: 4, operation: u16::from(packet[7]), address, mac })
}

#[inline(always)]
fn neighbour(ctx: &TcContext, at: usize, vlan: u16) -> Result<Claim, Other> {
    // Next header and hop limit first: nearly all IPv6 traffic ends here.
    let [next, hops]: [u8; 2] = ctx.load(at + 6).map_err(|_| Other::Bad)?;
    if next != ICMPV6 {
        return Err(Other::Nothing);
    }
    let message = at + IPV6_HEADER;
    let [kind, code]: [u8; 2] = ctx.load(message).map_err(|_| Other::Bad)?;
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        return Err(Other::Nothing);
    }
    if hops != 255 || code != 0 {
        return Err(Other::Bad);
    }
    let target: [u8; 16] = ctx.load(message + 8).map_err(|_| Other::Bad)?;
    let source: [u8; 16] = ctx.load(at + 8).map_err(|_| Other::Bad)?;
    let (address, option) = if kind == ADVERTISEMENT { (target, 2) } else { (source, 1) };
    if is_zero(&address) {
        // Duplicate address detection: it asks, and claims nothing yet.
        return Err(Other::Nothing);
    }
    if address[0] == 0xff {
        return Err(Other::Bad);
    }
    let mac = match ctx.load::<[u8; 8]>(message + ND_FIXED) {
        Ok([kind, 1, a, b, c, d, e, f]) if kind == option => [a, b, c, d, e, f],
        // Without the option the frame's own source speaks.
        _ => ctx.load(6).map_err(|_| Other::Bad)?,
    };
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Other::Bad);
    }
    Ok(Claim { vlan, family: 6, operation: u16::from(kind), address, mac })
}

#[inline(always)]
fn is_zero(address: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*address) == 0
}
