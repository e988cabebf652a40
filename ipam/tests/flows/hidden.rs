//! Attachments with a link that left the sight of every search: what frees their addresses after a DEL or the end of the
//! namespace, and what begins the silence again.

use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, config, request};

type Facts = (NetnsFact, LinkFact, FdbFact);

const LINK_GONE: Facts = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
const NETNS_GONE: Facts = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);
const UNLISTED: Facts = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Blind);

/// A pod with a link that moved where no search finds it. The links under the parent hear probes.
fn moved() -> Rig {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Present);
    let moved = KernelHint::LinkMoved(Some(Nsid(70_001)), 5, None);
    rig.step(Input::Kernel(Source::Netlink, moved));
    rig.wide.are_heard = true;
    rig
}

fn is_kept(rig: &Rig) -> bool {
    rig.ledger.entry(&request(1).key).is_some()
}

fn del(rig: &mut Rig) {
    let caller = Caller { conn: 90, call: 1 };
    rig.step(Input::Release(Some(caller), request(1).key, LinkRemoval::Gone, None));
}

/// So many rounds of two seconds, all silent.
fn rounds(rig: &mut Rig, facts: Facts, count: usize) {
    for _ in 0..count {
        rig.observe(facts, AddressFact::Absent);
        rig.answer_probes(&[]);
        rig.observe(facts, AddressFact::Absent);
        rig.pass(Duration::from_secs(2));
    }
}

#[test]
fn a_del_or_the_end_of_the_namespace_and_ten_silent_seconds_free_the_address() {
    let mut rig = moved();
    rounds(&mut rig, LINK_GONE, 12);
    assert!(is_kept(&rig), "its namespace lives, and no DEL came");
    del(&mut rig);
    rounds(&mut rig, LINK_GONE, 5);
    assert!(is_kept(&rig));
    rounds(&mut rig, LINK_GONE, 2);
    assert!(!is_kept(&rig));

    let mut rig = moved();
    rounds(&mut rig, NETNS_GONE, 5);
    assert!(is_kept(&rig));
    rounds(&mut rig, NETNS_GONE, 2);
    assert!(!is_kept(&rig));
}

#[test]
fn an_address_is_kept_while_silence_proves_nothing() {
    let mut rig = moved();
    del(&mut rig);
    rounds(&mut rig, UNLISTED, 20);
    assert!(is_kept(&rig), "no list shows links of that kind");

    let mut rig = moved();
    rig.wide.are_heard = false;
    del(&mut rig);
    rounds(&mut rig, NETNS_GONE, 40);
    assert!(is_kept(&rig), "no link under the parent heard the probes");
    let unsettled = rig.ledger.unsettled(rig.now);
    let unproved = unsettled.first().and_then(|one| one.unproved).unwrap_or_default();
    assert!(unproved.contains("hear no probe"), "{unproved}");
}

#[test]
fn whatever_is_heard_or_may_be_missed_begins_the_silence_again() {
    let answered = |rig: &mut Rig| {
        let held = rig.held_by(1);
        rig.observe(NETNS_GONE, AddressFact::Absent);
        rig.answer_probes_as(&held, Mac([2, 0, 0, 0, 6, 7]));
        rig.pass(Duration::from_secs(2));
    };
    let spoke = |rig: &mut Rig| {
        let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
        let (address, mac, at) = (rig.held_by(1)[0], Mac([2, 0, 0, 0, 6, 7]), rig.now);
        rig.step(Input::Heard(HeardOnWire { wire, address, mac, outgoing: true, at }));
    };
    let unheard = |rig: &mut Rig| {
        rig.wide.are_heard = false;
        rounds(rig, NETNS_GONE, 1);
        rig.wide.are_heard = true;
    };
    let gap = |rig: &mut Rig| rig.hearing(Hearing::Missed("frames were lost".to_owned()));
    let failed = |rig: &mut Rig| {
        rig.observe(NETNS_GONE, AddressFact::Absent);
        rig.fail_probes("answers were lost");
        rig.pass(Duration::from_secs(2));
    };
    let breaks: [fn(&mut Rig); 5] = [answered, spoke, unheard, gap, failed];
    for (index, breaks) in breaks.into_iter().enumerate() {
        let mut rig = moved();
        rounds(&mut rig, NETNS_GONE, 4);
        breaks(&mut rig);
        rounds(&mut rig, NETNS_GONE, 5);
        assert!(is_kept(&rig), "break {index}: that is too short");
        rounds(&mut rig, NETNS_GONE, 2);
        assert!(!is_kept(&rig), "break {index}");
    }
}

#[test]
fn a_search_after_the_silence_has_the_last_word() {
    let mut rig = moved();
    rounds(&mut rig, NETNS_GONE, 5);
    rig.observe(NETNS_GONE, AddressFact::Absent);
    rig.answer_probes(&[]);
    let text = "eth1 lists 02:00:00:00:06:07, and no link in a namespace that can be named has it";
    rig.observe_search_as(NETNS_GONE, &SearchOutcome::Unexplained(text.to_owned()));
    assert!(is_kept(&rig), "a link hides on the parent");
    rig.pass(Duration::from_mins(1));
    rounds(&mut rig, NETNS_GONE, 3);
    assert!(is_kept(&rig), "that silence is over");
    rounds(&mut rig, NETNS_GONE, 4);
    assert!(!is_kept(&rig));
}

#[test]
fn reads_that_were_asked_for_before_the_end_of_the_silence_free_nothing() {
    let mut rig = moved();
    rounds(&mut rig, NETNS_GONE, 5);
    rig.observe(NETNS_GONE, AddressFact::Absent);
    // Reads without a search are under way while the last round ends.
    rig.ledger.reconcile();
    rig.step(Input::Tick);
    rig.pass(Duration::from_millis(100));
    rig.answer_probes(&[]);
    let targets = rig.gathers.pop_front().unwrap();
    assert!(targets.iter().all(|target| !target.search));
    let (netns, link, fdb) = NETNS_GONE;
    let seen = |target: Target| {
        let (key, stamp, address) = (target.key, target.stamp, AddressFact::Absent);
        Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search: None }
    };
    rig.step(Input::Gathered(targets.into_iter().map(seen).collect()));
    assert!(is_kept(&rig), "the link may be up since the search before");
    rig.observe(NETNS_GONE, AddressFact::Absent);
    assert!(!is_kept(&rig), "a search was asked for after the silence");
}

#[test]
fn rounds_that_wait_for_the_wire_make_the_proof_all_the_same() {
    let mut rig = moved();
    for _ in 0..5 {
        rounds(&mut rig, NETNS_GONE, 1);
        rig.pass(Duration::from_secs(8));
    }
    rounds(&mut rig, NETNS_GONE, 2);
    assert!(!is_kept(&rig));
}

#[test]
fn an_operator_who_forces_a_release_answers_for_links_that_no_search_reaches() {
    let mut rig = moved();
    rig.observe(LINK_GONE, AddressFact::Absent);
    let address = rig.held_by(1)[0];
    rig.step(Input::AdminRelease(Caller { conn: 91, call: 1 }, (address, None), true));
    let shut = |rig: &Rig| rig.ledger.leases().iter().any(|row| row.address() == address);
    let unexplained = SearchOutcome::Unexplained("eth1 lists 02:00:00:00:06:07".to_owned());
    for _ in 0..6 {
        assert!(shut(&rig));
        rig.pass(Duration::from_secs(2));
        rig.answer_probes(&[]);
        rig.observe_search_as(NETNS_GONE, &unexplained);
        if !shut(&rig) {
            return;
        }
    }
    panic!("the quarantine lasts: {:?}", rig.ledger.unsettled(rig.now));
}
