//! The watcher on a parent: claims of addresses.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::mac::Mac;
use berth_probes::event::Heard;
use berth_probes::watch::Wire;
use berth_probes::wire::Seat;
use berth_probes::{Allowed, Options, ProbeEvent, Probes};
use berth_testbed::skip;
use berth_underlay::netns::run_in;
use berth_underlay::wire::device::Device;
use berth_underlay::wire::frame;
use berth_underlay::wire::socket::{Direction, PacketSocket};

use crate::world::{Netns, key, options, wait_for};

const SOON: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(200);
const POD: Mac = Mac([0xb2, 0, 0, 0, 0, 3]);
/// The mark of probes that are handed back.
const MARK: u32 = 0x5e1f_0001;
const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 0, 9]);

/// A node with the device `parent`, a host with `eth0` at the cable's other end, and the watcher.
struct World {
    node: Netns,
    host: Netns,
    probes: Probes,
    parent: u32,
}

impl World {
    /// `None` after a recorded skip.
    fn new(seat: Option<Seat>) -> Option<Self> {
        let options = Options { allowed: Allowed::None, mark: MARK, ..options()? };
        let mut probes = Probes::start(&options).unwrap();
        let (node, host) = (Netns::new("node"), Netns::new("host"));
        node.ip(&format!("link add parent type veth peer name eth0 netns {}", host.name));
        host.ip("link set eth0 up");
        node.ip("link set parent up");
        let device = "parent".parse().unwrap();
        let taken = run_in(&node.file(), || match seat {
            Some(seat) => probes.watch_wire_as(&device, seat),
            None => probes.watch_wire(&device),
        });
        match taken.unwrap() {
            Ok(taken) => assert!(seat.is_none_or(|seat| seat == taken)),
            Err(error) if seat.is_some() => {
                skip::because(&format!("this kernel has no {seat:?}: {error:?}"));
                return None;
            }
            Err(error) => panic!("{error:?}"),
        }
        let parent = node.index_of("parent");
        Some(Self { node, host, probes, parent })
    }

    fn wire(&self, vlan: Option<u16>) -> Wire {
        Wire { parent: self.parent, vlan }
    }

    fn send(from: &Netns, device: &str, frame: &[u8]) {
        run_in(&from.file(), || {
            let socket = PacketSocket::sending(Device::by_name(device).unwrap().ifindex).unwrap();
            socket.send(frame, address("192.0.2.1")).unwrap();
        })
        .unwrap();
    }

    fn receive(&self, frame: &[u8]) {
        Self::send(&self.host, "eth0", frame);
    }

    fn heard(&mut self, patience: Duration) -> Option<Heard> {
        wait_for(&mut self.probes, patience, |event| match event {
            ProbeEvent::Wire(heard) => Some(heard.clone()),
            _ => None,
        })
    }

    fn counter(&self, name: &str) -> u64 {
        self.probes.counters().unwrap()[name]
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The frame with VLAN tags after its addresses, as written by a host that adds its own tags.
fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|id| [&[0x81, 0][..], &id.to_be_bytes()].concat());
    frame[..12].iter().copied().chain(tags).chain(frame[12..].iter().copied()).collect()
}

fn a_free_address(seat: Option<Seat>) {
    let Some(mut world) = World::new(seat) else { return };
    for text in ["192.0.2.7", "2001:db8::7"] {
        let wire = world.wire(None);
        world.probes.watches().watch(wire, address(text), None).unwrap();
        let announcement = frame::announcement(NEIGHBOUR, address(text));
        world.receive(&announcement);
        let heard = world.heard(SOON).unwrap();
        assert_eq!((heard.address, heard.mac, heard.parent), (address(text), NEIGHBOUR, world.parent));
        assert!(heard.holder.is_none() && !heard.is_outgoing() && heard.vlan.is_none(), "{heard:?}");
        // A repetition is not reported, but it is counted and dated.
        world.receive(&announcement);
        assert_eq!(world.heard(QUIET), None);
        let known = world.probes.watches().known(wire, address(text)).unwrap().unwrap();
        assert_eq!((known.hits, known.speaker, known.heard_out), (2, Some(NEIGHBOUR), None));
        assert!(known.heard_in.is_some());
        // After a second it is reported again: a veto must not become stale while claims continue.
        std::thread::sleep(Duration::from_secs(1));
        world.receive(&announcement);
        assert!(world.heard(SOON).is_some());
        // This address is not watched.
        world.probes.watches().unwatch(wire, address(text)).unwrap();
        world.receive(&announcement);
        assert_eq!(world.heard(QUIET), None);
    }
}

#[test]
fn who_speaks_for_a_free_address_is_told_once_a_second() {
    a_free_address(None);
}

#[test]
fn who_speaks_for_a_free_address_is_told_where_there_is_only_clsact() {
    a_free_address(Some(Seat::Clsact));
}

#[test]
fn a_second_holder_is_told_with_the_first_and_the_first_alone_is_not() {
    let Some(mut world) = World::new(None) else { return };
    let bound = address("192.0.2.7");
    let wire = world.wire(None);
    world.probes.watches().watch(wire, bound, Some((&key("holder"), POD))).unwrap();
    World::send(&world.node, "parent", &frame::announcement(POD, bound));
    assert_eq!(world.heard(QUIET), None);
    let known = world.probes.watches().known(wire, bound).unwrap().unwrap();
    assert!(known.heard_out.is_some() && known.heard_in.is_none() && known.conflicts == 0, "{known:?}");
    world.receive(&frame::announcement(NEIGHBOUR, bound));
    let heard = world.heard(SOON).unwrap();
    // The programs identify the holder by number; the map of followed attachments has its key.
    assert_eq!((heard.mac, heard.holder), (NEIGHBOUR, Some((None, POD))));
    let known = world.probes.watches().known(wire, bound).unwrap().unwrap();
    assert_eq!((known.conflicts, known.speaker), (1, Some(NEIGHBOUR)));
    // Watching it once more for the same holder forgets nothing.
    world.probes.watches().watch(wire, bound, Some((&key("holder"), POD))).unwrap();
    assert_eq!(world.probes.watches().known(wire, bound).unwrap().unwrap().conflicts, 1);
}

#[test]
fn questions_claim_nothing() {
    let Some(mut world) = World::new(None) else { return };
    for text in ["192.0.2.7", "2001:db8::7"] {
        let wire = world.wire(None);
        world.probes.watches().watch(wire, address(text), None).unwrap();
        world.receive(&frame::probe(NEIGHBOUR, address(text)));
        assert_eq!(world.heard(QUIET), None);
        assert_eq!(world.probes.watches().known(wire, address(text)).unwrap().unwrap().hits, 0);
    }
}

#[test]
fn a_tag_in_the_frame_is_read_and_one_inside_another_is_counted() {
    let Some(mut world) = World::new(None) else { return };
    let watched = address("192.0.2.7");
    let wire = world.wire(Some(12));
    world.probes.watches().watch(wire, watched, None).unwrap();
    let plain = frame::announcement(NEIGHBOUR, watched);
    // Untagged, and on another VLAN: another segment.
    world.receive(&plain);
    world.receive(&tagged(&plain, &[13]));
    assert_eq!(world.heard(QUIET), None);
    // With a priority, which is not part of the id.
    world.receive(&tagged(&plain, &[0xa00c]));
    assert_eq!(world.heard(SOON).unwrap().vlan, Some(12));
    world.receive(&tagged(&plain, &[7, 12]));
    assert_eq!(world.heard(QUIET), None);
    assert_eq!(world.counter("nested_tag"), 1);
}

#[test]
fn frames_that_a_host_would_discard_are_counted_and_not_believed() {
    let Some(mut world) = World::new(None) else { return };
    let (four, six) = (address("192.0.2.7"), address("2001:db8::7"));
    for watched in [four, six] {
        let wire = world.wire(None);
        world.probes.watches().watch(wire, watched, None).unwrap();
    }
    let arp = frame::announcement(NEIGHBOUR, four);
    let nd = frame::announcement(NEIGHBOUR, six);
    let change = |frame: &[u8], at: usize, value: u8| {
        let mut changed = frame.to_vec();
        changed[at] = value;
        changed
    };
    let bad = [
        // Hardware type of another medium, a longer address, an unknown operation, a group as sender and source.
        change(&arp, 15, 6),
        change(&arp, 18, 8),
        change(&arp, 21, 9),
        change(&change(&arp, 22, 0xff), 6, 3),
        // Truncated in the middle, and right after the Ethernet header.
        arp[..30].to_vec(),
        arp[..14].to_vec(),
        // A router's hop, another code, cut off.
        change(&nd, 21, 254),
        change(&nd, 55, 1),
        nd[..60].to_vec(),
    ];
    for (number, frame) in bad.iter().enumerate() {
        world.receive(frame);
        assert_eq!(world.heard(Duration::from_millis(50)), None, "{number}");
    }
    assert_eq!(world.counter("bad_frame"), u64::try_from(bad.len()).unwrap());
    world.receive(&arp);
    assert!(world.heard(SOON).is_some(), "a good frame after bad ones is believed");
}

#[test]
fn a_frame_that_names_no_station_is_its_sources_claim() {
    let Some(mut world) = World::new(None) else { return };
    let watched = address("192.0.2.7");
    let wire = world.wire(None);
    world.probes.watches().watch(wire, watched, None).unwrap();
    let mut nameless = frame::announcement(NEIGHBOUR, watched);
    nameless[22..28].fill(0);
    world.receive(&nameless);
    assert_eq!(world.heard(SOON).map(|heard| heard.mac), Some(NEIGHBOUR));
}

#[test]
fn an_outgoing_frame_that_its_sender_marked_as_another_protocol_is_read_by_its_bytes() {
    let Some(mut world) = World::new(None) else { return };
    let watched = address("192.0.2.7");
    let wire = world.wire(None);
    world.probes.watches().watch(wire, watched, None).unwrap();
    run_in(&world.node.file(), || {
        let socket = PacketSocket::sending(Device::by_name("parent").unwrap().ifindex).unwrap();
        // An IPv6 address has the socket mark the ARP frame as IPv6.
        socket.send(&frame::announcement(POD, watched), address("2001:db8::1")).unwrap();
    })
    .unwrap();
    let heard = world.heard(SOON).unwrap();
    assert!(heard.is_outgoing() && heard.mac == POD, "{heard:?}");
}

#[test]
fn a_parent_that_is_gone_and_comes_back_is_watched_again() {
    let Some(mut world) = World::new(None) else { return };
    let device = "parent".parse().unwrap();
    world.node.ip("link del parent");
    world.probes.unwatch_wire(&device);
    assert!(world.probes.wires().is_empty());
    let again = run_in(&world.node.file(), || world.probes.watch_wire(&device)).unwrap();
    assert!(again.is_err(), "the device does not exist");
    world.node.ip(&format!("link add parent type veth peer name eth0 netns {}", world.host.name));
    world.node.ip("link set parent up");
    world.host.ip("link set eth0 up");
    run_in(&world.node.file(), || world.probes.watch_wire(&device)).unwrap().unwrap();
    world.parent = world.node.index_of("parent");
    let wire = world.wire(None);
    world.probes.watches().watch(wire, address("192.0.2.7"), None).unwrap();
    world.receive(&frame::announcement(NEIGHBOUR, address("192.0.2.7")));
    assert!(world.heard(SOON).is_some());
}

#[test]
fn a_marked_probe_comes_in_on_the_parent_and_a_marked_claim_does_not() {
    let Some(world) = World::new(None) else { return };
    let claim = frame::announcement(POD, address("192.0.2.7"));
    let handed = |frame: &[u8], mark: u32| {
        run_in(&world.node.file(), || {
            let parent = Device::by_name("parent").unwrap().ifindex;
            let (listener, sender) =
                (PacketSocket::listening(parent).unwrap(), PacketSocket::sending(parent).unwrap());
            sender.mark(mark).unwrap();
            sender.send(frame, address("192.0.2.7")).unwrap();
            std::thread::sleep(QUIET);
            let mut buffer = [0; 512];
            let mut came_in = false;
            while let Some(received) = listener.receive(&mut buffer).unwrap() {
                came_in |= received.direction == Direction::In && buffer[..frame.len()] == *frame;
            }
            came_in
        })
        .unwrap()
    };
    for asked in ["192.0.2.7", "2001:db8::7"] {
        let probe = frame::probe(POD, address(asked));
        assert!(handed(&probe, MARK), "{asked}");
        assert!(!handed(&probe, MARK + 1) && !handed(&probe, 0), "{asked}, of another mark");
    }
    assert!(!handed(&claim, MARK), "what it claims would reach every neighbour table");
}
