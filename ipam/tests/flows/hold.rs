//! Hold: the address of a dead sandbox waits for its pod's next one, and for nobody's loss.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::TxnId;
use berth_ipam::ledger::entry::Phase;
use berth_ipam::ledger::io::*;

use crate::rig::{Rig, address, config, listed, record, request};

const DEAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);

fn wanted(rig: &mut Rig, pods: &[u64]) {
    let uids: BTreeSet<_> = pods.iter().map(|pod| format!("u{pod}")).collect();
    rig.step(Input::Pods(PodNews::Listed(uids)));
}

fn dies(rig: &mut Rig, pod: u64) {
    rig.step(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(request(pod).netns.nsid)));
    rig.observe_of(pod, DEAD, AddressFact::Absent);
}

/// The next sandbox of a pod.
fn next_sandbox(of: u64, pod: u64) -> LeaseRequest {
    LeaseRequest { pod: request(of).pod, txn: TxnId(format!("next{of}")), ..request(pod) }
}

fn held(pods: &[u64]) -> Rig {
    let mut rig = Rig::shared(config(2));
    for &pod in pods {
        rig.bound(pod);
    }
    wanted(&mut rig, pods);
    for &pod in pods {
        dies(&mut rig, pod);
        assert_eq!(rig.entry(pod).phase, Phase::Held);
    }
    rig
}

#[test]
fn the_next_sandbox_of_a_living_pod_gets_the_same_address_by_one_write() {
    let mut rig = held(&[1]);
    let was = rig.held_by(1);
    rig.ask(7, next_sandbox(1, 7));
    assert_eq!(rig.granted(7), Some(was));
    assert!(rig.ledger.entry(&request(1).key).is_none());
    assert_eq!(rig.store.len(), 1);
}

/// The store went back to when that pod lived here; another node may have given its address since.
#[test]
fn what_is_only_known_by_a_record_that_came_up_is_neither_held_nor_handed_on() {
    let mut rig = Rig::shared(config(1));
    wanted(&mut rig, &[5]);
    let stale = record(5, address(10));
    rig.store.insert(stale.address_key(), stale.clone());
    rig.step(Input::Store(StoreNews::Recorded(Box::new(stale))));
    assert_eq!(rig.entry(5).phase, Phase::Done, "adopted");
    rig.ask(7, next_sandbox(5, 7));
    rig.observe_of(5, DEAD, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(5).key).is_none() && rig.store.is_empty());
    assert_eq!(rig.granted(7), None, "the wire is asked first");
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(7), Some(vec![address(10)]));
}

/// That a record was missing once is known after a restart, too.
#[test]
fn what_may_be_anothers_stays_so_over_a_restart() {
    let mut rig = Rig::shared(config(1));
    rig.bound(5);
    let lost = rig.store.pop_first().unwrap().1;
    rig.step(Input::Store(StoreNews::Erased(Box::new(lost))));
    assert_eq!(rig.store.len(), 1, "written again");
    let (entry, records) = (rig.entry(5).clone(), rig.store.values().cloned().collect());
    let store = rig.store.clone();
    let mut rig = Rig::shared_unread(config(1), vec![entry]);
    rig.store = store;
    rig.step(Input::Store(listed(records)));
    wanted(&mut rig, &[5]);
    rig.ask(7, next_sandbox(5, 7));
    rig.observe_of(5, DEAD, AddressFact::Absent);
    assert!(rig.ledger.entry(&request(5).key).is_none());
    assert_eq!(rig.granted(7), None, "the wire is asked first");
    rig.answer_probes(&[]);
    assert_eq!(rig.granted(7), Some(vec![address(10)]));
}

#[test]
fn who_needs_it_gets_a_held_address_the_longest_held_first() {
    let mut rig = held(&[1]);
    rig.pass(Duration::from_secs(1));
    rig.bound(2);
    wanted(&mut rig, &[1, 2]);
    dies(&mut rig, 2);
    let was = rig.held_by(1);
    rig.lease(3);
    assert_eq!(rig.granted(3), Some(was));
    assert_eq!(rig.entry(2).phase, Phase::Held);
}

#[test]
fn nothing_is_held_for_a_pod_that_is_not_wanted() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    wanted(&mut rig, &[2]);
    dies(&mut rig, 1);
    assert!(rig.store.is_empty());
}

#[test]
fn until_the_pods_are_known_an_address_waits_for_the_first_word_of_them_for_seconds() {
    let unknown = || {
        let mut rig = Rig::shared_unread(config(2), Vec::new());
        rig.step(Input::Store(listed(Vec::new())));
        rig.bound(1);
        dies(&mut rig, 1);
        assert_eq!(rig.entry(1).phase, Phase::Held);
        rig.pass(Duration::from_secs(3));
        rig
    };
    let mut rig = unknown();
    rig.pass(Duration::from_secs(3));
    assert!(rig.store.is_empty(), "nobody said a word");
    let mut rig = unknown();
    wanted(&mut rig, &[2]);
    assert!(rig.store.is_empty(), "it is not meant to live");
    let mut rig = unknown();
    wanted(&mut rig, &[1]);
    rig.pass(Duration::from_secs(50));
    assert_eq!(rig.entry(1).phase, Phase::Held, "the minute is that of a pod");
    rig.pass(Duration::from_secs(10));
    assert!(rig.store.is_empty());
    let mut rig = unknown();
    for pod in 2..4 {
        rig.lease(pod);
        rig.answer_probes(&[]);
        assert!(rig.granted(pod).is_some(), "{pod}");
    }
}

#[test]
fn a_hold_ends_with_its_pod_or_after_a_minute() {
    let mut rig = held(&[1]);
    rig.step(Input::Pods(PodNews::Unwanted("u1".to_owned())));
    assert!(rig.store.is_empty());
    let mut rig = held(&[1]);
    rig.pass(Duration::from_secs(59));
    assert_eq!(rig.store.len(), 1);
    rig.pass(Duration::from_secs(2));
    assert!(rig.store.is_empty());
}

#[test]
fn a_held_attachment_is_over_for_its_runtime() {
    let mut rig = held(&[1]);
    let caller = |call| Caller { conn: 50, call };
    rig.step(Input::Check(caller(1), request(1).key));
    assert!(matches!(rig.reply(50), Some(Err(LedgerError::NotRecorded(_)))));
    rig.step(Input::Release(Some(caller(2)), request(1).key, LinkRemoval::Unreachable, None));
    assert!(matches!(rig.reply(50), Some(Ok(Reply::Done))));
    rig.step(Input::Gc(caller(3), "lan".parse().unwrap(), BTreeSet::new()));
    assert!(matches!(rig.reply(50), Some(Ok(Reply::Done))));
    assert_eq!(rig.entry(1).phase, Phase::Held);
    rig.step(Input::AdminRelease(caller(4), (rig.held_by(1)[0], None), false));
    assert!(matches!(rig.reply(50), Some(Ok(Reply::Released(_)))));
    assert!(rig.store.is_empty());
}

#[test]
fn what_was_held_before_a_restart_is_held_still() {
    let rig = held(&[1]);
    let entry = rig.entry(1).clone();
    let records = rig.store.values().cloned().collect();
    let mut rig = Rig::shared_unread(config(2), vec![entry]);
    rig.step(Input::Store(listed(records)));
    assert_eq!(rig.entry(1).phase, Phase::Held);
    wanted(&mut rig, &[1]);
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert_eq!(rig.entry(1).phase, Phase::Held);
    wanted(&mut rig, &[]);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn a_del_of_a_living_pods_dead_sandbox_is_answered_at_once() {
    let mut rig = Rig::shared(config(2));
    rig.bound(1);
    wanted(&mut rig, &[1]);
    rig.step(Input::Release(Some(Caller { conn: 50, call: 1 }), request(1).key, LinkRemoval::Gone, None));
    rig.observe_of(1, DEAD, AddressFact::Absent);
    assert!(matches!(rig.reply(50), Some(Ok(Reply::Done))));
    assert_eq!(rig.entry(1).phase, Phase::Held);
}

#[test]
fn a_namespace_left_by_everybody_is_kept_while_its_pod_is_meant_to_live() {
    let mut declared = config(2);
    declared.networks.values_mut().next().unwrap().leaked_after = Some(Duration::from_secs(5));
    let mut rig = Rig::shared(declared);
    rig.bound(1);
    wanted(&mut rig, &[1]);
    let inode = request(1).netns.inode;
    let complete = || ScanReport { complete: true, holders_complete: true, ..ScanReport::default() };
    let inhabited =
        || ScanReport { tenants: vec![(inode, (7, 7))], occupied: BTreeSet::from([inode]), ..complete() };
    for _ in 0..2 {
        rig.step(Input::Scanned(inhabited()));
        rig.pass(Duration::from_secs(6));
    }
    rig.told();
    for _ in 0..4 {
        rig.step(Input::Scanned(complete()));
        rig.pass(Duration::from_secs(6));
    }
    let told = rig.told();
    assert!(told.contains(&"namespace-empty") && !told.contains(&"namespace-empty-again"), "{told:?}");
    wanted(&mut rig, &[]);
    // The watch alone is not believed: the pod is read live, and again while nobody says that it is over.
    let over = |rig: &mut Rig| rig.told().contains(&"namespace-empty-again");
    for answer in [Some(true), None] {
        rig.step(Input::Scanned(complete()));
        assert_eq!(std::mem::take(&mut rig.pods_asked), [request(1).key]);
        rig.step(Input::Pods(PodNews::Looked(request(1).key, answer)));
        rig.step(Input::Scanned(complete()));
        assert!(rig.pods_asked.is_empty() && !over(&mut rig), "{answer:?}");
        rig.pass(Duration::from_secs(6));
    }
    rig.step(Input::Scanned(complete()));
    let scans = rig.scans;
    rig.step(Input::Pods(PodNews::Looked(request(1).key, Some(false))));
    assert!(rig.scans > scans && !over(&mut rig), "it is looked at once more first");
    rig.step(Input::Scanned(complete()));
    assert!(over(&mut rig));
}
