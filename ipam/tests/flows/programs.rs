//! Hints of programs in the kernel, beside netlink's.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::*;

use crate::rig::{Rig, config, found, request};

const BY: Source = Source::Program("tp_btf");
const ALIVE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);
const LINK_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
const NETNS_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);

fn program(hint: KernelHint) -> Input {
    Input::Kernel(BY, hint)
}

fn torn_down(pod: u64) -> Input {
    program(KernelHint::LinkTornDown(request(pod).key, true))
}

fn netlink_gone(pod: u64) -> Input {
    let at = request(pod).netns.nsid;
    Input::Kernel(Source::Netlink, KernelHint::LinkGone(Some(at), 5, None))
}

#[test]
fn a_program_alone_brings_a_dead_namespaces_address_back_without_a_search() {
    // As if netlink were deaf: a link of whose end nobody told would be searched for.
    let deaf = Loaded { hears_all: false, ..Loaded::default() };
    let mut rig = Rig::loaded(config(1), deaf);
    rig.bound(1);
    rig.step(torn_down(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
    assert!(rig.text("netns-gone").unwrap().ends_with("; first told by tp_btf"));
}

#[test]
fn whoever_tells_first_is_named_and_the_other_changes_nothing() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.step(torn_down(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.text("netns-gone").unwrap().ends_with("; first told by netlink"));
    assert!(!rig.told().contains(&"sources-disagree"));
}

#[test]
fn a_program_that_tells_what_is_not_so_frees_nothing_and_must_prove_itself() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.told();
    rig.step(torn_down(1));
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(rig.held_by(1).len(), 1);
    assert_eq!(rig.proofs, 1);
    assert!(rig.told().contains(&"sources-disagree"));
    // Forgotten once it was read as there: a real end later settles anew, from then on.
    rig.pass(Duration::from_secs(10));
    rig.step(netlink_gone(1));
    rig.observe(LINK_GONE, AddressFact::Absent);
    assert_eq!(rig.held_by(1).len(), 1);
    assert!(rig.text("link-gone").unwrap().ends_with("; first told by netlink"));
}

#[test]
fn a_teardown_in_a_living_namespace_is_read_about_a_little_later() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(program(KernelHint::LinkTornDown(request(1).key, false)));
    rig.observe(LINK_GONE, AddressFact::Absent);
    assert!(rig.text("link-gone").is_none(), "its DEL is under way, perhaps");
    rig.pass(Duration::from_millis(50));
    rig.observe(LINK_GONE, AddressFact::Absent);
    assert!(rig.text("link-gone").is_some());
    // The settle time counts from the program's word.
    rig.pass(Duration::from_millis(1_950));
    rig.observe(LINK_GONE, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn a_deletion_that_netlink_never_tells_is_an_event() {
    for netlink_too in [false, true] {
        let mut rig = Rig::new(config(1));
        rig.bound(1);
        rig.told();
        rig.step(torn_down(1));
        if netlink_too {
            rig.step(netlink_gone(1));
        }
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_millis(2_001));
        rig.observe(LINK_GONE, AddressFact::Absent);
        assert!(rig.ledger.entry(&request(1).key).is_none(), "settled and released");
        assert_eq!(rig.told().contains(&"sources-disagree"), !netlink_too);
    }
}

#[test]
fn the_end_of_another_link_with_a_moved_ones_index_is_not_its_own() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::LinkLeaving(request(1).key)));
    rig.step(torn_down(1));
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(5));
    }
    assert_eq!(rig.held_by(1).len(), 1, "moved, out of sight, and perhaps alive");
}

#[test]
fn a_queueing_discipline_that_was_taken_for_a_move_makes_no_zombie() {
    // Replaced while the link was down, and the link deleted before anybody read: the program said
    // "leaves", and netlink alone tells of the end.
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::LinkLeaving(request(1).key)));
    rig.step(netlink_gone(1));
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(3));
    }
    assert!(rig.ledger.entry(&request(1).key).is_none(), "searched for, not found, settled");
    // A move that netlink told of too stays one: the old namespace's echo deletes nothing.
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::LinkLeaving(request(1).key)));
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None)));
    rig.step(netlink_gone(1));
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(3));
    }
    assert_eq!(rig.held_by(1).len(), 1);
}

#[test]
fn after_lost_netlink_events_a_program_alone_does_not_spare_the_search() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(Input::Kernel(Source::Netlink, KernelHint::Overrun));
    rig.step(torn_down(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
    assert!(rig.text("netns-gone").unwrap().contains("search NotFound"));
}

#[test]
fn candidates_are_asked_for_again_after_events_were_lost() {
    let mut rig = Rig::new(config(3));
    rig.warm();
    assert_eq!(rig.ledger.candidates().len(), 3);
    rig.step(program(KernelHint::Overrun));
    assert!(rig.ledger.candidates().is_empty());
    rig.lease(1);
    assert!(rig.granted(1).is_none(), "not before the wire was asked");
    rig.answer_probes(&[]);
    assert!(rig.granted(1).is_some());
}

#[test]
fn a_link_that_did_not_leave_after_all_is_as_before() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::LinkLeaving(request(1).key)));
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(torn_down(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn hints_about_attachments_that_nobody_knows_are_nothing() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.told();
    rig.step(torn_down(7));
    rig.step(program(KernelHint::LinkLeaving(request(7).key)));
    rig.step(program(KernelHint::NamespaceEnded(vec![request(7).key])));
    rig.step(program(KernelHint::TaskExits(vec![request(7).key], 1)));
    assert!(rig.told().is_empty());
}

#[test]
fn events_that_a_program_lost_cost_reads_and_no_knowledge_of_moves() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::Overrun));
    // Netlink was heard all the time: a dead namespace needs no search.
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

/// A pod with a process, seen twice.
fn inhabited() -> Rig {
    let mut config = config(1);
    config.networks.values_mut().for_each(|network| network.leaked_after = Some(Duration::from_secs(5)));
    let mut rig = Rig::new(config);
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    for _ in 0..4 {
        rig.pass(Duration::from_millis(2_500));
        rig.step(Input::Scanned(occupied()));
    }
    assert!(rig.entry(1).inhabited);
    rig.told();
    rig.scans = 0;
    rig
}

fn occupied() -> ScanReport {
    ScanReport {
        complete: true,
        tenants: vec![(1, (77, 1))],
        occupied: BTreeSet::from([1]),
        holders_complete: true,
        ..ScanReport::default()
    }
}

fn exits(pid: i32) -> Input {
    program(KernelHint::TaskExits(vec![request(1).key], pid))
}

#[test]
fn an_exit_is_followed_by_a_scan_within_a_tenth_of_a_second() {
    let mut rig = inhabited();
    rig.pass(Duration::from_millis(300));
    rig.step(exits(77));
    rig.pass(Duration::from_millis(99));
    assert_eq!(rig.scans, 1);
    // Nobody left: the second scan comes when the time is over, and the address is free.
    let empty = ScanReport { complete: true, holders_complete: true, ..ScanReport::default() };
    rig.step(Input::Scanned(empty.clone()));
    assert_eq!(rig.told(), ["task-exit", "namespace-empty"]);
    rig.pass(Duration::from_millis(4_999));
    rig.step(Input::Scanned(empty.clone()));
    assert!(!rig.told().contains(&"namespace-empty-again"));
    rig.pass(Duration::from_millis(1));
    rig.step(Input::Scanned(empty));
    assert!(rig.told().contains(&"namespace-empty-again"));
}

#[test]
fn a_scan_that_could_not_read_all_is_told_of_until_a_complete_one() {
    let mut rig = inhabited();
    let hidden = "descriptors of task 9 of process 9 (vmm): a ring".to_owned();
    rig.step(Input::Scanned(ScanReport {
        complete: true,
        unread: vec![hidden.clone()],
        ..ScanReport::default()
    }));
    assert_eq!(rig.ledger.unread_tasks(), std::slice::from_ref(&hidden));
    rig.step(Input::Scanned(occupied()));
    assert!(rig.ledger.unread_tasks().is_empty());
    rig.step(Input::Scanned(ScanReport { unread: vec![hidden], ..ScanReport::default() }));
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    rig.pass(Duration::from_secs(1));
    assert!(rig.ledger.unread_tasks().is_empty(), "nothing is left to scan for");
}

#[test]
fn a_pod_that_ends_processes_all_day_makes_no_storm_of_scans() {
    let mut rig = inhabited();
    for pid in 0..2_000 {
        rig.step(exits(pid));
        rig.pass(Duration::from_millis(10));
        rig.step(Input::Scanned(occupied()));
    }
    // Twenty seconds: a few soon after the first exits, then no more than the clock asks for anyhow.
    assert!((8..=20).contains(&rig.scans), "{} scans", rig.scans);
    // After a while of peace the next exit is followed at once again.
    for _ in 0..3 {
        rig.pass(Duration::from_millis(2_500));
        rig.step(Input::Scanned(occupied()));
    }
    let before = rig.scans;
    rig.pass(Duration::from_millis(200));
    rig.step(exits(1));
    rig.pass(Duration::from_millis(99));
    assert_eq!(rig.scans, before + 1);
}

#[test]
fn exits_of_what_nobody_watches_for_leaks_ask_for_nothing() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.told();
    rig.step(exits(5));
    rig.pass(Duration::from_secs(1));
    assert_eq!((rig.scans, rig.told().len()), (0, 0));
}

#[test]
fn where_the_index_of_a_link_is_not_known_the_end_of_some_namespace_is_worth_a_read() {
    let mut rig = Rig::new(config(1));
    rig.warm();
    let LeaseRequest { key, .. } = request(1);
    rig.ask(1, LeaseRequest { role: berth_ipam::attachment::Role::Delegate, ..request(1) });
    rig.answer_probes(&[]);
    rig.step(Input::Done(Caller { conn: 1, call: 2 }, request(1).txn, key));
    rig.step(program(KernelHint::NamespacesEnding));
    rig.pass(Duration::from_millis(20));
    rig.observe((NetnsFact::Dead, LinkFact::Gone, FdbFact::Blind), AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
    assert_eq!(request(1).netns.nsid, Nsid(70_001));
}

/// Its link left, and no search finds it.
fn out_of_sight() -> Rig {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(program(KernelHint::LinkLeaving(request(1).key)));
    rig.step(netlink_moved(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.text("moved-namespace-gone").is_some());
    rig
}

fn netlink_moved(pod: u64) -> Input {
    let at = request(pod).netns.nsid;
    Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None))
}

#[test]
fn the_teardown_of_the_very_device_ends_what_moved_out_of_sight() {
    let mut rig = out_of_sight();
    rig.step(program(KernelHint::DepartedTornDown(request(1).key)));
    // Its MAC is on the parent for a moment more.
    rig.observe((NetnsFact::Dead, LinkFact::Gone, FdbFact::Present), AddressFact::Unknown);
    assert_eq!(rig.held_by(1).len(), 1);
    rig.pass(Duration::from_millis(2));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn what_is_told_or_lost_after_the_teardown_of_the_very_device_changes_nothing() {
    for later in [netlink_moved(1), Input::Kernel(Source::Netlink, KernelHint::Overrun)] {
        let mut rig = Rig::new(config(1));
        rig.bound(1);
        rig.step(program(KernelHint::LinkLeaving(request(1).key)));
        rig.step(program(KernelHint::DepartedTornDown(request(1).key)));
        rig.step(later);
        rig.observe(NETNS_GONE, AddressFact::Unknown);
        assert!(rig.ledger.entry(&request(1).key).is_none());
    }
    // A link that is read as there is another device, or the program meant another one.
    let mut rig = out_of_sight();
    rig.step(program(KernelHint::DepartedTornDown(request(1).key)));
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(netlink_moved(1));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert_eq!(rig.held_by(1).len(), 1, "it moved after that");
}

#[test]
fn an_end_is_told_of_a_link_by_its_index_and_not_by_its_mac() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    let at = request(1).netns.nsid;
    let mac = rig.entry(1).mac;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, mac)));
    rig.observe(LINK_GONE, AddressFact::Absent);
    // Every pod's root can make a link of that MAC, and of that index in a namespace of its own, and delete it.
    for (at, ifindex) in [(at, 9), (Nsid(70_099), 5)] {
        rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkGone(Some(at), ifindex, mac)));
    }
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(5));
    }
    assert_eq!(rig.held_by(1).len(), 1, "moved, out of sight, and perhaps alive");
}

#[test]
fn a_link_whose_mac_was_changed_is_told_by_its_index() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    let other = Some(berth_ipam::mac::Mac([2, 0, 0, 0, 6, 2]));
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkGone(Some(at), 5, other)));
    rig.observe(LINK_GONE, AddressFact::Absent);
    rig.pass(Duration::from_millis(2_001));
    rig.observe(LINK_GONE, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(1).key).is_none(), "the kernel told the end of this very link");
}

/// The same ledger after a restart, with what its journal had.
fn restarted(rig: &Rig) -> Rig {
    let entries = vec![rig.entry(1).clone()];
    let records = rig.store.values().cloned().collect();
    Rig::loaded(config(1), Loaded { entries, records, hears_all: true, ..Loaded::default() })
}

#[test]
fn a_restart_forgets_neither_a_move_nor_an_end_and_knows_no_other() {
    let at = request(1).netns.nsid;
    for hint in
        [None, Some(KernelHint::LinkMoved(Some(at), 5, None)), Some(KernelHint::LinkGone(Some(at), 5, None))]
    {
        let mut rig = Rig::new(config(1));
        rig.bound(1);
        rig.observe(ALIVE, AddressFact::Present);
        let ended = matches!(hint, Some(KernelHint::LinkGone(..)));
        let moved = matches!(hint, Some(KernelHint::LinkMoved(..)));
        if let Some(hint) = hint {
            rig.step(Input::Kernel(Source::Netlink, hint));
            rig.observe(LINK_GONE, AddressFact::Absent);
        }
        let mut rig = restarted(&rig);
        for _ in 0..4 {
            rig.observe(LINK_GONE, AddressFact::Absent);
            rig.pass(Duration::from_secs(3));
        }
        assert_eq!(rig.ledger.entry(&request(1).key).is_none(), ended, "the kernel told the end, or nothing");
        if ended {
            continue;
        }
        rig.pass(Duration::from_mins(1));
        assert_eq!(rig.ledger.unsettled(rig.now).len(), 1, "doctor tells what ends it");
        // Its namespace's end is proof, unless the link is known to have left before.
        rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(at)));
        rig.observe(NETNS_GONE, AddressFact::Unknown);
        assert_eq!(rig.ledger.entry(&request(1).key).is_some(), moved);
    }
}

#[test]
fn a_link_that_is_found_after_its_told_teardown_is_followed_as_any_other() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None)));
    rig.step(program(KernelHint::DepartedTornDown(request(1).key)));
    let mac = rig.entry(1).mac.unwrap();
    rig.observe_search_as(LINK_GONE, &found(70_050, 7, mac));
    assert_eq!(rig.entry(1).at, Nsid(70_050));
    // It moves on, out of sight: what was told of the device before is not about this one.
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(Nsid(70_050)), 7, None)));
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(3));
    }
    assert_eq!(rig.held_by(1).len(), 1);
}
