//! Claims for an address that is held: the holder's own under another MAC, or a second holder's.

use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config};

const TUNED: Mac = Mac([2, 0, 0, 0, 0, 0x55]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x66]);

fn claim(rig: &mut Rig, mac: Mac) {
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    let heard = HeardOnWire { wire, address: address(10), mac, outgoing: true, at: rig.now };
    rig.step(Input::Heard(heard));
}

/// Answers the reads that are wanted: the link is there with this MAC.
fn read(rig: &mut Rig, mac: Mac) -> usize {
    let bound = rig.entry(1).mac;
    rig.answer_gathers(|target| {
        let (key, stamp) = (target.key.clone(), target.stamp);
        let link = if Some(mac) == bound { LinkFact::Present } else { LinkFact::OtherMac };
        let learnt = Some((5, mac));
        let (netns, fdb, address) = (NetnsFact::Alive, FdbFact::Absent, AddressFact::Present);
        Observation { key, stamp, netns, link, fdb, address, learnt, number: None, search: None }
    })
}

#[test]
fn a_mac_that_the_link_was_given_is_told_once_and_its_claims_are_the_holders() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let bound = rig.entry(1).mac.unwrap();
    rig.told();
    for _ in 0..30 {
        claim(&mut rig, TUNED);
        read(&mut rig, TUNED);
        rig.pass(Duration::from_millis(700));
    }
    let text = rig.text("link-mac-changed").unwrap().to_owned();
    assert!(text.contains(&TUNED.to_string()) && text.contains(&bound.to_string()), "{text}");
    let told = rig.told();
    assert_eq!(told.iter().filter(|code| **code == "link-mac-changed").count(), 1, "{told:?}");
    assert!(!told.contains(&"second-holder"), "{told:?}");
    assert_eq!(rig.entry(1).mac, Some(bound), "what was bound stays on record");
}

#[test]
fn a_claim_that_no_read_explains_is_a_second_holders() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let bound = rig.entry(1).mac.unwrap();
    rig.told();
    claim(&mut rig, STRANGER);
    assert!(!rig.told().contains(&"second-holder"), "the attachment is read first");
    read(&mut rig, bound);
    assert!(rig.text("second-holder").unwrap().contains(&STRANGER.to_string()));

    // The MAC that the link had before is nothing of its own, as long as it has another; nor is the one that it
    // had, once it has its own again.
    for (has, claimed) in [(TUNED, bound), (bound, TUNED)] {
        rig.pass(Duration::from_secs(11));
        claim(&mut rig, has);
        read(&mut rig, has);
        rig.told();
        rig.pass(Duration::from_secs(2));
        claim(&mut rig, claimed);
        read(&mut rig, has);
        assert!(rig.told().contains(&"second-holder"), "{claimed} is not on the link");
    }
}

#[test]
fn a_flood_of_claims_costs_few_reads() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let bound = rig.entry(1).mac.unwrap();
    let mut reads = 0;
    for _ in 0..1000 {
        claim(&mut rig, STRANGER);
        reads += read(&mut rig, bound);
        rig.pass(Duration::from_millis(1));
    }
    assert!(reads <= 50, "{reads} reads in a second");
}
