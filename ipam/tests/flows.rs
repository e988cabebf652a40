//! Flows of the ledger that have gone wrong once, or could: each a short story with its end.
//!
//! Commits are carried out at once unless a story holds them; probes and reads are answered by the
//! story itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

#[path = "flows/access.rs"]
mod access;
#[path = "flows/confirm.rs"]
mod confirm;
#[path = "flows/conflicts.rs"]
mod conflicts;
mod declared;
#[path = "flows/departures.rs"]
mod departures;
#[expect(dead_code, reason = "a rig carries out single writes")]
#[path = "simulation/disk.rs"]
mod disk;
#[path = "flows/ends.rs"]
mod ends;
#[path = "flows/floods.rs"]
mod floods;
#[path = "flows/former.rs"]
mod former;
#[path = "flows/gc.rs"]
mod gc;
#[path = "flows/guards.rs"]
mod guards;
#[path = "flows/hearing.rs"]
mod hearing;
#[path = "flows/hidden.rs"]
mod hidden;
#[path = "flows/hold.rs"]
mod hold;
#[path = "flows/occupied.rs"]
mod occupied;
#[path = "flows/places.rs"]
mod places;
#[path = "flows/ports.rs"]
mod ports;
#[path = "flows/programs.rs"]
mod programs;
#[path = "flows/reached.rs"]
mod reached;
#[path = "declared/renames.rs"]
mod renamed;
#[path = "flows/renames.rs"]
mod renames;
#[path = "flows/repeats.rs"]
mod repeats;
#[path = "flows/requested_mac.rs"]
mod requested_mac;
#[path = "flows/rig.rs"]
mod rig;
#[path = "flows/shared.rs"]
mod shared;
#[path = "flows/unsettled.rs"]
mod unsettled;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::Role;
use berth_ipam::config::{Config, Network, Pool, Wire};
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{NetnsCookie, Nsid, TxnId};
use berth_ipam::interval::{IntervalSet, to_bits};
use berth_ipam::ledger::entry::Phase;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;
use berth_ipam::name::PoolName;
use rig::{Rig, address, config, request};

const DEAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);
const ALIVE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);

#[test]
fn candidates_that_an_add_did_not_need_go_to_the_next_in_line_at_once() {
    let mut rig = Rig::new(config(4));
    for pod in 0..4 {
        rig.lease(pod);
    }
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    for pod in 0..4 {
        assert!(rig.granted(pod).is_some(), "pod {pod} waits although addresses are free");
    }
}

#[test]
fn a_candidate_of_a_plugin_that_hung_up_goes_to_the_next_in_line() {
    let mut rig = Rig::new(config(1));
    rig.lease(0);
    rig.lease(1);
    rig.step(Input::Hangup(0));
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
}

#[test]
fn an_address_that_answered_is_given_once_it_is_silent() {
    let mut rig = Rig::new(config(1));
    rig.lease(0);
    rig.answer_probes(&[address(10)]);
    assert_eq!(rig.granted(0), None);
    rig.pass(Duration::from_secs(3));
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(0), Some(vec![address(10)]));
}

#[test]
fn an_address_that_left_the_quarantine_by_force_goes_to_who_waits() {
    let mut rig = Rig::new(config(1));
    rig.lease(0);
    rig.answer_probes(&[address(10)]);
    rig.step(Input::AdminRelease(Caller { conn: 99, call: 1 }, (address(10), None), true));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(0), Some(vec![address(10)]));
}

#[test]
fn an_undone_add_leaves_another_add_of_its_attachment_in_line() {
    let mut rig = Rig::new(config(1));
    rig.bound(0);
    let mut again = request(1);
    again.txn = TxnId("first".into());
    rig.ask(50, again.clone());
    rig.step(Input::Lease(Caller { conn: 51, call: 1 }, Box::new(request(1))));
    let undo = Input::Release(
        Some(Caller { conn: 52, call: 1 }),
        again.key.clone(),
        LinkRemoval::Gone,
        Some(again.txn.clone()),
    );
    rig.step(undo);
    assert!(matches!(rig.reply(50), Some(Err(LedgerError::NotOpen(..)))), "it is told");
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(matches!(rig.reply(51), Some(Ok(Reply::Grant(_)))), "the other one is served");
}

#[test]
fn a_plugin_that_died_while_the_store_named_another_leaves_nothing_open() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.hold_commits = true;
    rig.lease(0);
    rig.step(Input::Hangup(0));
    let stranger = rig::record(7, rig.held_by(0)[0]);
    rig.finish_commit(|_| CommitResult::Journaled(vec![StoreResult::Others(Box::new(stranger.clone()))]));
    rig.hold_commits = false;
    rig.finish_all();
    rig.observe(DEAD, AddressFact::Unknown);
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
}

#[test]
fn no_address_is_handed_over_while_a_stray_may_have_it() {
    // The store went back and the journal is lost: pod 1 is dead and recorded, pod 2 is alive on
    // its address and not recorded.
    let mac = Mac::derive(&request(2).key, 0);
    let stray = Stray {
        mac,
        parent: Some("eth1".parse().unwrap()),
        found: Some(StrayLink {
            key: Some(request(2).key),
            cookie: Some(NetnsCookie(2)),
            at: Nsid(70_002),
            at_is_random: true,
            inode: 2,
            ifindex: 5,
            addresses: vec![address(10)],
        }),
        carried: None,
        marked: false,
        place: None,
    };
    let records = vec![rig::record(1, address(10))];
    let loaded = Loaded { records, strays: vec![stray.clone()], hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(1), loaded);
    rig.lease(3);
    rig.observe(DEAD, AddressFact::Unknown);
    rig.observe(DEAD, AddressFact::Unknown);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), None, "the address of a living pod was given away");
    rig.pass(Duration::from_secs(1));
    rig.step(Input::Strays(vec![stray]));
    rig.answer_probes(&[]);
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.granted(3), None);
    assert!(rig.ledger.entry(&request(2).key).is_some(), "the living pod is adopted");
}

#[test]
fn a_stray_link_blocks_the_addresses_that_it_carries() {
    let stray = |carried: Option<Vec<IpAddr>>, marked, found: Option<StrayLink>| {
        let mac = Mac([0xb2, 0, 0x5e, 0, 0x53, 1]);
        Stray { mac, parent: Some("eth1".parse().unwrap()), found, carried, marked, place: None }
    };
    let given = |stray: Stray| {
        let loaded = Loaded { strays: vec![stray], hears_all: true, ..Loaded::default() };
        let mut rig = Rig::loaded(config(2), loaded);
        rig.warm();
        let mut given = BTreeSet::new();
        for pod in 1..=2 {
            rig.lease(pod);
            rig.answer_probes(&[]);
            given.extend(rig.granted(pod).into_iter().flatten());
        }
        (given, rig.ledger.troubles().len())
    };
    let both = BTreeSet::from([address(10), address(11)]);
    assert_eq!(given(stray(Some(vec!["192.0.2.7".parse().unwrap()]), false, None)), (both.clone(), 0));
    assert_eq!(given(stray(Some(Vec::new()), false, None)), (both.clone(), 0));
    for marked in [false, true] {
        let one = stray(Some(vec![address(11)]), marked, None);
        assert_eq!(given(one), (BTreeSet::from([address(10)]), 1), "it may be Berth's, without its record");
        let outside = stray(Some(vec![address(99)]), marked, None);
        assert_eq!(given(outside), (both.clone(), 1), "an address of the subnet that no pool gives");
    }
    assert_eq!(given(stray(None, false, None)), (BTreeSet::new(), 1), "which link has the MAC is not known");
    assert_eq!(
        given(stray(Some(Vec::new()), true, None)),
        (BTreeSet::new(), 1),
        "a guest may have an address"
    );
    // An attachment's own link that cannot be adopted is explained by no other link.
    let taken = StrayLink {
        key: Some(request(2).key),
        cookie: Some(NetnsCookie(2)),
        at: Nsid(70_002),
        at_is_random: true,
        inode: 2,
        ifindex: 5,
        addresses: Vec::new(),
    };
    assert_eq!(given(stray(Some(Vec::new()), false, Some(taken))).0, BTreeSet::new());
}

#[test]
fn what_a_stray_carried_is_free_when_no_search_shows_it_and_an_edit_frees_nothing() {
    let mac = Mac([0xb2, 0, 0x5e, 0, 0x53, 1]);
    let stray = Stray {
        mac,
        parent: Some("eth1".parse().unwrap()),
        found: None,
        carried: Some(vec![address(10)]),
        marked: true,
        place: Some("link 3 (\"net1\") in the namespace of /run/netns/x".to_owned()),
    };
    let loaded = Loaded { strays: vec![stray.clone()], hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(1), loaded);
    assert!(rig.text("stray-mac").unwrap().contains("/run/netns/x"), "{:?}", rig.text("stray-mac"));
    rig.told();
    rig.step(Input::Declared(Box::new(config(1))));
    rig.lease(1);
    rig.answer_probes(&[]);
    rig.step(Input::Strays(vec![stray]));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), None, "the stray carries the only address");
    assert!(!rig.told().contains(&"stray-mac"), "it was told before");
    rig.step(Input::Strays(Vec::new()));
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
    assert!(rig.ledger.troubles().is_empty());
}

#[test]
fn strays_without_end_fill_no_memory_and_block_their_device() {
    let stray = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Stray {
            mac: Mac([0xb2, 0, 0x5e, 0, high, low]),
            parent: Some("eth1".parse().unwrap()),
            found: None,
            carried: Some(vec![address(11)]),
            marked: false,
            place: None,
        }
    };
    let strays: Vec<_> = (0..1_000).map(stray).collect();
    let loaded = Loaded { strays, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(2), loaded);
    rig.lease(1);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), None, "what the others carry is not remembered");
    let lines = rig.ledger.troubles();
    assert!(lines.len() <= 9 && lines.last().unwrap().contains("249 more"), "{lines:?}");
}

#[test]
fn an_undone_adds_address_is_free_though_another_link_has_the_mac_it_asked_for() {
    let mac = Mac([2, 0, 0, 0, 6, 1]);
    let bind = |rig: &mut Rig| {
        let LeaseRequest { txn, key, .. } = request(1);
        let caller = Caller { conn: 1, call: 2 };
        rig.step(Input::Bind(caller, txn, key, 5, mac, LinkSeen::There(mac)));
    };
    let mut asks = request(1);
    asks.mac = Some(mac);
    let mut rig = Rig::new(config(1));
    rig.warm();
    rig.ask(1, asks.clone());
    bind(&mut rig);
    // The plugin removed the link again, and the kernel tells so before the plugin does.
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkGone(Some(Nsid(70_001)), 5, Some(mac))));
    let listed = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Present);
    rig.observe(listed, AddressFact::Absent);
    assert_eq!(rig.held_by(1), [address(10)], "the ADD is still open");
    rig.step(Input::Hangup(1));
    rig.step(Input::LinkRemoved(asks.key.clone(), RemoveResult::NotThere));
    let searches = rig.observe_search(listed, AddressFact::Absent, FdbFact::Another);
    assert_eq!(searches, 1, "nothing but another search can say whose the MAC is");
    assert!(rig.ledger.entry(&asks.key).is_none(), "{:?}", rig.ledger.leases());

    // The same of an ADD that was repeated after it had ended: somebody has the address.
    rig.ask(1, asks.clone());
    rig.answer_probes(&[]);
    bind(&mut rig);
    let caller = Caller { conn: 1, call: 3 };
    rig.step(Input::Done(caller, asks.txn.clone(), asks.key.clone()));
    let again = LeaseRequest { txn: TxnId("again".to_owned()), ..asks.clone() };
    rig.ask(2, again);
    rig.step(Input::Hangup(2));
    rig.step(Input::LinkRemoved(asks.key.clone(), RemoveResult::NotThere));
    rig.observe((NetnsFact::Alive, LinkFact::Gone, FdbFact::Another), AddressFact::Absent);
    assert_eq!(rig.held_by(1), [address(10)]);
}

#[test]
fn a_dead_pods_address_goes_to_its_own_next_sandbox_first() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.lease(2);
    let mut next = request(3);
    next.pod = request(1).pod;
    rig.ask(3, next);
    rig.observe(DEAD, AddressFact::Unknown);
    assert_eq!(rig.granted(3), Some(vec![address(10)]));
    assert_eq!(rig.granted(2), None);
}

#[test]
fn an_add_in_a_hurry_gets_another_address_while_its_pods_former_sandbox_lives() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let mut next = request(2);
    next.pod = request(1).pod;
    next.add_timeout = Some(Duration::from_millis(200));
    rig.ask(2, next);
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.granted(2), None, "the former one may be about to end");
    rig.pass(Duration::from_millis(101));
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(2), Some(vec![address(11)]));
}

#[test]
fn a_hand_over_that_was_journaled_and_half_written_leaves_nothing_taken() {
    let mut rig = Rig::new(rig::dual(1));
    rig.bound(1);
    let old = rig.ledger.entry(&request(1).key).unwrap().clone();
    let mut heir = old.clone();
    heir.key = request(2).key;
    heir.txn = request(2).txn;
    heir.phase = Phase::Intent;
    for half in 0..2 {
        let node = "n1".parse().unwrap();
        let mut records = old.records(&node);
        records[half] = heir.records(&node).remove(half);
        let loaded = Loaded { entries: vec![heir.clone()], records, hears_all: true, ..Loaded::default() };
        let mut rig = Rig::loaded(rig::dual(1), loaded);
        rig.observe(DEAD, AddressFact::Unknown);
        rig.observe(DEAD, AddressFact::Unknown);
        rig.pass(Duration::from_secs(1));
        rig.observe(DEAD, AddressFact::Unknown);
        assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
        assert!(rig.store.is_empty(), "{:?}", rig.store);
        for pool in rig.ledger.pool_counts() {
            assert_eq!(pool.free, 1, "half {half}: {pool:?}");
        }
    }
}

#[test]
fn a_repeated_add_that_was_journaled_and_not_written_is_repaired() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mut entry = rig.ledger.entry(&request(1).key).unwrap().clone();
    let records = entry.records(&"n1".parse().unwrap());
    entry.txn = TxnId("repeated".into());
    let loaded = Loaded { entries: vec![entry], records, hears_all: true, ..Loaded::default() };
    let rig = Rig::loaded(config(1), loaded);
    assert!(rig.store.values().all(|record| record.txn == TxnId("repeated".into())), "{:?}", rig.store);
}

#[test]
fn a_pool_may_be_renamed_but_not_dropped_while_its_addresses_are_in_use() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let held = rig.held_by(1)[0];
    let mut gone = config(2);
    gone.pools.clear();
    gone.networks.clear();
    rig.step(Input::Declared(Box::new(gone)));
    assert!(matches!(rig.config_taken.pop(), Some(Err(lost)) if lost.len() == 1));
    let mut renamed = config(2);
    let pool = renamed.pools.pop_first().unwrap().1;
    renamed.pools.insert("q".parse().unwrap(), pool);
    renamed.networks.values_mut().next().unwrap().pools = vec!["q".parse().unwrap()];
    rig.step(Input::Declared(Box::new(renamed)));
    assert!(matches!(rig.config_taken.pop(), Some(Ok(()))));
    rig.lease(2);
    rig.answer_probes(&[]);
    let other = rig.granted(2).unwrap();
    assert_ne!(other, vec![held]);
    rig.lease(3);
    assert_eq!(rig.granted(3), None, "both are in use");
    rig.observe_of(1, DEAD, AddressFact::Unknown);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(3), Some(vec![held]), "what was leased under the old name comes back");
}

#[test]
fn an_edit_while_the_wire_is_asked_gives_no_address_twice() {
    let mut rig = Rig::new(config(1));
    rig.lease(0);
    rig.step(Input::Declared(Box::new(config(1))));
    rig.lease(1);
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(0), Some(vec![address(10)]));
    assert_eq!(rig.granted(1), None);
}

#[test]
fn a_delegates_undone_add_is_released_while_its_namespace_lives() {
    let mut rig = Rig::new(config(1));
    rig.warm();
    let mut delegate = request(0);
    delegate.role = Role::Delegate;
    rig.ask(0, delegate);
    assert!(rig.granted(0).is_some());
    rig.step(Input::Hangup(0));
    rig.observe((NetnsFact::Alive, LinkFact::NeverSeen, FdbFact::Blind), AddressFact::Absent);
    assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
}

#[test]
fn a_repeated_request_is_answered_where_it_was_repeated() {
    let mut rig = Rig::new(config(1));
    rig.warm();
    rig.hold_commits = true;
    rig.lease(0);
    rig.ask(77, request(0));
    rig.step(Input::Hangup(0));
    rig.hold_commits = false;
    rig.finish_all();
    assert_eq!(rig.granted(77), Some(vec![address(10)]));
}

/// The ADD of a chained pod whose link has an address of another IPAM.
fn adoption(pod: u64, last: u8) -> LeaseRequest {
    LeaseRequest {
        role: Role::Chained,
        ips: vec![address(last)],
        adopt: true,
        mac: Some(Mac([2, 0, 0, 0, 0, last])),
        ..request(pod)
    }
}

#[test]
fn an_address_of_another_ipam_is_taken_over_as_it_is_and_no_other_family_with_it() {
    let mut rig = Rig::new(rig::dual(4));
    // The link announced it before its lease was asked for.
    let heard = HeardOnWire {
        wire: Wire { parent: "eth1".parse().unwrap(), vlan: None },
        address: address(12),
        mac: Mac([2, 0, 0, 0, 0, 12]),
        outgoing: true,
        at: rig.now,
    };
    rig.step(Input::Heard(heard));
    rig.ask(1, adoption(1, 12));
    // And once more while the wire is asked.
    rig.answer_probes_as(&[address(12)], Mac([2, 0, 0, 0, 0, 12]));
    assert_eq!(rig.granted(1), Some(vec![address(12)]));
    // Its address is nobody else's.
    rig.warm();
    for pod in 2..=4 {
        rig.lease(pod);
        rig.answer_probes(&[]);
        assert!(!rig.granted(pod).unwrap().contains(&address(12)));
    }
}

#[test]
fn an_address_that_somebody_holds_or_answers_for_is_not_adopted() {
    let mut rig = Rig::new(config(4));
    rig.bound(1);
    let IpAddr::V4(taken) = rig.held_by(1)[0] else { panic!("an IPv4 pool") };
    rig.ask(2, adoption(2, taken.octets()[3]));
    rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Present);
    rig.pass(Duration::from_millis(5_001));
    let told = rig.reply(2).unwrap().as_ref().unwrap_err().to_string();
    assert!(told.contains(&taken.to_string()) && told.contains("d/p1"), "{told}");
    // On the wire.
    let free = (10..14).find(|last| address(*last) != IpAddr::V4(taken)).unwrap();
    let mut rig = Rig::new(config(4));
    rig.ask(3, adoption(3, free));
    rig.answer_probes(&[address(free)]);
    rig.pass(Duration::from_millis(5_001));
    assert!(rig.reply(3).unwrap().is_err());
    // Of no pool.
    rig.ask(4, adoption(4, 99));
    assert!(matches!(rig.reply(4), Some(Err(LedgerError::NotGivable { .. }))));
}

#[test]
fn a_storm_of_invented_macs_is_not_remembered_for_ever() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mut notes = 0;
    for number in 0..5_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        let heard = HeardOnWire {
            wire: Wire { parent: "eth1".parse().unwrap(), vlan: None },
            address: address(10),
            mac: Mac([2, 0, 0, a, b, c]),
            outgoing: false,
            at: rig.now,
        };
        rig.step(Input::Heard(heard));
        rig.told();
        rig.observe(ALIVE, AddressFact::Unknown);
        notes += rig.told().iter().filter(|code| **code == "second-holder").count();
    }
    assert!((1..=16).contains(&notes), "{notes} reports of 5000 frames, each of which waits for a read");
}

#[test]
fn a_host_that_speaks_for_a_whole_subnet_fills_no_memory() {
    let mut config = rig::dual(1);
    let pool = config.pools.values_mut().find(|pool| pool.subnet.is_ipv6()).unwrap();
    let six = |last: u128| (0xfd00_u128 << 112) | last;
    pool.members.insert(six(10), six(100_000));
    let mut rig = Rig::new(config);
    for last in 10..6_000 {
        let heard = HeardOnWire {
            wire: Wire { parent: "eth1".parse().unwrap(), vlan: None },
            address: IpAddr::V6(six(last).into()),
            mac: Mac([2, 0, 0, 0, 0, 9]),
            outgoing: false,
            at: rig.now,
        };
        rig.step(Input::Heard(heard));
    }
    assert_eq!(rig.ledger.leases().len(), 4096);
    rig.lease(1);
    rig.answer_probes(&[]);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1).map(|addresses| addresses.len()), Some(2), "others are still given");
}

#[test]
fn every_record_is_journaled_before_it_is_written() {
    // The rig looks at each commit. An ADD, a hand-over, a repeated ADD, a DEL:
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.lease(2);
    rig.observe(DEAD, AddressFact::Unknown);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
    rig.bound(2);
    let mut again = request(2);
    again.txn = TxnId("again".into());
    rig.ask(5, again.clone());
    rig.observe(ALIVE, AddressFact::Unknown);
    assert_eq!(rig.granted(5), Some(vec![address(10)]));
    rig.step(Input::Release(None, again.key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(rig.ledger.leases().is_empty() && rig.store.is_empty());
}

/// Twenty networks with a pool of five addresses each.
fn many_networks() -> Config {
    let one = config(5);
    let (network, pool) = (one.networks.values().next().unwrap(), one.pools.values().next().unwrap());
    let mut all = Config::default();
    for number in 0..20_u8 {
        let mut members = IntervalSet::new();
        members.insert(to_bits(address(10 + 5 * number)), to_bits(address(14 + 5 * number)));
        let name: PoolName = format!("p{number}").parse().unwrap();
        let network = Network { pools: vec![name.clone()], ..network.clone() };
        all.networks.insert(format!("lan-{number}").parse().unwrap(), network);
        all.pools.insert(name, Pool { members, ..pool.clone() });
    }
    all
}

#[test]
fn idle_pools_share_what_is_probed_ahead_and_the_one_used_last_comes_first() {
    let mut rig = Rig::new(many_networks());
    assert!((50..=64).contains(&rig.asked().count()), "{}", rig.asked().count());
    rig.answer_probes(&[]);
    let mut request = request(1);
    request.key.network = "lan-19".parse().unwrap();
    rig.ask(1, request);
    rig.answer_probes(&[]);
    let given = rig.granted(1).unwrap()[0];
    // Long after that ADD its network is as idle as the others, and still the likeliest.
    rig.pass(Duration::from_mins(1));
    rig.answer_probes(&[]);
    rig.pass(Duration::from_secs(40));
    let asked: BTreeSet<_> = rig.asked().collect();
    assert!(asked.len() <= 64, "{}", asked.len());
    let own = (105..110).map(address).filter(|address| *address != given);
    assert!(own.into_iter().all(|address| asked.contains(&address)), "{asked:?}");
}

/// Candidates that an ADD asked about and did not need once counted as released: they came last, and the next
/// ADD asked the wire again.
#[test]
fn what_one_add_asked_about_in_vain_the_next_ones_take_without_asking() {
    let mut rig = Rig::new(config(200));
    rig.lease(1);
    // What is probed ahead takes longer.
    rig.answer_urgent();
    assert!(rig.granted(1).is_some());
    for pod in 2..5 {
        rig.lease(pod);
        assert!(rig.granted(pod).is_some(), "{pod} waits for the wire");
    }
}

#[test]
fn a_long_line_at_a_full_pool_is_cheap() {
    // A new ADD in line once cost a look at every lease for every ADD before it.
    let mut rig = Rig::new(config(200));
    for pod in 0..200 {
        rig.lease(pod);
        rig.answer_probes(&[]);
        assert!(rig.granted(pod).is_some());
    }
    let start = std::time::Instant::now();
    for pod in 1_000..2_000 {
        rig.lease(pod);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn an_unknown_link_is_adopted_by_its_alias_and_its_derived_mac_with_one_address_a_family() {
    let adopted = |mac: Mac| {
        let found = StrayLink {
            key: Some(request(2).key),
            cookie: Some(NetnsCookie(2)),
            at: Nsid(70_002),
            at_is_random: true,
            inode: 2,
            ifindex: 5,
            addresses: vec![address(10), address(11), address(12)],
        };
        let stray = Stray {
            mac,
            parent: Some("eth1".parse().unwrap()),
            found: Some(found),
            carried: None,
            marked: true,
            place: None,
        };
        let rig =
            Rig::loaded(config(4), Loaded { strays: vec![stray], hears_all: true, ..Loaded::default() });
        rig.ledger.entry(&request(2).key).map(berth_ipam::ledger::entry::Entry::addresses)
    };
    assert_eq!(adopted(Mac::derive(&request(2).key, 0)), Some(vec![address(10)]));
    assert_eq!(adopted(Mac([2, 0, 0, 0, 6, 1])), None, "every pod's root can write that alias");
}
