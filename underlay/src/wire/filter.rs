//! Classic BPF programs that select the frames that a packet socket receives. Pure.
//!
//! The offsets are those of an untagged Ethernet frame: the kernel removes the tag from every received frame.

use std::net::IpAddr;

use super::frame::{
    ADVERTISEMENT, ETHERTYPE_ARP, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, ICMPV6,
    SOLICITATION,
};

/// Maximum number of addresses that one program compares; with more, the program passes all neighbour
/// messages. A program may have 4,096 steps, and an address takes up to 9.
pub const ADDRESSES_MAX: usize = 256;

const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_SHIFTED_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
const LOAD_SHIFTED_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
const SHIFT: u32 = libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Offset of the sender's address in an ARP packet.
const ARP_SENDER: u32 = 14 + 14;
const ARP_TARGET: u32 = 14 + 24;
const IPV6_SOURCE: u32 = 14 + 8;
/// Offset of the target in a neighbour advertisement.
const ND_TARGET: u32 = 14 + 40 + 8;
const VLAN_ID: u32 = 0x0fff;
const WORD: u128 = 0xffff_ffff;

fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}

/// Step that accepts the whole frame.
fn accept() -> libc::sock_filter {
    step(RETURN, u32::MAX, 0, 0)
}

/// Step that rejects the frame.
fn reject() -> libc::sock_filter {
    step(RETURN, 0, 0, 0)
}

/// Program that rejects every frame.
pub fn nothing() -> Vec<libc::sock_filter> {
    vec![reject()]
}

/// ARP and ICMPv6 types 135 and 136, untagged or after one tag that is still in the frame. A tag that the
/// kernel has removed is invisible here, and the offsets are those of an untagged frame.
pub fn neighbour_messages() -> Vec<libc::sock_filter> {
    vec![
        step(SHIFT, 0, 0, 0),                                 // 0: no tag in the frame yet
        step(LOAD_HALF, 12, 0, 0),                            // 1: the EtherType
        step(EQUAL, u32::from(ETHERTYPE_VLAN), 1, 0),         // 2: tagged: on at 4
        step(EQUAL, u32::from(ETHERTYPE_SERVICE_VLAN), 0, 2), // 3: untagged: on at 6
        step(SHIFT, 4, 0, 0),                                 // 4: all further back by one tag
        step(LOAD_HALF, 16, 0, 0),                            // 5: the EtherType behind it
        step(EQUAL, u32::from(ETHERTYPE_ARP), 7, 0),          // 6: ARP: accept
        step(EQUAL, u32::from(ETHERTYPE_IPV6), 0, 5),         // 7: not IPv6: drop
        step(LOAD_SHIFTED_BYTE, 14 + 6, 0, 0),                // 8: the next header
        step(EQUAL, u32::from(ICMPV6), 0, 3),                 // 9: not ICMPv6: drop
        step(LOAD_SHIFTED_BYTE, 14 + 40, 0, 0),               // 10: the type
        step(EQUAL, u32::from(SOLICITATION), 2, 0),           // 11: accept
        step(EQUAL, u32::from(ADVERTISEMENT), 1, 0),          // 12: accept
        reject(),                                             // 13
        accept(),                                             // 14
    ]
}

/// Program that accepts claims of these addresses on the parent's own segment: ARP from them, solicitations
/// from them, and advertisements of them. It also accepts probes for them: an own probe that is received
/// again has reached the links under the parent. Other frames take no room of the socket, even in a flood.
pub fn claims<'a>(addresses: impl ExactSizeIterator<Item = &'a IpAddr>) -> Vec<libc::sock_filter> {
    if addresses.len() > ADDRESSES_MAX {
        return neighbour_messages();
    }
    let mut arp = vec![step(LOAD_WORD, ARP_SENDER, 0, 0)];
    let mut probes = vec![step(EQUAL, 0, 1, 0), reject(), step(LOAD_WORD, ARP_TARGET, 0, 0)];
    let mut neighbour = vec![
        step(LOAD_BYTE, 14 + 6, 0, 0),               // 0: the next header
        step(EQUAL, u32::from(ICMPV6), 1, 0),        // 1
        reject(),                                    // 2
        step(SHIFT, IPV6_SOURCE, 0, 0),              // 3
        step(LOAD_BYTE, 14 + 40, 0, 0),              // 4: the type
        step(EQUAL, u32::from(SOLICITATION), 2, 0),  // 5: on at 8
        step(EQUAL, u32::from(ADVERTISEMENT), 9, 0), // 6: on at 16
        reject(),                                    // 7
    ];
    for (offset, past) in [(0, 7), (4, 5), (8, 3), (12, 1)] {
        neighbour.push(step(LOAD_SHIFTED_WORD, offset, 0, 0));
        neighbour.push(step(EQUAL, 0, 0, past)); // 9, 11, 13, 15: its source claims: on at 17
    }
    // 16: the target of an advertisement is claimed, that of a solicitation from no address is probed for.
    neighbour.push(step(SHIFT, ND_TARGET, 0, 0));
    for address in addresses {
        match address {
            IpAddr::V4(address) => {
                let compare = [step(EQUAL, address.to_bits(), 0, 1), accept()];
                arp.extend(compare);
                probes.extend(compare);
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                let words = [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & WORD).unwrap_or(0));
                for ((offset, past), word) in [(0, 7), (4, 5), (8, 3), (12, 1)].into_iter().zip(words) {
                    neighbour.push(step(LOAD_SHIFTED_WORD, offset, 0, 0));
                    neighbour.push(step(EQUAL, word, 0, past));
                }
                neighbour.push(accept());
            }
        }
    }
    arp.append(&mut probes);
    arp.push(reject());
    neighbour.push(reject());
    let tag = u32::from_ne_bytes((libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG).to_ne_bytes());
    let past_arp = u32::try_from(arp.len()).unwrap_or(u32::MAX);
    let mut program = vec![
        step(LOAD_WORD, tag, 0, 0),                   // 0: the tag that the kernel took out
        step(AND, VLAN_ID, 0, 0),                     // 1
        step(EQUAL, 0, 1, 0),                         // 2: none: on at 4
        reject(),                                     // 3
        step(LOAD_HALF, 12, 0, 0),                    // 4: the EtherType
        step(EQUAL, u32::from(ETHERTYPE_ARP), 3, 0),  // 5: on at 9
        step(EQUAL, u32::from(ETHERTYPE_IPV6), 1, 0), // 6: on at 8
        reject(),                                     // 7
        step(JUMP, past_arp, 0, 0),                   // 8
    ];
    program.append(&mut arp);
    program.append(&mut neighbour);
    program
}

#[cfg(test)]
mod tests {
    use berth_ipam::mac::Mac;

    use super::*;
    use crate::wire::frame;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    /// Verdict of the kernel's interpreter on a frame, for the steps used here.
    fn hears(program: &[libc::sock_filter], frame: &[u8], tag: u16) -> bool {
        let (mut at, mut a, mut x) = (0_usize, 0_u32, 0_u32);
        let load = |offset: u32, size: usize| {
            let from = usize::try_from(offset).unwrap();
            let bytes = frame.get(from..from + size)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        loop {
            let now = program[at];
            at += 1;
            let loaded = match u32::from(now.code) {
                RETURN => return now.k != 0,
                LOAD_WORD if now.k > 0xffff_0000 => Some(u32::from(tag)),
                LOAD_WORD => load(now.k, 4),
                LOAD_HALF => load(now.k, 2),
                LOAD_BYTE => load(now.k, 1),
                LOAD_SHIFTED_BYTE => load(now.k + x, 1),
                LOAD_SHIFTED_WORD => load(now.k + x, 4),
                AND => Some(a & now.k),
                SHIFT => {
                    x = now.k;
                    Some(a)
                }
                EQUAL => {
                    at += usize::from(if a == now.k { now.jt } else { now.jf });
                    Some(a)
                }
                JUMP => {
                    at += usize::try_from(now.k).unwrap();
                    Some(a)
                }
                other => panic!("step {other:#x}"),
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn claims_of_the_addresses_pass_and_those_of_their_neighbours_do_not() {
        let asked = addresses(&["192.0.2.7", "192.0.2.9", "2001:db8::7", "2001:db8::9"]);
        let program = claims(asked.iter());
        for address in &asked {
            assert!(hears(&program, &frame::announcement(MAC, *address), 0), "{address}");
            assert!(!hears(&program, &frame::announcement(MAC, *address), 5), "{address} in a VLAN");
            assert!(
                hears(&program, &frame::announcement(MAC, *address), 0x2000),
                "{address}, a priority alone"
            );
            let probe = frame::probe(MAC, *address);
            assert!(hears(&program, &probe, 0), "an own probe for {address} may come back in");
            assert!(!hears(&program, &probe, 5), "{address} in a VLAN");
        }
        for other in addresses(&["192.0.2.8", "2001:db8::8", "2001:db9::7", "2001:db8:0:1::7"]) {
            assert!(!hears(&program, &frame::announcement(MAC, other), 0), "{other}");
            assert!(!hears(&program, &frame::probe(MAC, other), 0), "{other}");
        }
        let four = "192.0.2.7".parse().unwrap();
        let asks = frame::arp_request(MAC, four, "192.0.2.200".parse().unwrap());
        assert!(hears(&program, &asks, 0), "a host that asks for another names its own address");
        let asked_for = frame::arp_request(MAC, "192.0.2.200".parse().unwrap(), four);
        assert!(!hears(&program, &asked_for, 0), "a request for an asked address claims another");
        let six = "2001:db8::9".parse().unwrap();
        let asks = frame::neighbour_solicitation(MAC, Some(six), "2001:db8::1".parse().unwrap());
        assert!(hears(&program, &asks, 0));
    }

    #[test]
    fn every_program_is_short_enough_for_the_kernel() {
        let six = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        let most: Vec<_> = (0..u16::try_from(ADDRESSES_MAX).unwrap()).map(six).collect();
        let program = claims(most.iter());
        assert!(program.len() <= 4096, "{}", program.len());
        assert!(hears(&program, &frame::announcement(MAC, most[ADDRESSES_MAX - 1]), 0));
        let more: Vec<_> = most.iter().copied().chain([six(4096)]).collect();
        assert!(hears(&claims(more.iter()), &frame::announcement(MAC, six(9999)), 0), "all of them");
    }
}
