//! Several ADDs of one attachment, and a DEL among them.

use berth_ipam::attachment::Role;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::TxnId;
use berth_ipam::ledger::entry::{Entry, Phase};
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, address, config, request};

const ALIVE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);

/// Another ADD of that pod, on a connection of its own.
fn again(pod: u64, name: &str) -> LeaseRequest {
    LeaseRequest { txn: TxnId(name.to_owned()), ..request(pod) }
}

fn bind(rig: &mut Rig, conn: u64, request: &LeaseRequest, ifindex: u32) {
    let mac = Mac::derive(&request.key, 0);
    let caller = Caller { conn, call: 2 };
    let (txn, key) = (request.txn.clone(), request.key.clone());
    rig.step(Input::Bind(caller, txn, key, ifindex, mac, LinkSeen::There(mac)));
}

fn done(rig: &mut Rig, conn: u64, request: &LeaseRequest) {
    rig.step(Input::Done(Caller { conn, call: 3 }, request.txn.clone(), request.key.clone()));
}

fn is_done(rig: &Rig, conn: u64) -> bool {
    matches!(rig.reply(conn), Some(Ok(Reply::Done)))
}

/// What an ADD leaves of an attachment, without what only repeats differ in.
fn left(rig: &Rig, pod: u64) -> Entry {
    rig.entry(pod).clone()
}

#[test]
fn a_repeated_add_that_ends_anywhere_leaves_the_attachment_as_it_was() {
    for steps in 0..4 {
        for undone in [false, true] {
            let mut rig = Rig::new(config(2));
            rig.bound(1);
            let before = left(&rig, 1);
            let records = rig.store.clone();
            let second = again(1, "second");
            rig.ask(7, second.clone());
            if steps > 0 {
                rig.observe(ALIVE, AddressFact::Unknown);
                assert_eq!(rig.granted(7), Some(vec![address(10)]));
            }
            if steps > 1 {
                bind(&mut rig, 7, &second, 5);
                assert!(is_done(&rig, 7));
            }
            if steps > 2 {
                done(&mut rig, 7, &second);
                assert!(is_done(&rig, 7));
            }
            if undone {
                let (caller, txn) = (Caller { conn: 8, call: 1 }, Some(second.txn));
                rig.step(Input::Release(Some(caller), second.key, LinkRemoval::Gone, txn));
                assert!(is_done(&rig, 8));
            } else {
                rig.step(Input::Hangup(7));
            }
            rig.observe(ALIVE, AddressFact::Unknown);
            assert_eq!((&left(&rig, 1), &rig.store), (&before, &records), "after {steps}, undone: {undone}");
        }
    }
}

#[test]
fn the_second_and_third_add_wait_for_the_first_and_are_told_its_link() {
    let mut rig = Rig::new(config(3));
    rig.warm();
    rig.lease(1);
    for (conn, name) in [(7, "second"), (8, "third")] {
        rig.ask(conn, again(1, name));
    }
    rig.observe((NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent), AddressFact::Absent);
    bind(&mut rig, 1, &request(1), 5);
    rig.observe(ALIVE, AddressFact::Unknown);
    assert!(rig.reply(7).is_none() && rig.reply(8).is_none(), "the first is not over");
    done(&mut rig, 1, &request(1));
    rig.observe(ALIVE, AddressFact::Unknown);
    for conn in [7, 8] {
        let Some(Ok(Reply::Grant(grant))) = rig.reply(conn) else { panic!("{:?}", rig.reply(conn)) };
        assert_eq!(grant.bound.map(|(ifindex, _)| ifindex), Some(5));
    }
    assert_eq!(rig.store.len(), 1);
}

#[test]
fn a_repeated_add_binds_no_other_link() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let second = again(1, "second");
    rig.ask(7, second.clone());
    rig.observe(ALIVE, AddressFact::Unknown);
    bind(&mut rig, 7, &second, 9);
    assert!(matches!(rig.reply(7), Some(Err(LedgerError::NotTheLink { .. }))));
    assert_eq!(rig.entry(1).ifindex, Some(5));
    // One that is not known, or whose attachment a DEL ended, is refused at any step.
    done(&mut rig, 9, &again(1, "unknown"));
    assert!(matches!(rig.reply(9), Some(Err(LedgerError::NotOpen(..)))));
    rig.step(Input::Release(None, second.key.clone(), LinkRemoval::Unreachable, None));
    done(&mut rig, 7, &second);
    assert!(matches!(rig.reply(7), Some(Err(LedgerError::NotOpen(..)))));
}

#[test]
fn an_attachment_whose_link_is_gone_is_not_told_again_before_it_is_judged() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.ask(7, again(1, "second"));
    rig.observe((NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Unknown), AddressFact::Unknown);
    assert_eq!(rig.reply(7), None);
    rig.step(Input::Hangup(7));
    let until = rig.now + std::time::Duration::from_secs(110);
    rig.ask(8, again(1, "third"));
    while rig.now < until {
        rig.pass(std::time::Duration::from_secs(1));
        rig.observe((NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Unknown), AddressFact::Unknown);
    }
    let reply = rig.reply(8).unwrap().as_ref().unwrap_err().to_string();
    assert!(reply.contains("netns-unknown") || reply.contains("fdb-unknown"), "{reply}");
}

#[test]
fn an_add_whose_del_comes_while_its_record_is_written_is_answered() {
    for refused in [false, true] {
        let mut rig = Rig::new(config(1));
        rig.warm();
        rig.hold_commits = true;
        rig.lease(1);
        let caller = Caller { conn: 9, call: 1 };
        rig.step(Input::Release(Some(caller), request(1).key, LinkRemoval::Unreachable, None));
        rig.hold_commits = false;
        if refused {
            rig.finish_commit(|_| CommitResult::Failed("no room".to_owned()));
        }
        rig.finish_all();
        let answer = rig.reply(1).expect("the ADD is answered");
        assert!(matches!(answer, Err(LedgerError::Deleted(_))), "{answer:?}");
        rig.observe((NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent), AddressFact::Absent);
        rig.step(Input::LinkRemoved(request(1).key, RemoveResult::NotThere));
        rig.observe((NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent), AddressFact::Absent);
        // The rig writes the records before it says that the journal was not written.
        assert!(rig.ledger.leases().is_empty() && (refused || rig.store.is_empty()), "{:?}", rig.store);
    }
}

#[test]
fn a_del_waits_for_the_plugin_that_may_put_the_address_on_another_plugins_link() {
    for ended_by_release in [false, true] {
        let mut rig = Rig::new(config(1));
        rig.warm();
        let chained = LeaseRequest { role: Role::Chained, mac: Some(Mac([2, 0, 0, 0, 0, 7])), ..request(1) };
        rig.ask(1, chained.clone());
        let (caller, mac) = (Caller { conn: 1, call: 2 }, Mac([2, 0, 0, 0, 0, 7]));
        rig.step(Input::Bind(caller, chained.txn.clone(), chained.key.clone(), 5, mac, LinkSeen::There(mac)));
        rig.step(Input::Release(None, chained.key.clone(), LinkRemoval::Gone, None));
        rig.observe(ALIVE, AddressFact::Absent);
        assert_eq!(rig.held_by(1), [address(10)], "the plugin is about to put the address on the link");
        done(&mut rig, 1, &chained);
        assert!(matches!(rig.reply(1), Some(Err(LedgerError::NotOpen(..)))));
        rig.end_add(1, chained, ended_by_release);
        rig.observe(ALIVE, AddressFact::Absent);
        assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
    }
}

#[test]
fn nothing_is_freed_while_the_removal_of_its_link_is_under_way() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    // The rig answers a removal at once; here its answer is late.
    rig.hold_removals = true;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Unreachable, None));
    rig.observe(ALIVE, AddressFact::Absent);
    let gone = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkTornDown(request(1).key, false)));
    rig.pass(std::time::Duration::from_secs(1));
    rig.observe(gone, AddressFact::Absent);
    assert_eq!(rig.entry(1).phase, Phase::Done, "the next ADD's link would be removed in its place");
    rig.step(Input::LinkRemoved(request(1).key, RemoveResult::NotThere));
    rig.observe(gone, AddressFact::Absent);
    assert!(rig.ledger.leases().is_empty(), "{:?}", rig.ledger.leases());
}
