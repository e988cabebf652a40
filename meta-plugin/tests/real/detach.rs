//! DEL on real links, with and without an agent.

use std::time::Duration;

use berth_protocol::Failure;
use berth_testbed::skip;
use serde_json::{Value, json};

use crate::support::{Agent, Node, Reply, bridge};

fn has_link(node: &Node) -> bool {
    node.pod.ip("-o link").contains("eth0@")
}

/// A node with an attachment and a stopped agent.
fn attached_without_agent() -> Node {
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    node.call("ADD", &node.conf()).result();
    assert_eq!(agent.names().len(), 3);
    std::fs::remove_file(node.socket()).unwrap();
    node
}

#[test]
fn the_link_goes_first_and_a_repeat_is_success() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    node.call("ADD", &node.conf()).result();
    node.call("DEL", &node.conf()).silent_success();
    assert!(!has_link(&node));
    assert_eq!(agent.last()["link"], "gone");
    node.call("DEL", &node.conf()).silent_success();
    assert_eq!(agent.last()["link"], "unreachable", "the agent decides about a missing link");
    assert!(node.spool().is_empty());
}

#[test]
fn a_dead_agent_costs_no_time() {
    if skip::unless_root() {
        return;
    }
    let node = attached_without_agent();
    let outcome = node.call("DEL", &node.conf());
    outcome.silent_success();
    assert!(outcome.took < Duration::from_millis(500), "{:?}", outcome.took);
    assert!(!has_link(&node));
    node.call("DEL", &node.conf()).silent_success();
    let spool = node.spool();
    assert_eq!(spool.len(), 1, "a repeat replaces its entry");
    let entry: Value = serde_json::from_str(&spool[0]).unwrap();
    assert_eq!(entry["release"]["attachment"]["containerID"], node.container.as_str());
    assert_eq!(entry["bootId"], std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
}

#[test]
fn a_silent_agent_costs_a_second() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let _agent = Agent::start(&node.socket(), |_, _| Reply::Silence);
    let outcome = node.call("DEL", &node.conf());
    outcome.silent_success();
    assert!(
        (Duration::from_millis(900)..Duration::from_millis(2500)).contains(&outcome.took),
        "{:?}",
        outcome.took
    );
    assert_eq!(node.spool().len(), 1);
}

#[test]
fn an_agent_that_refuses_does_not_stop_the_chain() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let _agent = Agent::start(&node.socket(), |_, _| {
        Reply::Fail(Failure { code: 5, msg: "store".to_owned(), details: String::new() })
    });
    node.call("DEL", &node.conf()).silent_success();
    assert_eq!(node.spool().len(), 1);
}

#[test]
fn without_agent_and_disk_only_a_link_seen_gone_is_success() {
    if skip::unless_root() {
        return;
    }
    let node = attached_without_agent();
    std::fs::write(node.folder.path().join("spool"), "in the way").unwrap();
    node.call("DEL", &node.conf()).silent_success();
    assert!(!has_link(&node));

    let (code, msg) = node.call_with("DEL", &node.conf(), &[("CNI_NETNS", "")]).error();
    assert_eq!(code, 5);
    let words = msg.to_ascii_lowercase();
    assert!(!words.contains("not found") && !words.contains("no such file"), "{msg}");
}

#[test]
fn any_path_will_do() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let file = node.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in ["", "/run/netns/gone", file.to_str().unwrap(), node.folder.path().to_str().unwrap()] {
        node.call_with("DEL", &node.conf(), &[("CNI_NETNS", path)]).silent_success();
        assert_eq!(agent.last()["link"], "unreachable", "{path}");
    }
}

#[test]
fn foreign_links_stay() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let add = |container: &str| node.call_with("ADD", &node.conf(), &[("CNI_CONTAINERID", container)]);
    add("another").result();
    node.call("DEL", &node.conf()).silent_success();
    assert!(has_link(&node), "the link is another container's");
    assert_eq!(agent.last()["link"], "unreachable");

    // The node's own namespace is never changed, whatever its links.
    let own = node.host.path();
    let mac = berth_ipam::mac::Mac::derive(&node.key(), 0);
    node.host.ip(&format!("link add link eth1 name eth0 address {mac} type macvlan mode bridge"));
    node.call_with("DEL", &node.conf(), &[("CNI_NETNS", &own)]).silent_success();
    assert!(node.host.ip("-o link").contains("eth0@eth1"));
}

#[test]
fn a_renamed_link_is_removed_by_its_mac() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let _agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    node.call("ADD", &node.conf()).result();
    node.pod.ip("link set eth0 down");
    node.pod.ip("link set eth0 name other");
    node.call("DEL", &node.conf()).silent_success();
    assert!(!node.pod.ip("-o link").contains("other"));
}

#[test]
fn nothing_but_the_network_is_read_from_the_configuration() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let mut conf = node.conf();
    conf["addTimeout"] = json!(7);
    conf["runtimeConfig"] = json!("x");
    conf["prevResult"] = json!({"ips": 3});
    node.call_with("DEL", &conf, &[("CNI_ARGS", "nonsense")]).silent_success();
    assert_eq!(agent.names(), ["release"]);
}
