//! MACs on the parent that look like Berth's, at an agent's start without any record.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::time::Duration;

use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::world::{self, PARENT, Pod};

/// It has the prefix of MACs that Berth derives, as has one in 64 of those that kernels draw.
const LOOKS_LIKE_BERTHS: &str = "b2:00:5e:00:53:01";

/// A link of another plugin's, up, with an address.
fn foreign(lab: &Lab, address: &str) -> Pod {
    let pod = lab.world.pod().unwrap();
    let line = format!(
        "link add link {PARENT} name eth0 address {LOOKS_LIKE_BERTHS} netns {} type macvlan mode bridge\n",
        pod.name
    );
    world::ip(lab.world.node(), &line).unwrap();
    world::ip(&pod.netns, &format!("addr add {address} dev eth0\nlink set eth0 up\n")).unwrap();
    pod
}

fn prepared() -> Option<Lab> {
    let options = Options::of_tests(1.0)?;
    Some(Lab::prepare(&options, 4, "", Families::V4).unwrap())
}

#[test]
fn a_strangers_mac_that_looks_like_berths_keeps_no_add_waiting() {
    let Some(mut lab) = prepared() else { return };
    let stranger = foreign(&lab, "192.0.2.7/24");
    lab.start_agent(None).unwrap();
    lab.attach(&lab.world.pod().unwrap()).unwrap();
    let links = lab.world.links(&stranger).unwrap().unwrap();
    assert!(links.iter().any(|link| link.name == "eth0"), "it was removed: {links:?}");
}

#[test]
fn a_stray_link_keeps_its_own_address_from_all_and_no_other() {
    for alias in ["", "alias berth:forged"] {
        let Some(mut lab) = prepared() else { return };
        let stray = foreign(&lab, &format!("{}/16", lab.addresses[0]));
        if !alias.is_empty() {
            world::ip(&stray.netns, &format!("link set eth0 {alias}\n")).unwrap();
        }
        lab.start_agent(None).unwrap();
        let mut given = Vec::new();
        for _ in 1..lab.addresses.len() {
            given.push(lab.attach(&lab.world.pod().unwrap()).unwrap().address);
        }
        assert!(!given.contains(&lab.addresses[0].into()), "{given:?}");
        let findings = lab.client().doctor().unwrap();
        let named = |text: &str| text.contains(LOOKS_LIKE_BERTHS) && text.contains(&stray.name);
        assert!(findings.iter().any(|finding| named(&finding.text)), "{findings:?}");
        // The last address is its own until it is gone.
        let pod = lab.world.pod().unwrap();
        let mut waiting = lab.plugin.start(&lab.call("ADD", &pod)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        assert!(waiting.runs(), "the ADD did not wait");
        lab.world.remove(&stray);
        waiting.finish(Duration::from_secs(15)).unwrap().expect_success().unwrap();
    }
}

#[test]
fn a_berth_link_whose_record_is_lost_is_adopted() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    let living = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.stop_agent().unwrap();
    std::fs::remove_dir_all(lab.setup.state()).unwrap();
    std::fs::create_dir(lab.setup.state()).unwrap();
    lab.start_agent(None).unwrap();
    let rows = lab.leases().unwrap();
    assert!(rows.iter().any(|row| row.address == living.address), "{rows:?}");
}
