//! Ten pods on ten addresses.

use std::collections::BTreeMap;
use std::time::Instant;

use berth_cluster::workload;

use crate::stage::{PATIENCE, Stage, must, story, took};

#[test]
fn ten_pods_fit_ten_addresses_through_create_rebuild_and_delete() {
    let Some(mut stage) = Stage::build(2, 10) else { return };
    story("no ADD fails, no duplicates, two writes per address and pod, nothing is left", &mut stage, fit);
}

fn fit(stage: &mut Stage) {
    let apps = workload::apps(1, 10);
    let before = stage.requests();
    let began = Instant::now();
    must(workload::create(&stage.cluster, &apps), "create");
    stage.settled(10);
    took("created", began);
    stage.wire_is_clean();
    assert_eq!(stage.nothing_failed(), 10);

    let (began, old) = (Instant::now(), workload::uids(&stage.cluster));
    must(workload::delete_pods(&stage.cluster), "delete all pods");
    stage.until("ten new pods", |stage| {
        let now = workload::uids(&stage.cluster);
        now.len() == 10 && now.is_disjoint(&old)
    });
    stage.settled(10);
    must(workload::confirm(&stage.cluster, 10, PATIENCE), "ten pods Ready");
    took("rebuilt", began);
    stage.wire_is_clean();
    assert_eq!(stage.nothing_failed(), 10);

    let began = Instant::now();
    must(workload::delete(&stage.cluster, &apps), "delete");
    stage.empty();
    took("deleted", began);
    stage.nothing_failed();
    let requests = stage.requests().since(&before);
    let leases = |all: &BTreeMap<String, u64>| -> u64 {
        all.iter().filter(|(key, _)| key.ends_with(" ipleases")).map(|(_, count)| count).sum()
    };
    let (asked, done) = (leases(&requests.writes), leases(&requests.done));
    println!("            {done} writes of records for 40 lives of addresses, {} more refused", asked - done);
    // Twenty pods have run, each with two addresses. A hand-over is one write for an end and a start. If both
    // nodes request one address at the same time, one of them fails and releases its other address.
    assert!(done <= 80 + 2 * (asked - done), "{:?}", requests.done);
    assert!(asked - done <= 10, "{:?}", requests.writes);
}
