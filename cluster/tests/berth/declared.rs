//! Objects that operators edit in the API: pools, leases, annotations.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::stage::{Stage, must, story, took};

#[test]
fn hands_in_the_api_take_no_address_from_anybody() {
    let Some(mut stage) = Stage::build(2, 10) else { return };
    let stage = &mut stage;
    story("annotations ask for an address; a bad one is refused by key and value", stage, annotations);
    story("a lease is edited, deleted, forged", stage, leases);
    story(
        "a pool that shrinks in use: holders keep their addresses, removed ones are not assigned",
        stage,
        shrunk,
    );
    story("a pool that is deleted in use: DEL works, ADD waits for it or reports the reason", stage, deleted);
}

/// Annotations from the runtime (the capability) and from the watch: the stand-in leaves out the capability
/// if the chain does not declare it.
fn annotations(stage: &mut Stage) {
    for (node, given) in [(0, "by the runtime"), (1, "by the watch")] {
        if given == "by the watch" {
            stage.withhold_annotations(node);
        }
        let name = format!("asks-{node}");
        stage.pod(&name, node, &json!({"berth.dev/ips": "10.50.16.7,fd00:50::1003"}));
        let wanted: Vec<IpAddr> = vec![[10, 50, 16, 7].into(), must("fd00:50::1003".parse(), "an address")];
        assert_eq!(stage.addresses(&name), wanted, "{given}");
        stage.delete(&[name]);
        stage.empty();
        stage.nothing_failed();
        stage.pod("bad", node, &json!({"berth.dev/ips": "10.50.16.300"}));
        stage.until("a failed ADD", |stage| {
            let calls = stage.cluster.tally.take();
            let told = calls.get("ADD").and_then(|calls| calls.failures.first().cloned());
            if let Some(told) = &told {
                for part in ["\"code\":7", "berth.dev/ips", "10.50.16.300"] {
                    assert!(told.contains(part), "{given}: {part} in {told}");
                }
                println!("            {given}: {told}");
            }
            told.is_some()
        });
        stage.delete(&["bad".to_owned()]);
        stage.empty();
        drop(stage.cluster.tally.take());
    }
}

fn leases(stage: &mut Stage) {
    let names = [stage.pods("a", 2, 0), stage.pods("b", 2, 1)].concat();
    stage.settled(4);
    let records = stage.records().unwrap_or_default();
    let Some(first) = records.iter().find(|record| record.node == "n1" && record.address.is_ipv4()) else {
        unreachable!("n1 has two")
    };

    let began = Instant::now();
    let forged = r#"[{"op":"replace","path":"/spec/containerID","value":"forged"}]"#;
    stage.kubectl(&["patch", "iplease", &first.name, "--type=json", "-p", forged]);
    stage.converged();
    took("an edited lease is put right", began);
    println!("            {}", stage.event("RecordEdited"));

    let began = Instant::now();
    stage.kubectl(&["delete", "iplease", &first.name]);
    stage.converged();
    took("a deleted one is written again", began);
    println!("            {}", stage.event("RecordRepaired"));

    let began = Instant::now();
    stage.kubectl(&["delete", "ipleases", "--all"]);
    stage.converged();
    took("all of them deleted", began);

    // A record of n1 for a container that never was, and one of a node that never was.
    let taken: Vec<IpAddr> = records.iter().map(|record| record.address).collect();
    let free: Vec<IpAddr> =
        (0..10_u8).map(|last| IpAddr::from([10, 50, 16, last])).filter(|one| !taken.contains(one)).collect();
    let text = stage.kubectl(&["get", "iplease", &first.name, "-o", "json"]);
    let began = Instant::now();
    for (address, node) in [(free[0], "n1"), (free[1], "n7")] {
        stage.forge(&text, address, node);
    }
    let ghost = |stage: &Stage, address: IpAddr| {
        stage.records().is_some_and(|all| all.iter().any(|record| record.address == address))
    };
    stage.until("the forged lease of n1 is judged", |stage| !ghost(stage, free[0]));
    took("a forged lease of a node that is there is adopted, judged and deleted", began);
    assert!(ghost(stage, free[1]), "no agent may judge for an absent node");
    stage.wire_is_clean();
    // Nine addresses are left for all, and the tenth is not assigned.
    let more = stage.pods("more", 5, 0);
    stage.until("nine pods", |stage| stage.cluster.running() == 9);
    let given: Vec<IpAddr> = more.iter().flat_map(|name| stage.addresses(name)).collect();
    assert!(!given.contains(&free[1]), "{given:?}");
    stage.wire_is_clean();
    stage.delete(&[names, more].concat());
    stage.until("no pod left", |stage| stage.cluster.sandboxes() == 0);
    stage.until("the forged one alone", |stage| stage.records().is_some_and(|all| all.len() == 1));
    stage.kubectl(&["delete", "ipleases", "--all"]);
    stage.empty();
    stage.nothing_failed();
}

fn shrunk(stage: &mut Stage) {
    let names = stage.pods("wide", 10, 0);
    stage.settled(10);
    let narrow = r#"{"spec":{"ranges":["10.50.16.0-10.50.16.4"]}}"#;
    stage.kubectl(&["patch", "ippool", "lan-v4", "--type=merge", "-p", narrow]);
    println!("            {}", stage.event("PoolEditedInUse"));
    stage.converged();
    stage.wire_is_clean();
    // All end; five of the next ten get addresses, all of them from what is left.
    stage.delete(&names);
    stage.empty();
    let names = stage.pods("few", 5, 1);
    stage.settled(5);
    let outside = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[3] > 4);
    let given: Vec<IpAddr> = names.iter().flat_map(|name| stage.addresses(name)).collect();
    assert!(!given.iter().any(outside), "{given:?}");
    let wide = r#"{"spec":{"ranges":["10.50.16.0-10.50.16.9"]}}"#;
    stage.pod("waits", 1, &json!({}));
    std::thread::sleep(Duration::from_secs(2));
    assert!(stage.running("waits").is_none(), "nothing is free");
    stage.kubectl(&["patch", "ippool", "lan-v4", "--type=merge", "-p", wide]);
    let began = Instant::now();
    stage.settled(6);
    took("the waiting pods, after the pool has room again", began);
    stage.delete(&[names, vec!["waits".to_owned()]].concat());
    stage.empty();
    stage.nothing_failed();
}

fn deleted(stage: &mut Stage) {
    let names = stage.pods("held", 3, 0);
    stage.settled(3);
    let pool = stage.kubectl(&["get", "ippool", "lan-v4", "-o", "json"]);
    stage.kubectl(&["delete", "ippool", "lan-v4"]);
    std::thread::sleep(Duration::from_secs(1));
    stage.converged();
    stage.wire_is_clean();
    stage.delete(&names[..2]);
    stage.settled(1);
    stage.nothing_failed();
    let said: Vec<_> = stage.doctor(0).into_iter().filter(|finding| !finding.ok).collect();
    println!("            {said:?}");
    assert!(said.iter().any(|finding| finding.text.contains("lan-v4")), "{said:?}");
    stage.apply_again(&pool);
    stage.pod("next", 0, &json!({}));
    stage.settled(2);
    stage.delete(&[names[2].clone(), "next".to_owned()]);
    stage.empty();
    drop(stage.cluster.tally.take());
}
