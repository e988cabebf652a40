//! GC: what the runtime does not have any more is judged, and nothing that lives is touched.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::ledger::io::*;

use crate::rig::{Rig, config, request};

const DEAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent);
const UNREAD: (NetnsFact, LinkFact, FdbFact) = (NetnsFact::Unknown, LinkFact::Unknown, FdbFact::Absent);

/// A GC of a network, by connection 90, that names these pods.
fn gc(network: &str, valid: &[u64]) -> Input {
    let named = |pod: &u64| (request(*pod).key.container_id, request(*pod).key.ifname);
    let valid: BTreeSet<_> = valid.iter().map(named).collect();
    Input::Gc(Caller { conn: 90, call: 1 }, network.parse().unwrap(), valid)
}

fn answered(rig: &Rig) -> Option<Result<(), String>> {
    rig.reply(90).map(|reply| match reply {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

/// Pods 1, 2 and so on, all alive as far as anybody knows.
fn pods(count: u64) -> Rig {
    let mut rig = Rig::new(config(8));
    for pod in 1..=count {
        rig.bound(pod);
    }
    rig
}

#[test]
fn what_is_listed_is_not_even_looked_at_and_an_empty_network_is_done_at_once() {
    let mut rig = pods(2);
    rig.step(gc("lan", &[1, 2]));
    assert_eq!(answered(&rig), Some(Ok(())));
    let mut rig = pods(2);
    rig.step(gc("other", &[]));
    assert_eq!(answered(&rig), Some(Ok(())), "another CNI network's");
}

#[test]
fn what_is_dead_is_free_before_the_answer_and_what_lives_is_kept() {
    let mut rig = pods(3);
    rig.step(gc("lan", &[1]));
    assert_eq!(answered(&rig), None);
    // Its MAC is on the parent for a moment still: that is no life.
    rig.observe_of(2, (NetnsFact::Dead, LinkFact::Gone, FdbFact::Present), AddressFact::Unknown);
    assert_eq!(answered(&rig), None);
    rig.pass(Duration::from_millis(10));
    rig.hold_commits = true;
    rig.observe_of(2, DEAD, AddressFact::Absent);
    assert_eq!(answered(&rig), None, "its release is not on the disk yet");
    rig.hold_commits = false;
    rig.finish_all();
    assert_eq!(answered(&rig), Some(Ok(())));
    assert!(rig.ledger.entry(&request(2).key).is_none());
    assert_eq!((rig.held_by(1).len(), rig.held_by(3).len()), (1, 1), "unlisted, and alive");
}

#[test]
fn an_add_under_way_is_left_alone() {
    let mut rig = pods(1);
    rig.lease(2);
    rig.answer_probes(&[]);
    assert!(rig.granted(2).is_some());
    rig.step(gc("lan", &[1]));
    assert_eq!(answered(&rig), Some(Ok(())));
    assert_eq!(rig.held_by(2).len(), 1);
}

#[test]
fn what_cannot_be_judged_is_reported_and_does_not_keep_the_rest() {
    let mut rig = pods(2);
    rig.step(gc("lan", &[]));
    rig.observe_of(2, DEAD, AddressFact::Absent);
    assert_eq!(answered(&rig), Some(Ok(())));
    let mut rig = pods(2);
    rig.step(gc("lan", &[]));
    rig.observe(UNREAD, AddressFact::Unknown);
    let told = answered(&rig).unwrap().unwrap_err();
    assert!(told.contains("lan/c1/eth0") && told.contains("lan/c2/eth0"), "{told}");
    assert_eq!((rig.held_by(1).len(), rig.held_by(2).len()), (1, 1), "unknown is in use");
}

#[test]
fn a_judgement_that_never_comes_ends_the_wait() {
    let mut rig = pods(1);
    rig.step(gc("lan", &[]));
    rig.pass(Duration::from_secs(21));
    assert!(answered(&rig).unwrap().unwrap_err().contains("no verdict in time"));
    // Nor does one whose caller hung up.
    let mut rig = pods(1);
    rig.step(gc("lan", &[]));
    rig.step(Input::Hangup(90));
    rig.pass(Duration::from_secs(21));
    assert_eq!(answered(&rig), None);
}
