//! Several ADDs of one attachment at the same time, with killed ones and DELs among them, with real binaries.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::time::{Duration, Instant};

use berth_protocol::fault::{PLUGIN_ADD_POINTS, VARIABLE};
use berth_testbed::lab::{Lab, Options};
use berth_testbed::plugin::{Call, Outcome};
use berth_testbed::world::Pod;
use serde_json::{Value, json};

/// Number of runs of each race.
const ROUNDS: usize = 10;
/// Time limit of an ADD that waits for another one.
const LIMIT: Duration = Duration::from_mins(1);

fn lab() -> Option<Lab> {
    Some(Lab::start(&Options::of_tests(1.0)?, 8, "").unwrap())
}

/// The configuration of the role: main, or chained after a macvlan that the test made.
fn config(lab: &Lab, chained: Option<&Value>) -> Value {
    let mut config = lab.config.clone();
    if let Some(prev) = chained {
        config["prevResult"] = prev.clone();
    }
    config
}

/// A macvlan in the pod that another main plugin would have made, as its result.
fn main_plugins_link(lab: &Lab, pod: &Pod, last: usize) -> Value {
    let mac = format!("02:00:00:00:07:{last:02x}");
    let parent = berth_testbed::world::PARENT;
    let line = format!(
        "link add link {parent} name eth0 address {mac} netns {} type macvlan mode bridge\n",
        pod.name
    );
    berth_testbed::world::ip(lab.world.node(), &line).unwrap();
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": mac, "sandbox": pod.netns.to_string_lossy()}],
    })
}

/// The pod has its interface, its address and its record, and CHECK succeeds.
fn is_whole(lab: &Lab, pod: &Pod, config: &Value, result: &Outcome, scenario: &str) {
    let added = result.added().unwrap();
    let address = added.addresses[0];
    let on_link = lab.world.addresses_on(pod, "eth0").unwrap();
    assert!(on_link.contains(&address), "{scenario}: eth0 has {on_link:?} and not {address}");
    let rows = lab.leases().unwrap();
    assert!(rows.iter().any(|row| row.address == address), "{scenario}: {address} is not in {rows:?}");
    let mut config = config.clone();
    config["prevResult"] = serde_json::from_str(&result.stdout).unwrap();
    let check = lab.plugin.run(&Call::new("CHECK", &config, pod)).unwrap();
    assert!(check.succeeded(), "{scenario}: CHECK says {}", check.stdout);
}

/// No address is recorded for the pod within the time limit of a test.
fn is_free(lab: &Lab, pod: &Pod, scenario: &str) {
    let until = Instant::now() + LIMIT;
    loop {
        let rows = lab.leases().unwrap();
        let left = rows.iter().any(|row| row.container_id.as_deref() == Some(pod.container_id.as_str()));
        if !left {
            return;
        }
        assert!(Instant::now() < until, "{scenario}: {rows:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// DEL with the result of the ADD, as runtimes send it.
fn del(lab: &Lab, pod: &Pod, config: &Value, result: &Outcome, scenario: &str) {
    let mut config = config.clone();
    config["prevResult"] = serde_json::from_str(&result.stdout).unwrap();
    lab.plugin.run(&Call::new("DEL", &config, pod)).unwrap().expect_success().unwrap();
    is_free(lab, pod, scenario);
}

#[test]
fn of_adds_at_once_every_one_that_is_told_success_has_its_interface() {
    let Some(lab) = lab() else { return };
    for count in [2, 3] {
        for round in 0..ROUNDS {
            for chained in [false, true] {
                let scenario = format!("{count} at once, round {round}, chained: {chained}");
                let pod = lab.world.pod().unwrap();
                let prev = chained.then(|| main_plugins_link(&lab, &pod, round));
                let config = config(&lab, prev.as_ref());
                let calls: Vec<_> =
                    (0..count).map(|_| lab.plugin.start(&Call::new("ADD", &config, &pod)).unwrap()).collect();
                let ended: Vec<_> = calls.into_iter().map(|call| call.finish(LIMIT).unwrap()).collect();
                let told: Vec<_> = ended.iter().filter(|outcome| outcome.succeeded()).collect();
                assert!(!told.is_empty(), "{scenario}: {ended:?}");
                for outcome in &told {
                    is_whole(&lab, &pod, &config, outcome, &scenario);
                }
                let links = lab.world.links(&pod).unwrap().unwrap();
                let temporary = links.iter().filter(|link| link.name.starts_with("bt")).count();
                assert_eq!(temporary, 0, "{scenario}: {links:?}");
                del(&lab, &pod, &config, told[0], &scenario);
                lab.world.remove(&pod);
            }
        }
    }
}

#[test]
fn a_repeated_add_that_is_killed_anywhere_leaves_the_attachment_as_it_was() {
    let Some(lab) = lab() else { return };
    for point in PLUGIN_ADD_POINTS {
        for chained in [false, true] {
            let scenario = format!("killed at {point}, chained: {chained}");
            let pod = lab.world.pod().unwrap();
            let prev = chained.then(|| main_plugins_link(&lab, &pod, 1));
            let config = config(&lab, prev.as_ref());
            let first = lab.plugin.run(&Call::new("ADD", &config, &pod)).unwrap();
            let before = lab.world.links(&pod).unwrap();
            let call = Call::new("ADD", &config, &pod).variable(VARIABLE, point);
            let killed = lab.plugin.run(&call).unwrap();
            // The repeated ADD makes no link, so one point is not passed.
            assert!(killed.signal.is_some() || point == "add.link-created", "{scenario}: {killed:?}");
            // The agent notices the end of its connection by the time that it answers a later request.
            is_whole(&lab, &pod, &config, &first, &scenario);
            std::thread::sleep(Duration::from_millis(100));
            is_whole(&lab, &pod, &config, &first, &scenario);
            assert_eq!(lab.world.links(&pod).unwrap(), before, "{scenario}");
            del(&lab, &pod, &config, &first, &scenario);
            lab.world.remove(&pod);
        }
    }
}

#[test]
fn an_add_for_another_namespace_harms_nothing_and_is_refused() {
    let Some(lab) = lab() else { return };
    let pod = lab.world.pod().unwrap();
    let mut other = lab.world.pod().unwrap();
    let own_name = other.container_id.clone();
    other.container_id.clone_from(&pod.container_id);
    let first = lab.plugin.run(&lab.call("ADD", &pod)).unwrap();
    let call = lab.call("ADD", &other).setting("addTimeout", "1s");
    let second = lab.plugin.run(&call).unwrap();
    assert_eq!(second.failure().map(|failure| failure.code), Some(4), "{second:?}");
    is_whole(&lab, &pod, &lab.config, &first, "the first");
    other.container_id = own_name;
    assert!(lab.world.addresses_on(&other, "eth0").unwrap_or_default().is_empty());
}

#[test]
fn a_del_during_an_add_leaves_no_address_and_every_call_is_answered() {
    let Some(lab) = lab() else { return };
    for round in 0..ROUNDS * 2 {
        for chained in [false, true] {
            let scenario = format!("round {round}, chained: {chained}");
            let pod = lab.world.pod().unwrap();
            let prev = chained.then(|| main_plugins_link(&lab, &pod, round));
            let config = config(&lab, prev.as_ref());
            let add = lab.plugin.start(&Call::new("ADD", &config, &pod)).unwrap();
            std::thread::sleep(Duration::from_millis(3 * round as u64));
            let gone = lab.plugin.start(&Call::new("DEL", &config, &pod)).unwrap();
            let add = add.finish(LIMIT).unwrap();
            gone.finish(LIMIT).unwrap().expect_success().unwrap();
            assert!(add.succeeded() || add.failure().is_some(), "{scenario}: {add:?}");
            if add.succeeded() && !lab.leases().unwrap().is_empty() {
                // The DEL came before the ADD: another one ends it.
                del(&lab, &pod, &config, &add, &scenario);
            }
            if chained {
                berth_testbed::world::ip(&pod.netns, "link del eth0\n").unwrap();
            }
            is_free(&lab, &pod, &scenario);
            lab.world.remove(&pod);
        }
    }
}
