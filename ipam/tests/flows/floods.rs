//! Inputs without end: what they cost, and what the ledger remembers of them.

use std::net::IpAddr;

use berth_ipam::config::Wire;
use berth_ipam::evidence::AddressFact;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;

use crate::address;
use crate::rig::{Rig, config};

fn claim(rig: &Rig, address: IpAddr, mac: Mac) -> Input {
    Input::Heard(HeardOnWire {
        wire: Wire { parent: "eth1".parse().unwrap(), vlan: None },
        address,
        mac,
        outgoing: false,
        at: rig.now,
    })
}

#[test]
fn of_many_who_speak_for_a_quarantined_address_a_few_are_remembered() {
    let mut rig = Rig::new(config(2));
    for last in 0..=255 {
        let heard = claim(&rig, address(10), Mac([2, 0, 0, 0, 1, last]));
        rig.step(heard);
    }
    let leases = rig.ledger.leases();
    let Some(View::Shut(shut)) = leases.first() else { panic!("{leases:?}") };
    assert!((1..=8).contains(&shut.macs.len()), "{} MACs", shut.macs.len());
}

#[test]
fn a_pod_that_speaks_for_anothers_address_is_named() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.bound(2);
    let victim = rig.held_by(1)[0];
    let heard = claim(&rig, victim, rig.entry(2).mac.unwrap());
    rig.step(heard);
    rig.observe(crate::ALIVE, AddressFact::Present);
    let text = rig.text("second-holder").unwrap();
    assert!(text.contains("of d/p2"), "{text}");
}
