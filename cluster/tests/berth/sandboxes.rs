//! Sandboxes that end without a DEL, come again, and survive when they should not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_cluster::habits::Habits;
use serde_json::json;

use crate::stage::{Stage, must, story, took};

/// Time limit for an address to be free again: the promise is a second, but the machine builds at the same
/// time.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn addresses_follow_sandboxes_and_not_words() {
    let Some(mut stage) = Stage::build(2, 12) else { return };
    let stage = &mut stage;
    story("lost DEL: free again, whether the pod's object goes or stays Terminating", stage, lost_del);
    story("T2: the next sandbox of a pod has the address of the one that ended", stage, next_sandbox);
    story("T1: the late DEL of the previous sandbox takes nothing from the next", stage, late_del);
    story("T12: repeated DELs, minutes later and without a namespace, take nothing", stage, repeated_dels);
    story("T3: the next pod of a StatefulSet's name is another pod", stage, same_name);
    story("T4: a static pod keeps its address, independent of its mirror's name", stage, static_pod);
    story("T19: the object goes and the sandbox stays: the address stays", stage, kept);
}

fn lost_del(stage: &mut Stage) {
    stage.habits(&Habits { no_del: true, ..Habits::default() });
    let names = stage.pods("lost", 10, 0);
    stage.settled(10);
    stage.delete(&names);
    stage.until("the sandboxes' end", |stage| stage.cluster.attachments().is_empty());
    let began = Instant::now();
    stage.within("no record left", SOON, &mut |stage| stage.records().is_some_and(|all| all.is_empty()));
    took("10 pods without a DEL, objects removed: from the last sandbox's end to the last record's", began);

    let names = stage.pods("stuck", 5, 0);
    for name in &names {
        stage.kubectl(&[
            "patch",
            "pod",
            name,
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["berth.dev/test"]}}"#,
        ]);
    }
    stage.settled(5);
    stage.delete(&names);
    stage.until("the sandboxes' end", |stage| stage.cluster.attachments().is_empty());
    let began = Instant::now();
    stage.within("no record left", SOON, &mut |stage| stage.records().is_some_and(|all| all.is_empty()));
    took("5 pods without a DEL, objects left Terminating: the same", began);
    let objects = stage.kubectl(&["get", "pods", "-o", "name"]);
    assert_eq!(objects.lines().count(), 5, "{objects}");
    for name in &names {
        stage.kubectl(&["patch", "pod", name, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    }
    stage.habits(&Habits::default());
    stage.empty();
    stage.nothing_failed();
}

/// With and without a DEL of the previous sandbox.
fn next_sandbox(stage: &mut Stage) {
    for no_del in [false, true] {
        stage.habits(&Habits { no_del, ..Habits::default() });
        let names = stage.pods("again", 2, 1);
        stage.settled(2);
        for name in &names {
            let before = stage.addresses(name);
            let began = Instant::now();
            stage.renew(name);
            assert_eq!(stage.addresses(name), before, "no_del: {no_del}; {:#?}", stage.logs());
            took(if no_del { "another sandbox, no DEL" } else { "another sandbox, DEL first" }, began);
        }
        stage.converged();
        stage.wire_is_clean();
        stage.delete(&names);
        stage.empty();
    }
    stage.habits(&Habits::default());
    stage.nothing_failed();
}

fn late_del(stage: &mut Stage) {
    stage.habits(&Habits { del_last: true, ..Habits::default() });
    let names = stage.pods("late", 2, 0);
    stage.settled(2);
    let before = stage.addresses("late-1");
    stage.renew("late-1");
    assert_eq!(stage.addresses("late-1"), before);
    // Both sandboxes of the pod are on the disk until the DEL of the previous one.
    stage.until("the late DEL", |stage| stage.cluster.sandboxes() == 2);
    std::thread::sleep(Duration::from_millis(500));
    stage.converged();
    stage.wire_is_clean();
    let calls = stage.cluster.tally.take();
    assert_eq!(calls["DEL"].times.len(), 1, "{calls:?}");
    stage.habits(&Habits::default());
    stage.delete(&names);
    stage.empty();
    stage.nothing_failed();
}

fn repeated_dels(stage: &mut Stage) {
    let repeat_after = Duration::from_millis(300);
    stage.habits(&Habits { repeated_dels: 3, repeat_after, ..Habits::default() });
    let names = stage.pods("often", 2, 0);
    stage.settled(2);
    let before = stage.addresses("often-1");
    stage.renew("often-1");
    assert_eq!(stage.addresses("often-1"), before);
    stage.until("the last DEL", |stage| stage.cluster.sandboxes() == 2);
    stage.converged();
    stage.wire_is_clean();
    let calls = stage.cluster.tally.take();
    assert_eq!(calls["DEL again"].times.len(), 3, "{calls:?}");
    stage.habits(&Habits::default());
    stage.delete(&names);
    stage.empty();
    stage.nothing_failed();
}

/// The first pod of the name was force-deleted and its sandbox is still alive: the second must not have its
/// address, and gets another.
fn same_name(stage: &mut Stage) {
    stage.pod("db-0", 0, &json!({}));
    stage.settled(1);
    let (first, before) = (stage.running("db-0"), stage.addresses("db-0"));
    stage.habits(&Habits { keep_forced: true, inhabited: true, ..Habits::default() });
    stage.force(&["db-0".to_owned()]);
    stage.until("the object's end", |stage| stage.running("db-0").is_none());
    stage.pod("db-0", 0, &json!({}));
    let now = stage.addresses("db-0");
    assert!(now.iter().all(|address| !before.contains(address)), "{before:?} {now:?}");
    assert_ne!(stage.running("db-0").map(|(uid, _)| uid), first.map(|(uid, _)| uid));
    stage.converged();
    let uids: BTreeSet<_> =
        stage.records().unwrap_or_default().into_iter().map(|record| record.uid).collect();
    assert_eq!(uids.len(), 2, "each record names its own pod");
    stage.wire_is_clean();
    stage.habits(&Habits::default());
    stage.reap(0);
    stage.settled(1);
    stage.delete(&["db-0".to_owned()]);
    stage.empty();
    stage.nothing_failed();
}

/// Its kubelet and its records identify it by its file's hash; its mirror has a separate UID.
fn static_pod(stage: &mut Stage) {
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = json!({
        "kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash, "kubernetes.io/config.source": "file",
    });
    stage.pod("static-n1", 0, &mirror);
    stage.settled(1);
    let before = stage.addresses("static-n1");
    let records = stage.records().unwrap_or_default();
    assert!(records.iter().all(|record| record.uid.as_deref() == Some(hash)), "{records:?}");
    // The mirror is deleted: the pod continues to run, and its kubelet creates another mirror.
    stage.habits(&Habits { no_del: true, ..Habits::default() });
    stage.renew("static-n1");
    assert_eq!(stage.addresses("static-n1"), before, "held by the hash");
    stage.habits(&Habits { keep_forced: true, ..Habits::default() });
    stage.force(&["static-n1".to_owned()]);
    stage.until("the mirror's end", |stage| stage.running("static-n1").is_none());
    std::thread::sleep(Duration::from_secs(3));
    stage.converged();
    stage.wire_is_clean();
    stage.habits(&Habits::default());
    stage.reap(0);
    stage.empty();
    stage.nothing_failed();
}

fn kept(stage: &mut Stage) {
    stage.habits(&Habits { keep_forced: true, inhabited: true, ..Habits::default() });
    let names = stage.pods("kept", 6, 0);
    stage.settled(6);
    let before: BTreeSet<IpAddr> = names.iter().flat_map(|name| stage.addresses(name)).collect();
    stage.force(&names);
    stage.until("the objects' end", |stage| stage.cluster.pods() == 0);
    let more = stage.pods("more", 6, 1);
    stage.settled(6);
    let others: BTreeSet<IpAddr> = more.iter().flat_map(|name| stage.addresses(name)).collect();
    assert!(before.is_disjoint(&others), "{before:?} {others:?}");
    stage.wire_is_clean();
    stage.habits(&Habits::default());
    stage.reap(0);
    stage.delete(&more);
    stage.empty();
    let _ = must(stage.cluster.records(), "records");
    stage.nothing_failed();
}
