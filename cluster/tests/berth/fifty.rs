//! Fifty force-deleted pods with sandboxes that stay alive, and fifty more.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_cluster::habits::Habits;
use berth_cluster::workload;

use crate::stage::{PATIENCE, Stage, must, story, took};

#[test]
fn fifty_sandboxes_that_outlive_their_pods_keep_their_addresses() {
    let Some(mut stage) = Stage::build(2, 100) else { return };
    story("0 of 50 addresses are given away while 50 new pods ask for the rest", &mut stage, fifty);
}

fn fifty(stage: &mut Stage) {
    stage.habits(&Habits { keep_forced: true, inhabited: true, ..Habits::default() });
    let apps = workload::apps(1, 50);
    let began = Instant::now();
    must(workload::create(&stage.cluster, &apps), "create");
    stage.settled(50);
    took("50 pods", began);
    let all = |stage: &Stage| -> BTreeSet<IpAddr> {
        stage.cluster.attachments().into_iter().flat_map(|(_, addresses)| addresses).collect()
    };
    let before = all(stage);
    assert_eq!(before.len(), 100);

    // All force-deleted at once: the Deployment creates fifty others, and only fifty addresses are left.
    let (began, old) = (Instant::now(), workload::uids(&stage.cluster));
    stage.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"]);
    stage.until("fifty other pods", |stage| {
        let now = workload::uids(&stage.cluster);
        now.len() == 50 && now.is_disjoint(&old)
    });
    stage.converged();
    took("50 others in addition to them", began);
    assert_eq!(stage.cluster.attachments().len(), 100);
    assert_eq!(all(stage).len(), 200, "no address twice");
    let running: BTreeSet<IpAddr> =
        workload::uids(&stage.cluster).iter().flat_map(|uid| stage.addresses_of(uid)).collect();
    assert_eq!(running.intersection(&before).count(), 0, "given away");
    must(workload::confirm(&stage.cluster, 50, PATIENCE), "fifty pods Ready");
    stage.wire_is_clean();
    assert_eq!(stage.nothing_failed(), 100);

    // A new pod waits, whatever the API reports of the fifty, and gets an address when one of them has ended.
    must(workload::delete(&stage.cluster, &apps), "delete");
    stage.until("the fifty alone", |stage| stage.cluster.attachments().len() == 50);
    assert_eq!(all(stage), before);
    std::thread::sleep(Duration::from_secs(3));
    stage.converged();
    stage.habits(&Habits::default());
    for node in 0..2 {
        stage.reap(node);
    }
    stage.empty();
}
