//! The routes of pods with several interfaces and with next hops outside their subnets.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::plugin::{Call, Outcome};
use berth_testbed::world::{self, PARENT, Pod};
use serde_json::{Value, json};

/// A network on the parent with pools, each a name and the rest of its spec.
fn network(name: &str, pools: &[(&str, &str)]) -> String {
    let head = "---\napiVersion: berth.dev/v1alpha1\nkind:";
    let names: Vec<_> = pools.iter().map(|(pool, _)| *pool).collect();
    let link = format!("{{link: {{type: macvlan, parent: {PARENT}}}, pools: [{}]}}", names.join(", "));
    let text = format!("{head} UnderlayNetwork\nmetadata: {{name: {name}}}\nspec: {link}\n");
    let pools = pools
        .iter()
        .map(|(pool, spec)| format!("{head} IPPool\nmetadata: {{name: {pool}}}\nspec: {{{spec}}}\n"));
    text + &pools.collect::<String>()
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

/// One interface of a pod.
struct Nic<'a> {
    lab: &'a Lab,
    pod: &'a Pod,
    network: &'a str,
    ifname: &'a str,
}

impl Nic<'_> {
    fn run(&self, command: &str, prev: Option<&Value>) -> Outcome {
        let mut config = self.lab.config.clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!(self.network);
        config["network"] = json!(self.network);
        if let Some(prev) = prev {
            config["prevResult"] = prev.clone();
        }
        let call = Call::new(command, &config, self.pod).variable("CNI_IFNAME", self.ifname);
        self.lab.plugin.run(&call).unwrap()
    }

    fn add(&self) -> Value {
        let outcome = self.run("ADD", None);
        outcome.expect_success().unwrap();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    /// Code and text of CHECK.
    fn check(&self, result: &Value) -> (u32, String) {
        let outcome = self.run("CHECK", Some(result));
        outcome.failure().map_or((0, String::new()), |failure| (failure.code, failure.msg))
    }
}

fn routes(pod: &Pod, arguments: &str) -> String {
    world::ip_shows(&pod.netns, arguments).unwrap()
}

#[test]
fn each_interface_has_its_default_route_and_the_first_one_is_used() {
    let near = (
        "near",
        "subnet: 10.77.0.0/16, ranges: [10.77.0.10-10.77.0.13], gateway: 10.77.0.1, routes: [{to: 0.0.0.0/0}]",
    );
    let far = (
        "far",
        "subnet: 10.78.0.0/16, ranges: [10.78.0.10-10.78.0.13], gateway: 10.78.0.1, routes: [{to: 0.0.0.0/0}]",
    );
    let chosen = (
        "chosen",
        "subnet: 10.79.0.0/16, ranges: [10.79.0.10-10.79.0.13], gateway: 10.79.0.1, routes: [{to: 0.0.0.0/0, metric: 900}]",
    );
    let declared = network("near", &[near]) + &network("far", &[far]) + &network("chosen", &[chosen]);
    let Some(lab) = lab(&declared) else { return };
    let pod = lab.world.pod().unwrap();
    let nic = |network, ifname| Nic { lab: &lab, pod: &pod, network, ifname };
    let nics = [nic("near", "eth0"), nic("far", "net1"), nic("near", "net2"), nic("chosen", "net3")];
    let results: Vec<Value> = nics.iter().map(Nic::add).collect();
    let default = |via: &str| json!([{"dst": "0.0.0.0/0", "gw": via}]);
    let behind = |via: &str, priority: u32| json!([{"dst": "0.0.0.0/0", "gw": via, "priority": priority}]);
    assert_eq!(results[0]["routes"], default("10.77.0.1"));
    assert_eq!(results[1]["routes"], behind("10.78.0.1", 1));
    assert_eq!(results[2]["routes"], behind("10.77.0.1", 2));
    assert_eq!(results[3]["routes"], behind("10.79.0.1", 900));
    let shown = routes(&pod, "-4 route show default");
    for line in [
        "default via 10.77.0.1 dev eth0",
        "default via 10.78.0.1 dev net1 metric 1",
        "default via 10.77.0.1 dev net2 metric 2",
        "default via 10.79.0.1 dev net3 metric 900",
    ] {
        let line = line.replacen(" metric", " proto static metric", 1);
        let is_line = |shown: &str| shown.trim_end().trim_end_matches(" proto static") == line;
        assert!(shown.lines().any(is_line), "{line} is not in\n{shown}");
    }
    let used = routes(&pod, "-4 route get 203.0.113.1");
    assert!(used.contains("via 10.77.0.1 dev eth0"), "{used}");
    for (nic, result) in nics.iter().zip(&results) {
        assert_eq!(nic.check(result), (0, String::new()), "{}", nic.ifname);
    }

    // CHECK reads the route of each interface by itself, and a repeated ADD puts it back.
    for (index, line) in [
        (1, "route del default via 10.78.0.1 dev net1 metric 1\n"),
        (2, "route del default via 10.77.0.1 dev net2 metric 2\n"),
    ] {
        world::ip(&pod.netns, line).unwrap();
        for (at, (nic, result)) in nics.iter().zip(&results).enumerate() {
            let (code, msg) = nic.check(result);
            assert_eq!(code, if at == index { 100 } else { 0 }, "{}: {msg}", nic.ifname);
            assert!(at != index || msg.contains("the route to 0.0.0.0/0 via"), "{msg}");
        }
        let again = nics[index].add();
        let via = again["routes"][0]["gw"].as_str().unwrap();
        assert_eq!(again["routes"].as_array().unwrap().len(), 1);
        assert!(
            routes(&pod, "-4 route show default").contains(&format!("via {via} dev {}", nics[index].ifname))
        );
        assert_eq!(nics[index].check(&again).0, 0);
    }
    for (nic, result) in nics.iter().zip(&results) {
        nic.run("DEL", Some(result)).expect_success().unwrap();
    }
    assert!(lab.leases().unwrap().is_empty());
}

#[test]
fn a_next_hop_may_be_link_local_or_outside_the_subnet() {
    let four = (
        "four",
        "subnet: 10.77.0.0/16, ranges: [10.77.0.10-10.77.0.13], gateway: 169.254.1.1, onlink: true, routes: [{to: 0.0.0.0/0}, {to: 10.9.0.0/16, via: 10.77.0.2}]",
    );
    let six = (
        "six",
        "subnet: 'fd00:77::/64', ranges: ['fd00:77::10-fd00:77::13'], gateway: 'fe80::1', routes: [{to: '::/0'}]",
    );
    let Some(lab) = lab(&network("lan", &[four, six])) else { return };
    let pod = lab.world.pod().unwrap();
    let nic = Nic { lab: &lab, pod: &pod, network: "lan", ifname: "eth0" };
    let result = nic.add();
    assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
    assert_eq!(result["ips"][1]["gateway"], "fe80::1");
    let shown = routes(&pod, "-4 route show");
    assert!(shown.contains("default via 169.254.1.1 dev eth0 proto static onlink"), "{shown}");
    assert!(shown.contains("10.9.0.0/16 via 10.77.0.2 dev eth0"), "{shown}");
    let shown = routes(&pod, "-6 route show default");
    assert!(shown.contains("default via fe80::1 dev eth0"), "{shown}");
    assert_eq!(nic.check(&result), (0, String::new()));
    world::ip(&pod.netns, "route del ::/0 dev eth0\n").unwrap();
    let (code, msg) = nic.check(&result);
    assert!(code == 100 && msg.contains("::/0 via fe80::1"), "{code} {msg}");
}
