//! A store that other nodes write too: what they hold is not free, and echoes are no news.

use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::ledger::io::*;
use berth_ipam::record::LeaseRecord;

use crate::rig::{Rig, address, config, dual, listed, record, request};

const DEAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);

fn abroad(pod: u64, last: u8) -> LeaseRecord {
    LeaseRecord { node: "n2".parse().unwrap(), ..record(pod, address(last)) }
}

fn news(rig: &mut Rig, news: StoreNews) {
    rig.step(Input::Store(news));
}

fn recorded(rig: &mut Rig, record: &LeaseRecord) {
    rig.store.insert(record.address_key(), record.clone());
    news(rig, StoreNews::Recorded(Box::new(record.clone())));
}

fn erased(rig: &mut Rig, record: &LeaseRecord) {
    rig.store.remove(&record.address_key());
    news(rig, StoreNews::Erased(Box::new(record.clone())));
}

/// Everything waits its turn and is silent.
fn settle(rig: &mut Rig) {
    for _ in 0..4 {
        rig.pass(Duration::from_millis(250));
        rig.answer_probes(&[]);
    }
}

#[test]
fn nothing_is_given_before_the_store_was_read() {
    let mut rig = Rig::shared_unread(config(2), Vec::new());
    rig.lease(1);
    settle(&mut rig);
    assert_eq!(rig.reply(1), None);
    news(&mut rig, listed(vec![abroad(9, 10)]));
    settle(&mut rig);
    assert_eq!(rig.granted(1), Some(vec![address(11)]), "the other one is another node's");
}

#[test]
fn an_add_that_the_store_kept_waiting_says_so() {
    let mut rig = Rig::shared_unread(config(2), Vec::new());
    rig.lease(1);
    rig.pass(Duration::from_secs(111));
    let Some(Err(LedgerError::Barred { why, .. })) = rig.reply(1) else { panic!("{:?}", rig.reply(1)) };
    assert!(why.contains("the store was not read yet"), "{why}");
}

#[test]
fn what_another_node_gives_back_goes_to_who_waits_here() {
    let mut rig = Rig::shared(config(1));
    let other = abroad(9, 10);
    recorded(&mut rig, &other);
    rig.lease(1);
    settle(&mut rig);
    assert_eq!(rig.reply(1), None);
    erased(&mut rig, &other);
    settle(&mut rig);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
}

#[test]
fn who_holds_what_on_other_nodes_is_said_when_nothing_is_free() {
    let mut rig = Rig::shared(config(1));
    recorded(&mut rig, &abroad(9, 10));
    rig.lease(1);
    rig.pass(Duration::from_secs(111));
    let Some(Err(error @ LedgerError::Exhausted { .. })) = rig.reply(1) else { panic!("{:?}", rig.reply(1)) };
    assert!(error.to_string().contains("10.0.0.10 d/p9 on node n2"), "{error}");
    assert_eq!(rig.ledger.pool_counts()[0].abroad, 1);
}

#[test]
fn the_address_of_a_record_that_cannot_be_read_is_nobodys_to_give() {
    let mut rig = Rig::shared(config(1));
    let key = record(9, address(10)).address_key();
    news(&mut rig, StoreNews::Unreadable(key.clone()));
    rig.lease(1);
    settle(&mut rig);
    assert_eq!(rig.reply(1), None);
    assert_eq!(rig.ledger.unreadable(), 1);
    news(&mut rig, StoreNews::Listed { records: Vec::new(), unreadable: vec![key.clone()] });
    settle(&mut rig);
    assert_eq!(rig.reply(1), None);
    news(&mut rig, StoreNews::UnreadableErased(key));
    settle(&mut rig);
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
    assert_eq!(rig.ledger.unreadable(), 0);
}

/// As when the definition of records lacks a field for a while.
#[test]
fn an_own_record_that_could_not_be_read_for_a_while_leaves_its_address_free_in_the_end() {
    for readable_before_its_end in [true, false] {
        let mut rig = Rig::shared(config(1));
        rig.bound(1);
        let own = rig.store.values().next().unwrap().clone();
        news(&mut rig, StoreNews::Unreadable(own.address_key()));
        assert_eq!((rig.ledger.unreadable(), rig.held_by(1)), (1, vec![own.address]));
        if readable_before_its_end {
            news(&mut rig, StoreNews::Recorded(Box::new(own.clone())));
            assert_eq!((rig.ledger.unreadable(), rig.held_by(1)), (0, vec![own.address]));
        }
        rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(1).netns.nsid)));
        rig.observe_of(1, DEAD, AddressFact::Absent);
        assert!(rig.store.is_empty());
        news(&mut rig, StoreNews::Erased(Box::new(own.clone())));
        rig.lease(2);
        settle(&mut rig);
        assert_eq!(rig.granted(2), Some(vec![own.address]));
    }
}

#[test]
fn an_add_whose_record_is_refused_waits_and_says_why() {
    let mut rig = Rig::shared(config(1));
    rig.warm();
    rig.store_down = true;
    rig.lease(1);
    settle(&mut rig);
    assert_eq!((rig.reply(1), rig.ledger.refusal()), (None, Some("no answer")));
    rig.store_down = false;
    for _ in 0..4 {
        settle(&mut rig);
    }
    assert_eq!(rig.granted(1), Some(vec![address(10)]));
    assert_eq!(rig.ledger.refusal(), None);
}

#[test]
fn an_address_that_another_node_took_first_is_avoided_and_not_adopted() {
    let mut rig = Rig::shared(config(2));
    let first = {
        let mut other = Rig::shared(config(2));
        other.bound(1);
        other.held_by(1)[0]
    };
    // The store has it; the watch has not told yet.
    let theirs = LeaseRecord { node: "n2".parse().unwrap(), ..record(9, first) };
    rig.store.insert(theirs.address_key(), theirs.clone());
    rig.bound(1);
    assert_ne!(rig.held_by(1), [first]);
    assert!(rig.ledger.entry(&request(9).key).is_none(), "it is the other node's");
    assert!(rig.ledger.abroad().contains_key(&theirs.address_key()));
    assert_eq!(rig.ledger.pool_counts()[0].free, 0, "what was tried in vain is not free either");
}

#[test]
fn echoes_of_own_writes_are_no_news() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let own = rig.store.values().next().unwrap().clone();
    let was = rig.held_by(1)[0];
    news(&mut rig, StoreNews::Recorded(Box::new(own.clone())));
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert!(rig.store.is_empty());
    rig.told();
    news(&mut rig, StoreNews::Recorded(Box::new(own.clone())));
    assert!(rig.ledger.entry(&request(1).key).is_none(), "a late echo brought it back");
    news(&mut rig, StoreNews::Erased(Box::new(own)));
    assert_eq!(rig.told(), Vec::<&str>::new());
    rig.bound(2);
    rig.bound(3);
    assert!([rig.held_by(2)[0], rig.held_by(3)[0]].contains(&was), "it is free again");
}

#[test]
fn a_record_that_a_late_request_makes_again_is_adopted_and_freed() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let own = rig.store.values().next().unwrap().clone();
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(1).netns.nsid)));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert!(rig.store.is_empty());
    // Nothing tells of its end: it is no echo.
    recorded(&mut rig, &own);
    rig.pass(Duration::from_secs(11));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert!(rig.store.is_empty(), "{:?}", rig.store);
}

#[test]
fn a_record_deleted_or_edited_by_hand_is_put_right_while_its_lease_lives() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let own = rig.store.values().next().unwrap().clone();
    erased(&mut rig, &own);
    assert_eq!(rig.store.get(&own.address_key()).map(|found| &found.txn), Some(&own.txn));
    assert!(rig.told().contains(&"record-repaired"));
    let edited = LeaseRecord { node: "n7".parse().unwrap(), ..own.clone() };
    recorded(&mut rig, &edited);
    assert_eq!(rig.store.get(&own.address_key()).map(|found| found.node.as_str()), Some("n1"));
    assert!(rig.told().contains(&"record-edited"));
}

#[test]
fn a_living_address_that_is_recorded_for_another_is_kept_and_told() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let was = rig.held_by(1)[0];
    let forged = LeaseRecord { node: "n2".parse().unwrap(), ..record(9, was) };
    recorded(&mut rig, &forged);
    let text = rig.text("two-holders").unwrap_or_default().to_owned();
    assert!(text.contains("on node n2") && text.contains("nothing is freed"), "{text}");
    assert_eq!(rig.held_by(1), [was]);
    // A stale echo of a former holder is no conflict: the live read shows the own record.
    rig.told();
    let own = LeaseRecord { txn: request(1).txn, ..record(1, was) };
    rig.store.insert(own.address_key(), own);
    news(&mut rig, StoreNews::Recorded(Box::new(forged)));
    assert!(!rig.told().contains(&"two-holders"));
}

#[test]
fn a_store_that_went_back_to_a_former_holder_on_this_node_is_told_who_has_the_address_now() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let former = rig.store.values().next().unwrap().clone();
    let was = former.address;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    rig.ask(2, LeaseRequest { ips: vec![was], ..request(2) });
    rig.answer_probes(&[]);
    let (mac, LeaseRequest { txn, key, .. }) = (berth_ipam::mac::Mac::derive(&request(2).key, 0), request(2));
    let caller = Caller { conn: 2, call: 2 };
    rig.step(Input::Bind(caller, txn.clone(), key.clone(), 5, mac, LinkSeen::There(mac)));
    rig.step(Input::Done(caller, txn, key));
    assert_eq!(rig.held_by(2), [was]);
    // Of two addresses that the former holder had, one is nobody's now: it is adopted with that.
    let other = if was == address(10) { address(11) } else { address(10) };
    recorded(
        &mut rig,
        &LeaseRecord { txn: berth_ipam::identity::TxnId("old".to_owned()), ..record(1, other) },
    );
    assert_eq!(rig.held_by(1), [other]);
    rig.told();
    let stale = LeaseRecord { txn: berth_ipam::identity::TxnId("old".to_owned()), ..former };
    recorded(&mut rig, &stale);
    assert!(!rig.told().contains(&"two-holders"));
    assert_eq!(rig.store[&stale.address_key()].txn, request(2).txn);
    // The same of another machine that once had this node's name proves nothing.
    let machine = berth_ipam::identity::MachineId("another".to_owned());
    recorded(&mut rig, &LeaseRecord { machine_id: machine, ..stale });
    assert!(rig.told().contains(&"two-holders"));
}

#[test]
fn both_addresses_of_an_attachment_are_put_right_one_after_the_other() {
    let mut rig = Rig::shared(dual(2));
    rig.bound(1);
    let stale: Vec<_> = rig
        .store
        .values()
        .map(|own| LeaseRecord { key: request(9).key, txn: request(9).txn, ..own.clone() })
        .collect();
    assert_eq!(stale.len(), 2);
    rig.store = stale.iter().map(|record| (record.address_key(), record.clone())).collect();
    rig.hold_commits = true;
    for record in &stale {
        news(&mut rig, StoreNews::Recorded(Box::new(record.clone())));
    }
    rig.hold_commits = false;
    rig.finish_all();
    rig.pass(Duration::from_secs(3));
    assert!(rig.store.values().all(|record| record.txn == request(1).txn), "{:?}", rig.store);
}

#[test]
fn an_address_in_use_is_recorded_again_when_the_record_in_its_place_goes() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let was = rig.held_by(1)[0];
    let stale = LeaseRecord { node: "n2".parse().unwrap(), ..record(9, was) };
    recorded(&mut rig, &stale);
    assert!(rig.told().contains(&"two-holders"));
    erased(&mut rig, &stale);
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.store.values().map(|record| &record.txn).collect::<Vec<_>>(), [&request(1).txn]);
}

#[test]
fn a_record_of_this_node_that_nobody_knows_is_read_live_adopted_and_judged() {
    let mut rig = Rig::shared(config(2));
    let unknown = record(5, address(10));
    // Only the watch says so: by now it is gone.
    news(&mut rig, StoreNews::Recorded(Box::new(unknown.clone())));
    assert!(rig.ledger.entry(&unknown.key).is_none());
    recorded(&mut rig, &unknown);
    assert!(rig.ledger.entry(&unknown.key).is_some());
    rig.observe_of(5, DEAD, AddressFact::Absent);
    assert!(rig.store.is_empty());
}

#[test]
fn a_relist_repairs_what_it_misses_and_frees_what_is_gone_abroad() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    let other = if rig.held_by(1) == [address(10)] { abroad(9, 11) } else { abroad(9, 10) };
    recorded(&mut rig, &other);
    let restored: Vec<LeaseRecord> = Vec::new();
    rig.store.clear();
    news(&mut rig, listed(restored));
    assert_eq!(rig.store.values().map(|record| &record.txn).collect::<Vec<_>>(), [&request(1).txn]);
    assert!(rig.ledger.abroad().is_empty());
}

#[test]
fn through_an_outage_adds_wait_and_dels_succeed() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    rig.warm();
    rig.store_down = true;
    rig.lease(2);
    for _ in 0..20 {
        rig.pass(Duration::from_millis(500));
        rig.answer_probes(&[]);
        rig.observe_of(2, (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent), AddressFact::Absent);
    }
    assert_eq!(rig.reply(2), None, "it waits");
    let caller = Caller { conn: 1, call: 9 };
    rig.step(Input::Release(Some(caller), request(1).key, LinkRemoval::Gone, None));
    rig.pass(Duration::from_millis(400));
    assert!(matches!(rig.reply(1), Some(Ok(Reply::Done))), "{:?}", rig.reply(1));
    rig.store_down = false;
    for _ in 0..6 {
        rig.pass(Duration::from_secs(1));
        rig.answer_probes(&[]);
        rig.observe_of(1, DEAD, AddressFact::Absent);
    }
    assert!(rig.granted(2).is_some());
    assert_eq!(rig.store.values().map(|record| &record.txn).collect::<Vec<_>>(), [&request(2).txn]);
}

#[test]
fn an_outage_longer_than_an_add_waits_is_named() {
    let mut rig = Rig::shared(config(2));
    rig.warm();
    rig.store_down = true;
    rig.lease(2);
    rig.answer_probes(&[]);
    for _ in 0..112 {
        rig.pass(Duration::from_secs(1));
    }
    let Some(Err(LedgerError::Barred { why, .. })) = rig.reply(2) else { panic!("{:?}", rig.reply(2)) };
    assert!(why.contains("no answer"), "{why}");
}

#[test]
fn a_bar_keeps_adds_waiting_and_not_dels() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    rig.step(Input::Bar("node-name", Some("node n1 is another agent's".to_owned())));
    rig.lease(2);
    settle(&mut rig);
    assert_eq!(rig.reply(2), None);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert!(rig.store.is_empty());
    rig.step(Input::Bar("node-name", None));
    settle(&mut rig);
    assert!(rig.granted(2).is_some());
}

/// An agent that starts again reads what is declared from the API server; its journal it has at once.
#[test]
fn an_add_that_repeats_itself_to_a_new_agent_waits_until_the_declarations_are_read() {
    let mut rig = Rig::shared(config(2));
    rig.lease(1);
    settle(&mut rig);
    assert!(rig.granted(1).is_some());
    let (was, entry) = (rig.held_by(1), rig.entry(1).clone());
    let records: Vec<_> = rig.store.values().cloned().collect();
    for done in [false, true] {
        let mut entry = entry.clone();
        if done {
            entry.phase = berth_ipam::ledger::entry::Phase::Done;
        }
        let mut rig = Rig::shared_unread(berth_ipam::config::Config::default(), vec![entry]);
        rig.store = records.iter().map(|record| (record.address_key(), record.clone())).collect();
        rig.step(Input::Bar("declarations", Some("not read yet".to_owned())));
        // Done, and asked again by a plugin that knows nothing of the first try.
        let txn = if done { berth_ipam::identity::TxnId("again".to_owned()) } else { request(1).txn };
        rig.ask(1, LeaseRequest { txn, ..request(1) });
        news(&mut rig, listed(records.clone()));
        rig.pass(Duration::from_secs(2));
        assert_eq!(rig.reply(1), None, "done: {done}");
        rig.step(Input::Declared(Box::new(config(2))));
        rig.step(Input::Bar("declarations", None));
        settle(&mut rig);
        rig.observe((NetnsFact::Alive, LinkFact::Present, FdbFact::Present), AddressFact::Unknown);
        assert_eq!(rig.granted(1), Some(was.clone()), "done: {done}");
    }
}
