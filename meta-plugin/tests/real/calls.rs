//! The verbs without an attachment, and calls that are wrong.

use std::path::Path;
use std::time::Duration;

use berth_protocol::Failure;
use berth_testbed::skip;
use serde_json::json;

use crate::support::{Agent, Ended, Node, Reply, bridge, run};

fn bare(variables: &[(&str, &str)], input: &str) -> Ended {
    run(None, Path::new(env!("CARGO_BIN_EXE_berth")), variables, input.as_bytes())
}

#[test]
fn version_needs_no_input() {
    for input in ["", "{}", "nonsense", r#"{"cniVersion":"0.4.0"}"#] {
        let document = bare(&[("CNI_COMMAND", "VERSION")], input).result();
        assert_eq!(document["supportedVersions"].as_array().unwrap().len(), 7, "{input}");
    }
}

#[test]
fn by_hand_it_says_what_it_is() {
    let outcome = bare(&[], "");
    outcome.silent_success();
    assert!(outcome.stderr.contains("CNI plugin") && outcome.stderr.contains("0.3.1"), "{}", outcome.stderr);
}

#[test]
fn wrong_calls_have_their_codes() {
    let add = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere"),
        ("CNI_IFNAME", "eth0"),
    ];
    for (variables, input, expected, word) in [
        (&[("CNI_COMMAND", "FETCH")][..], "", 4, "FETCH"),
        (&[("CNI_COMMAND", "ADD")][..], "{}", 4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        (&add[..], "nonsense", 6, "not JSON"),
        (&add[..], "", 6, "not JSON"),
        (&add[..], r#"{"type":"berth"}"#, 7, "name"),
        (&add[..], r#"{"name":"lan","type":"berth","cniVersion":"2.0.0"}"#, 1, "2.0.0"),
        (&add[..], r#"{"name":"lan","type":"berth","network":["x"]}"#, 7, r#"["x"]"#),
        (&add[..], r#"{"name":"lan","type":"berth","addTimeout":"soon"}"#, 7, "soon"),
        (
            &add[..],
            r#"{"name":"lan","type":"berth","runtimeConfig":{"ips":["a"]}}"#,
            7,
            "runtimeConfig.ips[0]",
        ),
        (&add[..], r#"{"name":"lan","type":"berth"}"#, 4, "/nowhere"),
        (
            &[("CNI_COMMAND", "GC")][..],
            r#"{"name":"lan","type":"berth","cniVersion":"1.1.0"}"#,
            7,
            "valid-attachments",
        ),
        (&[("CNI_COMMAND", "GC")][..], r#"{"name":"lan","type":"berth","cniVersion":"1.0.0"}"#, 1, "1.1.0"),
        (
            &[("CNI_COMMAND", "STATUS")][..],
            r#"{"name":"lan","type":"berth","cniVersion":"0.4.0"}"#,
            1,
            "STATUS",
        ),
    ] {
        let outcome = bare(variables, input);
        let (code, msg) = outcome.error();
        assert!(code == expected && msg.contains(word), "{code} {msg}: {input}");
        assert!(outcome.document().get("details").is_some(), "it says what to do: {msg}");
        assert!(outcome.took < Duration::from_millis(500), "{:?}", outcome.took);
    }
}

#[test]
fn errors_are_in_the_callers_version() {
    let input = r#"{"name":"lan","type":"nonsense","cniVersion":"0.3.1"}"#;
    assert_eq!(bare(&[("CNI_COMMAND", "GC")], input).document()["cniVersion"], "0.3.1");
}

#[test]
fn gc_hands_its_list_to_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    let agent = Agent::serving(&socket, &bridge(), &["192.0.2.7/24"]);
    let conf = |list: serde_json::Value| {
        json!({"name": "lan", "type": "berth", "cniVersion": "1.1.0", "socket": socket,
            "cni.dev/valid-attachments": list})
        .to_string()
    };
    let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
    for (list, told) in [(json!(null), json!([])), (json!([]), json!([])), (one.clone(), one)] {
        bare(&[("CNI_COMMAND", "GC")], &conf(list)).silent_success();
        assert_eq!(agent.last(), json!({"cniNetwork": "lan", "valid": told}));
    }
    // Without an agent: later.
    drop(agent);
    let nobody = folder.path().join("nobody.sock");
    let conf = json!({"name": "lan", "type": "berth", "cniVersion": "1.1.0", "socket": nobody,
        "cni.dev/valid-attachments": []});
    assert_eq!(bare(&[("CNI_COMMAND", "GC")], &conf.to_string()).error().0, 11);
}

#[test]
fn status_forgives_a_short_absence_only() {
    let folder = tempfile::tempdir().unwrap();
    let conf = json!({"cniVersion": "1.1.0", "name": "lan", "type": "berth",
        "socket": folder.path().join("agent.sock"), "stateDir": folder.path()})
    .to_string();
    let status = || bare(&[("CNI_COMMAND", "STATUS")], &conf);
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let alive = |age: u64| {
        let text = json!({"bootId": boot.trim(), "boottimeMs": uptime.saturating_sub(age) * 1000});
        std::fs::write(folder.path().join("alive"), text.to_string()).unwrap();
    };
    alive(0);
    status().silent_success();
    if uptime > 130 {
        alive(90);
        assert_eq!(status().error().0, 50);
        std::fs::remove_file(folder.path().join("alive")).unwrap();
        assert_eq!(status().error().0, 50);
    }
    let _agent = Agent::serving(&folder.path().join("agent.sock"), &bridge(), &["192.0.2.7/24"]);
    status().silent_success();
}

#[test]
fn an_absent_agent_is_asked_for_30_seconds() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let outcome = node.call("ADD", &node.conf());
    let (code, msg) = outcome.error();
    assert!(code == 11 && msg.contains("agent.sock"), "{msg}");
    assert!((Duration::from_secs(29)..Duration::from_secs(40)).contains(&outcome.took), "{:?}", outcome.took);
    assert!(node.spool().is_empty());
}

#[test]
fn the_agents_refusal_is_passed_on_word_for_word() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::start(&node.socket(), |_, _| {
        let (msg, details) = ("network lan is unknown".to_owned(), "declare it".to_owned());
        Reply::Fail(Failure { code: 7, msg, details })
    });
    let document = node.call("ADD", &node.conf()).document();
    assert_eq!(
        document,
        json!({"cniVersion": "1.1.0", "code": 7, "msg": "network lan is unknown", "details": "declare it"})
    );
    assert_eq!(agent.names(), ["lease"]);
}

#[test]
fn the_nodes_namespace_and_plain_files_are_refused_before_the_agent_is_asked() {
    if skip::unless_root() {
        return;
    }
    let node = Node::new();
    let agent = Agent::serving(&node.socket(), &bridge(), &["192.0.2.7/24"]);
    let own = node.host.path();
    assert_eq!(node.call_with("ADD", &node.conf(), &[("CNI_NETNS", &own)]).error().0, 8);
    let file = node.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, msg) = node.call_with("ADD", &node.conf(), &[("CNI_NETNS", file.to_str().unwrap())]).error();
    assert!(code == 4 && msg.contains("not a network namespace"), "{msg}");
    node.pod.ip("link add eth0 type veth peer name other");
    let (code, msg) = node.call("ADD", &node.conf()).error();
    assert!(code == 4 && msg.contains("already has an interface eth0"), "{msg}");
    assert!(agent.names().is_empty());
}
