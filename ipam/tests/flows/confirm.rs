//! From the choice of an address to its use: what became known meanwhile counts.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::ledger::entry::{Entry, Phase};
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::occupied::own;
use crate::rig::{Rig, address, config, request};

/// A port that lost its hearing for a moment.
fn gap(rig: &mut Rig) {
    rig.hearing(Hearing::Gap("the machine was suspended".to_owned()));
}

fn bind(rig: &mut Rig, pod: u64) {
    let LeaseRequest { txn, key, .. } = request(pod);
    let (caller, mac) = (Caller { conn: pod, call: 2 }, Mac::derive(&key, 0));
    rig.step(Input::Bind(caller, txn, key, 5, mac, LinkSeen::There(mac)));
}

fn is_bound(rig: &Rig, pod: u64) -> bool {
    matches!(rig.reply(pod), Some(Ok(Reply::Done)))
}

/// A pod whose ADD has its grant, and the pool's two addresses, that one first.
fn granted() -> (Rig, IpAddr, IpAddr) {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.lease(1);
    let given = rig.granted(1).unwrap()[0];
    let other = if given == address(10) { address(11) } else { address(10) };
    (rig, given, other)
}

/// An agent that starts and finds that ADD, as far as the agent before it served it.
fn restarted(phase: Phase) -> (Rig, IpAddr, IpAddr) {
    let (before, given, other) = granted();
    let entry = Entry { phase, ..before.entry(1).clone() };
    let records = before.store.into_values().collect();
    let loaded = Loaded { entries: vec![entry], records, hears_all: true, ..Loaded::default() };
    (Rig::loaded(config(2), loaded), given, other)
}

/// The node gets an address of the pool.
fn node_takes(rig: &mut Rig, taken: IpAddr) {
    rig.node.own = own(&[taken]);
    let hint = KernelHint::AddressSeen(None, 2, taken);
    rig.step(Input::Kernel(Source::Netlink, hint));
}

/// The host or interface for which a bind was refused.
fn taken_by(rig: &Rig) -> (IpAddr, &str) {
    match rig.reply(1) {
        Some(Err(LedgerError::TakenMeanwhile { address, by, .. })) => (*address, by),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bind_in_the_span_of_its_silence_waits_for_nothing() {
    let (mut rig, ..) = granted();
    rig.pass(Duration::from_secs(40));
    bind(&mut rig, 1);
    assert!(is_bound(&rig, 1), "{:?}", rig.reply(1));
}

#[test]
fn a_bind_after_a_gap_asks_the_wire_until_a_round_is_whole() {
    let (mut rig, given, other) = granted();
    gap(&mut rig);
    bind(&mut rig, 1);
    assert!(!is_bound(&rig, 1), "it waits for the wire");
    rig.fail_probes("the link is down");
    assert!(!is_bound(&rig, 1), "that proved nothing");
    rig.pass(Duration::from_millis(100));
    rig.answer_probes(&[other]);
    assert!(is_bound(&rig, 1), "{:?}", rig.reply(1));
    assert_eq!(rig.held_by(1), [given]);
}

#[test]
fn a_host_that_has_the_address_by_now_ends_the_add_and_keeps_the_address() {
    let (mut rig, given, other) = granted();
    gap(&mut rig);
    bind(&mut rig, 1);
    rig.answer_probes(&[given]);
    assert_eq!(taken_by(&rig).0, given);
    let LeaseRequest { txn, key, .. } = request(1);
    rig.step(Input::Release(Some(Caller { conn: 1, call: 3 }), key, LinkRemoval::Gone, Some(txn)));
    rig.observe((NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent), AddressFact::Absent);
    assert!(rig.told().contains(&"quarantined"));
    rig.lease(2);
    rig.answer_probes(&[given]);
    assert_eq!(rig.granted(2), Some(vec![other]));
}

#[test]
fn an_agents_restart_during_an_add_has_its_address_chosen_again() {
    for phase in [Phase::Intent, Phase::Reserved] {
        let (mut rig, given, other) = restarted(phase);
        rig.lease(1);
        rig.answer_probes(&[given]);
        assert_eq!(rig.granted(1), Some(vec![other]), "{phase:?}: {:?}", rig.reply(1));
        bind(&mut rig, 1);
        assert!(is_bound(&rig, 1), "{:?}", rig.reply(1));
    }
}

#[test]
fn an_agents_restart_between_grant_and_bind_has_the_wire_asked_again() {
    for phase in [Phase::Reserved, Phase::Bound] {
        for taken in [false, true] {
            let (mut rig, given, other) = restarted(phase);
            bind(&mut rig, 1);
            assert!(rig.reply(1).is_none(), "it waits for the wire");
            rig.answer_probes(&[if taken { given } else { other }]);
            assert_eq!(is_bound(&rig, 1), !taken, "{phase:?}: {:?}", rig.reply(1));
        }
    }
}

#[test]
fn an_attachment_that_was_used_while_no_agent_ran_is_probed_when_its_add_ends() {
    let (mut rig, given, _) = restarted(Phase::Bound);
    rig.answer_probes(&[]);
    let LeaseRequest { txn, key, .. } = request(1);
    rig.step(Input::Done(Caller { conn: 1, call: 3 }, txn, key));
    assert!(is_bound(&rig, 1));
    rig.answer_probes(&[given]);
    rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Unknown);
    assert!(rig.told().contains(&"second-holder"));
}

#[test]
fn a_bind_waits_for_a_port_that_hears_for_a_bounded_time() {
    let (mut rig, ..) = granted();
    rig.hearing(Hearing::Down("eth1 is down".to_owned()));
    bind(&mut rig, 1);
    for _ in 0..100 {
        rig.pass(Duration::from_millis(100));
    }
    assert!(matches!(rig.reply(1), Some(Err(LedgerError::Wire { .. }))), "{:?}", rig.reply(1));
}

#[test]
fn a_del_ends_a_bind_that_waits() {
    let (mut rig, ..) = granted();
    gap(&mut rig);
    bind(&mut rig, 1);
    let key = request(1).key;
    rig.step(Input::Release(Some(Caller { conn: 7, call: 1 }), key, LinkRemoval::Gone, None));
    assert!(matches!(rig.reply(1), Some(Err(LedgerError::NotOpen(..)))), "{:?}", rig.reply(1));
    rig.answer_probes(&[]);
    assert!(matches!(rig.reply(1), Some(Err(LedgerError::NotOpen(..)))));
}

#[test]
fn an_address_that_an_interface_gets_while_its_record_is_written_is_not_given() {
    let (_, given, other) = granted();
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.hold_commits = true;
    rig.lease(1);
    node_takes(&mut rig, given);
    rig.hold_commits = false;
    rig.finish_all();
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(1), Some(vec![other]), "{:?}", rig.reply(1));
}

#[test]
fn an_address_that_an_interface_gets_before_the_bind_is_not_used() {
    let (mut rig, given, _) = granted();
    node_takes(&mut rig, given);
    bind(&mut rig, 1);
    let (address, by) = taken_by(&rig);
    assert!(address == given && by.contains("of the node"), "{by}");
}

#[test]
fn an_event_alone_refuses_no_bind() {
    let (mut rig, given, _) = granted();
    // The event of a former holder's link, which is gone by now.
    rig.node.unreadable = true;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::AddressSeen(None, 2, given)));
    bind(&mut rig, 1);
    rig.answer_probes(&[]);
    assert!(rig.reply(1).is_some_and(|reply| matches!(reply, Ok(Reply::Grant(_)))), "it waits for a survey");
    rig.node.unreadable = false;
    for _ in 0..20 {
        rig.pass(Duration::from_millis(100));
        rig.answer_probes(&[]);
    }
    assert!(is_bound(&rig, 1), "{:?}", rig.reply(1));
}
