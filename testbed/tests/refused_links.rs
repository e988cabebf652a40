//! Links that the kernel refuses: the error names parent, cause and holder, and what to do.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::time::{Duration, Instant};

use berth_testbed::lab::{Lab, Options};
use berth_testbed::world::{self, PARENT};
use serde_json::json;

fn lab() -> Option<Lab> {
    Some(Lab::start(&Options::of_tests(1.0)?, 4, "").unwrap())
}

#[test]
fn a_parent_that_became_a_bridge_port_is_named_with_its_bridge() {
    let Some(lab) = lab() else { return };
    let lines = format!("link add br-test type bridge\nlink set {PARENT} master br-test\n");
    world::ip(lab.world.node(), &lines).unwrap();
    let pod = lab.world.pod().unwrap();
    let failure = lab.plugin.run(&lab.call("ADD", &pod)).unwrap().failure().unwrap();
    assert_eq!(failure.code, 7, "{failure:?}");
    assert!(failure.msg.contains(PARENT) && failure.msg.contains("br-test"), "{failure:?}");
    assert!(failure.details.contains("br-test"), "{failure:?}");
}

#[test]
fn a_mac_that_was_asked_for_and_is_in_use_is_named_with_its_holder() {
    let Some(lab) = lab() else { return };
    let (first, second) = (lab.world.pod().unwrap(), lab.world.pod().unwrap());
    let ask = |pod| {
        let mut config = lab.config.clone();
        config["runtimeConfig"]["mac"] = json!("02:00:00:00:42:01");
        lab.plugin.run(&berth_testbed::plugin::Call::new("ADD", &config, pod)).unwrap()
    };
    ask(&first).expect_success().unwrap();
    let failure = ask(&second).failure().unwrap();
    assert!(failure.msg.contains("02:00:00:00:42:01"), "{failure:?}");
    assert!(failure.msg.contains(&first.container_id), "its holder: {failure:?}");
    assert!(lab.world.addresses_on(&second, "eth0").unwrap_or_default().is_empty());
}

#[test]
fn a_mac_of_the_parent_or_of_a_link_without_a_lease_is_not_laid_to_the_add_that_asks_for_it() {
    let Some(lab) = lab() else { return };
    let node = lab.world.node();
    let foreign = "02:00:00:00:42:03";
    let shim = format!("link add link {PARENT} name shim address {foreign} type macvlan mode bridge\n");
    world::ip(node, &format!("{shim}link set shim up\n")).unwrap();
    let shown = world::ip_shows(node, &format!("-o link show {PARENT}")).unwrap();
    let own = shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    for (mac, code, said) in [(own, 7, "its own MAC"), (foreign, 11, "an interface without a lease")] {
        let pod = lab.world.pod().unwrap();
        let mut config = lab.config.clone();
        config["runtimeConfig"]["mac"] = json!(mac);
        let add = berth_testbed::plugin::Call::new("ADD", &config, &pod);
        let failure = lab.plugin.run(&add).unwrap().failure().unwrap();
        assert!(failure.msg.contains(mac) && failure.msg.contains(PARENT), "{failure:?}");
        assert!(failure.code == code && failure.msg.contains(said), "{failure:?}");
        assert!(!failure.msg.contains(&pod.container_id), "{failure:?}");
    }
}

#[test]
fn a_mac_that_the_link_was_given_after_its_add_is_told_once_and_is_no_second_holder() {
    let Some(lab) = lab() else { return };
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let tuned = "02:00:00:00:42:02";
    world::ip(&pod.pod.netns, &format!("link set eth0 address {tuned}\n")).unwrap();
    let codes =
        || lab.client().history(pod.address).unwrap().into_iter().map(|row| row.code).collect::<Vec<_>>();
    // The kernel announces the address again each time that the link's MAC is set.
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        world::ip(&pod.pod.netns, &format!("link set eth0 address {tuned}\n")).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let codes = codes();
    assert_eq!(codes.iter().filter(|code| *code == "link-mac-changed").count(), 1, "{codes:?}");
    assert!(!codes.iter().any(|code| code == "second-holder"), "{codes:?}");
    assert!(lab.leases().unwrap().iter().any(|row| row.address == pod.address));
}
