//! Planted faults that must be detected: a wrong offset, an attached program that sends no event, lost
//! events, a full map.

use std::time::Duration;

use berth_ipam::mac::Mac;
use berth_probes::btf::Btf;
use berth_probes::watch::Wire;
use berth_probes::{Allowed, Error, Options, ProbeEvent, Probes, Rung, Stage};
use berth_testbed::skip;

use crate::world::{Netns, key, options, probes};

/// The kernel's types with one member of `net_device` in another place.
fn misplaced(types: &[u8], member: &str, new_offset: u32) -> Vec<u8> {
    let old_offset = Btf::parse(types).unwrap().member("net_device", member).unwrap().offset;
    let word = |at: usize| u32::from_ne_bytes(types[at..at + 4].try_into().unwrap());
    let header = word(4) as usize;
    let (start, length) = (header + word(8) as usize, word(12) as usize);
    let (strings, strings_length) = (header + word(16) as usize, word(20) as usize);
    let name = [&[0], member.as_bytes(), &[0]].concat();
    let text = &types[strings..strings + strings_length];
    let at = u32::try_from(text.windows(name.len()).position(|part| part == name).unwrap() + 1).unwrap();
    let mut changed = types.to_vec();
    // A member is name, type, place; the place is in bits, below a byte for the width.
    for place in (start..start + length - 8).step_by(4) {
        if word(place) == at && word(place + 8) & 0x00ff_ffff == old_offset * 8 {
            let width = word(place + 8) & 0xff00_0000;
            changed[place + 8..place + 12].copy_from_slice(&(width | (new_offset * 8)).to_ne_bytes());
        }
    }
    let found = Btf::parse(&changed).unwrap().member("net_device", member).unwrap();
    assert_eq!(found.offset, new_offset);
    changed
}

/// Starts on the tracepoint rung with a misplaced member, and returns why it was refused.
fn start_with(member: &str, instead: &str) -> Option<(Stage, String)> {
    let options = options()?;
    let healthy = Options { allowed: Allowed::Only(Rung::TpBtf), ..options };
    if Probes::start(&healthy).unwrap().rung().is_none() {
        skip::because("this kernel does not take the tracepoint programs");
        return None;
    }
    let types = std::fs::read(&healthy.types).unwrap();
    let offset = Btf::parse(&types).unwrap().member("net_device", instead).unwrap().offset;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("types");
    std::fs::write(&path, misplaced(&types, member, offset)).unwrap();
    let probes = Probes::start(&Options { types: path, ..healthy }).unwrap();
    assert_eq!(probes.rung(), None);
    let refusal = &probes.refusals()[0];
    Some((refusal.stage, refusal.reason.clone()))
}

#[test]
fn an_index_that_is_read_from_another_member_is_not_proved() {
    let Some((stage, reason)) = start_with("ifindex", "mtu") else { return };
    // The entry is searched by the wrong index and not found.
    assert_eq!(stage, Stage::Prove, "{reason}");
    assert!(reason.contains("not reported within a second"), "{reason}");
}

#[test]
fn a_program_that_never_says_a_word_is_not_proved() {
    let Some((stage, reason)) = start_with("reg_state", "addr_len") else { return };
    assert_eq!(stage, Stage::Prove, "{reason}");
    assert!(reason.contains("not reported within a second"), "{reason}");
}

#[test]
fn an_address_list_that_is_read_from_another_pointer_is_not_proved() {
    let Some((stage, reason)) = start_with("ip_ptr", "ip6_ptr") else { return };
    // The verifier has the member's type and refuses, or the canary's address is wrong.
    assert!(stage == Stage::Load || reason.contains("its address arrived"), "{stage:?} {reason}");
}

/// More events than the ring holds without a reader.
#[test]
fn events_that_are_lost_are_told() {
    let Some(options) = options() else { return };
    let mut probes = Probes::start(&Options { allowed: Allowed::None, ..options }).unwrap();
    let node = Netns::new("node");
    node.ip("link add parent type veth peer name other");
    node.ip("link set other up");
    node.ip("link set parent up");
    let device = "parent".parse().unwrap();
    berth_underlay::netns::run_in(&node.file(), || probes.watch_wire(&device)).unwrap().unwrap();
    let wire = Wire { parent: node.index_of("parent"), vlan: None };
    let addresses: Vec<std::net::IpAddr> =
        (0..4000_u32).map(|number| std::net::Ipv4Addr::from(0x0a00_0001 + number).into()).collect();
    for address in &addresses {
        probes.watches().watch(wire, *address, None).unwrap();
    }
    berth_underlay::netns::run_in(&node.file(), || {
        use berth_underlay::wire::{device::Device, frame, socket::PacketSocket};
        let socket = PacketSocket::sending(Device::by_name("other").unwrap().ifindex).unwrap();
        for address in &addresses {
            let frame = frame::announcement(Mac([2, 0, 0, 0, 0, 9]), *address);
            // A full queue does not fail the test; the count below does.
            let _ = socket.send(&frame, *address);
        }
    })
    .unwrap();
    let mut events = probes.drain().unwrap();
    while probes.has_kept() {
        events.extend(probes.drain().unwrap());
    }
    let heard = events.iter().filter(|event| matches!(event, ProbeEvent::Wire(_))).count();
    let lost = events.iter().find_map(|event| match event {
        ProbeEvent::Lost(lost) => Some(*lost),
        _ => None,
    });
    let lost = usize::try_from(lost.unwrap()).unwrap();
    assert_eq!(heard + lost, 4000, "each is reported or counted");
    assert!((1500..2500).contains(&heard), "frames fill half of the ring: {heard}");
    assert!(
        !probes.drain().unwrap().iter().any(|event| matches!(event, ProbeEvent::Lost(_))),
        "reported once"
    );
}

#[test]
fn more_attachments_than_the_maps_hold_are_an_error_that_says_so() {
    let Some(mut probes) = probes() else { return };
    let pod = Netns::new("pod");
    let identity = pod.identity();
    for number in 0..4096 {
        probes.attachments().follow(&key(&format!("c{number}")), &identity, Some(1000 + number)).unwrap();
    }
    let one_more = probes.attachments().follow(&key("more"), &identity, Some(9999));
    assert!(matches!(one_more, Err(Error::Full { name: "ATTACH", .. })), "{one_more:?}");
    // Room again after one is forgotten, and the full map spoilt nothing.
    probes.attachments().forget(&key("c7")).unwrap();
    probes.attachments().follow(&key("more"), &identity, Some(9999)).unwrap();
    let index = pod.pair("192.0.2.7");
    probes.attachments().forget(&key("c8")).unwrap();
    probes.attachments().follow(&key("last"), &identity, Some(index)).unwrap();
    pod.ip("link del net1");
    let told = crate::world::wait_for(&mut probes, Duration::from_secs(2), |event| match event {
        ProbeEvent::DeviceDown { key: told, .. } => Some(told.clone()),
        _ => None,
    });
    assert_eq!(told, Some(Some(key("last"))));
}
