//! GC and CHECK with real plugin, agent and namespaces.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use berth_testbed::lab::{Attachment, Lab, Options};
use berth_testbed::plugin::Call;
use serde_json::{Value, json};

fn lab() -> Option<Lab> {
    Some(Lab::start(&Options::of_tests(1.0)?, 8, "").unwrap())
}

/// A GC of the lab's network, or of another, with this list.
fn gc(lab: &Lab, name: Option<&str>, valid: &Value) -> berth_testbed::plugin::Outcome {
    let mut config = lab.config.clone();
    config["cniVersion"] = "1.1.0".into();
    config["cni.dev/valid-attachments"] = valid.clone();
    if let Some(name) = name {
        // Berth's own network stays the same: only the CNI network is another.
        config["network"] = config.get("network").cloned().unwrap_or_else(|| config["name"].clone());
        config["name"] = name.into();
    }
    lab.plugin.run(&Call::bare("GC", &config)).unwrap()
}

fn held(lab: &Lab, pod: &Attachment) -> bool {
    lab.leases().unwrap().iter().any(|row| row.address == pod.address)
}

#[test]
fn gc_touches_nothing_that_lives_and_leaves_nothing_that_is_dead() {
    let Some(mut lab) = lab() else { return };
    let (living, dead) = (lab.attach_many(2).unwrap(), lab.attach_many(2).unwrap());
    // With its agent stopped the end is not observed: the attachments that the GC finds are long gone.
    lab.stop_agent().unwrap();
    for pod in &dead {
        lab.world.remove(&pod.pod);
    }
    lab.start_agent(None).unwrap();
    let listed = json!([{"containerID": living[0].pod.container_id, "ifname": "eth0"}]);
    gc(&lab, None, &listed).expect_success().unwrap();
    for pod in &dead {
        assert!(!held(&lab, pod), "{} is free when GC returns", pod.address);
    }
    for pod in &living {
        assert!(held(&lab, pod), "{} lives, listed or not", pod.address);
    }
    for list in [Value::Null, json!([])] {
        gc(&lab, None, &list).expect_success().unwrap();
        gc(&lab, Some("another"), &list).expect_success().unwrap();
    }
    assert!(living.iter().all(|pod| held(&lab, pod)));
    // An absent list is ambiguous, and is refused.
    let mut config = lab.config.clone();
    config["cniVersion"] = "1.1.0".into();
    let outcome = lab.plugin.run(&Call::bare("GC", &config)).unwrap();
    assert!(outcome.expect_success().is_err());
}

#[test]
fn a_list_longer_than_a_request_harms_nobody_who_is_named_at_its_end() {
    let Some(lab) = lab() else { return };
    let pods = lab.attach_many(2).unwrap();
    let mut list: Vec<_> =
        (0..2000).map(|number| json!({"containerID": format!("{number:064}"), "ifname": "eth0"})).collect();
    list.push(json!({"containerID": pods[1].pod.container_id, "ifname": "eth0"}));
    gc(&lab, None, &list.into()).expect_success().unwrap();
    assert!(pods.iter().all(|pod| held(&lab, pod)));
}

#[test]
fn check_sees_a_route_that_is_gone() {
    let Some(lab) = lab() else { return };
    let pod = lab.world.pod().unwrap();
    let outcome = lab.plugin.run(&lab.call("ADD", &pod)).unwrap();
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let check = || {
        let mut config = lab.config.clone();
        config["prevResult"] = result.clone();
        lab.plugin.run(&Call::new("CHECK", &config, &pod)).unwrap()
    };
    check().expect_success().unwrap();
    let routes = result["routes"].as_array().cloned().unwrap_or_default();
    assert!(!routes.is_empty(), "the lab's pool has a route: {result}");
    for route in &routes {
        let line = format!("route del {}\n", route["dst"].as_str().unwrap());
        berth_testbed::world::ip(&pod.netns, &line).unwrap();
    }
    let outcome = check();
    assert!(outcome.expect_success().is_err());
    assert!(outcome.stdout.contains("route to"), "{}", outcome.stdout);
}
