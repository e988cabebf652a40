//! Places in which an attachment is read: its namespace, and the agent's own, in which a number means something.

use std::cell::RefCell;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid};
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::sight::Where;

use crate::rig::{Rig, config, namespace, request};

const HERE: NetnsCookie = NetnsCookie(100);
const BEFORE: NetnsCookie = NetnsCookie(99);
/// The number of the namespace to which a link was moved.
const ELSEWHERE: i32 = 70_050;

/// An entry of a pod that is up, as a version wrote it that knew no places, moves or departures.
fn older() -> Entry {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    let mut row = serde_json::to_value(rig.entry(1)).unwrap();
    let fields = row.as_object_mut().unwrap();
    for later in ["moved", "place", "departure"] {
        assert!(
            !fields.contains_key(later),
            "an older version reads the row of a link in its place: {later}"
        );
    }
    serde_json::from_value(row).unwrap()
}

/// The namespace in which a restarted agent in the place `HERE` reads that attachment first.
fn read_in(entry: Entry) -> Where {
    let records = entry.records(&"n1".parse().unwrap());
    let loaded =
        Loaded { entries: vec![entry], records, place: Some(HERE), hears_all: true, ..Loaded::default() };
    let mut rig = Rig::loaded(config(1), loaded);
    let places = RefCell::new(Vec::new());
    rig.answer_gathers(|target| {
        places.borrow_mut().push(target.netns.clone());
        unknown(target)
    });
    assert_eq!(rig.held_by(1).len(), 1, "nothing is known");
    places.into_inner().remove(0)
}

fn unknown(target: &Target) -> Observation {
    Observation {
        key: target.key.clone(),
        stamp: target.stamp,
        netns: NetnsFact::Unknown,
        link: LinkFact::Unknown,
        fdb: FdbFact::Absent,
        address: AddressFact::Unknown,
        learnt: None,
        number: None,
        search: target.search.then_some(SearchOutcome::NotFound),
    }
}

#[test]
fn a_number_counts_in_the_place_where_it_was_learnt_alone() {
    let entry = |place| Entry { place: Some(place), ..older() };
    let netns = request(1).netns;
    assert_eq!(read_in(entry(HERE)), Where::Number(netns.nsid));
    assert_eq!(read_in(entry(BEFORE)), Where::Sought(netns.clone()));
    let given = NetnsIdentity { nsid: Nsid(1), nsid_is_random: false, ..netns };
    let given = |place| Entry { netns: given.clone(), at: Nsid(1), ..entry(place) };
    assert_eq!(read_in(given(HERE)), Where::Proved(given(HERE).netns));
    let moved = |place| Entry { at: Nsid(ELSEWHERE), moved: Some(namespace(ELSEWHERE)), ..entry(place) };
    assert_eq!(read_in(moved(HERE)), Where::Number(Nsid(ELSEWHERE)));
    assert_eq!(read_in(moved(BEFORE)), Where::Sought(namespace(ELSEWHERE)));
}

#[test]
fn a_link_that_an_older_version_followed_is_sought_by_its_alias_in_another_place() {
    let followed = |at, place| Entry { at, place: Some(place), ..older() };
    assert_eq!(read_in(followed(Nsid(ELSEWHERE), HERE)), Where::Number(Nsid(ELSEWHERE)));
    assert_eq!(read_in(followed(Nsid(ELSEWHERE), BEFORE)), Where::Nowhere, "the number may be free here");
    assert_eq!(read_in(followed(Nsid(3), HERE)), Where::Nowhere, "the number may be another's by now");
}

/// A DEL that could not reach the link; the reads that follow at once from what they show.
fn reads_after_del(facts: (NetnsFact, LinkFact, FdbFact)) -> (Rig, usize) {
    let mut rig = Rig::new(config(1));
    rig.bound(1);
    rig.step(Input::Release(None, request(1).key, LinkRemoval::Unreachable, None));
    let mut reads = 0;
    for _ in 0..100 {
        reads += rig.answer_gathers(|target| {
            let (netns, link, fdb) = facts;
            Observation { netns, link, fdb, ..unknown(target) }
        });
    }
    (rig, reads)
}

#[test]
fn a_link_in_a_namespace_that_cannot_be_named_is_not_removed_by_its_index_and_mac() {
    let (rig, reads) = reads_after_del((NetnsFact::Hidden, LinkFact::Present, FdbFact::Absent));
    assert!(reads < 5, "{reads}");
    assert_eq!(rig.ledger.leases().len(), 1);
    assert!(rig.text("link-hidden").is_some());
}

#[test]
fn a_removal_that_finds_nothing_where_a_read_shows_the_link_is_repeated_at_a_pace() {
    let (rig, reads) = reads_after_del((NetnsFact::Alive, LinkFact::Present, FdbFact::Absent));
    assert!(reads < 50, "{reads}");
    assert_eq!(rig.ledger.leases().len(), 1);
}
