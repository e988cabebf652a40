//! Which pool gives an address on a port, and networks that meet on one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool, Wire};
use berth_ipam::interval::to_bits;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;
use berth_ipam::name::{IfName, NetworkName};
use berth_ipam::ports::{Interface, Interfaces, Ports};
use berth_ipam::record::AddressKey;

use super::rig::{Rig, address, config, request};
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};

const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn pool(segment: &str, first: u8, last: u8) -> Pool {
    let members = [(to_bits(address(first)), to_bits(address(last)))].into_iter().collect();
    let like = config(1).pools.into_values().next().unwrap();
    Pool { segment: segment.parse().unwrap(), members, ..like }
}

fn macvlan(parent: &str) -> LinkSpec {
    LinkSpec::Macvlan { parent: parent.parse().unwrap(), mode: MacvlanMode::Bridge, mtu: None }
}

fn vlan(parent: &str, id: u16) -> LinkSpec {
    LinkSpec::Vlan { parent: parent.parse().unwrap(), id, exclusive: false, mtu: None }
}

fn network(declared: u64, link: LinkSpec, pools: &[&str]) -> Network {
    let like = config(1).networks.into_values().next().unwrap();
    Network { declared, link, pools: pools.iter().map(|name| name.parse().unwrap()).collect(), ..like }
}

fn declared(networks: &[(&str, Network)], pools: &[(&str, Pool)]) -> Config {
    Config {
        networks: networks.iter().map(|(name, it)| (name.parse().unwrap(), it.clone())).collect(),
        pools: pools.iter().map(|(name, it)| (name.parse().unwrap(), it.clone())).collect(),
    }
}

/// `lan` in segment `a` on eth1, and `other` in segment `b` on `parent`, declared later; both give
/// 10.0.0.10 to 10.0.0.11.
fn two_segments(parent: &str) -> Config {
    declared(
        &[("lan", network(1, macvlan("eth1"), &["p"])), ("other", network(2, macvlan(parent), &["q"]))],
        &[("p", pool("a", 10, 11)), ("q", pool("b", 10, 11))],
    )
}

fn of(network: &str, pod: u64) -> LeaseRequest {
    let mut request = request(pod);
    request.key.network = network.parse().unwrap();
    request.cni_network = request.key.network.clone();
    request
}

/// A whole ADD on a network, which gets that address.
fn bound(rig: &mut Rig, network: &str, pod: u64, at: IpAddr) {
    let request = LeaseRequest { ips: vec![at], ..of(network, pod) };
    let LeaseRequest { txn, key, .. } = request.clone();
    rig.ask(pod, request);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(pod), Some(vec![at]), "{:?}", rig.reply(pod));
    let (caller, mac) = (Caller { conn: pod, call: 2 }, Mac::derive(&key, 0));
    rig.step(Input::Bind(caller, txn.clone(), key.clone(), 5, mac, LinkSeen::There(mac)));
    rig.step(Input::Done(caller, txn, key));
}

fn announced(rig: &mut Rig, parent: &str, vlan: Option<u16>, address: IpAddr, mac: Mac) {
    let wire = Wire { parent: parent.parse().unwrap(), vlan };
    rig.step(Input::Heard(HeardOnWire { wire, address, mac, outgoing: false, at: rig.now }));
}

fn quarantined(rig: &Rig) -> Vec<AddressKey> {
    let shut = |view: &berth_ipam::ledger::view::View<'_>| {
        matches!(view, berth_ipam::ledger::view::View::Shut(_)).then(|| view.key())
    };
    rig.ledger.leases().iter().filter_map(shut).collect()
}

fn names(ledger: &berth_ipam::ledger::Ledger) -> Vec<String> {
    ledger.served().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn an_announcement_counts_for_the_pool_that_gives_the_address() {
    let pools = [("p1", pool("a", 10, 11)), ("p2", pool("a", 20, 23))];
    let mut rig = Rig::new(declared(&[("lan", network(1, macvlan("eth1"), &["p1", "p2"]))], &pools));
    rig.warm();
    bound(&mut rig, "lan", 1, address(10));
    bound(&mut rig, "lan", 2, address(11));
    rig.warm();
    for last in 20..24 {
        announced(&mut rig, "eth1", None, address(last), NEIGHBOUR);
    }
    rig.ask(3, of("lan", 3));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), None, "a neighbour has announced all that is left");
    assert_eq!(quarantined(&rig).len(), 4);
    // What no pool gives is nobody's business.
    announced(&mut rig, "eth1", None, address(99), NEIGHBOUR);
    announced(&mut rig, "eth2", None, address(10), NEIGHBOUR);
    assert_eq!(quarantined(&rig).len(), 4);
}

#[test]
fn an_add_that_ended_while_its_address_was_claimed_is_not_tried_again() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    rig.hold_commits = true;
    rig.ask(1, of("lan", 1));
    for last in 10..12 {
        announced(&mut rig, "eth1", None, address(last), NEIGHBOUR);
    }
    rig.step(Input::Hangup(1));
    rig.hold_commits = false;
    rig.finish_all();
    for _ in 0..4 {
        rig.pass(Duration::from_secs(3));
        rig.answer_probes(&[]);
    }
    assert_eq!(rig.ledger.leases().len(), 0, "{:?}", rig.ledger.leases());
}

#[test]
fn an_address_with_a_second_holder_is_not_handed_over_unasked() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    bound(&mut rig, "lan", 1, address(10));
    announced(&mut rig, "eth1", None, address(10), NEIGHBOUR);
    rig.ask(2, LeaseRequest { ips: vec![address(10)], ..of("lan", 2) });
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(of("lan", 1).netns.nsid)));
    rig.observe((NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent), AddressFact::Unknown);
    assert_eq!(rig.granted(2), None, "the neighbour may have it still");
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
}

#[test]
fn every_network_of_a_port_is_asked_for_the_pool_of_an_address() {
    let config = declared(
        &[
            ("lan", network(1, macvlan("eth1"), &["p1"])),
            ("more", network(2, macvlan("eth1"), &["p2"])),
            ("five", network(3, vlan("eth1", 5), &["q"])),
        ],
        &[("p1", pool("a", 10, 11)), ("p2", pool("a", 20, 21)), ("q", pool("b", 20, 21))],
    );
    let mut rig = Rig::new(config);
    rig.warm();
    announced(&mut rig, "eth1", None, address(20), NEIGHBOUR);
    announced(&mut rig, "eth1", Some(5), address(21), NEIGHBOUR);
    let key = |segment: &str, last| AddressKey { segment: segment.parse().unwrap(), address: address(last) };
    assert_eq!(quarantined(&rig), [key("a", 20), key("b", 21)]);
}

#[test]
fn the_younger_of_two_segments_on_a_port_is_left_out() {
    let mut rig = Rig::new(two_segments("eth1"));
    assert!(rig.told().contains(&"network-left-out"));
    rig.warm();
    bound(&mut rig, "lan", 1, address(10));
    rig.ask(2, of("other", 2));
    let Some(Err(error @ LedgerError::LeftOut { .. })) = rig.reply(2) else {
        panic!("{:?}", rig.reply(2));
    };
    let text = error.to_string();
    for word in ["other", "lan", "segment a", "segment b", "eth1"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(names(&rig.ledger), ["lan"]);
    // Its own port makes it one of those that are served.
    rig.step(Input::Declared(Box::new(two_segments("eth2"))));
    assert!(rig.told().contains(&"network-served"));
    rig.warm();
    bound(&mut rig, "other", 3, address(10));
}

#[test]
fn an_address_on_the_port_is_in_use_whatever_segment_it_was_given_in() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    bound(&mut rig, "other", 1, address(10));
    // `lan` goes to the port on which `other` has attachments, and `other` is left out there.
    let mut edited = two_segments("eth2");
    edited.networks.get_mut(&"lan".parse::<NetworkName>().unwrap()).unwrap().link = macvlan("eth2");
    rig.step(Input::Declared(Box::new(edited)));
    rig.warm();
    rig.ask(3, LeaseRequest { ips: vec![address(10)], ..of("lan", 3) });
    rig.ask(4, of("lan", 4));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(4), Some(vec![address(11)]), "the other one is on that port in segment b");
    // A DEL of an attachment of the network that is left out works, and frees the address there.
    rig.step(Input::Release(None, of("other", 1).key, LinkRemoval::Gone, None));
    let alive = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
    rig.observe(alive, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), Some(vec![address(10)]), "{:?}", rig.reply(3));
}

#[test]
fn a_strangers_claim_is_heard_for_an_attachment_of_a_network_that_is_left_out() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    bound(&mut rig, "other", 1, address(10));
    let mut edited = two_segments("eth2");
    edited.networks.get_mut(&"lan".parse::<NetworkName>().unwrap()).unwrap().link = macvlan("eth2");
    rig.step(Input::Declared(Box::new(edited)));
    rig.told();
    announced(&mut rig, "eth2", None, address(10), NEIGHBOUR);
    rig.observe(crate::ALIVE, AddressFact::Present);
    assert!(rig.told().contains(&"second-holder"));
    assert!(quarantined(&rig).is_empty());
}

#[test]
fn an_address_that_an_edit_took_from_its_pool_is_still_its_holders() {
    let mut rig =
        Rig::shared(declared(&[("lan", network(1, macvlan("eth1"), &["p"]))], &[("p", pool("a", 10, 11))]));
    rig.warm();
    bound(&mut rig, "lan", 1, address(10));
    let edited = declared(&[("lan", network(1, macvlan("eth1"), &["p"]))], &[("p", pool("a", 11, 11))]);
    rig.step(Input::Declared(Box::new(edited.clone())));
    assert!(rig.told().contains(&"pool-edited-in-use"));
    announced(&mut rig, "eth1", None, address(10), NEIGHBOUR);
    rig.observe(crate::ALIVE, AddressFact::Present);
    assert!(rig.told().contains(&"second-holder"));
    // Without journal and records its link is adopted with that address.
    let mac = Mac::derive(&of("lan", 1).key, 0);
    let found = StrayLink {
        key: Some(of("lan", 1).key),
        cookie: None,
        at: berth_ipam::identity::Nsid(70_001),
        at_is_random: true,
        inode: 1,
        ifindex: 5,
        addresses: vec![address(10)],
    };
    let (parent, carried) = (Some("eth1".parse().unwrap()), Some(vec![address(10)]));
    let stray = Stray { mac, parent, found: Some(found), carried, marked: true, place: None };
    let loaded = Loaded { strays: vec![stray], hears_all: true, ..Loaded::default() };
    let rig = Rig::loaded(edited, loaded);
    assert_eq!(rig.held_by(1), [address(10)]);
}

#[test]
fn an_edit_of_the_parent_refuses_the_grants_that_are_recorded_on_the_former_one() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    bound(&mut rig, "other", 1, address(10));
    let mut edited = two_segments("eth3");
    rig.step(Input::Declared(Box::new(edited.clone())));
    let again = LeaseRequest { txn: berth_ipam::identity::TxnId("again".into()), ..of("other", 1) };
    let alive = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);
    rig.ask(7, again.clone());
    rig.observe(alive, AddressFact::Present);
    let reply = rig.reply(7);
    assert!(matches!(reply, Some(Err(LedgerError::Moved { .. }))), "{reply:?}");
    // Its attachment is as it was.
    edited = two_segments("eth2");
    rig.step(Input::Declared(Box::new(edited)));
    rig.ask(8, again);
    rig.observe(alive, AddressFact::Present);
    assert_eq!(rig.granted(8), Some(vec![address(10)]));
}

#[test]
fn a_port_is_one_port_under_all_its_names() {
    let name = |text: &str| text.parse::<IfName>().unwrap();
    let real = |text: &str| Some(Interface { name: name(text), carries: None });
    let carries = |text: &str, parent: &str, id: u16| {
        Some(Interface { name: name(text), carries: Some(Wire { parent: name(parent), vlan: Some(id) }) })
    };
    let met = |first: LinkSpec, second: LinkSpec, rows: &[(&str, Option<Interface>)]| {
        let pools = [("p", pool("a", 10, 11)), ("q", pool("b", 10, 11))];
        let networks = [("one", network(1, first, &["p"])), ("two", network(2, second, &["q"]))];
        let interfaces: Interfaces = rows.iter().map(|(key, row)| (name(key), row.clone())).collect();
        Ports::new(&declared(&networks, &pools), interfaces)
            .left_out()
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let one: &[&str] = &["two"];
    // By declaration alone.
    assert_eq!(met(macvlan("eth1"), macvlan("eth1"), &[]), one);
    assert_eq!(met(macvlan("eth1.5"), vlan("eth1", 5), &[]), one);
    assert!(met(macvlan("eth1"), vlan("eth1", 5), &[]).is_empty());
    assert!(met(vlan("eth1", 6), vlan("eth1", 5), &[]).is_empty());
    let own = |id| LinkSpec::Vlan { parent: name("eth1"), id, exclusive: true, mtu: None };
    assert_eq!(met(own(5), vlan("eth1", 5), &[]), one);
    assert_eq!(met(own(5), macvlan("eth1.5"), &[]), one);
    // As the kernel has it: a second name, a VLAN device under any name, a name that misleads.
    let rows = [("eth1", real("eth1")), ("lan0", real("eth1"))];
    assert_eq!(met(macvlan("eth1"), macvlan("lan0"), &rows), one);
    assert_eq!(met(vlan("lan0", 5), vlan("eth1", 5), &rows), one);
    let rows = [("eth1", real("eth1")), ("tenant", carries("tenant", "eth1", 5))];
    assert_eq!(met(macvlan("tenant"), vlan("eth1", 5), &rows), one);
    assert!(met(macvlan("tenant"), vlan("eth1", 6), &rows).is_empty());
    let rows = [("eth1", real("eth1")), ("eth1.5", carries("eth1.5", "eth1", 7))];
    assert!(met(macvlan("eth1.5"), vlan("eth1", 6), &rows).is_empty());
    assert_eq!(met(macvlan("eth1.5"), vlan("eth1", 7), &rows), one);
    // A VLAN in a VLAN is a port of its own.
    let rows = [("eth1", real("eth1")), ("eth1.5", carries("eth1.5", "eth1", 5))];
    assert!(met(vlan("eth1.5", 6), vlan("eth1", 6), &rows).is_empty());
    // A parent that this node has not keeps no network from a port.
    let rows = [("eth1", None), ("eth2", real("eth2"))];
    assert!(met(macvlan("eth1"), macvlan("eth2"), &rows).is_empty());
    let mut ports = BTreeMap::new();
    ports.insert(name("eth1"), None);
    let none = Ports::new(&Config::default(), ports);
    assert_eq!(none.of_device(&name("eth1")), None, "what had that name may have another");
}

#[test]
fn an_alternative_name_is_known_before_an_address_is_given() {
    let mut rig = Rig::new(two_segments("lan0"));
    assert_eq!(names(&rig.ledger), ["lan", "other"]);
    let real = |text: &str| Some(Interface { name: text.parse().unwrap(), carries: None });
    let rows = [("eth1", real("eth1")), ("lan0", real("eth1"))];
    rig.ask(1, of("other", 1));
    // While it waits for the wire.
    rig.step(Input::Interfaces(rows.into_iter().map(|(key, row)| (key.parse().unwrap(), row)).collect()));
    assert!(matches!(rig.reply(1), Some(Err(LedgerError::LeftOut { .. }))), "{:?}", rig.reply(1));
    rig.answer_probes(&[]);
    rig.pass(Duration::from_secs(1));
    rig.answer_probes(&[]);
    bound(&mut rig, "lan", 2, address(10));
    bound(&mut rig, "lan", 3, address(11));
}

/// What an operator's release is refused with.
fn refused(rig: &mut Rig, conn: u64, segment: Option<&str>, force: bool) -> LedgerError {
    let segment = segment.map(|name| name.parse().unwrap());
    rig.step(Input::AdminRelease(Caller { conn, call: 1 }, (address(10), segment), force));
    match rig.reply(conn) {
        Some(Err(error)) => error.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_operator_names_the_segment_of_an_address_that_is_in_use_in_two() {
    let mut rig = Rig::new(two_segments("eth2"));
    rig.warm();
    assert_eq!(refused(&mut rig, 90, None, true), LedgerError::Free(address(10)));
    bound(&mut rig, "lan", 1, address(10));
    bound(&mut rig, "other", 2, address(10));
    let error = refused(&mut rig, 91, None, true);
    assert!(
        matches!(&error, LedgerError::Ambiguous { .. }) && error.to_string().contains("segments: a, b"),
        "{error}"
    );
    let error = refused(&mut rig, 92, Some("c"), true);
    assert!(error.to_string().contains("known are: a, b"), "{error}");
    assert_eq!(rig.ledger.leases().len(), 2, "nobody was forced out");
    let told = rig.notes(Input::AdminRelease(
        Caller { conn: 93, call: 1 },
        (address(10), Some("b".parse().unwrap())),
        true,
    ));
    let forced = told.iter().find(|note| note.code == "forced").unwrap();
    assert_eq!(forced.key.as_ref(), Some(&of("other", 2).key), "the one in segment b");
    assert_eq!(forced.segment, Some("b".parse().unwrap()));
    assert!(rig.ledger.entry(&of("lan", 1).key).is_some(), "the other one lives");
    // One is quarantined and one is held: still two.
    assert!(matches!(refused(&mut rig, 94, None, false), LedgerError::Ambiguous { .. }));
}
