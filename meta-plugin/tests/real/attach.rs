//! ADD on real links.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;
use berth_protocol::{Failure, Request};
use berth_testbed::skip;
use berth_underlay::wire::socket::PacketSocket;
use berth_underlay::wire::{Kind, frame};
use serde_json::{Value, json};

use crate::support::{Agent, Node, Reply, bridge, grant, served};

/// The pod's links besides loopback, one line each.
fn links(node: &Node) -> Vec<String> {
    let text = node.pod.ip("-o -d link");
    text.lines().filter(|line| !line.contains("LOOPBACK")).map(str::to_owned).collect()
}

#[test]
fn main_gives_the_pod_a_working_interface() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24", "2001:db8::7/64"]);
    let heard = node.neighbour.listen("eth1");
    let outcome = node.call_with(
        "ADD",
        &node.conf(),
        &[("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u1")],
    );
    let result = outcome.result();
    let mac = Mac::derive(&node.key(), 0);
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(
        result["interfaces"],
        json!([{"name": "eth0", "mac": mac.to_string(), "sandbox": node.pod.path()}])
    );
    assert_eq!(result["ips"][1], json!({"address": "2001:db8::7/64", "interface": 0}));
    assert_eq!(result["routes"], json!([{"dst": "203.0.113.0/24", "gw": "192.0.2.1"}]));
    assert_eq!(agent.names(), ["lease", "bind", "done"]);

    let lease = serde_json::to_value(&agent.asked.lock().unwrap()[0]).unwrap()["lease"].clone();
    assert_eq!(lease["pod"], json!({"namespace": "ns", "name": "web-0", "uid": "u1"}));
    assert_eq!(lease["netns"]["nsidIsRandom"], true);
    assert_ne!(lease["netns"]["cookie"], "0");
    assert_eq!(lease["txn"].as_str().unwrap().len(), 32);

    let link = links(&node).join("\n");
    assert!(link.contains("eth0@") && link.contains("macvlan mode bridge") && link.contains(",UP"), "{link}");
    assert!(link.contains(&mac.to_string()) && link.contains("alias berth:lan:"), "{link}");
    let addresses = node.pod.ip("-o addr show eth0");
    assert!(addresses.contains("192.0.2.7/24") && addresses.contains("2001:db8::7/64"), "{addresses}");
    assert!(
        !addresses.lines().any(|line| line.contains("2001:db8::7") && line.contains("tentative")),
        "{addresses}"
    );
    assert!(node.pod.ip("route").contains("203.0.113.0/24 via 192.0.2.1 dev eth0"));
    for (setting, value) in [
        ("ipv4/conf/eth0/arp_ignore", "1"),
        ("ipv4/conf/eth0/arp_announce", "2"),
        ("ipv6/conf/eth0/accept_ra", "0"),
    ] {
        assert_eq!(node.pod.read(&format!("/proc/sys/net/{setting}")), value, "{setting}");
    }
    assert_eq!(announcements(&heard, mac), [3, 3], "of each address");
    assert_eq!(node.neighbour.answers("eth1", "192.0.2.7"), [mac], "the neighbour reaches the pod");
}

/// Counts the frames that a neighbour receives until they suffice, or no more arrive.
fn announcements(heard: &PacketSocket, mac: Mac) -> [usize; 2] {
    let (mut buffer, mut counts) = ([0; 512], [0, 0]);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end && counts != [3, 3] {
        let Some(received) = heard.receive(&mut buffer).unwrap() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Ok(said) = frame::read(&buffer[..received.length]) else { continue };
        for (count, address) in counts.iter_mut().zip(["192.0.2.7", "2001:db8::7"]) {
            let announced = said.kind == Kind::Announcement && said.mac == mac;
            *count += usize::from(announced && said.address == address.parse::<IpAddr>().unwrap());
        }
    }
    counts
}

#[test]
fn a_mac_that_is_in_use_makes_way_for_the_next() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let first = Mac::derive(&node.key(), 0);
    node.host.ip(&format!("link add link eth1 name other address {first} type macvlan mode bridge"));
    node.host.ip("link set other up");
    let _agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let result = node.call("ADD", &node.conf()).result();
    assert_eq!(result["interfaces"][0]["mac"], Mac::derive(&node.key(), 1).to_string());
}

#[test]
fn a_refused_bind_leaves_neither_link_nor_lease() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let granted = grant(&bridge(), &["192.0.2.7/24"]);
    let agent = Agent::start(&node.socket(), move |_, request| match request {
        Request::Bind(_) => {
            Reply::Fail(Failure { code: 11, msg: "not open".to_owned(), details: "d".to_owned() })
        }
        other => served(other, &granted),
    });
    let outcome = node.call("ADD", &node.conf());
    assert_eq!(outcome.error(), (11, "not open".to_owned()));
    assert_eq!(links(&node), Vec::<String>::new());
    assert_eq!(agent.names(), ["lease", "bind", "release"]);
    let release = agent.last();
    assert_eq!(release["link"], "gone");
    assert_eq!(release["txn"].as_str().unwrap().len(), 32);
}

#[test]
fn an_agent_that_dies_over_a_question_is_asked_again() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let granted = grant(&bridge(), &["192.0.2.7/24"]);
    let agent = Agent::start(&node.socket(), move |count, request| match count {
        1 | 3 | 5 => Reply::HangUp,
        _ => served(request, &granted),
    });
    node.call("ADD", &node.conf()).result();
    assert_eq!(agent.names(), ["lease", "lease", "bind", "bind", "done", "done"]);
    let asked = agent.asked.lock().unwrap();
    assert_eq!(asked[0], asked[1], "the same transaction");
}

#[test]
fn an_address_may_take_its_time() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let granted = grant(&bridge(), &["192.0.2.7/24"]);
    let _agent = Agent::start(&node.socket(), move |_, request| {
        if matches!(request, Request::Lease(_)) {
            std::thread::sleep(Duration::from_millis(1500));
        }
        served(request, &granted)
    });
    let mut conf = node.conf();
    conf["addTimeout"] = json!("2s");
    let outcome = node.call("ADD", &conf);
    outcome.result();
    assert!(outcome.took >= Duration::from_millis(1500));
}

#[test]
fn a_missing_parent_and_a_missing_kernel_part_are_undone() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let missing = json!({"type": "macvlan", "parent": "eth9", "mode": "bridge"});
    let agent = Agent::serving(&node.socket(), &missing, &["192.0.2.7/24"]);
    let (code, msg) = node.call("ADD", &node.conf()).error();
    assert!(code == 7 && msg.contains("eth9"), "{code} {msg}");
    assert_eq!(agent.names(), ["lease", "release"]);

    // A VLAN ID that no kernel accepts replaces a kernel without VLAN devices: both refuse.
    let other = Node::new();
    let vlan = json!({"type": "vlan", "parent": "eth1", "id": 4095});
    let agent = Agent::serving(&other.socket(), &vlan, &["192.0.2.7/24"]);
    let (code, _) = other.call("ADD", &other.conf()).error();
    assert_eq!(code, 5);
    assert_eq!(agent.names(), ["lease", "release"]);
    assert_eq!(links(&other), Vec::<String>::new());
}

#[test]
fn a_route_that_the_kernel_refuses_takes_everything_back() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let mut granted = grant(&bridge(), &["192.0.2.7/24"]);
    granted["routes"] = json!([{"to": "203.0.113.0/24", "via": "198.51.100.1"}]);
    let agent = Agent::start(&node.socket(), move |_, request| served(request, &granted));
    let (code, msg) = node.call("ADD", &node.conf()).error();
    assert!(code == 5 && msg.contains("203.0.113.0/24"), "{msg}");
    assert_eq!(links(&node), Vec::<String>::new());
    assert_eq!(agent.last()["link"], "gone");
}

#[test]
fn a_passthru_child_takes_the_parents_mac() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let passthru = json!({"type": "macvlan", "parent": "eth1", "mode": "passthru"});
    let agent = Agent::serving(&node.socket(), &passthru, &["192.0.2.7/24"]);
    let result = node.call("ADD", &node.conf()).result();
    let parent = node.host.ip("-o link show eth1");
    assert!(parent.contains(result["interfaces"][0]["mac"].as_str().unwrap()), "{parent}");
    node.call("DEL", &node.conf()).silent_success();
    assert_eq!(links(&node), Vec::<String>::new(), "known by its alias");
    assert_eq!(agent.last()["link"], "gone");
}

#[test]
fn chained_addresses_the_main_plugins_link_and_takes_them_back() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    node.host.ip(&format!(
        "link add link eth1 name eth0 address 02:00:00:00:00:07 netns {} type macvlan mode bridge",
        node.pod.0
    ));
    let mut conf = node.conf();
    conf["cniVersion"] = json!("0.4.0");
    conf["prevResult"] = json!({"cniVersion": "0.4.0", "invented": 1,
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:07", "sandbox": node.pod.path(), "own": true}]});
    let result = node.call("ADD", &conf).result();
    assert_eq!(result["invented"], 1);
    assert_eq!(result["interfaces"], conf["prevResult"]["interfaces"]);
    assert_eq!(result["ips"], json!([{"version": "4", "address": "192.0.2.7/24", "interface": 0}]));
    assert_eq!(node.neighbour.answers("eth1", "192.0.2.7").len(), 1);

    conf["prevResult"] = result;
    node.call("CHECK", &conf).silent_success();
    node.call("DEL", &conf).silent_success();
    assert_eq!(links(&node).len(), 1, "the link is the main plugin's");
    assert!(!node.pod.ip("-o addr show eth0").contains("192.0.2.7"));
    assert_eq!((&agent.last()["role"], &agent.last()["link"]), (&json!("chained"), &json!("gone")));
    let (code, msg) = node.call("CHECK", &conf).error();
    assert!(code == 100 && msg.contains("192.0.2.7/24"), "{msg}");
}

#[test]
fn upstreams_macvlan_takes_berth_as_its_ipam() {
    if skip::unless_root() {
        return;
    }
    let upstream = std::path::Path::new("/usr/lib/cni/macvlan");
    if !upstream.exists() {
        skip::because("needs upstream's macvlan plugin: apt-get install containernetworking-plugins");
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth1", "mode": "bridge",
        "ipam": {"type": "berth", "network": "lan", "socket": node.socket(), "stateDir": node.folder.path()}});
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_berth")).parent().unwrap().to_str().unwrap();
    let netns = node.pod.path();
    let call = |command: &str, conf: &Value| {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", node.container.as_str()),
            ("CNI_NETNS", netns.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", folder),
        ];
        crate::support::run(Some(&node.host), upstream, &variables, conf.to_string().as_bytes())
    };
    let added = call("ADD", &conf);
    assert!(added.ok, "{added:?}");
    let result: Value = serde_json::from_str(&added.stdout).unwrap();
    assert_eq!(result["ips"][0]["address"], "192.0.2.7/24");
    assert_eq!(agent.names(), ["lease", "bind", "done"], "upstream's macvlan makes its link first");
    let deleted = call("DEL", &conf);
    assert!(deleted.ok, "{deleted:?}");
    assert_eq!((&agent.last()["role"], &agent.last()["link"]), (&json!("delegate"), &json!("notMine")));
}
