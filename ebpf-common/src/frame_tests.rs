extern crate std;

use std::vec::Vec;

use super::*;

const HOST: [u8; 6] = [2, 0, 0, 0, 0, 7];
const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 8];
const SENDER: [u8; 4] = [192, 0, 2, 5];
const TARGET: [u8; 4] = [192, 0, 2, 6];
/// The addresses that end in 5 and in 6 of the network for examples.
const SENDER6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
const TARGET6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6];

fn ethernet(protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &SOURCE, &protocol.to_be_bytes(), payload].concat()
}

fn arp(operation: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 0x08, 0, 6, 4, 0, operation];
    ethernet(ARP, &[&head[..], &mac, &sender, &[0; 6], &target].concat())
}

fn nd(kind: u8, source: [u8; 16], target: [u8; 16], options: &[u8]) -> Vec<u8> {
    let length = u8::try_from(ND_FIXED + options.len()).unwrap();
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    let message = [kind, 0, 0, 0, 0, 0, 0, 0];
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    ethernet(IPV6, &[&header[..], &source, &all_nodes, &message, &target, options].concat())
}

fn option(kind: u8) -> [u8; 8] {
    [kind, 1, 2, 0, 0, 0, 0, 7]
}

fn whole(frame: &[u8]) -> Result<Claim, Other> {
    read(&Bytes::whole(frame).unwrap())
}

/// The form that a frame has in the kernel after the outermost tag was removed.
fn untagged(frame: &[u8], tag: u16) -> Result<Claim, Other> {
    let meta = Meta { tag: Some(tag), ..Bytes::whole(frame).unwrap().meta };
    read(&Bytes { meta, bytes: frame })
}

fn tagged(frame: &[u8], protocol: u16, tag: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &tag.to_be_bytes(), &frame[12..]].concat()
}

fn changed(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

fn four(operation: u16, vlan: u16) -> Claim {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&SENDER);
    Claim { vlan, family: 4, operation, address, mac: HOST }
}

fn six(operation: u16, address: [u8; 16], mac: [u8; 6]) -> Claim {
    Claim { vlan: 0, family: 6, operation, address, mac }
}

#[test]
fn requests_replies_and_announcements_speak_for_their_sender() {
    assert_eq!(whole(&arp(1, HOST, SENDER, TARGET)), Ok(four(1, 0)));
    assert_eq!(whole(&arp(2, HOST, SENDER, TARGET)), Ok(four(2, 0)));
    assert_eq!(whole(&arp(1, HOST, SENDER, SENDER)), Ok(four(1, 0)));
    // Padded to the least length of a frame.
    let mut padded = arp(2, HOST, SENDER, SENDER);
    padded.resize(60, 0);
    assert_eq!(whole(&padded), Ok(four(2, 0)));
}

#[test]
fn a_probe_claims_nothing() {
    assert_eq!(whole(&arp(1, HOST, [0; 4], TARGET)), Err(Other::Asks));
}

#[test]
fn arp_of_other_hardware_or_lengths_or_operations_is_bad() {
    let good = arp(1, HOST, SENDER, TARGET);
    // Hardware type 6 (IEEE 802) and 256, protocol type, both lengths, operations 0, 3 and 257.
    for (at, value) in [(15, 6), (14, 1), (16, 9), (17, 1), (18, 8), (19, 16), (21, 0), (21, 3), (20, 1)] {
        assert_eq!(whole(&changed(&good, at, value)), Err(Other::Bad), "byte {at} = {value}");
    }
}

#[test]
fn who_cannot_be_a_holder_is_bad() {
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let mut frame = arp(1, mac, SENDER, TARGET);
        assert_eq!(whole(&frame).map(|claim| claim.mac), Ok(SOURCE), "the frame's source is the claimant");
        frame[6..12].copy_from_slice(&mac);
        assert_eq!(whole(&frame), Err(Other::Bad));
    }
    for address in [[224, 0, 0, 1], [239, 255, 255, 255], [255; 4]] {
        assert_eq!(whole(&arp(1, HOST, address, TARGET)), Err(Other::Bad), "{address:?}");
    }
    for address in [[223, 255, 255, 255], [240, 0, 0, 1]] {
        assert!(whole(&arp(1, HOST, address, TARGET)).is_ok(), "{address:?}");
    }
    let mut from_group = nd(ADVERTISEMENT, TARGET6, TARGET6, &[]);
    from_group[6] |= 1;
    assert_eq!(whole(&from_group), Err(Other::Bad));
}

#[test]
fn neighbour_messages_speak_by_their_option_or_by_the_frames_source() {
    let solicitation = |options: &[u8]| whole(&nd(SOLICITATION, SENDER6, TARGET6, options));
    let advertisement = |options: &[u8]| whole(&nd(ADVERTISEMENT, SENDER6, TARGET6, options));
    assert_eq!(solicitation(&option(1)), Ok(six(135, SENDER6, HOST)));
    assert_eq!(solicitation(&[]), Ok(six(135, SENDER6, SOURCE)));
    assert_eq!(advertisement(&option(2)), Ok(six(136, TARGET6, HOST)));
    assert_eq!(advertisement(&[]), Ok(six(136, TARGET6, SOURCE)));
    // An option of the other kind, of another length, or truncated is ignored.
    assert_eq!(solicitation(&option(2)), Ok(six(135, SENDER6, SOURCE)));
    assert_eq!(advertisement(&changed(&option(2), 1, 2)), Ok(six(136, TARGET6, SOURCE)));
    assert_eq!(advertisement(&option(2)[..7]), Ok(six(136, TARGET6, SOURCE)));
}

#[test]
fn duplicate_address_detection_claims_nothing() {
    assert_eq!(whole(&nd(SOLICITATION, [0; 16], TARGET6, &[])), Err(Other::Asks));
}

#[test]
fn neighbour_messages_that_a_host_must_discard_are_bad() {
    let good = nd(ADVERTISEMENT, SENDER6, TARGET6, &option(2));
    // Hop limit: it came through a router. Code.
    assert_eq!(whole(&changed(&good, 21, 254)), Err(Other::Bad));
    assert_eq!(whole(&changed(&good, 55, 1)), Err(Other::Bad));
    let mut group = TARGET6;
    group[0] = 0xff;
    assert_eq!(whole(&nd(ADVERTISEMENT, SENDER6, group, &option(2))), Err(Other::Bad));
    assert_eq!(whole(&nd(SOLICITATION, group, TARGET6, &option(1))), Err(Other::Bad));
}

#[test]
fn other_traffic_is_nothing() {
    let good = nd(ADVERTISEMENT, SENDER6, TARGET6, &option(2));
    // TCP; an echo request; IPv4.
    assert_eq!(whole(&changed(&good, 20, 6)), Err(Other::Nothing));
    assert_eq!(whole(&changed(&good, 54, 128)), Err(Other::Nothing));
    assert_eq!(whole(&ethernet(0x0800, &[0; 40])), Err(Other::Nothing));
}

#[test]
fn a_frame_cut_anywhere_is_bad_or_speaks_by_its_source() {
    let frame = arp(1, HOST, SENDER, TARGET);
    for length in ETHERNET..frame.len() {
        assert_eq!(whole(&frame[..length]), Err(Other::Bad), "{length}");
    }
    let frame = nd(ADVERTISEMENT, SENDER6, TARGET6, &option(2));
    let fixed = ETHERNET + IPV6_HEADER + ND_FIXED;
    for length in ETHERNET..frame.len() {
        let expected = if length < fixed { Err(Other::Bad) } else { Ok(six(136, TARGET6, SOURCE)) };
        assert_eq!(whole(&frame[..length]), expected, "{length}");
    }
    for length in 0..ETHERNET {
        assert!(Bytes::whole(&frame[..length]).is_none(), "{length}");
        // The kernel may still set a protocol.
        for protocol in [ARP, IPV6, VLAN] {
            let short = Bytes { meta: Meta { protocol, tag: None }, bytes: &frame[..length] };
            assert_eq!(read(&short), Err(Other::Bad), "{length}");
        }
    }
}

#[test]
fn one_tag_names_the_vlan_wherever_it_is() {
    let frame = arp(1, HOST, SENDER, TARGET);
    for protocol in [VLAN, SERVICE_VLAN] {
        // With a priority, which is not part of the id; 0 is a priority alone.
        for (tag, vlan) in [(12, 12), (0xa00c, 12), (0xffff, 4095), (0xe000, 0)] {
            assert_eq!(whole(&tagged(&frame, protocol, tag)), Ok(four(1, vlan)), "{tag:x}");
            assert_eq!(untagged(&frame, tag), Ok(four(1, vlan)), "{tag:x}");
        }
        let cut = tagged(&frame, protocol, 12);
        for length in ETHERNET..cut.len() {
            assert_eq!(whole(&cut[..length]), Err(Other::Bad), "{length}");
        }
    }
    let six = whole(&tagged(&nd(ADVERTISEMENT, SENDER6, TARGET6, &[]), VLAN, 12)).unwrap();
    assert_eq!((six.vlan, six.mac), (12, SOURCE));
}

#[test]
fn one_tag_inside_another_is_told_apart() {
    let frame = arp(1, HOST, SENDER, TARGET);
    for inner in [VLAN, SERVICE_VLAN] {
        let once = tagged(&frame, inner, 12);
        for outer in [VLAN, SERVICE_VLAN] {
            assert_eq!(whole(&tagged(&once, outer, 7)), Err(Other::Nested));
        }
        assert_eq!(untagged(&once, 7), Err(Other::Nested));
        // Even if the tag that was taken out is a priority alone.
        assert_eq!(untagged(&once, 0), Err(Other::Nested));
    }
}

#[test]
fn a_sender_of_the_reserved_range_is_no_group() {
    let read = |sender| whole(&arp(2, HOST, sender, TARGET)).map(|claim| claim.address);
    assert_eq!(read([255, 255, 255, 127]).unwrap()[..4], [255, 255, 255, 127]);
    assert_eq!(read([255; 4]), Err(Other::Bad));
    assert_eq!(read([224, 0, 0, 1]), Err(Other::Bad));
}

#[test]
fn addresses_of_the_link_alone_are_told_apart() {
    let claim = |family: u8, head: [u8; 2]| {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&head);
        Claim { vlan: 0, family, operation: 1, address, mac: HOST }.is_link_local()
    };
    assert!(claim(4, [169, 254]) && claim(6, [0xfe, 0x80]) && claim(6, [0xfe, 0xbf]));
    assert!(!claim(4, [169, 253]) && !claim(4, [0xfe, 0x80]) && !claim(6, [169, 254]));
    assert!(!claim(6, [0xfe, 0xc0]) && !claim(6, [0xfd, 0x80]));
}

#[test]
fn a_pass_admits_its_mac_in_frame_and_message_or_any() {
    let of = |mac| crate::PassValue { mac, pad: 0 };
    assert!(of(HOST).admits(HOST, HOST) && of([0; 6]).admits(HOST, SOURCE));
    assert!(
        !of(HOST).admits(SOURCE, HOST) && !of(HOST).admits(HOST, SOURCE) && !of(HOST).admits(SOURCE, SOURCE)
    );
}
