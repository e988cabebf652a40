//! Pools that are declared under another name than before, and networks that are not declared for a while.

use std::time::Duration;

use berth_ipam::config::{Config, Wire};
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;

use crate::renamed::renamed;
use crate::rig::{Rig, address, config, request};

/// The four addresses of the pool, which is called otherwise.
const RENAMED: u8 = 1;
/// The same without a network.
const UNDECLARED: u8 = 7;

fn edit(rig: &mut Rig, edited: Config) -> Result<(), Vec<String>> {
    rig.step(Input::Declared(Box::new(edited)));
    rig.config_taken.pop().unwrap()
}

/// Four pods that hold all addresses, and the pool is renamed.
fn full() -> Rig {
    let mut rig = Rig::new(config(4));
    (1..5).for_each(|pod| rig.bound(pod));
    edit(&mut rig, renamed(RENAMED)).unwrap();
    rig
}

#[test]
fn holders_of_a_renamed_pool_are_named_counted_and_served_again() {
    let mut rig = full();
    let counts = rig.ledger.pool_counts();
    assert_eq!((counts[0].bound, counts[0].free), (4, 0), "{counts:?}");
    rig.lease(5);
    rig.pass(Duration::from_secs(110));
    let Some(Err(LedgerError::Exhausted { holders, .. })) = rig.reply(5) else {
        panic!("{:?}", rig.reply(5))
    };
    assert!((10..14).all(|last| holders.contains(&address(last).to_string())), "{holders}");
    let own = rig.held_by(1);
    rig.ask(7, LeaseRequest { txn: berth_ipam::identity::TxnId("again".to_owned()), ..request(1) });
    rig.observe(crate::ALIVE, berth_ipam::evidence::AddressFact::Present);
    assert_eq!(rig.granted(7), Some(own), "a repeated ADD gets its address: {:?}", rig.reply(7));
}

#[test]
fn an_edit_that_drops_addresses_in_use_is_refused_after_the_pool_was_renamed_too() {
    let mut rig = full();
    let lost = edit(&mut rig, config(2)).unwrap_err();
    assert_eq!(lost.len(), 2, "{lost:?}");
    edit(&mut rig, config(4)).unwrap();
}

/// A pod announces an address that none of its interfaces has. What is said on the wire by a link of the node, no
/// port of the node hears.
#[test]
fn an_address_that_a_link_of_the_node_spoke_for_is_kept_over_edits() {
    let mut rig = Rig::new(config(4));
    rig.bound(1);
    let mac = Mac::derive(&request(1).key, 0);
    let guests = (10..14).map(address).find(|address| !rig.held_by(1).contains(address)).unwrap();
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    let heard = HeardOnWire { wire, address: guests, mac, outgoing: true, at: rig.now };
    rig.step(Input::Heard(heard));
    for edited in [RENAMED, UNDECLARED, 0] {
        edit(&mut rig, renamed(edited)).unwrap();
        for _ in 0..5 {
            rig.pass(Duration::from_secs(2));
            rig.answer_probes(&[]);
        }
        let kept = rig.ledger.leases().into_iter().find(|view| view.address() == guests);
        assert!(matches!(kept, Some(View::Shut(_))), "edit {edited}: {kept:?}");
    }
}
