use serde_json::json;

use super::*;
use crate::settings::Settings;
use crate::sim::{Agent, Sim, attach, conf, detach};

const OTHER: &str = r#""type":"berth","keep":1,"ipam":{"type":"host-local","dataDir":"/d"}"#;
const GIVEN: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.9/24","gateway":"10.0.0.1"}],
    "routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.0.0.2","mtu":9000}],"dns":{},"invented":[1]}"#;

fn given(output: &'static str) -> Sim {
    let mut sim = Sim::new();
    sim.given = (true, output);
    sim
}

fn add(sim: &mut Sim) -> Result<Value, PluginError> {
    let conf = conf(&format!(r#"{OTHER},"dns":{{"domain":"x"}}"#));
    let settings = Settings::read(&conf).unwrap();
    let result = crate::add::add(sim, &conf, &settings, &attach())?;
    Ok(result.to_json(conf.version()))
}

fn verbs(sim: &Sim) -> Vec<&'static str> {
    sim.delegated.iter().map(|(_, verb, _)| *verb).collect()
}

#[test]
fn what_the_other_ipam_gave_is_leased_configured_and_printed_with_everything_else() {
    let mut sim = given(GIVEN);
    let result = add(&mut sim).unwrap();
    let lease = sim.last_lease.as_ref().unwrap();
    assert!(lease.adopt && lease.ips == ["10.0.0.9".parse::<IpAddr>().unwrap()], "{lease:?}");
    let held: Vec<_> = sim.addresses.iter().map(|held| held.address.to_string()).collect();
    assert_eq!(held, ["10.0.0.9/24"], "and nothing of the pool's own choice");
    assert_eq!(result["ips"], json!([{"address": "10.0.0.9/24", "gateway": "10.0.0.1", "interface": 0}]));
    assert_eq!(result["interfaces"][0]["name"], "eth0");
    assert_eq!((&result["routes"][1]["mtu"], &result["invented"]), (&json!(9000), &json!([1])));
    assert_eq!(result["dns"], json!({"domain": "x"}));
    let (kind, verb, input) = &sim.delegated[0];
    let input: Value = serde_json::from_slice(input).unwrap();
    assert_eq!((kind.as_str(), *verb), ("host-local", "ADD"));
    assert_eq!(
        (&input["keep"], &input["type"], &input["ipam"]["dataDir"]),
        (&json!(1), &json!("berth"), &json!("/d"))
    );
    assert_eq!(sim.delegated.len(), 1);
}

#[test]
fn a_route_without_a_next_hop_goes_by_the_gateway_of_its_family() {
    let value: Value = serde_json::from_str(GIVEN).unwrap();
    let given = Given { result: CniResult::parse("result", &value, Version::V1_0_0).unwrap() };
    let network = Sim::new().grant;
    let grant = given.grant(network.clone());
    let routes: Vec<_> = grant.routes.iter().map(|route| route.via.unwrap().to_string()).collect();
    assert_eq!(routes, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(grant.link, network.link);
}

#[test]
fn an_add_that_fails_later_gives_back_after_the_link_is_gone_and_the_lease_released() {
    let mut sim = given(GIVEN);
    sim.fails = Some("configure");
    add(&mut sim).unwrap_err();
    assert_eq!(verbs(&sim), ["ADD", "DEL"]);
    let tail = &sim.log[sim.log.len() - 4..];
    assert_eq!(tail, ["delete", "release", "check", "delegate"], "{:?}", sim.log);

    // Refused by the agent: another attachment holds the other IPAM's address.
    let mut sim = given(GIVEN);
    sim.agent = Agent::Refusing(11);
    add(&mut sim).unwrap_err();
    assert_eq!(verbs(&sim), ["ADD", "DEL"]);
    assert!(sim.links.is_empty());
}

#[test]
fn what_it_gave_to_another_add_of_the_attachment_is_not_given_back() {
    let taken = || {
        let mut sim = given(GIVEN);
        (sim.leased, sim.bound) = (Some(berth_ipam::identity::TxnId("first".to_owned())), None);
        sim
    };
    let mut sim = taken();
    let error = add(&mut sim).unwrap_err();
    assert!(matches!(error, PluginError::Refused(_)), "{error}");
    assert_eq!(verbs(&sim), ["ADD"], "its DEL names the attachment and not the ADD");

    // A delegate that refused a second ADD assigned nothing that could be released.
    let mut sim = taken();
    sim.given = (false, r#"{"cniVersion":"1.0.0","code":5,"msg":"duplicate allocation"}"#);
    add(&mut sim).unwrap_err();
    assert_eq!(verbs(&sim), ["ADD"]);
}

#[test]
fn its_failures_are_told_in_its_own_words_and_leave_nothing() {
    let refusal = r#"{"cniVersion":"1.0.0","code":42,"msg":"no addresses left","details":"add a range"}"#;
    let mut sim = given(refusal);
    sim.given.0 = false;
    let object = add(&mut sim).unwrap_err().object(Version::LATEST);
    assert_eq!((object.code, object.details.as_str()), (42, "add a range"));
    assert!(object.msg.contains("host-local") && object.msg.contains("no addresses left"), "{}", object.msg);
    assert!(sim.last_lease.is_none() && sim.links.is_empty());

    for (output, said) in [
        ("", "not JSON"),
        (r#"{"cniVersion":"1.0.0"}"#, "has no address"),
        (r#"{"ips":[{"address":"10.0.0.9"}]}"#, "ips[0]"),
        (r#"{"ips":[{"address":"10.0.0.9/24"},{"address":"10.0.0.8/24"}]}"#, "two addresses"),
    ] {
        let mut sim = given(output);
        let error = add(&mut sim).unwrap_err().to_string();
        assert!(error.contains(said), "{output}: {error}");
        assert_eq!(verbs(&sim), ["ADD", "DEL"]);
        assert!(sim.last_lease.is_none());
    }
    let mut sim = given("panic");
    sim.given.0 = false;
    assert!(add(&mut sim).unwrap_err().to_string().contains("exit status: 1"));
    let mut sim = given("");
    sim.fails = Some("delegate");
    let object = add(&mut sim).unwrap_err().object(Version::LATEST);
    assert_eq!((object.code, object.msg.contains("host-local")), (code::BAD_CONFIG, true));
}

#[test]
fn del_comes_to_it_last_and_only_when_berths_own_part_is_safe() {
    let conf = conf(OTHER);
    let settings = Settings::read(&conf).unwrap();
    let mut sim = given("");
    crate::del::del(&mut sim, &conf, &settings, &detach()).unwrap();
    assert_eq!(sim.log[sim.log.len() - 2..], ["release", "delegate"]);
    assert_eq!(verbs(&sim), ["DEL"]);

    let mut sim = given("");
    (sim.no_netns, sim.agent, sim.fails) = (true, Agent::Silent, Some("spool"));
    crate::del::del(&mut sim, &conf, &settings, &detach()).unwrap_err();
    assert!(sim.delegated.is_empty(), "the runtime asks again");

    let mut sim = given(r#"{"code":5,"msg":"disk"}"#);
    sim.given.0 = false;
    let error = crate::del::del(&mut sim, &conf, &settings, &detach()).unwrap_err();
    assert_eq!(error.object(Version::LATEST).code, 5);
    assert_eq!(sim.released.len(), 1);
}

#[test]
fn status_and_gc_are_passed_on_and_a_plugin_that_does_not_know_them_is_no_fault() {
    let other = conf(OTHER);
    let mut sim = given(r#"{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}"#);
    sim.given.0 = false;
    forward(&mut sim, &other, "STATUS").unwrap();
    sim.given.1 = r#"{"code":50,"msg":"not ready"}"#;
    forward(&mut sim, &other, "GC").unwrap_err();
    assert_eq!(verbs(&sim), ["STATUS", "GC"]);
    let own = conf(r#""type":"berth","ipam":{"type":"berth"}"#);
    forward(&mut sim, &own, "GC").unwrap();
    assert_eq!(sim.delegated.len(), 2, "Berth's own IPAM is not a delegate here");
}

#[test]
fn a_chained_berth_gives_no_ipam_of_its_own_a_say() {
    let conf = conf(&format!(r#"{OTHER},"prevResult":{{"cniVersion":"1.0.0","interfaces":[]}}"#));
    let settings = Settings::read(&conf).unwrap();
    let mut sim = given(GIVEN);
    let error = crate::add::add(&mut sim, &conf, &settings, &attach()).unwrap_err();
    assert!(matches!(error, PluginError::IpamOfChained { .. }), "{error}");
    assert!(sim.log.is_empty());
}
