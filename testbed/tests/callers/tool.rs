//! The same by `cnitool`, which people use by hand.

use std::net::IpAddr;

use berth_testbed::plugin::Outcome;
use berth_testbed::world::{POD_LINK, Pod};
use serde_json::json;

use crate::support::{Bench, NEWEST, addresses, berth, result, silent};

fn call(bench: &Bench, verb: &str, pod: &Pod) -> Outcome {
    bench.runtime.cnitool(verb, pod).unwrap()
}

/// All addresses that the agent holds, for any container: cnitool forms its own container IDs.
fn held(bench: &Bench) -> Vec<IpAddr> {
    let rows = bench.lab.leases().unwrap();
    rows.iter().filter(|row| row.container_id.is_some()).map(|row| row.address).collect()
}

fn all_free(bench: &Bench) {
    let rows = bench.lab.leases().unwrap();
    rows.iter().filter_map(|row| row.container_id.as_deref()).for_each(|id| bench.freed(id));
    assert_eq!(bench.runtime.kept_by_cnitool(), 0);
}

#[test]
fn cnitool_adds_checks_and_deletes() {
    let Some(bench) = Bench::start(4, NEWEST, |lab| vec![berth(lab, &json!({}))]) else { return };
    let pod = bench.pod();
    silent(&call(&bench, "status", &pod));
    let added = result(&call(&bench, "add", &pod));
    assert_eq!(bench.lab.world.addresses_on(&pod, POD_LINK).unwrap(), addresses(&added));
    assert_eq!(held(&bench), addresses(&added));
    bench.answers(&added);
    assert_eq!(bench.runtime.kept_by_cnitool(), 1);
    silent(&call(&bench, "check", &pod));
    assert_eq!(result(&call(&bench, "add", &pod)), added, "repeated in its namespace: the same once more");
    bench.answers(&added);
    silent(&call(&bench, "del", &pod));
    all_free(&bench);
    bench.gone(&pod);
    silent(&call(&bench, "del", &pod));
}

#[test]
fn cnitools_gc_deletes_all_that_it_knows_and_names_no_list() {
    let Some(bench) = Bench::start(4, NEWEST, |lab| vec![berth(lab, &json!({}))]) else { return };
    let (pod, other) = (bench.pod(), bench.pod());
    result(&call(&bench, "add", &pod));
    // Not in cnitool's cache: only GC could reach it, and that is refused without a list.
    let kept = bench.add(&other);
    let collected = call(&bench, "gc", &pod);
    assert!(!collected.succeeded(), "{collected:?}");
    let told = format!("{}{}", collected.stdout, collected.stderr);
    assert!(told.contains("cni.dev/valid-attachments"), "{told}");
    assert_eq!(bench.runtime.kept_by_cnitool(), 0);
    bench.gone(&pod);
    bench.attached(&other, &kept);
    bench.answers(&kept);
}

#[test]
fn an_agent_that_is_gone_for_long_is_told_by_status() {
    let Some(mut bench) = Bench::start(4, NEWEST, |lab| vec![berth(lab, &json!({}))]) else { return };
    let pod = bench.pod();
    bench.lab.kill_agent();
    // With a recent sign of life an absent agent is being replaced, which is not an error.
    silent(&call(&bench, "status", &pod));
    std::fs::remove_file(bench.lab.setup.state().join("alive")).unwrap();
    let told = call(&bench, "status", &pod);
    assert!(!told.succeeded() && told.stderr.contains("no agent"), "{told:?}");
    let told = crate::support::refused(&bench.runtime.status().unwrap());
    assert_eq!(told.code, 50, "{told:?}");
}
