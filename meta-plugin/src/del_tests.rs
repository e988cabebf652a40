use std::time::Duration;

use berth_cni::Version;
use berth_ipam::mac::Mac;

use super::*;
use crate::sim::{Agent, Sim, conf, detach, key};

const OWN_ALIAS: &str = "berth:lan:c1:eth0:42";
const CHAINED: &str = r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n"}],"ips":[{"address":"10.0.0.7/24","interface":0}]}"#;

fn run(sim: &mut Sim, more: &str) -> Result<(), PluginError> {
    run_with(sim, more, &detach())
}

fn run_with(sim: &mut Sim, more: &str, detach: &Detach) -> Result<(), PluginError> {
    let conf = conf(more);
    let settings = Settings::read(&conf).unwrap();
    del(sim, &conf, &settings, detach)
}

fn own_mac() -> String {
    Mac::derive(&key(), 1).to_string()
}

#[test]
fn main_removes_the_link_before_it_releases() {
    let mut sim = Sim::new().with_link("eth0", &own_mac(), Some(OWN_ALIAS));
    run(&mut sim, "").unwrap();
    assert_eq!(sim.log, ["enter", "links", "delete", "release"]);
    assert_eq!((sim.released[0].role, sim.released[0].link), (Role::Main, LinkRemoval::Gone));
    assert_eq!(sim.released[0].txn, None);
}

#[test]
fn a_link_under_another_name_is_still_the_attachments() {
    let mut sim = Sim::new().with_link("renamed", &own_mac(), None);
    run(&mut sim, "").unwrap();
    assert!(sim.links.is_empty());
}

#[test]
fn d1_d7_nothing_there_is_success_and_the_agents_to_judge() {
    let mut sim = Sim::new();
    run(&mut sim, "").unwrap();
    assert_eq!(
        sim.released[0].link,
        LinkRemoval::Unreachable,
        "the path may belong to another container now"
    );
    let mut no_path = Sim::new();
    run_with(&mut no_path, "", &Detach { netns: None, ..detach() }).unwrap();
    assert_eq!(no_path.log, ["release"]);
    assert_eq!(no_path.released[0].link, LinkRemoval::Unreachable);
    let mut no_netns = Sim::new();
    no_netns.no_netns = true;
    run(&mut no_netns, "").unwrap();
    assert_eq!(no_netns.log, ["enter", "release"]);
}

#[test]
fn t12_a_foreign_link_at_a_recycled_path_is_left_alone() {
    for (mac, alias) in [
        ("02:00:00:00:00:99", None),
        // Another attachment's, and this attachment's name with another namespace's cookie.
        ("02:00:00:00:00:99", Some("berth:lan:c2:eth0:42")),
        ("02:00:00:00:00:99", Some("berth:lan:c1:eth0:41")),
    ] {
        let mut sim = Sim::new().with_link("eth0", mac, alias).with_address("10.0.0.7/24");
        run(&mut sim, "").unwrap();
        run(&mut sim, CHAINED).unwrap();
        assert_eq!((sim.links.len(), sim.addresses.len()), (1, 1), "{alias:?}");
        assert!(sim.released.iter().all(|release| release.link == LinkRemoval::Unreachable));
    }
}

#[test]
fn a_passthru_child_is_known_by_its_alias() {
    let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:ee", Some(OWN_ALIAS));
    run(&mut sim, "").unwrap();
    assert!(sim.links.is_empty());
}

#[test]
fn the_nodes_own_namespace_is_left_alone() {
    let mut sim = Sim::new().with_link("eth0", &own_mac(), None);
    sim.is_own = true;
    run(&mut sim, "").unwrap();
    assert_eq!(sim.links.len(), 1);
    assert_eq!(sim.released[0].link, LinkRemoval::Unreachable);
}

#[test]
fn chained_removes_its_addresses_and_no_more() {
    let mut sim = Sim::new()
        .with_link("eth0", "02:00:00:00:00:07", None)
        .with_address("10.0.0.7/24")
        .with_address("fe80::1/64");
    run(&mut sim, CHAINED).unwrap();
    assert_eq!(sim.log, ["enter", "links", "links", "remove-addresses", "release"]);
    assert_eq!((sim.links.len(), sim.addresses.len()), (1, 1));
    assert_eq!((sim.released[0].role, sim.released[0].link), (Role::Chained, LinkRemoval::Gone));
}

#[test]
fn a_delegate_looks_at_no_link() {
    let mut sim = Sim::new().with_link("eth0", &own_mac(), None);
    run(&mut sim, r#""type":"macvlan","ipam":{"type":"berth"}"#).unwrap();
    assert_eq!(sim.log, ["release"]);
    assert_eq!(sim.released[0].link, LinkRemoval::NotMine);
}

#[test]
fn an_absent_agent_costs_no_time_and_a_silent_one_a_second() {
    let mut absent = Sim::new().with_link("eth0", &own_mac(), None);
    let start = absent.now;
    absent.agent = Agent::AwayUntil(Duration::MAX);
    run(&mut absent, "").unwrap();
    assert_eq!((absent.spooled.len(), absent.now), (1, start));
    assert_eq!(absent.questions, 1);
    assert!(absent.links.is_empty());

    let mut silent = Sim::new();
    silent.agent = Agent::Silent;
    run(&mut silent, "").unwrap();
    assert_eq!((silent.spooled.len(), silent.now), (1, start + Duration::from_secs(1)));
}

#[test]
fn a_refusal_does_not_stop_the_chain() {
    let mut sim = Sim::new();
    sim.agent = Agent::Refusing(5);
    run(&mut sim, "").unwrap();
    assert_eq!(sim.spooled.len(), 1);
}

#[test]
fn without_agent_and_spool_only_a_link_seen_gone_is_success() {
    let mut gone = Sim::new().with_link("eth0", &own_mac(), None);
    gone.agent = Agent::AwayUntil(Duration::MAX);
    gone.fails = Some("spool");
    run(&mut gone, "").unwrap();

    let mut unseen = Sim::new();
    unseen.agent = Agent::AwayUntil(Duration::MAX);
    unseen.fails = Some("spool");
    let error = run_with(&mut unseen, "", &Detach { netns: None, ..detach() }).unwrap_err();
    let object = error.object_of_del(Version::LATEST);
    assert_eq!(object.code, 5);
    let text = object.to_json().to_string().to_ascii_lowercase();
    assert!(!text.contains("not found") && !text.contains("no such file"), "{text}");
}

#[test]
fn a_link_that_stays_is_the_agents_to_remove() {
    for fails in ["delete", "links"] {
        let mut sim = Sim::new().with_link("eth0", &own_mac(), None);
        sim.fails = Some(fails);
        run(&mut sim, "").unwrap();
        assert_eq!(sim.released[0].link, LinkRemoval::Unreachable, "{fails}");
    }
}

#[test]
fn a_malformed_result_does_not_keep_the_address() {
    let mut sim = Sim::new().with_link("eth0", &own_mac(), None);
    run(&mut sim, r#""prevResult":{"ips":"nonsense"},"addTimeout":5,"runtimeConfig":7"#).unwrap();
    assert_eq!(sim.released[0].link, LinkRemoval::Gone);
}
