use berth_cni::Version;
use berth_protocol::request::LinkRemoval;
use berth_protocol::response::LeaseRow;
use serde_json::{Value, json};

use super::*;
use crate::sim::{Agent, Sim, attach, conf, key};

const DELEGATE: &str = r#""type":"macvlan","ipam":{"type":"berth","network":"lan"}"#;
const CHAINED: &str =
    r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n","x":1}],"y":2}"#;

fn run(sim: &mut Sim, more: &str) -> Result<Value, PluginError> {
    run_with(sim, more, &attach())
}

fn run_with(sim: &mut Sim, more: &str, attach: &Attach) -> Result<Value, PluginError> {
    let conf = conf(more);
    let settings = Settings::read(&conf).unwrap();
    add(sim, &conf, &settings, attach).map(|result| result.to_json(conf.version()))
}

fn code(error: &PluginError) -> u32 {
    error.object(Version::LATEST).code
}

#[test]
fn main_goes_in_the_documented_order() {
    let mut sim = Sim::new();
    let result = run(&mut sim, "").unwrap();
    assert_eq!(
        sim.log,
        [
            "enter",
            "links",
            "number",
            "lease",
            "routes",
            "parent",
            "create",
            "links",
            "alias",
            "bind",
            "configure",
            "routes",
            "done"
        ]
    );
    let mac = Mac::derive(&key(), 0);
    assert_eq!(sim.bound, Some((7, mac)));
    assert_eq!(sim.links[0].name, "eth0");
    assert_eq!(sim.links[0].alias.as_deref(), Some("berth:lan:c1:eth0:42"));
    assert_eq!(
        result,
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "mac": mac.to_string(), "sandbox": "/run/netns/c1"}],
            "ips": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 0},
                    {"address": "2001:db8::7/64", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
        })
    );
}

#[test]
fn a_default_route_beside_another_interfaces_is_made_behind_it_and_told_with_its_metric() {
    let first = || {
        Sim::new().with_link("eth0", "02:00:00:00:00:07", None).with_route(
            "0.0.0.0/0",
            Some("192.0.2.1"),
            254,
        )
    };
    let second = Attach { ifname: "net1".parse().unwrap(), ..attach() };
    let result = |sim: &mut Sim, version: &str| {
        let conf = conf(&format!(r#""cniVersion":"{version}""#));
        let settings = Settings::read(&conf).unwrap();
        add(sim, &conf, &settings, &second).unwrap().to_json(conf.version())["routes"].clone()
    };
    let mut sim = first();
    assert_eq!(result(&mut sim, "1.1.0"), json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "priority": 1}]));
    let made = sim.routes.iter().find(|route| route.ifindex != Some(7)).unwrap();
    assert_eq!((made.metric, made.via.unwrap().to_string().as_str()), (1, "10.0.0.1"));
    assert_eq!(result(&mut first(), "1.0.0"), json!([{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]));
}

#[test]
fn a_route_that_the_kernel_does_not_keep_fails_the_add_and_is_named() {
    let mut sim = Sim::new();
    // Two to one destination: as another process would, in between.
    sim.route_taken = true;
    let error = run(&mut sim, "").unwrap_err();
    assert!(error.to_string().contains("0.0.0.0/0 via 10.0.0.1"), "{error}");
    assert_eq!(code(&error), 11);
    assert!(sim.links.is_empty() && sim.leased.is_none());
}

#[test]
fn a_failure_at_any_step_is_undone_in_reverse() {
    for (fails, undone) in [
        ("enter", &[][..]),
        ("number", &[]),
        ("lease", &["release"]),
        ("parent", &["release"]),
        ("create", &["links", "delete", "release"]),
        ("alias", &["links", "delete", "release"]),
        ("bind", &["links", "delete", "release"]),
        ("configure", &["links", "delete", "release"]),
        ("done", &["links", "delete", "release"]),
    ] {
        let mut sim = Sim::new();
        sim.fails = Some(fails);
        run(&mut sim, "").unwrap_err();
        let position = sim.log.iter().position(|step| *step == fails).unwrap();
        assert_eq!(&sim.log[position + 1..], undone, "after {fails}");
        assert!(sim.links.is_empty(), "{fails} left a link");
        assert_eq!(sim.leased, None, "{fails} left a lease");
        for release in &sim.released {
            assert_eq!(release.link, LinkRemoval::Gone);
            assert!(release.txn.is_some(), "an undo names its transaction");
        }
    }
}

#[test]
fn the_undo_stack_tells_its_order() {
    let mut undo = Undo::default();
    let made = Step::RemoveLink(Made { temporary: "bt0".parse().unwrap(), ifindex: None });
    undo.push(Step::Release);
    undo.push(made.clone());
    let order: Vec<_> = undo.in_order().cloned().collect();
    assert_eq!(order, [made, Step::Release]);
}

#[test]
fn a_link_that_cannot_be_removed_is_left_to_the_agent() {
    let whose = Whose {
        key: key(),
        cni_network: "lan".parse().unwrap(),
        role: Role::Main,
        txn: TxnId("t".to_owned()),
    };
    let mut sim = Sim::new().with_link("bt0", "02:00:00:00:00:01", None);
    sim.fails = Some("delete");
    let mut undo = Undo::default();
    undo.push(Step::Release);
    undo.push(Step::RemoveLink(Made { temporary: "bt0".parse().unwrap(), ifindex: None }));
    undo.run(&mut sim, &whose);
    assert_eq!(sim.released[0].link, LinkRemoval::Unreachable);
}

#[test]
fn a_refused_lease_leaves_nothing_to_release() {
    let mut sim = Sim::new();
    sim.agent = Agent::Refusing(7);
    let error = run(&mut sim, "").unwrap_err();
    assert_eq!(code(&error), 7);
    assert_eq!(sim.log, ["enter", "links", "number", "lease"]);
}

#[test]
fn an_agents_upgrade_fails_no_add() {
    for question in 1..=3 {
        let mut sim = Sim::new();
        sim.agent = Agent::DiesOver(question);
        run(&mut sim, "").unwrap();
        assert!(sim.done);
        assert_eq!(sim.questions, 4, "one question was repeated");
    }
    let mut sim = Sim::new();
    sim.agent = Agent::AwayUntil(sim.now + Duration::from_secs(29));
    run(&mut sim, "").unwrap();
}

#[test]
fn without_an_agent_for_30_seconds_it_is_try_again_later() {
    let mut sim = Sim::new();
    let start = sim.now;
    sim.agent = Agent::AwayUntil(Duration::MAX);
    let error = run(&mut sim, "").unwrap_err();
    assert_eq!(code(&error), 11);
    assert_eq!(sim.now, start + Duration::from_secs(30));
    assert!(
        sim.spooled.is_empty(),
        "the transaction never reached the agent, so there is nothing to release"
    );
}

#[test]
fn a_silent_agent_gets_the_release_through_the_spool() {
    let mut sim = Sim::new();
    sim.agent = Agent::Silent;
    let error = run(&mut sim, r#""addTimeout":"1s""#).unwrap_err();
    assert_eq!(code(&error), 11);
    assert_eq!(sim.spooled.len(), 1);
    assert!(sim.spooled[0].txn.is_some());
}

#[test]
fn a1_a_taken_name_changes_nothing() {
    let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:01", None);
    let error = run(&mut sim, "").unwrap_err();
    assert!(matches!(error, PluginError::InterfaceExists { .. }));
    assert_eq!(sim.log, ["enter", "links"]);
}

#[test]
fn e7_the_own_namespace_is_refused_unless_overridden() {
    let mut sim = Sim::new();
    sim.is_own = true;
    let error = run(&mut sim, "").unwrap_err();
    assert_eq!(code(&error), 8);
    assert_eq!(sim.log, ["enter"]);
    let overridden = Attach { netns_override: true, ..attach() };
    run_with(&mut sim, "", &overridden).unwrap();
}

#[test]
fn a_path_that_is_no_namespace_is_a_bad_environment() {
    let mut sim = Sim::new();
    sim.no_netns = true;
    let object = run(&mut sim, "").unwrap_err().object(Version::LATEST);
    assert_eq!(object.code, 4);
    assert!(object.msg.contains("/run/netns/c1 is not a network namespace"), "{}", object.msg);
}

#[test]
fn the_next_salt_is_tried_when_a_mac_is_in_use() {
    let mut sim = Sim::new();
    sim.macs_in_use = (0..2).map(|salt| Mac::derive(&key(), salt)).collect();
    run(&mut sim, "").unwrap();
    assert_eq!(sim.bound.unwrap().1, Mac::derive(&key(), 2), "the agent knows the link that stayed");
    assert_eq!(sim.links.len(), 1);
    let mut asked = Sim::new();
    asked.macs_in_use = ["02:00:00:00:00:55".parse().unwrap()].into();
    let error = run(&mut asked, r#""runtimeConfig":{"mac":"02:00:00:00:00:55"}"#).unwrap_err();
    assert!(matches!(error, PluginError::MacTaken { .. }) && asked.links.is_empty(), "{error}");
    assert!(error.to_string().contains("02:00:00:00:00:55") && code(&error) == 11, "{error}");
    let mut sim = Sim::new();
    sim.macs_in_use = (0..SALTS).map(|salt| Mac::derive(&key(), salt)).collect();
    assert!(matches!(run(&mut sim, ""), Err(PluginError::NoMacLeft { tried: 4, .. })));
    assert_eq!(sim.leased, None);
}

/// A row of the agent's leases for the container, with that MAC.
fn row(container: &str, mac: Mac) -> LeaseRow {
    let row = json!({
        "network": "lan", "cniNetwork": "lan", "pool": "lan", "segment": "default", "address": "10.0.0.9",
        "state": "bound", "reason": "bound", "node": "n1", "containerID": container, "ifname": "eth0", "pod": null,
        "mac": mac, "netnsCookie": null, "nsid": null, "ifindex": null, "generation": 1,
    });
    serde_json::from_value(row).unwrap()
}

#[test]
fn the_holder_of_a_requested_mac_is_never_the_add_itself() {
    let mac: Mac = "02:00:00:00:00:55".parse().unwrap();
    let refused = |others: &[LeaseRow], parent: Option<Mac>| {
        let mut sim = Sim::new();
        sim.macs_in_use = [mac].into();
        sim.leases = [&[row("c1", mac)], others].concat();
        sim.parent.mac = parent;
        run(&mut sim, r#""runtimeConfig":{"mac":"02:00:00:00:00:55"}"#).unwrap_err().object(Version::LATEST)
    };
    let object = refused(&[row("c2", mac)], None);
    assert!(object.msg.contains("container c2") && object.code == 11, "{object:?}");
    let object = refused(&[], None);
    assert!(object.msg.contains("an interface without a lease") && !object.msg.contains("c1"), "{object:?}");
    let object = refused(&[], Some(mac));
    assert!(object.msg.contains("its own MAC") && object.msg.contains("eth1"), "{object:?}");
    assert!(object.code == 7 && object.details.contains("another MAC"), "{object:?}");
}

#[test]
fn a_requested_mac_is_used_and_a_passthru_child_has_its_parents() {
    let mut sim = Sim::new();
    run(&mut sim, r#""runtimeConfig":{"mac":"02:00:00:00:00:55","ips":["10.0.0.7"]}"#).unwrap();
    assert_eq!(sim.bound.unwrap().1.to_string(), "02:00:00:00:00:55");
    let lease = sim.last_lease.unwrap();
    assert_eq!(lease.mac.unwrap().to_string(), "02:00:00:00:00:55");
    assert_eq!(lease.ips, ["10.0.0.7".parse::<IpAddr>().unwrap()]);

    let mut sim = Sim::new();
    sim.grant.link = LinkPlan::Macvlan { parent: "eth1".parse().unwrap(), mode: MacvlanMode::Passthru };
    run(&mut sim, "").unwrap();
    assert_eq!(sim.bound.unwrap().1.to_string(), "02:00:00:00:00:ee");
}

#[test]
fn a_refused_link_names_parent_cause_value_and_what_to_do() {
    use berth_ipam::config::MacvlanMode::{Bridge, Passthru};
    for (errno, controller, mtu, mode, said) in [
        (refusal::EBUSY, Some("br0"), None, Bridge, "a port of br0"),
        (refusal::EBUSY, None, None, Bridge, "ipvlan"),
        (refusal::EINVAL, None, Some(9000), Bridge, "MTU 9000 is larger than its MTU 1500"),
        (refusal::EINVAL, None, None, Passthru, "mode passthru requires it alone"),
        (refusal::EINVAL, None, None, Bridge, "one of mode passthru may use it exclusively"),
    ] {
        let mut sim = Sim::new();
        (sim.refuses, sim.grant.mtu) = (Some(errno), mtu);
        sim.parent.controller = controller.map(str::to_owned);
        sim.grant.link = LinkPlan::Macvlan { parent: "eth1".parse().unwrap(), mode };
        let error = run(&mut sim, "").unwrap_err();
        let object = error.object(Version::LATEST);
        assert_eq!(object.code, 7, "{}", object.msg);
        assert!(object.msg.contains("eth1") && object.msg.contains(said), "{}", object.msg);
        assert!(object.msg.contains("os error") && !object.details.is_empty(), "the kernel's words stay");
        assert_eq!(sim.leased, None);
    }
    // What nothing explains stays the kernel's.
    let mut sim = Sim::new();
    sim.refuses = Some(12);
    assert!(matches!(run(&mut sim, ""), Err(PluginError::Kernel { .. })));
}

#[test]
fn a_missing_parent_is_named_and_undone() {
    let mut sim = Sim::new();
    sim.parents = vec![];
    let error = run(&mut sim, "").unwrap_err();
    assert_eq!(code(&error), 7);
    assert!(error.to_string().contains("eth1"));
    assert_eq!(sim.released.len(), 1);
}

#[test]
fn chained_addresses_the_link_of_the_main_plugin() {
    let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None);
    let result = run(&mut sim, CHAINED).unwrap();
    assert_eq!(
        sim.log,
        ["enter", "links", "number", "lease", "routes", "bind", "addresses", "configure", "routes", "done"]
    );
    assert_eq!(sim.bound.unwrap().1.to_string(), "02:00:00:00:00:07");
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": "/n", "x": 1}])
    );
    assert_eq!(result["y"], 2);
    assert_eq!(result["ips"][0]["interface"], 0);
    assert_eq!(sim.last_lease.unwrap().mac.unwrap().to_string(), "02:00:00:00:00:07");
}

#[test]
fn chained_takes_its_addresses_back_and_leaves_the_link() {
    for fails in ["configure", "done"] {
        let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None);
        sim.fails = Some(fails);
        run(&mut sim, CHAINED).unwrap_err();
        assert!(sim.addresses.is_empty());
        assert_eq!(sim.links.len(), 1);
        assert_eq!(sim.log[sim.log.len() - 2..], ["remove-addresses", "release"]);
    }
}

#[test]
fn chained_refuses_what_it_cannot_address() {
    let mut sim = Sim::new();
    assert!(matches!(run(&mut sim, CHAINED), Err(PluginError::InterfaceMissing { .. })));
    let other = CHAINED.replace("eth0", "eth9");
    assert!(matches!(run(&mut sim, &other), Err(PluginError::InterfaceMissing { .. })));
    assert_eq!(sim.leased, None);
}

const ADDRESSED: &str = r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n"}],"ips":[{"address":"10.9.9.9/24","interface":0,"x":1}],"routes":[{"dst":"0.0.0.0/0","mtu":1400}]},"runtimeConfig":{"ips":["10.0.0.1/24"]}"#;

#[test]
fn chained_leases_what_another_ipam_gave_and_touches_nothing() {
    let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None).with_address("10.9.9.9/24");
    let result = run(&mut sim, ADDRESSED).unwrap();
    assert_eq!(sim.log, ["enter", "links", "number", "lease", "bind", "done"]);
    let lease = sim.last_lease.clone().unwrap();
    assert!(lease.adopt);
    assert_eq!(lease.ips, ["10.9.9.9".parse::<IpAddr>().unwrap()], "not what was asked of that IPAM");
    assert_eq!(result["ips"], json!([{"address": "10.9.9.9/24", "interface": 0, "x": 1}]));
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "mtu": 1400}]));
    assert_eq!(sim.addresses.len(), 1);
}

#[test]
fn an_adoption_that_fails_leaves_the_other_ipams_address() {
    for fails in ["bind", "done"] {
        let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None).with_address("10.9.9.9/24");
        sim.fails = Some(fails);
        run(&mut sim, ADDRESSED).unwrap_err();
        assert_eq!((sim.addresses.len(), sim.log.last()), (1, Some(&"release")));
    }
}

#[test]
fn a_delegate_returns_addresses_only() {
    let mut sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None);
    let result = run(&mut sim, DELEGATE).unwrap();
    assert_eq!(sim.log, ["enter", "links", "number", "lease", "bind", "done"]);
    assert!(result.get("interfaces").is_none() && result["ips"][0].get("interface").is_none());
    let mut early = Sim::new();
    run(&mut early, DELEGATE).unwrap();
    assert_eq!(early.log, ["enter", "links", "number", "lease", "done"], "ptp makes its link later");
    assert!(early.addresses.is_empty());
}

#[test]
fn a8_an_add_repeated_in_the_same_namespace_leaves_its_link_as_it_is() {
    let mut sim = Sim::new();
    let first = run(&mut sim, "").unwrap();
    let (before, until) = (sim.links.clone(), sim.log.len());
    assert_eq!(run(&mut sim, "").unwrap(), first);
    assert_eq!(sim.links, before);
    let again = &sim.log[until..];
    assert!(!again.contains(&"create") && !again.contains(&"configure"), "{again:?}");
    assert!(again.ends_with(&["links", "bind", "links", "addresses", "routes", "done"]), "{again:?}");
}

#[test]
fn a8_a_route_that_is_missing_is_put_back() {
    let mut sim = Sim::new();
    let first = run(&mut sim, "").unwrap();
    let made = std::mem::take(&mut sim.routes);
    assert_eq!(run(&mut sim, "").unwrap(), first);
    assert_eq!(sim.routes, made);
}

#[test]
fn a8_what_is_missing_on_the_link_of_before_is_put_back_in_place() {
    let mut sim = Sim::new();
    run(&mut sim, "").unwrap();
    let before = sim.links.clone();
    sim.addresses.pop();
    sim.links[0].up = false;
    let until = sim.log.len();
    run(&mut sim, "").unwrap();
    let again = &sim.log[until..];
    assert!(!again.contains(&"delete") && !again.contains(&"create"), "{again:?}");
    assert_eq!((&sim.links, sim.addresses.len()), (&before, 2));

    // Where that fails, what was there stays, and the lease with it.
    sim.addresses.pop();
    sim.fails = Some("configure");
    run(&mut sim, "").unwrap_err();
    assert_eq!((&sim.links, sim.addresses.len()), (&before, 1));
    assert!(sim.leased.is_some() && sim.done);
}

#[test]
fn a8_a_link_of_before_that_no_record_knows_is_made_anew_if_it_is_half_finished() {
    let mut sim = Sim::new();
    run(&mut sim, "").unwrap();
    (sim.leased, sim.bound, sim.done) = (None, None, false);
    sim.addresses.pop();
    let until = sim.log.len();
    run(&mut sim, "").unwrap();
    let again = &sim.log[until..];
    assert!(again.contains(&"delete") && again.contains(&"create"), "{again:?}");
    assert_eq!((sim.links.len(), sim.addresses.len()), (1, 2));

    // If it cannot be removed, no second link is created.
    (sim.leased, sim.bound, sim.done) = (None, None, false);
    sim.addresses.pop();
    sim.fails = Some("delete");
    let error = run(&mut sim, "").unwrap_err();
    assert!(matches!(error, PluginError::InterfaceExists { .. }), "{error}");
    assert_eq!(sim.links.len(), 1);
}

#[test]
fn a_repeated_add_whose_interface_is_not_the_bound_one_says_so() {
    let mut sim = Sim::new();
    run(&mut sim, "").unwrap();
    sim.links[0].name = "renamed".to_owned();
    let error = run(&mut sim, "").unwrap_err();
    assert!(matches!(error, PluginError::NotAsBound { ifindex: 7, .. }), "{error}");
    assert_eq!((sim.links.len(), code(&error)), (1, 11));
}

#[test]
fn dns_of_the_configuration_is_passed_on() {
    let result = run(&mut Sim::new(), r#""dns":{"nameservers":["10.0.0.53"]}"#).unwrap();
    assert_eq!(result["dns"], json!({"nameservers": ["10.0.0.53"]}));
}

#[test]
fn wishes_that_cannot_come_true_change_nothing() {
    for (more, said) in [
        (r#""runtimeConfig":{"ips":["10.0.0.1/24","2001:db8::1","10.0.0.2"]}"#, "10.0.0.2"),
        (r#""runtimeConfig":{"ips":["2001:db8::1","2001:db8::2"]}"#, "2001:db8::2"),
        (r#""runtimeConfig":{"mac":"01:00:5e:00:00:01"}"#, "01:00:5e:00:00:01"),
        (r#""args":{"cni":{"mac":"00:00:00:00:00:00"}}"#, "00:00:00:00:00:00"),
    ] {
        let mut sim = Sim::new();
        let error = run(&mut sim, more).unwrap_err();
        assert_eq!(code(&error), 7, "{more}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(sim.log, [""; 0], "{more}");
    }
}
