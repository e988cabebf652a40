//! Quarantines of addresses for which a link under the parent spoke, and probes that such links hear.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::{Interface, Place};
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config, request};

fn own_mac() -> Mac {
    Mac::derive(&request(1).key, 0)
}

/// Pod 1 speaks for an address that no interface of it shows.
fn speaks(rig: &mut Rig, address: IpAddr) {
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    let heard = HeardOnWire { wire, address, mac: own_mac(), outgoing: true, at: rig.now };
    rig.step(Input::Heard(heard));
}

/// A rig with pod 1, which spoke for the other address; and that address.
fn quarantined() -> (Rig, IpAddr) {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let other = if rig.held_by(1)[0] == address(10) { address(11) } else { address(10) };
    rig.answer_probes(&[]);
    speaks(&mut rig, other);
    assert!(is_kept(&rig, other));
    rig.wide.are_heard = true;
    (rig, other)
}

fn is_kept(rig: &Rig, address: IpAddr) -> bool {
    rig.ledger.leases().iter().any(|row| row.address() == address)
}

/// One round of probes for the quarantined address, without an answer.
fn silent_round(rig: &mut Rig) {
    rig.pass(Duration::from_secs(2));
    rig.answer_probes(&[]);
}

#[test]
fn a_link_that_hears_three_rounds_in_a_row_and_is_silent_has_given_an_address_up() {
    let (mut rig, other) = quarantined();
    for _ in 0..3 {
        assert!(is_kept(&rig, other));
        silent_round(&mut rig);
    }
    assert!(!is_kept(&rig, other));
    rig.lease(2);
    assert_eq!(rig.granted(2), Some(vec![other]));
}

#[test]
fn whatever_breaks_the_row_of_silent_rounds_begins_another() {
    let unheard = |rig: &mut Rig, _| {
        rig.wide.are_heard = false;
        silent_round(rig);
        rig.wide.are_heard = true;
    };
    let failed = |rig: &mut Rig, _| {
        rig.pass(Duration::from_secs(2));
        rig.fail_probes("answers were lost");
    };
    let gap = |rig: &mut Rig, _| {
        rig.pass(Duration::from_secs(2));
        rig.hearing(Hearing::Gap("the machine was suspended".to_owned()));
        rig.answer_probes(&[]);
    };
    let answered = |rig: &mut Rig, other| {
        rig.pass(Duration::from_secs(2));
        rig.answer_probes_as(&[other], own_mac());
    };
    let breaks: [fn(&mut Rig, IpAddr); 5] = [unheard, failed, gap, answered, speaks];
    for (index, breaks) in breaks.into_iter().enumerate() {
        let (mut rig, other) = quarantined();
        silent_round(&mut rig);
        silent_round(&mut rig);
        breaks(&mut rig, other);
        silent_round(&mut rig);
        silent_round(&mut rig);
        assert!(is_kept(&rig, other), "break {index}: two rounds are too few");
        silent_round(&mut rig);
        assert!(!is_kept(&rig, other), "break {index}");
    }
}

#[test]
fn an_address_on_an_interface_is_kept_whatever_its_link_answers() {
    let (mut rig, other) = quarantined();
    rig.node.own = vec![Interface {
        place: Place { at: None, ifindex: 2 },
        name: "eth1".to_owned(),
        mac: None,
        wires: BTreeSet::new(),
        listed: false,
        addresses: Some(BTreeSet::from([other])),
    }];
    rig.step(Input::Kernel(Source::Netlink, KernelHint::AddressSeen(None, 2, other)));
    for _ in 0..4 {
        silent_round(&mut rig);
    }
    assert!(is_kept(&rig, other));
    rig.lease(2);
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(2), None);
}

#[test]
fn probes_that_links_hear_are_for_quarantined_addresses_alone() {
    let (mut rig, _) = quarantined();
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.wide.rounds.len(), 1, "the round for the address in quarantine");
    let mut rig = Rig::new(config(20));
    rig.lease(1);
    rig.pass(Duration::from_secs(30));
    assert!(rig.asked().count() > 1 && rig.wide.rounds.is_empty(), "those for candidates are another matter");
}
