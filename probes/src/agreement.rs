//! Comparison of the two frame parsers: the one that runs in the kernel ([`berth_ebpf_common::frame`]) and
//! user space's own ([`berth_underlay::wire::frame`]).
//!
//! For tests and the fuzzer only. They differ on purpose, because the kernel's parser is short.
//! [`Difference`] lists its omissions, and no other difference is allowed. Each difference has one direction:
//! a claim of user space's parser that the kernel's misses is always a defect, because the program would be
//! detached as unreliable after such frames. Invariant: a difference is detected from the frame's bytes
//! alone, never from the parsers' results.

use std::net::IpAddr;

use berth_ebpf_common::frame::{self, Bytes, Claim};
use berth_underlay::wire::frame::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Statement, Unreadable};

/// A way in which the readers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The kernel uses the protocol mark of the frame and its end; user space checks IPv6's own version and
    /// length.
    Ipv6Header,
    /// The kernel does not compute the checksum.
    Checksum,
    /// The kernel reads the first option only, and only if it has the usual length.
    Options,
}

/// Parses a frame with both parsers. `Ok`: they agree, or differ as listed; `Err`: description of a defect.
pub fn check(bytes: &[u8]) -> Result<Option<Difference>, String> {
    let user = berth_underlay::wire::frame::read(bytes);
    let Some(whole) = Bytes::whole(bytes) else {
        let short = matches!(user, Err(Unreadable::Short));
        return if short { Ok(None) } else { Err(format!("no whole header, and yet {user:?}")) };
    };
    let kernel = frame::read(&whole);
    // For a probe, user space returns the probed address, marked as no claim.
    let claimed = user.ok().filter(|statement| statement.kind.is_claim());
    let agreed = match (kernel, claimed) {
        (Ok(kernel), Some(user)) => is_same(&kernel, &user),
        (Err(_), None) => true,
        _ => false,
    };
    if agreed {
        return Ok(None);
    }
    match difference(bytes) {
        Some(found) if kernel.is_ok() => Ok(Some(found)),
        _ => Err(format!("the kernel reads {kernel:?}, user space {user:?}, of {bytes:02x?}")),
    }
}

fn is_same(kernel: &Claim, user: &Statement) -> bool {
    let [a, b, c, d, ..] = kernel.address;
    let address = match kernel.family {
        4 => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(kernel.address),
    };
    address == user.address && kernel.mac == user.mac.0 && kernel.vlan == user.vlan.unwrap_or(0)
}

/// Listed difference that the bytes show.
fn difference(bytes: &[u8]) -> Option<Difference> {
    let protocol = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let is_tag = [ETHERTYPE_VLAN, ETHERTYPE_SERVICE_VLAN].contains(&protocol(12)?);
    let at = if is_tag { 18 } else { 14 };
    let payload = bytes.get(at..)?;
    if protocol(at - 2)? == frame::ARP {
        return None;
    }
    let length = usize::from(u16::from_be_bytes(*payload.get(4..)?.first_chunk()?));
    let Some(message) = payload.get(40..40 + length).filter(|message| message.len() >= 24) else {
        return Some(Difference::Ipv6Header);
    };
    let usual: &[u8] = if message[0] == 135 { &[1, 1] } else { &[2, 1] };
    // A message with one option of the usual kind, or without options, is unambiguous; padding after the
    // message may look like an option.
    let plain = match message.len() {
        24 => !payload.get(64..).is_some_and(|rest| rest.starts_with(usual) && rest.len() >= 8),
        32 => message[24..].starts_with(usual) && message[26..].first_chunk().copied().is_some_and(is_holder),
        _ => false,
    };
    if payload[0] >> 4 != 6 {
        Some(Difference::Ipv6Header)
    } else if checksum(payload, message) != 0xffff {
        Some(Difference::Checksum)
    } else {
        (!plain).then_some(Difference::Options)
    }
}

fn is_holder(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// The one's complement sum over the pseudo header and the message; 0xffff if the checksum is right.
fn checksum(header: &[u8], message: &[u8]) -> u16 {
    let addresses = header.get(8..40).unwrap_or_default();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let words = addresses.chunks(2).chain(message.chunks(2));
    let start = length + u32::from(header.get(6).copied().unwrap_or(0));
    let sum = words.fold(start, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let sum = sum + u32::from(word);
        (sum & 0xffff) + (sum >> 16)
    });
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX)
}

/// Puts the right checksum into an untagged or tagged neighbour message, if the frame is one: no
/// mutation at random would.
pub fn repair(bytes: &mut [u8]) {
    let is_tagged = bytes.get(12..14).is_some_and(|two| two == [0x81, 0] || two == [0x88, 0xa8]);
    let at = if is_tagged { 18 } else { 14 };
    let Some(payload) = bytes.get_mut(at..) else { return };
    let Some((header, rest)) = payload.split_at_mut_checked(40) else { return };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let Some(message) = rest.get_mut(..length).filter(|message| message.len() >= 4) else { return };
    message[2..4].fill(0);
    let sum = !checksum(header, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use berth_ipam::mac::Mac;
    use berth_underlay::wire::frame as user;
    use proptest::prelude::*;

    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn four(last: u8) -> std::net::Ipv4Addr {
        [192, 0, 2, last].into()
    }

    fn six(last: u16) -> std::net::Ipv6Addr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
    }

    fn samples() -> Vec<Vec<u8>> {
        vec![
            user::arp_request(OWN, four(1), four(2)),
            user::announcement(OWN, four(1).into()),
            user::probe(OWN, four(1).into()),
            user::announcement(OWN, six(1).into()),
            user::probe(OWN, six(1).into()),
            user::neighbour_solicitation(OWN, Some(six(1)), six(2)),
        ]
    }

    fn tagged(frame: &[u8], protocol: u16, tag: u16) -> Vec<u8> {
        [&frame[..12], &protocol.to_be_bytes(), &tag.to_be_bytes(), &frame[12..]].concat()
    }

    #[test]
    fn what_user_space_builds_both_read_alike() {
        for frame in samples() {
            assert_eq!(check(&frame), Ok(None));
            assert_eq!(check(&tagged(&frame, ETHERTYPE_VLAN, 0xa00c)), Ok(None));
        }
    }

    #[test]
    fn each_difference_that_is_listed_exists() {
        let changed = |sample: usize, at: usize, value: u8| {
            let mut frame = samples()[sample].clone();
            frame[at] = value;
            frame
        };
        let repaired = |mut frame: Vec<u8>| {
            repair(&mut frame);
            frame
        };
        let list = [
            (changed(3, 14, 0x40), Difference::Ipv6Header),
            (changed(3, 19, 200), Difference::Ipv6Header),
            (changed(3, 56, 1), Difference::Checksum),
            (repaired(changed(3, 79, 0)), Difference::Options),
        ];
        for (frame, expected) in list {
            assert_eq!(check(&frame), Ok(Some(expected)), "{frame:02x?}");
        }
    }

    #[test]
    fn frames_that_name_no_station_are_read_alike() {
        let no_station = [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]];
        for sample in samples() {
            for mac in no_station {
                // The frame's source, the sender in ARP, the option of a neighbour message.
                for places in [&[6][..], &[22], &[6, 22], &[80], &[6, 80]] {
                    let mut frame = sample.clone();
                    for place in places {
                        if let Some(bytes) = frame.get_mut(*place..place + 6) {
                            bytes.copy_from_slice(&mac);
                        }
                    }
                    repair(&mut frame);
                    assert_eq!(check(&frame), Ok(None), "{frame:02x?}");
                }
            }
            let twice = tagged(&tagged(&sample, ETHERTYPE_VLAN, 12), ETHERTYPE_SERVICE_VLAN, 7);
            assert_eq!(check(&twice), Ok(None), "{twice:02x?}");
        }
        let mut class_e = samples()[1].clone();
        class_e[28] = 240;
        assert_eq!(check(&class_e), Ok(None));
    }

    #[test]
    fn a_reader_that_errs_is_found() {
        let mut claim = frame::read(&Bytes::whole(&samples()[0]).unwrap()).unwrap();
        let statement = user::read(&samples()[0]).unwrap();
        assert!(is_same(&claim, &statement));
        claim.mac[5] ^= 1;
        assert!(!is_same(&claim, &statement));
        assert_eq!(difference(&samples()[0]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A good frame, tagged or not, with some bytes changed, cut or padded.
        #[test]
        fn both_read_alike_or_differ_as_listed(
            sample in 0_usize..6,
            tags in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..3),
            changes in proptest::collection::vec((12_usize..100, any::<u8>()), 0..4),
            length in 0_usize..120,
            with_checksum in any::<bool>(),
        ) {
            let mut frame = samples()[sample].clone();
            for (service, tag) in tags {
                frame = tagged(&frame, if service { ETHERTYPE_SERVICE_VLAN } else { ETHERTYPE_VLAN }, tag);
            }
            if !(20..=60).contains(&length) {
                frame.resize(length, 0);
            }
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if with_checksum {
                repair(&mut frame);
            }
            let outcome = check(&frame);
            prop_assert!(outcome.is_ok(), "{outcome:?}");
        }

        #[test]
        fn no_bytes_make_them_quarrel(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let outcome = check(&bytes);
            prop_assert!(outcome.is_ok(), "{outcome:?}");
        }
    }
}
