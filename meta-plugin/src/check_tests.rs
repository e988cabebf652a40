use berth_cni::Version;

use super::*;
use crate::sim::{Agent, Sim, attach, conf};

const RESULT: &str = r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n"}],"ips":[{"address":"10.0.0.7/24","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1"},{"dst":"10.9.0.0/16"}]}"#;

fn run(sim: &mut Sim, more: &str) -> Result<(), PluginError> {
    let conf = conf(more);
    let settings = Settings::read(&conf).unwrap();
    check(sim, &conf, &settings, &attach())
}

fn healthy() -> Sim {
    Sim::new()
        .with_lease()
        .with_link("eth0", "02:00:00:00:00:07", None)
        .with_address("10.0.0.7/24")
        .with_address("10.0.0.8/24")
        .with_route("0.0.0.0/0", Some("10.0.0.1"), 254)
        // A later plugin moved this one.
        .with_route("10.9.0.0/16", None, 100)
}

#[test]
fn an_attachment_as_add_left_it_passes() {
    let mut sim = healthy();
    run(&mut sim, RESULT).unwrap();
    assert_eq!(sim.log, ["enter", "links", "addresses", "routes", "check"]);
}

#[test]
fn the_default_route_of_another_interface_stands_for_that_of_another_main_plugin_only() {
    for via in ["192.0.2.1", "10.0.0.1"] {
        let mut sim = healthy();
        (sim.routes[0].ifindex, sim.routes[0].via) = (Some(6), via.parse().ok());
        run(&mut sim, RESULT).unwrap();
        sim.links[0].alias = Some("berth:lan:c1:eth0:42".to_owned());
        let error = run(&mut sim, RESULT).unwrap_err();
        assert!(error.to_string().contains("0.0.0.0/0 via 10.0.0.1 is missing"), "{error}");
    }
}

#[test]
fn a_metric_that_was_told_is_looked_for() {
    let told = |priority: u32| {
        RESULT.replace(r#""gw":"10.0.0.1""#, &format!(r#""gw":"10.0.0.1","priority":{priority}"#))
    };
    let mut sim = healthy();
    sim.routes[0].metric = 1;
    run(&mut sim, &told(1)).unwrap();
    run(&mut sim, RESULT).unwrap();
    assert!(run(&mut sim, &told(2)).is_err());
}

#[test]
fn c1_each_difference_is_named() {
    let mut down = healthy();
    down.links[0].up = false;
    let mut bare = healthy();
    bare.addresses.remove(0);
    let mut other = healthy();
    other.links[0].mac = "02:00:00:00:00:08".parse().ok();
    let mut unrouted = healthy();
    unrouted.routes.remove(1);
    let mut rerouted = healthy();
    rerouted.routes[0].via = "10.0.0.2".parse().ok();
    for (mut sim, word) in [
        (Sim::new(), "interface eth0 does not exist"),
        (down, "is down"),
        (bare, "10.0.0.7/24"),
        (other, "MAC"),
        (unrouted, "route to 10.9.0.0/16 is missing"),
        (rerouted, "route to 0.0.0.0/0 via 10.0.0.1 is missing"),
    ] {
        let error = run(&mut sim, RESULT).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.object(Version::LATEST).code, 100);
    }
}

#[test]
fn c1_a_result_is_required() {
    assert!(matches!(run(&mut healthy(), ""), Err(PluginError::NoPrevResult)));
}

#[test]
fn c2_the_reservation_is_the_agents_to_confirm() {
    let mut sim = healthy();
    sim.agent = Agent::Refusing(100);
    assert!(matches!(run(&mut sim, RESULT), Err(PluginError::Refused(_))));
    let delegate = format!(r#""type":"macvlan","ipam":{{"type":"berth"}},{RESULT}"#);
    let mut delegated = Sim::new().with_lease();
    run(&mut delegated, &delegate).unwrap();
    assert_eq!(delegated.log, ["check"]);
}

#[test]
fn an_unreadable_container_is_not_a_difference() {
    let mut sim = healthy();
    sim.fails = Some("addresses");
    assert!(matches!(run(&mut sim, RESULT), Err(PluginError::Unknown { .. })));
}
