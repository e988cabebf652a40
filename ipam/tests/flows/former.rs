//! What a pod said of its own address, heard while that address was asked for, and judged after its end.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, Claim};
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

use crate::DEAD;
use crate::rig::{Rig, address, config, request};

fn mac(pod: u64) -> Mac {
    Mac::derive(&request(pod).key, 0)
}

/// Pod 1 on the only address, bound while a round ahead asks for it; and the time of its announcement.
fn asked_ahead() -> (Rig, Time) {
    let mut rig = Rig::new(config(1));
    rig.pass(Duration::from_secs(1));
    rig.lease(1);
    rig.answer_urgent();
    let LeaseRequest { txn, key, .. } = request(1);
    let caller = Caller { conn: 1, call: 2 };
    rig.step(Input::Bind(caller, txn.clone(), key.clone(), 5, mac(1), LinkSeen::There(mac(1))));
    rig.step(Input::Done(caller, txn, key));
    let announced = rig.now;
    rig.pass(Duration::from_millis(20));
    (rig, announced)
}

/// Pod 1 ends, and the kernel proves it.
fn ends(rig: &mut Rig) {
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
    rig.pass(Duration::from_millis(20));
}

fn quarantined(rig: &Rig) -> Vec<IpAddr> {
    rig.ledger.leases().iter().map(berth_ipam::ledger::view::View::address).collect()
}

#[test]
fn an_ended_pods_own_announcement_keeps_its_address_from_nobody() {
    let (mut rig, announced) = asked_ahead();
    ends(&mut rig);
    rig.answer_probes_at(&[address(10)], Claim { mac: mac(1), at: announced });
    assert!(quarantined(&rig).is_empty(), "{:?}", rig.text("quarantined"));
    rig.lease(2);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
}

#[test]
fn the_same_mac_heard_after_the_proved_end_is_a_veto() {
    let (mut rig, _) = asked_ahead();
    ends(&mut rig);
    rig.answer_probes_as(&[address(10)], mac(1));
    assert_eq!(quarantined(&rig), [address(10)]);
}

#[test]
fn a_claim_by_another_pod_is_a_veto_that_names_it() {
    let mut rig = Rig::new(config(2));
    rig.bound(2);
    let own = rig.held_by(2)[0];
    let free = if own == address(10) { address(11) } else { address(10) };
    rig.pass(Duration::from_secs(40));
    rig.answer_probes_as(&[free], mac(2));
    assert_eq!(
        rig.text("quarantined"),
        Some(format!("not handed out: answered by {} of d/p2", mac(2)).as_str())
    );
}

#[test]
fn an_ended_pods_mac_says_nothing_of_its_own_address_alone() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let own = rig.held_by(1)[0];
    let other = if own == address(10) { address(11) } else { address(10) };
    rig.pass(Duration::from_secs(40));
    let asked = rig.now;
    rig.pass(Duration::from_millis(20));
    ends(&mut rig);
    rig.answer_probes_at(&[other], Claim { mac: mac(1), at: asked });
    assert_eq!(quarantined(&rig), [other], "it was never that pod's");
}

#[test]
fn a_frame_of_the_giver_that_is_read_late_disputes_no_heir() {
    let (mut rig, _) = asked_ahead();
    rig.lease(2);
    let last_word = rig.now;
    rig.pass(Duration::from_millis(20));
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe(DEAD, AddressFact::Unknown);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    let heard = HeardOnWire { wire, address: address(10), mac: mac(1), outgoing: true, at: last_word };
    rig.pass(Duration::from_secs(3));
    let told = |rig: &mut Rig, heard: HeardOnWire| {
        rig.told();
        rig.step(Input::Heard(heard));
        rig.observe(crate::ALIVE, AddressFact::Present);
        rig.told().contains(&"second-holder")
    };
    assert!(!told(&mut rig, heard.clone()), "it was the giver's until then");
    let now = rig.now;
    assert!(told(&mut rig, HeardOnWire { at: now, ..heard }), "and is another's since");
}
