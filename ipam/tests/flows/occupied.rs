//! Addresses that are on interfaces of the node: never free, and never taken from their holder.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::{Interface, Place};
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config, found, request};
use crate::{ALIVE, DEAD};

const PARENT: u32 = 2;
const FOREIGN_MAC: Mac = Mac([0x0a, 0, 0, 0, 0, 1]);
const FOREIGN: Place = Place { at: Some(Nsid(5)), ifindex: 9 };

fn wire() -> Wire {
    Wire { parent: "eth1".parse().unwrap(), vlan: None }
}

pub fn own(addresses: &[IpAddr]) -> Vec<Interface> {
    vec![Interface {
        place: Place { at: None, ifindex: PARENT },
        name: "eth1".to_owned(),
        mac: None,
        wires: BTreeSet::new(),
        listed: false,
        addresses: Some(addresses.iter().copied().collect()),
    }]
}

fn child(place: Place, mac: Mac, addresses: &[IpAddr]) -> Interface {
    Interface {
        place,
        name: "e0".to_owned(),
        mac: Some(mac),
        wires: BTreeSet::from([wire()]),
        listed: true,
        addresses: Some(addresses.iter().copied().collect()),
    }
}

/// A rig in which that survey was made.
fn surveyed(count: u8, own: Vec<Interface>, children: Vec<Interface>) -> Rig {
    let mut rig = Rig::new(config(count));
    rig.node.listed = children.iter().filter_map(|link| link.mac).collect();
    (rig.node.own, rig.node.children) = (own, children);
    search(&mut rig);
    rig
}

/// All namespaces are searched, because events were lost.
fn search(rig: &mut Rig) {
    rig.step(Input::Kernel(Source::Netlink, KernelHint::Overrun));
    rig.pass(Duration::from_millis(1_001));
    rig.observe(ALIVE, AddressFact::Present);
}

fn hint(rig: &mut Rig, hint: KernelHint) -> Vec<&'static str> {
    let notes = rig.notes(Input::Kernel(Source::Netlink, hint));
    notes.iter().map(|note| note.code).collect()
}

fn occupied(rig: &Rig) -> Vec<IpAddr> {
    let rows = rig.ledger.leases();
    rows.iter().filter(|row| matches!(row, View::Occupied(_))).map(View::address).collect()
}

/// Whether an ADD gets an address; what it is.
fn given(rig: &mut Rig, pod: u64) -> Option<IpAddr> {
    rig.lease(pod);
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    rig.granted(pod).map(|addresses| addresses[0])
}

#[test]
fn what_is_on_an_interface_is_given_to_nobody_and_named_in_the_error() {
    let children = vec![child(FOREIGN, FOREIGN_MAC, &[address(11)])];
    let mut rig = surveyed(3, own(&[address(10)]), children);
    assert_eq!(occupied(&rig), [address(10), address(11)]);
    assert_eq!(rig.ledger.pool_counts()[0].quarantined, 2);
    rig.step(Input::AdminRelease(Caller { conn: 9, call: 1 }, (address(10), None), true));
    let Some(Ok(Reply::Released(told))) = rig.reply(9) else { panic!("{:?}", rig.reply(9)) };
    assert!(told.contains("interface eth1 of the node"), "{told}");
    assert_eq!(given(&mut rig, 1), Some(address(12)));
    assert_eq!(given(&mut rig, 2), None);
    rig.pass(Duration::from_mins(2));
    let told = rig.reply(2).unwrap().as_ref().unwrap_err().to_string();
    assert!(told.contains("10.0.0.10 on interface eth1 of the node"), "{told}");
    assert!(told.contains("10.0.0.11 on interface e0 (link 9 in the namespace of number 5)"), "{told}");
}

#[test]
fn nothing_is_given_before_the_interfaces_were_read() {
    let mut rig = Rig::new(config(1));
    // Of a parent that no survey covered.
    let mut edited = config(1);
    let network = edited.networks.values_mut().next().unwrap();
    network.link = berth_ipam::config::LinkSpec::Macvlan {
        parent: "eth2".parse().unwrap(),
        mode: berth_ipam::config::MacvlanMode::Bridge,
        mtu: None,
    };
    rig.node.unreadable = true;
    rig.step(Input::Declared(Box::new(edited)));
    rig.pass(Duration::from_secs(1));
    assert_eq!(given(&mut rig, 1), None);
    let mut late = request(2);
    late.add_timeout = Some(Duration::from_secs(1));
    rig.ask(2, late);
    rig.pass(Duration::from_millis(1_001));
    let told = rig.reply(2).unwrap().as_ref().unwrap_err().to_string();
    assert!(told.contains("links under eth2 could not be read"), "{told}");
    assert!(rig.ledger.troubles().iter().any(|trouble| trouble.contains("eth2")));
    rig.node.unreadable = false;
    rig.pass(Duration::from_secs(6));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
    assert!(rig.ledger.troubles().is_empty());
}

#[test]
fn an_event_counts_at_once_and_its_contrary_only_after_a_survey() {
    let mut rig = Rig::new(config(1));
    assert_eq!(hint(&mut rig, KernelHint::AddressSeen(None, PARENT, address(10))), ["occupied"]);
    assert_eq!(given(&mut rig, 1), None);
    // The survey that the event asked for was made before the address was there: it removes nothing.
    rig.node.own = own(&[address(10)]);
    rig.pass(Duration::from_secs(1));
    assert_eq!(occupied(&rig), [address(10)]);
    rig.node.own = own(&[]);
    rig.node.unreadable = true;
    assert!(hint(&mut rig, KernelHint::AddressGone(None, PARENT, address(10))).is_empty());
    rig.pass(Duration::from_secs(1));
    assert_eq!(occupied(&rig), [address(10)], "unknown keeps what was known");
    rig.node.unreadable = false;
    rig.pass(Duration::from_secs(1));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![address(10)]), "who waited is served");
}

#[test]
fn a_flood_of_events_costs_a_bounded_number_of_surveys() {
    let mut rig = Rig::new(config(4));
    let before = rig.node.surveys;
    for round in 0..3_000_u32 {
        let address = address(10 + u8::try_from(round % 4).unwrap());
        hint(&mut rig, KernelHint::AddressSeen(None, PARENT, address));
        hint(&mut rig, KernelHint::AddressGone(None, PARENT, address));
        rig.pass(Duration::from_millis(1));
    }
    let (surveys, searches) = (rig.node.surveys.0 - before.0, rig.node.surveys.1 - before.1);
    assert!((20..=31).contains(&surveys) && searches == 0, "{surveys} surveys, {searches} searches in 3 s");
    // Of namespaces without a link under the parent nothing is read.
    let before = rig.node.surveys;
    for _ in 0..1_000 {
        hint(&mut rig, KernelHint::AddressSeen(Some(Nsid(77)), 4, address(10)));
        rig.pass(Duration::from_millis(1));
    }
    assert!(rig.node.surveys.0 - before.0 <= 2);
}

#[test]
fn a_mac_that_appears_on_the_parent_has_all_namespaces_searched_once() {
    let mut rig = Rig::new(config(2));
    rig.pass(Duration::from_secs(6));
    rig.node.children = vec![child(FOREIGN, FOREIGN_MAC, &[address(10)])];
    rig.node.listed = BTreeSet::from([FOREIGN_MAC, Mac([0x0a, 0, 0, 0, 0, 2])]);
    let searches = rig.node.surveys.1;
    for _ in 0..8 {
        rig.pass(Duration::from_secs(5));
    }
    assert_eq!(occupied(&rig), [address(10)]);
    assert_eq!(rig.node.surveys.1 - searches, 1, "the MAC that stays a riddle is not searched for again");
}

#[test]
fn a_link_that_an_incomplete_search_does_not_find_is_over_only_if_no_list_shows_it() {
    let mut rig = surveyed(2, Vec::new(), vec![child(FOREIGN, FOREIGN_MAC, &[address(10)])]);
    rig.node.children.clear();
    rig.node.incomplete = true;
    search(&mut rig);
    assert_eq!(occupied(&rig), [address(10)], "its MAC is on the parent: it is up somewhere");
    rig.node.listed.clear();
    search(&mut rig);
    assert!(occupied(&rig).is_empty());
}

#[test]
fn a_second_address_of_a_pod_is_free_with_the_proof_of_its_end() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let held = rig.held_by(1)[0];
    let vip = if held == address(10) { address(11) } else { address(10) };
    let (at, ifindex) = (Some(Nsid(70_001)), 5);
    assert!(hint(&mut rig, KernelHint::AddressSeen(at, ifindex, held)).is_empty(), "its own");
    let mac = Mac::derive(&request(1).key, 0);
    rig.node.children = vec![child(Place { at, ifindex }, mac, &[held, vip])];
    assert_eq!(hint(&mut rig, KernelHint::AddressSeen(at, ifindex, vip)), ["occupied"]);
    assert_eq!(given(&mut rig, 2), None);
    search(&mut rig);
    assert_eq!(occupied(&rig), [vip]);
    // No survey helps: the proof alone frees it.
    rig.node.unreadable = true;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(occupied(&rig).is_empty());
    let first = rig.granted(2).map(|addresses| addresses[0]).or_else(|| given(&mut rig, 2));
    let second = given(&mut rig, 3);
    assert_eq!(BTreeSet::from([first, second]), BTreeSet::from([Some(address(10)), Some(address(11))]));
}

#[test]
fn an_address_that_came_between_the_read_of_a_new_link_and_its_report_is_found() {
    let mut rig = surveyed(2, own(&[]), vec![child(FOREIGN, FOREIGN_MAC, &[])]);
    // The event came before the link was known, and was dropped.
    rig.node.children = vec![child(FOREIGN, FOREIGN_MAC, &[address(10)])];
    assert!(occupied(&rig).is_empty());
    let searches = rig.node.surveys.1;
    rig.pass(Duration::from_millis(101));
    assert_eq!(occupied(&rig), [address(10)]);
    assert_eq!(rig.node.surveys.1, searches, "the one namespace was read");
    let surveys = rig.node.surveys.0;
    for _ in 0..10 {
        rig.pass(Duration::from_millis(101));
    }
    assert_eq!(rig.node.surveys.0, surveys, "once");
}

#[test]
fn what_a_moved_link_got_before_it_was_found_is_read() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let held = rig.held_by(1)[0];
    let vip = if held == address(10) { address(11) } else { address(10) };
    let (to, ifindex) = (Nsid(70_050), 5);
    let mac = Mac::derive(&request(1).key, 0);
    let place = Place { at: Some(to), ifindex };
    rig.node.children = vec![child(place, mac, &[held, vip])];
    rig.node.listed = BTreeSet::from([mac]);
    // The namespace is not known yet: its events are not read.
    assert!(hint(&mut rig, KernelHint::AddressSeen(Some(to), ifindex, vip)).is_empty());
    hint(&mut rig, KernelHint::LinkLeaving(request(1).key));
    rig.pass(Duration::from_secs(2));
    let found = found(to.0, ifindex, mac);
    rig.observe_search_as((NetnsFact::Alive, LinkFact::Gone, FdbFact::Present), &found);
    let searches = rig.node.surveys.1;
    rig.pass(Duration::from_millis(101));
    assert_eq!(occupied(&rig), [vip]);
    assert_eq!(rig.node.surveys.1, searches, "the one namespace was looked into");
    assert_eq!(given(&mut rig, 2), None);
}

#[test]
fn an_address_that_the_node_takes_from_a_pod_is_told_once_and_stays_taken_after_the_pod() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.node.own = own(&[address(10)]);
    assert_eq!(hint(&mut rig, KernelHint::AddressSeen(None, PARENT, address(10))), ["second-holder"]);
    assert!(rig.text("second-holder").is_none());
    rig.pass(Duration::from_secs(30));
    assert!(!rig.told().contains(&"second-holder"), "it goes on, and is not told again");
    assert_eq!(rig.held_by(1), [address(10)], "nothing is freed");
    rig.lease(2);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert_eq!(rig.granted(2), None, "it is handed over to nobody");
    assert_eq!(occupied(&rig), [address(10)]);
    rig.node.own = own(&[]);
    hint(&mut rig, KernelHint::AddressGone(None, PARENT, address(10)));
    rig.pass(Duration::from_secs(1));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
}

fn says(rig: &mut Rig, mac: Mac, address: IpAddr) {
    let heard = HeardOnWire { wire: wire(), address, mac, outgoing: true, at: rig.now };
    rig.step(Input::Heard(heard));
}

/// A quarantine is asked about so often that a stranger's would be over.
fn outlast_a_strangers(rig: &mut Rig) {
    for _ in 0..4 {
        rig.pass(Duration::from_secs(3));
        rig.answer_probes(&[]);
    }
}

#[test]
fn the_silence_of_a_link_under_the_parent_ends_no_quarantine_and_its_end_does() {
    for shared in [false, true] {
        let mut rig = if shared { Rig::shared(config(2)) } else { Rig::new(config(2)) };
        rig.bound(1);
        let held = rig.held_by(1)[0];
        let other = if held == address(10) { address(11) } else { address(10) };
        says(&mut rig, Mac::derive(&request(1).key, 0), other);
        outlast_a_strangers(&mut rig);
        assert_eq!(given(&mut rig, 2), None, "shared {shared}: it may answer, unheard");
        rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
        rig.observe(DEAD, AddressFact::Unknown);
        outlast_a_strangers(&mut rig);
        let all = [rig.granted(2).map(|addresses| addresses[0]), given(&mut rig, 3)];
        assert!(all.contains(&Some(other)), "shared {shared}: {all:?}");
    }
}

#[test]
fn a_link_that_spoke_before_a_stranger_is_not_forgotten_with_the_stranger() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let held = rig.held_by(1)[0];
    let other = if held == address(10) { address(11) } else { address(10) };
    says(&mut rig, FOREIGN_MAC, other);
    says(&mut rig, Mac::derive(&request(1).key, 0), other);
    let quarantined = |rig: &Rig| rig.ledger.leases().iter().any(|row| matches!(row, View::Shut(_)));
    for answering in [&[other][..], &[], &[]] {
        rig.pass(Duration::from_secs(3));
        rig.answer_probes_as(answering, FOREIGN_MAC);
    }
    assert!(quarantined(&rig), "the pod was not asked");
}

#[test]
fn an_address_for_which_another_pod_speaks_beside_its_holder_is_kept_after_the_holder() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.bound(2);
    let (held, mac) = (rig.held_by(1)[0], Mac::derive(&request(2).key, 0));
    says(&mut rig, mac, held);
    rig.observe(ALIVE, AddressFact::Present);
    rig.lease(3);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe_of(1, DEAD, AddressFact::Unknown);
    for _ in 0..3 {
        rig.pass(Duration::from_secs(3));
        rig.answer_probes(&[]);
    }
    assert_eq!(rig.granted(3), None, "its silence says nothing");
    rig.step(Input::Release(None, request(2).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    rig.pass(Duration::from_secs(3));
    rig.answer_probes(&[]);
    assert!(rig.granted(3).is_some());
}

#[test]
fn no_quarantine_ends_before_links_under_the_parent_were_looked_for() {
    let mut rig = Rig::new(config(1));
    says(&mut rig, FOREIGN_MAC, address(10));
    let journaled = rig.ledger.leases().iter().find_map(|row| match row {
        View::Shut(shut) => Some((*shut).clone()),
        _ => None,
    });
    let loaded = Loaded { quarantine: vec![journaled.unwrap()], hears_all: true, ..Loaded::default() };
    let mut rig = Rig::unreadable(config(1), loaded);
    outlast_a_strangers(&mut rig);
    assert_eq!(rig.ledger.leases().len(), 1);
    rig.node.unreadable = false;
    outlast_a_strangers(&mut rig);
    assert!(rig.ledger.leases().is_empty());
}

#[test]
fn a_strangers_silence_ends_a_quarantine_and_another_runtimes_link_is_no_stranger() {
    let mut rig = surveyed(1, Vec::new(), vec![child(FOREIGN, FOREIGN_MAC, &[])]);
    says(&mut rig, FOREIGN_MAC, address(10));
    outlast_a_strangers(&mut rig);
    assert_eq!(given(&mut rig, 1), None);
    rig.node.children.clear();
    rig.node.listed.clear();
    search(&mut rig);
    outlast_a_strangers(&mut rig);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
    let mut rig = Rig::new(config(1));
    says(&mut rig, FOREIGN_MAC, address(10));
    outlast_a_strangers(&mut rig);
    assert_eq!(given(&mut rig, 1), Some(address(10)));
}

#[test]
fn the_end_of_a_pod_says_nothing_of_the_namespace_that_got_its_number() {
    let mut before = Rig::new(config(2));
    before.bound(1);
    let mut entry = before.entry(1).clone();
    entry.at = FOREIGN.at.unwrap();
    (entry.netns.nsid, entry.netns.nsid_is_random) = (entry.at, false);
    let other = if entry.addresses() == [address(10)] { address(11) } else { address(10) };
    let records = entry.records(&"n1".parse().unwrap());
    let loaded = Loaded { entries: vec![entry], records, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(2), loaded);
    rig.node.children = vec![child(FOREIGN, FOREIGN_MAC, &[other])];
    rig.node.listed = BTreeSet::from([FOREIGN_MAC]);
    search(&mut rig);
    assert_eq!(occupied(&rig), [other]);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
    assert_eq!(occupied(&rig), [other], "a link of another namespace that lives");
}
