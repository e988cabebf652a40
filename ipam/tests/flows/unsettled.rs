//! What no verdict settles is listed after a minute, with what ends it, and leaves the list with that.

use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::MachineId;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::unsettled::{GUARDED, LASTING, RELEASING, UNJUDGED};
use berth_ipam::verdict::{Ending, Hand, Row};

use crate::rig::{Rig, address, config, request};

const ALIVE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);
const OTHER_MAC: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::OtherMac, FdbFact::Absent);
const LINK_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
const NETNS_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);
const TICK: Duration = Duration::from_secs(1);

/// The reason codes and the endings of what is listed.
fn listed(rig: &Rig) -> Vec<(String, Ending)> {
    rig.ledger.unsettled(rig.now).iter().map(|one| (one.reason.to_owned(), one.ending)).collect()
}

/// As long as it takes to be listed; everything is read again and again meanwhile.
fn last(rig: &mut Rig, facts: (NetnsFact, LinkFact, FdbFact), address: AddressFact) {
    for _ in 0..LASTING.as_secs() + 2 {
        rig.pass(TICK);
        rig.ledger.reconcile();
        rig.step(Input::Tick);
        rig.observe(facts, address);
    }
}

#[test]
fn what_lasts_is_listed_with_its_row_and_leaves_the_list_when_it_is_settled() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    last(&mut rig, ALIVE, AddressFact::Present);
    assert_eq!(listed(&rig), [], "in use, and nothing is left to do");

    rig.ledger.reconcile();
    rig.step(Input::Tick);
    rig.observe(OTHER_MAC, AddressFact::Present);
    rig.pass(LASTING);
    assert_eq!(listed(&rig), [], "not longer than a minute");
    rig.pass(TICK);
    let row = Row::of("link-gone-search").unwrap();
    let (reason, ending) = listed(&rig).remove(0);
    assert_eq!(Some(ending), Row::of(&reason).unwrap().ending, "{row:?}");
    last(&mut rig, OTHER_MAC, AddressFact::Present);
    assert_eq!(rig.ledger.unsettled(rig.now).len(), 1);

    rig.ledger.reconcile();
    rig.step(Input::Tick);
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(listed(&rig), []);
}

#[test]
fn reasons_that_alternate_are_one_time() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None)));
    for turn in 0..200 {
        let unseen = SearchOutcome::Incomplete("/proc/7/fd: refused".into());
        let outcome = if turn / 35 % 2 == 0 { SearchOutcome::NotFound } else { unseen };
        rig.observe_search_as(LINK_GONE, &outcome);
        rig.pass(TICK);
    }
    let told = rig.told();
    let changes = told.iter().filter(|code| Row::of(code).is_some()).count();
    assert!(changes > 2, "complete searches alternate with incomplete ones: {told:?}");
    let list = rig.ledger.unsettled(rig.now);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].addresses, [address(10)]);
    assert!(matches!(list[0].ending.hand, Hand::Needed(_)));
}

#[test]
fn a_search_that_found_nothing_is_made_again_however_often_everything_is_read() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None)));
    let mut searches = 0;
    for _ in 0..300 {
        rig.pass(TICK);
        rig.ledger.reconcile();
        rig.step(Input::Tick);
        searches += rig.observe_search(LINK_GONE, AddressFact::Unknown, FdbFact::Absent);
    }
    assert!((8..20).contains(&searches), "{searches}: ever further apart, up to half a minute");
}

#[test]
fn what_an_incomplete_search_could_not_see_is_named_until_a_complete_one() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let key = request(1).key;
    let at = request(1).netns.nsid;
    rig.step(Input::Kernel(Source::Netlink, KernelHint::LinkMoved(Some(at), 5, None)));
    rig.observe_search_as(NETNS_GONE, &SearchOutcome::Incomplete("/proc/7/fd: refused".into()));
    rig.pass(LASTING + TICK);
    assert_eq!(rig.ledger.unsettled(rig.now)[0].unsearched, Some("/proc/7/fd: refused"));
    rig.observe_search_as(NETNS_GONE, &SearchOutcome::NotFound);
    let list = rig.ledger.unsettled(rig.now);
    assert_eq!((list[0].key, list[0].unsearched), (&key, None));
}

#[test]
fn a_del_of_what_lives_on_is_listed() {
    let mut rig = Rig::new(config(1));
    let delegate = LeaseRequest { role: berth_ipam::attachment::Role::Delegate, ..request(1) };
    rig.warm();
    rig.ask(1, delegate);
    rig.answer_probes(&[]);
    let LeaseRequest { txn, key, .. } = request(1);
    rig.step(Input::Done(Caller { conn: 1, call: 2 }, txn, key.clone()));
    let unseen = (NetnsFact::Alive, LinkFact::NeverSeen, FdbFact::Blind);
    last(&mut rig, unseen, AddressFact::Present);
    assert_eq!(listed(&rig), []);
    rig.step(Input::Release(Some(Caller { conn: 2, call: 1 }), key, LinkRemoval::NotMine, None));
    last(&mut rig, unseen, AddressFact::Present);
    assert_eq!(listed(&rig).len(), 1, "its namespace ought to have ended by now");
}

#[test]
fn a_release_that_the_store_does_not_take_is_listed() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.store_down = true;
    rig.ledger.reconcile();
    rig.step(Input::Tick);
    last(&mut rig, NETNS_GONE, AddressFact::Unknown);
    assert_eq!(listed(&rig), [("netns-gone".to_owned(), RELEASING)]);
    rig.store_down = false;
    last(&mut rig, NETNS_GONE, AddressFact::Unknown);
    assert_eq!(listed(&rig), []);
}

#[test]
fn a_forced_address_is_listed_with_its_former_holder_while_that_is_up() {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(Input::AdminRelease(Caller { conn: 9, call: 1 }, (address(10), None), true));
    rig.pass(LASTING + TICK);
    assert_eq!(listed(&rig), [("forced".to_owned(), GUARDED)]);
    assert_eq!(*rig.ledger.unsettled(rig.now)[0].key, request(1).key);
}

#[test]
fn what_was_never_judged_since_the_start_is_listed() {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    let here = rig.entry(1).clone();
    let mut other = here.clone();
    other.machine_id = MachineId("m2".into());
    let entries = |entry| Loaded { entries: vec![entry], hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(2), entries(here));
    rig.pass(LASTING + TICK);
    assert_eq!(listed(&rig), [("restarted".to_owned(), UNJUDGED)]);
    let mut rig = Rig::loaded(config(2), entries(other));
    last(&mut rig, NETNS_GONE, AddressFact::Unknown);
    assert_eq!(listed(&rig)[0].0, "other-machine");
}

#[test]
fn holders_of_a_network_that_is_not_declared_any_more_are_listed_and_their_dels_work() {
    let mut before = Rig::new(config(2));
    before.bound(1);
    let mut without = config(2);
    without.networks.clear();
    without.pools.clear();
    let entries = vec![before.entry(1).clone()];
    let records = before.store.values().cloned().collect();
    let loaded = Loaded { entries, records, hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(without, loaded);
    last(&mut rig, ALIVE, AddressFact::Present);
    let key = request(1).key;
    let holders: Vec<_> = rig.ledger.undeclared().into_values().flatten().collect();
    assert_eq!(holders, [(&key, address(10))]);
    assert_eq!(rig.ledger.leases().len(), 1);
    assert_eq!(listed(&rig), []);

    rig.step(Input::Bar("declarations", Some("not read yet".into())));
    assert!(rig.ledger.undeclared().is_empty(), "which networks there are is not known");
    rig.step(Input::Bar("declarations", None));

    rig.step(Input::Release(Some(Caller { conn: 2, call: 1 }), key, LinkRemoval::Gone, None));
    rig.observe(NETNS_GONE, AddressFact::Unknown);
    assert!(matches!(rig.reply(2), Some(Ok(Reply::Done))));
    assert!(rig.ledger.undeclared().is_empty() && rig.store.is_empty());
}
