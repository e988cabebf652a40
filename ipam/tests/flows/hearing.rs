//! What a port can hear, and what counts as silent on it.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::BootId;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config, request};

const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const DEAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);

fn down() -> Hearing {
    Hearing::Down("eth1 is down".to_owned())
}

fn gap() -> Hearing {
    Hearing::Gap("the machine was suspended".to_owned())
}

/// A pod's DEL, and the kernel's proof that its link is gone.
fn del(rig: &mut Rig, pod: u64) {
    let caller = Caller { conn: 1_000 + pod, call: 1 };
    rig.step(Input::Release(Some(caller), request(pod).key, LinkRemoval::Gone, None));
    rig.observe_of(pod, DEAD, AddressFact::Absent);
}

fn own_mac(pod: u64) -> Mac {
    Mac::derive(&request(pod).key, 0)
}

#[test]
fn a_port_that_goes_down_voids_what_was_silent_and_adds_wait_until_it_is_up() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.hearing(down());
    rig.lease(1);
    assert!(rig.reply(1).is_none() && rig.asked().next().is_none(), "nothing is given and nothing asked");
    rig.pass(Duration::from_secs(5));
    assert!(rig.asked().next().is_none(), "nor is anything asked ahead");
    rig.hearing(Hearing::Up);
    rig.answer_probes(&[address(10)]);
    assert_eq!(rig.granted(1), Some(vec![address(11)]), "the other one was taken meanwhile");
}

#[test]
fn an_add_that_waits_for_its_port_ends_with_the_reason() {
    let mut rig = Rig::new(config(2));
    rig.hearing(down());
    rig.lease(1);
    rig.pass(Duration::from_secs(110));
    let Some(Err(LedgerError::Wire { device, why, waited_ms })) = rig.reply(1) else {
        panic!("{:?}", rig.reply(1));
    };
    assert_eq!((device.as_str(), why.as_str(), *waited_ms), ("eth1", "eth1 is down", 110_000));
}

#[test]
fn a_port_of_which_nothing_was_reported_hears_nothing() {
    let mut rig = Rig::unheard(config(2));
    rig.lease(1);
    rig.pass(Duration::from_secs(1));
    assert!(rig.reply(1).is_none() && rig.asked().next().is_none());
    rig.hearing(Hearing::Up);
    rig.answer_probes(&[]);
    assert!(rig.granted(1).is_some());
}

#[test]
fn a_round_that_a_gap_touched_proves_no_silence() {
    for gaps in [vec![gap()], vec![down(), Hearing::Up]] {
        let mut rig = Rig::new(config(2));
        rig.lease(1);
        assert!(rig.asked().next().is_some());
        for gap in gaps {
            rig.hearing(gap);
        }
        rig.answer_urgent();
        assert!(rig.reply(1).is_none(), "the round proved nothing");
        rig.pass(Duration::from_millis(100));
        rig.answer_urgent();
        assert!(rig.granted(1).is_some(), "it is asked once more: {:?}", rig.reply(1));
    }
}

#[test]
fn lost_statements_void_what_was_silent_and_no_round() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.hearing(Hearing::Missed("7 frames".to_owned()));
    rig.lease(1);
    assert!(rig.reply(1).is_none(), "it is asked for");
    rig.hearing(Hearing::Missed("7 frames".to_owned()));
    rig.answer_urgent();
    assert!(rig.granted(1).is_some(), "answers have a queue of their own");
}

#[test]
fn a_round_that_failed_is_repeated_within_the_time_of_its_add() {
    let mut rig = Rig::new(config(2));
    rig.lease(1);
    rig.fail_probes("answers were lost");
    assert!(rig.reply(1).is_none());
    rig.pass(Duration::from_millis(100));
    rig.fail_probes("answers were lost");
    rig.pass(Duration::from_secs(110));
    let told = rig.reply(1).map(|reply| reply.clone().unwrap_err().to_string());
    assert_eq!(told.as_deref(), Some("the wire on eth1 could not be asked for 110100 ms: answers were lost"));
}

#[test]
fn while_the_port_is_down_an_address_is_handed_over_after_the_kernels_proof() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hearing(down());
    rig.lease(2);
    assert!(rig.reply(2).is_none());
    del(&mut rig, 1);
    assert_eq!(rig.granted(2), Some(vec![address(10)]));
}

#[test]
fn while_the_port_is_down_a_repeated_add_gets_its_address() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hearing(down());
    let again = LeaseRequest { txn: berth_ipam::identity::TxnId("again".into()), ..request(1) };
    rig.ask(77, again);
    rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Present);
    assert_eq!(rig.granted(77), Some(vec![address(10)]));
}

#[test]
fn what_the_kernel_proved_free_is_asked_for_if_a_gap_lay_in_its_holders_life() {
    let gaps = [vec![], vec![gap()], vec![Hearing::Missed("1 frame".to_owned())], vec![down(), Hearing::Up]];
    for (gaps, asks) in gaps.into_iter().zip([false, true, true, true]) {
        let mut rig = Rig::new(config(1));
        rig.bound(1);
        for gap in gaps.clone() {
            rig.hearing(gap);
        }
        del(&mut rig, 1);
        rig.lease(2);
        assert_eq!(rig.granted(2).is_none(), asks, "{gaps:?}");
    }
}

#[test]
fn a_quarantine_does_not_end_while_the_port_is_down() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    rig.step(Input::Heard(HeardOnWire {
        wire,
        address: address(10),
        mac: STRANGER,
        outgoing: false,
        at: rig.now,
    }));
    rig.hearing(down());
    rig.pass(Duration::from_mins(1));
    assert!(rig.asked().next().is_none());
    assert_eq!(rig.ledger.leases().len(), 1);
    rig.hearing(Hearing::Up);
    rig.pass(Duration::from_secs(2));
    rig.answer_probes(&[]);
    assert!(rig.ledger.leases().is_empty());
}

#[test]
fn a_former_boots_address_waits_for_the_port() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mut entry = rig.entry(1).clone();
    entry.boot_id = BootId("before".into());
    let loaded = Loaded {
        entries: vec![entry],
        records: rig.store.values().cloned().collect(),
        hears_all: true,
        ..Loaded::default()
    };
    let mut rig = Rig::loaded(config(1), loaded);
    rig.hearing(down());
    rig.observe((NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Absent), AddressFact::Unknown);
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.asked().count(), 0);
    assert_eq!(rig.ledger.leases().len(), 1, "nothing is concluded");
    rig.hearing(Hearing::Up);
    for _ in 0..3 {
        rig.pass(Duration::from_secs(1));
        rig.observe((NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Absent), AddressFact::Unknown);
        rig.answer_probes(&[]);
    }
    assert!(rig.ledger.leases().is_empty(), "and now it is");
}

#[test]
fn after_the_port_returns_attachments_are_probed_then_announced_unless_another_answers() {
    let mut rig = Rig::new(config(3));
    for pod in 1..=3 {
        rig.bound(pod);
    }
    let addresses: Vec<IpAddr> = (1..=3).map(|pod| rig.held_by(pod)[0]).collect();
    rig.answer_probes(&[]);
    rig.hearing(down());
    rig.told();
    rig.hearing(Hearing::Up);
    assert!(addresses.iter().all(|address| rig.asked().any(|asked| asked == *address)), "all are asked for");
    assert!(rig.announced.is_empty());
    rig.answer_probes(&addresses[1..2]);
    rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Present);
    let told = rig.told();
    assert!(told.contains(&"second-holder"), "{told:?}");
    let mut announced = std::mem::take(&mut rig.announced);
    announced.sort();
    let mut wanted = vec![(addresses[0], own_mac(1)), (addresses[2], own_mac(3))];
    wanted.sort();
    assert_eq!(announced, wanted, "the other holder is not talked over");
    assert_eq!(rig.ledger.leases().len(), 3, "nothing is freed");
}

#[test]
fn an_attachments_own_answer_is_no_conflict() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.hearing(down());
    rig.hearing(Hearing::Up);
    rig.told();
    rig.answer_probes_as(&[address(10)], own_mac(1));
    assert!(!rig.told().contains(&"second-holder"));
    assert_eq!(rig.announced, [(address(10), own_mac(1))]);
}

#[test]
fn many_attachments_are_probed_some_at_a_time_and_all_in_the_end() {
    let mut rig = Rig::new(config(40));
    for pod in 1..=40 {
        rig.bound(pod);
    }
    rig.hearing(gap());
    let mut rounds = 0;
    while rig.asked().next().is_some() && rounds < 10 {
        assert!(rig.asked().count() <= 16, "{}", rig.asked().count());
        rounds += 1;
        if rounds == 1 {
            rig.fail_probes("answers were lost");
            rig.pass(Duration::from_secs(1));
        } else {
            rig.answer_probes(&[]);
        }
    }
    let announced: std::collections::BTreeSet<_> = rig.announced.iter().collect();
    assert_eq!((announced.len(), rig.announced.len()), (40, 40));
}

#[test]
fn lost_statements_leave_the_attachments_that_are_still_to_be_probed() {
    let mut rig = Rig::new(config(40));
    for pod in 1..=40 {
        rig.bound(pod);
    }
    rig.hearing(gap());
    rig.hearing(Hearing::Missed("7 frames".to_owned()));
    for _ in 0..5 {
        rig.answer_probes(&[]);
    }
    assert_eq!(rig.announced.len(), 40);
}

#[test]
fn a_former_boots_address_is_not_silent_on_a_port_of_which_nothing_was_reported() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mut entry = rig.entry(1).clone();
    entry.boot_id = BootId("before".into());
    let records = rig.store.values().cloned().collect();
    let entries = vec![entry];
    let loaded = Loaded { entries, records, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::unheard_with(config(1), loaded);
    for _ in 0..3 {
        rig.pass(Duration::from_secs(1));
        rig.observe((NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Absent), AddressFact::Unknown);
        rig.answer_probes(&[]);
    }
    assert_eq!(rig.ledger.leases().len(), 1, "nothing is concluded");
}

#[test]
fn an_agents_start_probes_attachments_and_announces_none() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let entries = vec![rig.entry(1).clone()];
    let records = rig.store.values().cloned().collect();
    let mut rig = Rig::loaded(config(1), Loaded { entries, records, hears_all: true, ..Loaded::default() });
    assert_eq!(rig.asked().collect::<Vec<_>>(), [address(10)]);
    rig.answer_probes(&[]);
    assert!(rig.announced.is_empty());
}

#[test]
fn an_add_that_ended_while_its_address_was_disputed_waits_for_nothing() {
    let mut rig = Rig::new(config(2));
    rig.warm();
    rig.hold_commits = true;
    rig.lease(1);
    rig.step(Input::Hangup(1));
    let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
    let address = rig.held_by(1)[0];
    rig.step(Input::Heard(HeardOnWire { wire, address, mac: STRANGER, outgoing: false, at: rig.now }));
    rig.hold_commits = false;
    rig.finish_all();
    rig.pass(Duration::from_secs(1));
    rig.answer_probes(&[]);
    assert!(rig.granted(1).is_none(), "its plugin is gone");
}
