//! Pools, networks and segments that meet on one port.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::plugin::{Call, Outcome};
use berth_testbed::stranger::Stranger;
use berth_testbed::world::{self, PARENT, Pod};
use serde_json::json;

/// A document of a kind, up to its spec.
fn head(kind: &str, name: &str) -> String {
    format!("---\napiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n")
}

fn network(name: &str, parent: &str, pools: &str) -> String {
    let link = format!("  link: {{type: macvlan, parent: {parent}}}\n");
    format!("{}{link}  pools: [{pools}]\n  addTimeout: 1s\n", head("UnderlayNetwork", name))
}

fn pool(name: &str, segment: &str, range: &str) -> String {
    let head = head("IPPool", name);
    format!("{head}  segment: {segment}\n  subnet: {}\n  ranges: [{range}]\n", world::SUBNET)
}

/// A lab with these declarations instead of its own.
fn lab(declared: &str) -> Option<Lab> {
    let options = Options::of_tests(1.0)?;
    let mut lab = Lab::prepare(&options, 4, "", Families::V4).unwrap();
    std::fs::remove_file(lab.setup.config().join("lan.yaml")).unwrap();
    lab.setup.write("config/test.yaml", declared).unwrap();
    lab.start_agent(None).unwrap();
    Some(lab)
}

fn call(lab: &Lab, command: &str, network: &str, pod: &Pod) -> Outcome {
    let mut config = lab.config.clone();
    config["name"] = json!(network);
    config["network"] = json!(network);
    lab.plugin.run(&Call::new(command, &config, pod)).unwrap()
}

fn add(lab: &Lab, network: &str) -> (Pod, IpAddr) {
    let pod = lab.world.pod().unwrap();
    let added = call(lab, "ADD", network, &pod).added().unwrap();
    (pod, added.addresses[0])
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

fn berthctl(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let binary = std::env::var("BERTH_BIN_DIR").unwrap() + "/berthctl";
    let output =
        Command::new(binary).arg("--socket").arg(lab.setup.socket()).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Waits until the agent's findings are as wanted.
fn wait(lab: &Lab, what: &str, wanted: impl Fn(&Lab) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !wanted(lab) {
        assert!(Instant::now() < deadline, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_left_out(lab: &Lab, network: &str) -> bool {
    let findings = lab.client().doctor().unwrap();
    findings.iter().any(|finding| finding.what == format!("network.{network}") && !finding.ok)
}

#[test]
fn addresses_that_a_neighbour_announced_are_not_given_by_the_second_pool_of_a_subnet() {
    let declared = network("lan", PARENT, "p1, p2")
        + &pool("p1", "lan", "10.77.0.10-10.77.0.11")
        + &pool("p2", "lan", "10.77.0.20-10.77.0.23");
    let Some(lab) = lab(&declared) else { return };
    add(&lab, "lan");
    add(&lab, "lan");
    // The candidates are found silent before the neighbour appears.
    std::thread::sleep(Duration::from_secs(2));
    let neighbour = Stranger::join(&lab.world).unwrap();
    for last in 20..24 {
        neighbour.take(address(last)).unwrap();
        neighbour.announce(address(last)).unwrap();
    }
    wait(&lab, "the quarantine of four addresses", |lab| {
        lab.leases().unwrap().iter().filter(|row| row.state == "quarantined").count() == 4
    });
    let refused = call(&lab, "ADD", "lan", &lab.world.pod().unwrap()).failure().unwrap();
    assert_eq!(refused.code, 11, "{refused:?}");
    assert!(refused.msg.contains(&neighbour.mac().to_string()), "{refused:?}");
}

#[test]
fn of_two_segments_on_one_parent_the_first_is_served() {
    let both = |parent: &str| {
        network("lan", PARENT, "p")
            + &network("other", parent, "q")
            + &pool("p", "a", "10.77.0.10-10.77.0.13")
            + &pool("q", "b", "10.77.0.10-10.77.0.13")
    };
    let Some(mut lab) = lab(&both(PARENT)) else { return };
    assert!(is_left_out(&lab, "other") && !is_left_out(&lab, "lan"));
    let pods: Vec<_> = (0..4).map(|_| add(&lab, "lan")).collect();
    let stranded = lab.world.pod().unwrap();
    let refused = call(&lab, "ADD", "other", &stranded).failure().unwrap();
    assert_eq!(refused.code, 7, "{refused:?}");
    for word in ["other", "lan", "segment a", "segment b", PARENT] {
        assert!(refused.msg.contains(word), "{word}: {refused:?}");
    }
    assert!(!refused.details.is_empty());
    assert!(call(&lab, "DEL", "other", &stranded).succeeded(), "a DEL works anyway");
    // The same under an alternative name of the parent, which is resolved while the agent runs.
    lab.setup.write("config/test.yaml", &both("eth9")).unwrap();
    lab.agent().unwrap().reload();
    wait(&lab, "its own port", |lab| !is_left_out(lab, "other"));
    world::ip(lab.world.node(), &format!("link property add dev {PARENT} altname lan0\n")).unwrap();
    lab.setup.write("config/test.yaml", &both("lan0")).unwrap();
    lab.agent().unwrap().reload();
    wait(&lab, "the alternative name", |lab| is_left_out(lab, "other"));
    let refused = call(&lab, "ADD", "other", &lab.world.pod().unwrap()).failure().unwrap();
    assert_eq!(refused.code, 7, "{refused:?}");
    assert_eq!(lab.leases().unwrap().len(), pods.len());
}

#[test]
fn an_address_in_two_segments_is_released_in_the_one_that_is_named() {
    let declared = network("lan", PARENT, "p")
        + &network("far", "eth2", "q")
        + &pool("p", "a", "10.77.0.10")
        + &pool("q", "b", "10.77.0.10");
    let Some(lab) = lab(&declared) else { return };
    let cable = "link add eth2 type veth peer name eth2p\nlink set eth2 up\nlink set eth2p up\n";
    world::ip(lab.world.node(), cable).unwrap();
    let (near, first) = add(&lab, "lan");
    let (far, second) = add(&lab, "far");
    assert_eq!(first, second);
    let (done, text) = berthctl(&lab, &["release", "10.77.0.10", "--force"]);
    assert!(!done && text.contains("a, b") && text.contains("--segment"), "{text}");
    let (done, text) = berthctl(&lab, &["explain", "10.77.0.10"]);
    assert!(!done && text.contains("a, b"), "{text}");
    let (done, text) = berthctl(&lab, &["release", "10.77.0.10", "--segment", "c", "--force"]);
    assert!(!done && text.contains("segment c"), "{text}");
    assert_eq!(lab.leases().unwrap().iter().filter(|row| row.state == "bound").count(), 2);
    let (done, text) = berthctl(&lab, &["explain", "10.77.0.10", "--segment", "b"]);
    assert!(done && text.contains(&far.container_id) && !text.contains(&near.container_id), "{text}");
    let (done, text) = berthctl(&lab, &["leases", "--segment", "a"]);
    assert!(done && text.contains(&near.container_id) && !text.contains(&far.container_id), "{text}");
    let (done, text) = berthctl(&lab, &["release", "10.77.0.10", "--segment", "b", "--force"]);
    assert!(done, "{text}");
    let rows = lab.leases().unwrap();
    let held = |pod: &Pod| rows.iter().any(|row| row.container_id.as_ref() == Some(&pod.container_id));
    assert!(held(&near) && !held(&far), "{rows:?}");
    assert!(rows.iter().any(|row| row.segment == "b" && row.state == "quarantined"), "{rows:?}");
}
