use std::str::FromStr;

use proptest::prelude::*;

use super::*;

const OWN: Mac = Mac([0xb2, 0, 0x5e, 0, 0x53, 1]);
const HOLDER: Mac = Mac([0x02, 0, 0, 0, 0, 7]);

fn v4(text: &str) -> Ipv4Addr {
    Ipv4Addr::from_str(text).unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    Ipv6Addr::from_str(text).unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The reply of a Linux host to an ARP probe, as tcpdump prints it.
fn arp_reply() -> Vec<u8> {
    bytes(
        "b200 5e00 5301 0200 0000 0007 0806 0001 0800 0604 0002 0200 0000 0007 c000 0205 b200 5e00 5301 0000 0000",
    )
}

fn tagged(frame: &[u8], ethertype: u16, id: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&frame[12..]);
    out
}

#[test]
fn an_arp_probe_is_these_42_octets() {
    let frame = probe(OWN, IpAddr::V4(v4("192.0.2.5")));
    assert_eq!(
        frame,
        bytes(
            "ffff ffff ffff b200 5e00 5301 0806 0001 0800 0604 0001 b200 5e00 5301 0000 0000 0000 0000 0000 c000 0205"
        )
    );
    let said = read(&frame).unwrap();
    let expected = Statement { address: v4("192.0.2.5").into(), mac: OWN, vlan: None, kind: Kind::Dad };
    assert_eq!(said, expected);
}

#[test]
fn a_solicitation_from_nobody_is_these_78_octets() {
    // By hand: ff02 + 1 + ff12 + 3456 + 18 + 3a + 8700 + 2001 + 0db8 + 12 + 3456 = 31bde, folded 1be1,
    // inverted e41e.
    let frame = probe(OWN, IpAddr::V6(v6("2001:db8::12:3456")));
    assert_eq!(
        frame,
        bytes(
            "3333 ff12 3456 b200 5e00 5301 86dd 6000 0000 0018 3aff \
             0000 0000 0000 0000 0000 0000 0000 0000 ff02 0000 0000 0000 0000 0001 ff12 3456 \
             8700 e41e 0000 0000 2001 0db8 0000 0000 0000 0000 0012 3456"
        )
    );
    let said = read(&frame).unwrap();
    assert_eq!((said.address, said.mac, said.kind), (v6("2001:db8::12:3456").into(), OWN, Kind::Dad));
}

#[test]
fn a_reply_to_a_probe_is_a_claim_of_its_sender() {
    let said = read(&arp_reply()).unwrap();
    assert_eq!(
        said,
        Statement { address: v4("192.0.2.5").into(), mac: HOLDER, vlan: None, kind: Kind::Reply }
    );
    assert!(said.kind.is_claim() && !Kind::Dad.is_claim());
}

#[test]
fn requests_and_announcements_name_their_sender() {
    let request = read(&arp_request(HOLDER, v4("192.0.2.5"), v4("192.0.2.9"))).unwrap();
    assert_eq!((request.address, request.kind), (v4("192.0.2.5").into(), Kind::Request));
    let gratuitous = read(&announcement(HOLDER, v4("192.0.2.5").into())).unwrap();
    assert_eq!((gratuitous.address, gratuitous.kind), (v4("192.0.2.5").into(), Kind::Announcement));
    let advertisement = read(&announcement(HOLDER, v6("2001:db8::5").into())).unwrap();
    assert_eq!(
        advertisement,
        Statement { address: v6("2001:db8::5").into(), mac: HOLDER, vlan: None, kind: Kind::Announcement }
    );
    let asking = read(&neighbour_solicitation(HOLDER, Some(v6("fe80::7")), v6("fe80::1"))).unwrap();
    assert_eq!((asking.address, asking.mac, asking.kind), (v6("fe80::7").into(), HOLDER, Kind::Request));
}

#[test]
fn one_tag_is_reported_a_priority_tag_is_none_and_nested_ones_are_refused() {
    let vlan = |frame: Vec<u8>| read(&frame).unwrap().vlan;
    let ndp = announcement(HOLDER, v6("2001:db8::5").into());
    assert_eq!(vlan(tagged(&arp_reply(), 0x8100, 0x2064)), Some(100));
    assert_eq!(vlan(tagged(&ndp, 0x8100, 7)), Some(7));
    assert_eq!(vlan(tagged(&ndp, 0x8100, 0xe000)), None);
    let twice = tagged(&tagged(&ndp, 0x8100, 7), 0x88a8, 9);
    assert_eq!(read(&twice), Err(Unreadable::NestedTags));
    let stripped = |frame: &[u8], id| read_stripped(frame, Some(id)).map(|said| said.vlan);
    assert_eq!((stripped(&ndp, 9), stripped(&ndp, 0)), (Ok(Some(9)), Ok(None)));
    for outer in [0, 9] {
        assert_eq!(stripped(&tagged(&ndp, 0x8100, 7), outer), Err(Unreadable::NestedTags));
    }
}

#[test]
fn arp_for_other_hardware_protocols_lengths_or_operations_is_refused() {
    for (at, value) in [(15, 6), (17, 1), (18, 8), (19, 16), (21, 3), (21, 0)] {
        let mut frame = arp_reply();
        frame[at] = value;
        assert_eq!(read(&frame), Err(Unreadable::NotEthernetArp), "octet {at}");
    }
    assert_eq!(read(&arp_reply()[..41]), Err(Unreadable::Short));
}

#[test]
fn a_hardware_address_that_names_nobody_gives_way_to_the_frames_source() {
    for nobody in [[0; 6], [0xff; 6]] {
        let mut frame = arp_reply();
        frame[22..28].copy_from_slice(&nobody);
        frame[6..12].copy_from_slice(&OWN.0);
        assert_eq!(read(&frame).unwrap().mac, OWN);
    }
}

#[test]
fn addresses_that_nobody_can_hold_are_refused() {
    for nobody in [[0, 0, 0, 0], [224, 0, 0, 1], [255; 4]] {
        let mut frame = arp_reply();
        frame[28..32].copy_from_slice(&nobody);
        assert_eq!(read(&frame), Err(Unreadable::NoUnicastAddress));
    }
}

#[test]
fn a_neighbour_message_that_a_host_must_discard_is_refused() {
    let good = announcement(HOLDER, v6("2001:db8::5").into());
    let broken = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        read(&frame)
    };
    assert_eq!(broken(21, 254), Err(Unreadable::BadNeighbourMessage), "hop limit");
    assert_eq!(broken(55, 1), Err(Unreadable::BadNeighbourMessage), "code");
    assert_eq!(broken(57, good[57] ^ 1), Err(Unreadable::BadChecksum));
    assert_eq!(broken(19, 23), Err(Unreadable::BadNeighbourMessage), "length below the fixed part");
    assert_eq!(broken(19, 33), Err(Unreadable::Short), "length beyond the frame");
    assert_eq!(broken(20, 17), Err(Unreadable::Other), "UDP");
    assert_eq!(broken(54, 134), Err(Unreadable::Other), "router advertisement");
    assert_eq!(broken(14, 0x40), Err(Unreadable::Other), "IPv4");
}

#[test]
fn an_option_of_length_zero_spoils_the_message_and_padding_after_it_does_not() {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&v6("2001:db8::5").octets());
    message.extend_from_slice(&[OPTION_TARGET_LINK, 0, 1, 2, 3, 4, 5, 6]);
    let frame = icmpv6(HOLDER, v6("2001:db8::5"), ALL_NODES, message);
    assert_eq!(read(&frame), Err(Unreadable::BadNeighbourMessage));
    let mut padded = announcement(HOLDER, v6("2001:db8::5").into());
    padded.extend_from_slice(&[0; 9]);
    assert!(read(&padded).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&frame);
    }

    #[test]
    fn damaged_frames_never_panic_and_cut_ones_are_refused(
        which in 0..4_usize,
        cut in 0..100_usize,
        at in 0..100_usize,
        value in any::<u8>(),
    ) {
        let frames = [
            arp_reply(),
            announcement(HOLDER, v6("2001:db8::5").into()),
            neighbour_solicitation(HOLDER, Some(v6("fe80::7")), v6("fe80::1")),
            tagged(&probe(OWN, v6("fe80::1").into()), 0x8100, 5),
        ];
        let mut frame = frames[which].clone();
        let short = &frame[..cut.min(frame.len() - 1)];
        prop_assert_eq!(read(short), Err(Unreadable::Short));
        let at = at % frame.len();
        frame[at] = value;
        let _ = read(&frame);
    }

    #[test]
    fn what_is_built_is_read_back(address in any::<u128>(), mac in any::<[u8; 5]>()) {
        let address = Ipv6Addr::from(address);
        prop_assume!(!address.is_unspecified() && !address.is_multicast());
        let [a, b, c, d, e] = mac;
        let mac = Mac([0xb2, a, b, c, d, e]);
        for (frame, kind) in [
            (announcement(mac, address.into()), Kind::Announcement),
            (probe(mac, address.into()), Kind::Dad),
        ] {
            let expected = Statement { address: address.into(), mac, vlan: None, kind };
            prop_assert_eq!(read(&frame), Ok(expected));
        }
    }
}
