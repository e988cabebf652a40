//! Departures of links: what is told of an end or a move, of which link, and what a search may add.

use std::cell::Cell;
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::*;
use berth_ipam::mac::Mac;

use crate::rig::{Rig, config, found, namespace, request};

const ALIVE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);
const LINK_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent);
const NETNS_GONE: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);
const OTHERS: Mac = Mac([2, 0, 0, 0, 6, 2]);
/// A number of another namespace, and one more.
const ELSEWHERE: i32 = 70_050;
const FURTHER: i32 = 70_060;
/// The index of the link of each pod.
const INDEX: u32 = 5;
/// The namespace in which the link of the first pod was made, as events name it.
const HOME: Option<Nsid> = Some(Nsid(70_001));

fn netlink(hint: KernelHint) -> Input {
    Input::Kernel(Source::Netlink, hint)
}

/// A pod with a link that was read as there.
fn present() -> Rig {
    let mut rig = Rig::new(config(2));
    rig.bound(1);
    rig.observe(ALIVE, AddressFact::Present);
    assert_eq!(HOME, Some(rig.entry(1).at));
    rig
}

/// A pod with a link that moved, was found, and has not been read where it is.
fn followed() -> Rig {
    let mut rig = present();
    rig.step(netlink(KernelHint::LinkMoved(HOME, INDEX, None)));
    let mac = rig.entry(1).mac.unwrap();
    rig.observe_search_as(LINK_GONE, &found(ELSEWHERE, 7, mac));
    assert_eq!(rig.entry(1).at, Nsid(ELSEWHERE));
    rig
}

/// The link is missing from its living namespace for longer than it takes to settle; whether it is kept.
fn is_kept(rig: &mut Rig) -> bool {
    for _ in 0..4 {
        rig.observe(LINK_GONE, AddressFact::Absent);
        rig.pass(Duration::from_secs(3));
    }
    rig.ledger.entry(&request(1).key).is_some()
}

#[test]
fn a_link_of_the_same_index_and_mac_elsewhere_ends_nothing() {
    let mut rig = present();
    let mac = rig.entry(1).mac;
    rig.step(netlink(KernelHint::LinkGone(Some(Nsid(ELSEWHERE)), INDEX, mac)));
    assert!(is_kept(&mut rig), "it may be out of sight");
    let mut rig = present();
    rig.step(netlink(KernelHint::LinkGone(HOME, INDEX, mac)));
    assert!(!is_kept(&mut rig));
}

/// Events are lost, and while the link is read as there an end of that index is told; it is missing from then on.
fn ended_while_it_is_read(mac: Mac) -> Rig {
    let mut rig = present();
    rig.step(netlink(KernelHint::Overrun));
    rig.pass(Duration::from_secs(1));
    rig.step(netlink(KernelHint::LinkGone(HOME, INDEX, Some(mac))));
    let reads = Cell::new(0);
    rig.answer_gathers(|target| {
        reads.set(reads.get() + 1);
        let (netns, link, fdb) = if reads.get() == 1 { ALIVE } else { LINK_GONE };
        let address = if link == LinkFact::Present { AddressFact::Present } else { AddressFact::Absent };
        let search = (target.search && link != LinkFact::Present).then_some(SearchOutcome::NotFound);
        let (key, stamp) = (target.key.clone(), target.stamp);
        Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
    });
    rig
}

#[test]
fn an_end_that_is_told_while_the_link_is_read_after_lost_events_is_its_end() {
    let own = present().entry(1).mac.unwrap();
    assert!(!is_kept(&mut ended_while_it_is_read(own)), "it was there after the events that were lost");
    assert!(is_kept(&mut ended_while_it_is_read(OTHERS)), "a later link of that index");
}

#[test]
fn an_end_that_is_told_after_lost_events_may_be_that_of_a_later_link() {
    let mut rig = present();
    let mac = rig.entry(1).mac;
    rig.step(netlink(KernelHint::Overrun));
    rig.step(netlink(KernelHint::LinkGone(HOME, INDEX, mac)));
    assert!(is_kept(&mut rig));
}

#[test]
fn a_link_of_another_attachment_is_followed_by_no_copied_alias() {
    let mut rig = present();
    rig.bound(2);
    rig.observe(ALIVE, AddressFact::Present);
    let others = rig.entry(2).mac.unwrap();
    for (number, netns, mac) in [
        (INDEX, request(2).netns, OTHERS),
        (9, namespace(ELSEWHERE), others),
        (9, namespace(ELSEWHERE), OTHERS),
    ] {
        rig.step(netlink(KernelHint::LinkMoved(HOME, INDEX, None)));
        let home = rig.entry(1).at;
        let outcome = SearchOutcome::Found { netns: netns.clone(), ifindex: number, mac, marked: true };
        rig.observe_search_as(LINK_GONE, &outcome);
        let is_own = mac == OTHERS && number == 9;
        assert_eq!(rig.entry(1).at != home, is_own, "{outcome:?}");
        assert_eq!(rig.entry(2).at, request(2).netns.nsid);
    }
}

/// Answers all reads so, and searches with the outcome; whether a search was made.
fn searched(rig: &mut Rig, facts: (NetnsFact, LinkFact, FdbFact), outcome: &SearchOutcome) -> bool {
    let made = Cell::new(false);
    rig.answer_gathers(|target| {
        made.set(made.get() || target.search);
        let (netns, link, fdb) = facts;
        let search = target.search.then(|| outcome.clone());
        let (key, stamp, address) = (target.key.clone(), target.stamp, AddressFact::Absent);
        Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
    });
    made.get()
}

#[test]
fn a_search_of_before_the_end_of_the_namespace_does_not_prove_where_the_link_was() {
    let mut rig = present();
    let mac = rig.entry(1).mac.unwrap();
    rig.step(netlink(KernelHint::Overrun));
    rig.pass(Duration::from_secs(1));
    assert!(searched(&mut rig, LINK_GONE, &SearchOutcome::NotFound));
    rig.step(netlink(KernelHint::NamespaceGone(request(1).netns.nsid)));
    assert!(searched(&mut rig, NETNS_GONE, &found(FURTHER, 7, mac)));
    assert_eq!(rig.entry(1).at, Nsid(FURTHER));
}

#[test]
fn a_link_that_was_found_may_have_moved_on_before_it_was_read() {
    let mut rig = followed();
    let mac = rig.entry(1).mac.unwrap();
    rig.pass(Duration::from_secs(1));
    assert!(searched(&mut rig, NETNS_GONE, &found(FURTHER, 7, mac)));
    assert_eq!(rig.entry(1).at, Nsid(FURTHER), "the end of the namespace is not its end");
}

#[test]
fn a_teardown_that_a_program_tells_of_the_old_index_is_not_that_of_a_followed_link() {
    let mut rig = followed();
    rig.pass(Duration::from_secs(1));
    rig.observe(ALIVE, AddressFact::Present);
    rig.step(Input::Kernel(Source::Program("tp_btf"), KernelHint::LinkTornDown(request(1).key, true)));
    assert!(is_kept(&mut rig));
}

#[test]
fn a_mac_alone_leads_nowhere_once_the_end_is_told() {
    let mut rig = present();
    let mac = rig.entry(1).mac.unwrap();
    rig.step(Input::Kernel(Source::Program("tp_btf"), KernelHint::LinkTornDown(request(1).key, true)));
    let thief = SearchOutcome::Found { netns: namespace(ELSEWHERE), ifindex: 7, mac, marked: false };
    let listed = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Present);
    for _ in 0..8 {
        searched(&mut rig, listed, &thief);
        rig.pass(Duration::from_secs(2));
    }
    assert_eq!(rig.entry(1).at, request(1).netns.nsid);
    rig.ledger.reconcile();
    rig.pass(Duration::from_secs(2));
    searched(&mut rig, NETNS_GONE, &thief);
    assert!(rig.ledger.entry(&request(1).key).is_none());
}

#[test]
fn nothing_is_journaled_of_an_attachment_that_is_being_removed_from_the_journal() {
    let mut rig = present();
    rig.hold_commits = true;
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Gone, None));
    rig.finish_all();
    rig.observe(LINK_GONE, AddressFact::Absent);
    let told = netlink(KernelHint::LinkMoved(HOME, INDEX, None));
    let actions = rig.ledger.step(rig.now, told);
    let puts = |write: &JournalWrite| matches!(write, JournalWrite::Put(_));
    for action in &actions {
        assert!(!matches!(action, Action::Commit { journal, .. } if journal.iter().any(puts)), "{action:?}");
    }
    assert!(rig.ledger.entry(&request(1).key).is_some(), "its removal is under way");
}
