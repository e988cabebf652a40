//! Guards that tell similar cases apart: each of these flows ends wrong when one of them is removed.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, Claim, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{BootId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config, found, namespace, record, request};
use crate::{ALIVE, DEAD};

const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const TUNED: Mac = Mac([2, 0, 0, 0, 0, 0x55]);
const ASKED: Mac = Mac([2, 0, 0, 0, 0, 0x66]);
const LINK_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
const UNREAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Absent);

fn gap() -> Hearing {
    Hearing::Gap("the machine was suspended".to_owned())
}

fn netlink(hint: KernelHint) -> Input {
    Input::Kernel(Source::Netlink, hint)
}

fn heard(rig: &Rig, last: u8, mac: Mac) -> Input {
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    Input::Heard(HeardOnWire { wire, address: address(last), mac, outgoing: false, at: rig.now })
}

/// A pod's DEL, and the kernel's proof that its link is gone.
fn ends(rig: &mut Rig, pod: u64) {
    rig.step(Input::Release(None, request(pod).key, LinkRemoval::Gone, None));
    rig.observe_of(pod, DEAD, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(pod).key).is_none());
}

fn restarted(entries: Vec<Entry>, hears_all: bool) -> Rig {
    let node = "n1".parse().unwrap();
    let records = entries.iter().flat_map(|entry| entry.records(&node)).collect();
    Rig::loaded(config(2), Loaded { entries, records, hears_all, ..Loaded::default() })
}

/// An observation of these facts, with a search that finds nothing.
fn seen(target: &Target, (netns, link, fdb): (NetnsFact, LinkFact, FdbFact)) -> Observation {
    Observation {
        key: target.key.clone(),
        stamp: target.stamp,
        netns,
        link,
        fdb,
        address: AddressFact::Absent,
        learnt: None,
        number: None,
        search: target.search.then_some(SearchOutcome::NotFound),
    }
}

#[test]
fn an_address_for_which_another_host_answered_beside_the_pods_new_mac_is_asked_for_after_the_pod() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hearing(gap());
    for (id, addresses, _) in std::mem::take(&mut rig.probes) {
        let claims: Vec<_> = [TUNED, STRANGER].map(|mac| Claim { mac, at: rig.now }).into();
        let answers = addresses.into_iter().map(|address| (address, claims.clone())).collect();
        rig.step(Input::Probed(id, ProbeResult::Heard(answers)));
    }
    rig.answer_gathers(|target| Observation {
        learnt: Some((5, TUNED)),
        address: AddressFact::Present,
        ..seen(target, (NetnsFact::Alive, LinkFact::OtherMac, FdbFact::Absent))
    });
    ends(&mut rig, 1);
    rig.lease(2);
    assert_eq!(rig.granted(2), None, "the other host has it");
}

#[test]
fn attachments_are_announced_once_though_another_gap_ended_their_round() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.hearing(gap());
    rig.hearing(gap());
    rig.fail_probes("a gap");
    for _ in 0..3 {
        rig.answer_probes(&[]);
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.announced.len(), 1);
}

#[test]
fn an_address_that_answered_before_its_link_was_found_after_a_reboot_is_asked_for_after_its_pod() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let entry = Entry { boot_id: BootId("before".into()), ..rig.entry(1).clone() };
    let mac = entry.mac.unwrap();
    let mut rig = restarted(vec![entry], true);
    rig.observe(UNREAD, AddressFact::Unknown);
    rig.answer_probes_as(&[address(10)], STRANGER);
    rig.observe_search_as(UNREAD, &found(70_050, 5, mac));
    assert_eq!(rig.entry(1).at, Nsid(70_050), "it is followed");
    rig.pass(Duration::from_secs(1));
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(netlink(KernelHint::LinkGone(Some(Nsid(70_050)), 5, Some(mac))));
    ends(&mut rig, 1);
    rig.lease(2);
    rig.lease(3);
    assert!(rig.granted(2).into_iter().chain(rig.granted(3)).flatten().all(|given| given != address(10)));
}

#[test]
fn a_claim_by_a_new_pod_of_another_node_voids_the_silence_of_its_address() {
    let mut rig = Rig::shared(config(1));
    rig.warm();
    let of_another_node = heard(&rig, 10, Mac::derive(&request(7).key, 0));
    rig.step(of_another_node);
    rig.lease(1);
    assert_eq!(rig.granted(1), None, "it is asked for");
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
}

#[test]
fn an_address_that_the_node_had_is_asked_for_again() {
    let mut rig = Rig::new(config(1));
    rig.warm();
    for own in [vec![address(10)], Vec::new()] {
        let place = |address| KernelHint::AddressSeen(None, 2, address);
        rig.node.own = crate::occupied::own(&own);
        let gone = KernelHint::AddressGone(None, 2, address(10));
        rig.step(netlink(own.first().copied().map_or(gone, place)));
        let strangers = heard(&rig, 10, STRANGER);
        if !own.is_empty() {
            rig.step(strangers);
        }
        rig.pass(Duration::from_millis(101));
    }
    rig.lease(1);
    assert_eq!(rig.granted(1), None);
    rig.answer_probes(&[address(10)]);
    assert_eq!(rig.granted(1), None, "the stranger has it");
}

#[test]
fn an_end_that_netlink_could_not_tell_is_searched_for() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let entry = rig.entry(1).clone();
    let mut rig = restarted(vec![entry], false);
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(netlink(KernelHint::NamespaceGone(request(1).netns.nsid)));
    let targets = rig.gathers.pop_front().unwrap();
    let dead = targets.iter().map(|target| Observation { search: None, ..seen(target, DEAD) }).collect();
    rig.step(Input::Gathered(dead));
    assert!(rig.ledger.entry(&request(1).key).is_some(), "it may have left its namespace unheard");
    rig.observe(DEAD, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn the_link_of_an_open_add_is_not_searched_for_before_it_is_made() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.lease(1);
    rig.ledger.reconcile();
    rig.pass(Duration::from_millis(10));
    let searches = rig.observe_search(LINK_GONE, AddressFact::Absent, FdbFact::Absent);
    assert_eq!(searches, 0);
}

#[test]
fn the_place_of_a_link_is_certain_only_in_a_namespace_with_a_drawn_number() {
    let mut rig = Rig::new(config(3));
    rig.warm();
    let given = NetnsIdentity { nsid: Nsid(1), nsid_is_random: false, ..namespace(70_002) };
    for (pod, netns) in [(1, request(1).netns), (2, given)] {
        rig.ask(pod, LeaseRequest { netns, ..request(pod) });
        rig.answer_probes(&[]);
        let (LeaseRequest { txn, key, .. }, caller) = (request(pod), Caller { conn: pod, call: 2 });
        let mac = Mac::derive(&key, 0);
        rig.step(Input::Bind(caller, txn.clone(), key.clone(), 5, mac, LinkSeen::There(mac)));
        rig.step(Input::Done(caller, txn, key));
    }
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(netlink(KernelHint::LinkMoved(Some(Nsid(70_001)), 5, None)));
    let targets = rig.gathers.pop_front().unwrap();
    let bound = &targets[0].bound;
    assert_eq!(bound.get(&(Nsid(1), 5)), Some(&false), "{bound:?}");
}

#[test]
fn a_link_is_followed_where_an_ended_one_had_its_place_or_a_successor_has_its_mac() {
    // The link that had that place has left it.
    let mut rig = Rig::new(config(3));
    rig.bound(1);
    rig.bound(2);
    rig.observe(ALIVE, AddressFact::Present);
    let mac = rig.entry(1).mac.unwrap();
    for pod in [2, 1] {
        rig.step(netlink(KernelHint::LinkMoved(Some(request(pod).netns.nsid), 5, None)));
    }
    let outcome = SearchOutcome::Found { netns: request(2).netns, ifindex: 5, mac, marked: true };
    rig.answer_gathers(|target| {
        let own = target.key == request(1).key && target.search;
        let search =
            if own { Some(outcome.clone()) } else { target.search.then_some(SearchOutcome::NotFound) };
        Observation { search, ..seen(target, LINK_GONE) }
    });
    assert_eq!(rig.entry(1).at, request(2).netns.nsid);
    // A record of a former boot names a namespace of the same cookie.
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.bound(2);
    let (first, second) = (rig.entry(1).clone(), rig.entry(2).clone());
    let mut rig = restarted(vec![first, Entry { boot_id: BootId("before".into()), ..second }], true);
    rig.answer_gathers(|target| {
        let own = target.key == request(1).key && target.search;
        let search =
            if own { Some(outcome.clone()) } else { target.search.then_some(SearchOutcome::NotFound) };
        Observation { search, ..seen(target, if own { LINK_GONE } else { UNREAD }) }
    });
    assert_eq!(rig.entry(1).at, request(2).netns.nsid, "cookies of different boots are never compared");
}

#[test]
fn a_dead_pods_address_goes_to_no_add_while_its_device_is_unread_or_a_stray_carries_it() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let (entries, records) = (vec![rig.entry(1).clone()], rig.store.values().cloned().collect());
    let loaded = Loaded { entries, records, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::unreadable(config(1), loaded);
    rig.lease(2);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    assert_eq!(rig.granted(2), None, "an interface of the node may have it");

    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.lease(2);
    let mac = Mac([0xb2, 0, 0x5e, 0, 0x53, 1]);
    let (parent, carried) = (Some("eth1".parse().unwrap()), Some(vec![address(10)]));
    let stray = Stray { mac, parent, found: None, carried, marked: false, place: None };
    rig.step(Input::Strays(vec![stray]));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Absent);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(2), None, "the stray has it");
}

/// Another ADD of the first pod.
fn again(name: &str) -> LeaseRequest {
    LeaseRequest { txn: TxnId(name.to_owned()), ..request(1) }
}

#[test]
fn a_repeated_add_is_answered_by_a_read_of_its_living_link_alone() {
    for facts in [
        (NetnsFact::Hidden, LinkFact::Present, FdbFact::Present),
        (NetnsFact::Alive, LinkFact::Gone, FdbFact::Present),
    ] {
        let mut rig = Rig::new(config(2));
        rig.bound(1);
        rig.ask(7, again("second"));
        rig.observe(facts, AddressFact::Present);
        assert_eq!(rig.granted(7), None, "{facts:?}");
        rig.pass(Duration::from_secs(2));
        rig.observe(ALIVE, AddressFact::Present);
        assert!(rig.granted(7).is_some(), "{facts:?}: {:?}", rig.reply(7));
    }
    // In another namespace it repeats nothing.
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.ask(7, LeaseRequest { netns: namespace(70_050), ..again("second") });
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.granted(7), None);
    // It may name no address that the attachment does not have.
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.ask(7, LeaseRequest { ips: vec![address(11)], adopt: true, ..again("second") });
    rig.observe(ALIVE, AddressFact::Present);
    assert!(matches!(rig.reply(7), Some(Err(_))), "{:?}", rig.reply(7));
}

#[test]
fn a_repeated_add_binds_no_link_that_was_not_read_back() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let second = again("second");
    rig.ask(7, second.clone());
    rig.observe(ALIVE, AddressFact::Present);
    let mac = Mac::derive(&second.key, 0);
    for seen in [LinkSeen::NotThere, LinkSeen::Unreadable, LinkSeen::There(STRANGER)] {
        let caller = Caller { conn: 7, call: 2 };
        rig.step(Input::Bind(caller, second.txn.clone(), second.key.clone(), 5, mac, seen));
        assert!(matches!(rig.reply(7), Some(Err(LedgerError::NotTheLink { .. }))), "{:?}", rig.reply(7));
    }
}

#[test]
fn a_del_ends_no_hold_and_a_removal_needs_a_number_that_means_its_namespace() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    rig.step(Input::Pods(PodNews::Listed(["u1".to_owned()].into())));
    rig.step(netlink(KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    let held = rig.entry(1).clone();
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Unreachable, None));
    rig.observe(DEAD, AddressFact::Absent);
    assert_eq!(*rig.entry(1), held, "its pod is about to come again");
    // Nor does it keep a MAC from another pod.
    let mut rig = Rig::shared(config(2));
    rig.warm();
    rig.ask(1, LeaseRequest { mac: Some(ASKED), ..request(1) });
    rig.answer_probes(&[]);
    rig.step(Input::Hangup(1));
    let with_mac = LeaseRequest { mac: Some(ASKED), ..request(2) };
    rig.hold_commits = true;
    rig.observe(DEAD, AddressFact::Absent);
    rig.ask(2, with_mac);
    assert!(!matches!(rig.reply(2), Some(Err(LedgerError::MacRefused { .. }))), "{:?}", rig.reply(2));

    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let entry = Entry { place: Some(NetnsCookie(99)), ..rig.entry(1).clone() };
    let records = entry.records(&"n1".parse().unwrap());
    let (entries, place) = (vec![entry], Some(NetnsCookie(100)));
    let loaded = Loaded { entries, records, place, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(1), loaded);
    rig.hold_removals = true;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Unreachable, None));
    rig.removals = 0;
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.removals, 0);
}

#[test]
fn what_the_wire_said_of_a_mac_is_asked_again_after_a_while_and_by_a_port_that_hears() {
    let mut declared = config(2);
    declared.pools.values_mut().next().unwrap().gateway = Some(address(1));
    let with_mac = |pod| LeaseRequest { mac: Some(ASKED), ..request(pod) };
    // The pool is full for longer than the answer counts.
    let mut rig = Rig::new(declared.clone());
    for pod in [1, 2] {
        rig.bound(pod);
    }
    rig.ask(3, with_mac(3));
    rig.answer_probes(&[]);
    rig.pass(Duration::from_secs(31));
    ends(&mut rig, 1);
    rig.answer_probes_as(&[address(1)], ASKED);
    assert!(matches!(rig.reply(3), Some(Err(LedgerError::MacRefused { .. }))), "{:?}", rig.reply(3));
    // Nothing is asked by a deaf port, and a round that failed is repeated a little later.
    let mut rig = Rig::new(declared);
    rig.hearing(Hearing::Down("eth1 is down".to_owned()));
    rig.answer_probes(&[]);
    rig.ask(1, with_mac(1));
    assert_eq!(rig.asked().count(), 0);
    rig.hearing(Hearing::Up);
    let mut rounds = 0;
    for _ in 0..20 {
        rounds += rig.probes.iter().filter(|(.., urgent)| *urgent).count();
        rig.fail_probes("answers were lost");
        rig.hearing(Hearing::Missed("7 frames".to_owned()));
    }
    assert!(rounds <= 2, "{rounds} rounds at one moment");
}

#[test]
fn a_mac_that_was_read_long_ago_is_read_again_and_a_neighbour_in_the_pods_namespace_is_none() {
    let mut rig = Rig::new(config(3));
    rig.bound(1);
    let read = |rig: &mut Rig, mac: Mac| {
        rig.answer_gathers(|target| Observation {
            learnt: Some((5, mac)),
            address: AddressFact::Present,
            ..seen(target, (NetnsFact::Alive, LinkFact::OtherMac, FdbFact::Absent))
        })
    };
    let tuned = heard(&rig, 10, TUNED);
    rig.step(tuned);
    assert_eq!(read(&mut rig, TUNED), 1);
    rig.pass(Duration::from_secs(2));
    let tuned = heard(&rig, 10, TUNED);
    rig.step(tuned);
    assert_eq!(read(&mut rig, ASKED), 1, "its MAC may be another's by now");
    assert!(rig.text("second-holder").is_some());
    // Two interfaces of one pod.
    let mut rig = Rig::new(config(3));
    rig.bound(1);
    let mut other = request(1);
    (other.key.ifname, other.txn) = ("net1".parse().unwrap(), TxnId("net1".into()));
    let mac = Mac::derive(&other.key, 0);
    rig.ask(8, other.clone());
    rig.answer_probes(&[]);
    let caller = Caller { conn: 8, call: 2 };
    rig.step(Input::Bind(caller, other.txn, other.key, 6, mac, LinkSeen::There(mac)));
    rig.observe(ALIVE, AddressFact::Present);
    rig.told();
    let own = heard(&rig, 10, mac);
    rig.step(own);
    rig.observe(ALIVE, AddressFact::Present);
    assert!(!rig.told().contains(&"second-holder"));
}

#[test]
fn strays_are_judged_once_the_store_was_read() {
    let mac = Mac::derive(&request(1).key, 0);
    let (parent, carried) = (Some("eth1".parse().unwrap()), Some(vec![address(10)]));
    let stray = Stray { mac, parent, found: None, carried, marked: false, place: None };
    let mut rig = Rig::shared_unread(config(1), Vec::new());
    rig.step(Input::Strays(vec![stray]));
    assert!(rig.text("stray-mac").is_none(), "its record may be in the store");
    rig.step(Input::Store(crate::rig::listed(vec![record(2, address(10))])));
    assert!(rig.text("stray-mac").is_some());
}

#[test]
fn a_del_waits_for_the_plugin_of_a_repeated_add_on_another_plugins_link_and_goes_on_with_its_end() {
    for ended_by_release in [false, true] {
        let mut rig = Rig::new(config(1));
        rig.warm();
        let chained = |txn: &str| {
            let (role, mac, txn) =
                (berth_ipam::attachment::Role::Chained, Some(ASKED), TxnId(txn.to_owned()));
            LeaseRequest { role, mac, txn, ..request(1) }
        };
        let (first, second) = (chained("first"), chained("second"));
        rig.ask(1, first.clone());
        let caller = Caller { conn: 1, call: 2 };
        rig.step(Input::Bind(caller, first.txn.clone(), first.key.clone(), 5, ASKED, LinkSeen::There(ASKED)));
        rig.step(Input::Done(caller, first.txn.clone(), first.key.clone()));
        rig.ask(7, second.clone());
        rig.observe(ALIVE, AddressFact::Present);
        assert!(rig.granted(7).is_some(), "{:?}", rig.reply(7));
        rig.step(Input::Release(None, first.key.clone(), LinkRemoval::Gone, None));
        rig.observe(ALIVE, AddressFact::Absent);
        assert_eq!(rig.held_by(1), [address(10)], "the plugin is about to put the address on the link");
        rig.end_add(7, second, ended_by_release);
        rig.observe(ALIVE, AddressFact::Absent);
        assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
    }
}

#[test]
fn a_del_brings_no_attachment_back_into_the_journal() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hold_commits = true;
    rig.step(netlink(KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.observe(DEAD, AddressFact::Absent);
    let del = Input::Release(None, request(1).key, LinkRemoval::Unreachable, None);
    let puts = |write: &JournalWrite| matches!(write, JournalWrite::Put(_));
    for action in rig.ledger.step(rig.now, del) {
        assert!(!matches!(&action, Action::Commit { journal, .. } if journal.iter().any(puts)), "{action:?}");
    }
}

#[test]
fn a_link_that_the_agent_removed_is_searched_for_by_nothing() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hold_removals = true;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Unreachable, None));
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.removals, 1);
    rig.step(Input::LinkRemoved(request(1).key, RemoveResult::Removed));
    assert_eq!(rig.observe_search(LINK_GONE, AddressFact::Absent, FdbFact::Absent), 0);
    assert!(rig.ledger.leases().is_empty());
}

#[test]
fn a_dead_pods_voice_refuses_its_mac_to_no_other_pod() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.ask(1, LeaseRequest { mac: Some(ASKED), ..request(1) });
    rig.answer_probes(&[]);
    let (LeaseRequest { txn, key, .. }, caller) = (request(1), Caller { conn: 1, call: 2 });
    rig.step(Input::Bind(caller, txn.clone(), key.clone(), 5, ASKED, LinkSeen::There(ASKED)));
    rig.step(Input::Done(caller, txn, key));
    let own = rig.held_by(1)[0];
    let IpAddr::V4(four) = own else { panic!("an IPv4 pool") };
    let said = heard(&rig, four.octets()[3], ASKED);
    rig.step(said);
    let at = rig.now;
    rig.pass(Duration::from_millis(20));
    ends(&mut rig, 1);
    rig.ask(2, LeaseRequest { mac: Some(ASKED), ..request(2) });
    assert!(rig.asked().any(|asked| asked == own), "it is asked for what that MAC spoke for");
    rig.answer_probes_at(&[own], Claim { mac: ASKED, at });
    rig.answer_probes(&[]);
    assert!(rig.granted(2).is_some(), "{:?}", rig.reply(2));
}

#[test]
fn the_guard_of_a_forced_release_stays_while_a_search_finds_the_link() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mac = rig.entry(1).mac.unwrap();
    rig.step(Input::AdminRelease(Caller { conn: 9, call: 1 }, (address(10), None), true));
    rig.observe(ALIVE, AddressFact::Present);
    for is_found in [true, false] {
        for _ in 0..4 {
            rig.pass(Duration::from_secs(3));
            rig.answer_probes(&[]);
            let outcome = if is_found { found(70_050, 5, mac) } else { SearchOutcome::NotFound };
            rig.observe_search_as(LINK_GONE, &outcome);
        }
        assert_eq!(rig.ledger.leases().len(), usize::from(is_found));
    }
}

#[test]
fn a_mac_that_a_lease_explains_is_no_strays() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let (parent, mac) = (Some("eth1".parse().unwrap()), rig.entry(1).mac.unwrap());
    let carried = Some(vec![address(10), address(11)]);
    rig.step(Input::Strays(vec![Stray { mac, parent, found: None, carried, marked: false, place: None }]));
    assert!(rig.text("stray-mac").is_none());
}
