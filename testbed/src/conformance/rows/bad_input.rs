//! Rows B: bad input, in tables. Each entry is refused with its code, the message names the offending key and
//! value, kernel and store are unchanged, and the response comes at once.

use serde_json::{Value, json};

use super::add::foreign_link;
use super::{Row, rows};
use crate::conformance::answer::{Answer, Play, holds};
use crate::conformance::stage::{FAST, Stage};
use crate::world::Pod;

rows! {
    B1 plugin b1_a_wrong_environment_is_named
        "a malformed variable: code 4, named with its value, at once, nothing changed";
    B2 plugin b2_a_wrong_configuration_is_named
        "a malformed configuration: code 1, 6 or 7, key and value named, at once, nothing changed";
    B3 plugin b3_a_wrong_prevresult_is_named
        "a malformed `prevResult`: code 1 or 7, key and value named, at once, nothing changed";
    B4 plugin b4_del_fails_only_for_what_it_reads
        "DEL: refuses what it cannot do without, and bears every other malformed key";
    B5 plugin b5_check_status_and_gc_name_what_is_wrong
        "CHECK, STATUS, GC: malformed input has its code, key and value named, nothing changed";
}

/// A variable, its value, and what the message must hold.
const ENVIRONMENT: &[(&str, &str, &[&str])] = &[
    ("CNI_COMMAND", "FETCH", &["CNI_COMMAND", "FETCH"]),
    ("CNI_COMMAND", "add", &["CNI_COMMAND", "add"]),
    ("CNI_CONTAINERID", "", &["CNI_CONTAINERID"]),
    ("CNI_CONTAINERID", "-c", &["CNI_CONTAINERID", "-c"]),
    ("CNI_CONTAINERID", "c/1", &["CNI_CONTAINERID", "c/1"]),
    ("CNI_IFNAME", "", &["CNI_IFNAME"]),
    ("CNI_IFNAME", "..", &["CNI_IFNAME", ".."]),
    ("CNI_IFNAME", "a:b", &["CNI_IFNAME", "a:b"]),
    ("CNI_IFNAME", "sixteen-letters-", &["CNI_IFNAME", "sixteen-letters-"]),
    ("CNI_NETNS", "", &["CNI_NETNS"]),
    ("CNI_NETNS", "/nonexistent/netns", &["CNI_NETNS", "/nonexistent/netns"]),
    ("CNI_NETNS", "/proc/self/ns/mnt", &["CNI_NETNS", "/proc/self/ns/mnt"]),
    ("CNI_NETNS", "/etc/passwd", &["CNI_NETNS", "/etc/passwd"]),
    ("CNI_NETNS", "/etc", &["CNI_NETNS", "/etc"]),
    ("CNI_NETNS", "relative", &["CNI_NETNS", "relative"]),
    ("CNI_ARGS", "FOO", &["CNI_ARGS", "FOO"]),
    ("CNI_ARGS", "IgnoreUnknown=maybe", &["CNI_ARGS", "IgnoreUnknown=maybe"]),
    ("CNI_ARGS", "FOO=bar", &["CNI_ARGS", "FOO=bar"]),
    ("CNI_ARGS", "IP=10.77.0", &["CNI_ARGS", "IP=10.77.0"]),
    ("CNI_ARGS", "IP=10.77.0.9/99", &["CNI_ARGS", "IP=10.77.0.9/99"]),
    ("CNI_ARGS", "MAC=zz", &["CNI_ARGS", "MAC=zz"]),
];

/// Pieces of a configuration: where, what, the code, and what the message must hold.
fn configurations() -> Vec<(&'static str, Value, u32, &'static [&'static str])> {
    vec![
        ("cniVersion", json!("9.9.9"), 1, &["cniVersion", "9.9.9"]),
        ("cniVersion", json!(1.1), 7, &["cniVersion", "1.1"]),
        ("name", json!(""), 7, &["name"]),
        ("name", json!(7), 7, &["name", "7"]),
        ("name", json!("a b"), 7, &["name", "a b"]),
        ("type", json!("macvlan"), 7, &["type", "macvlan"]),
        ("type", json!(["berth"]), 7, &["type", "[\"berth\"]"]),
        ("network", json!(7), 7, &["network", "7"]),
        ("network", json!("a b"), 7, &["network", "a b"]),
        ("network", json!("undeclared"), 7, &["network", "undeclared"]),
        ("socket", json!("relative.sock"), 7, &["socket", "relative.sock"]),
        ("socket", json!({}), 7, &["socket", "{}"]),
        ("stateDir", json!([]), 7, &["stateDir", "[]"]),
        ("bootIDFile", json!("boot-id"), 7, &["bootIDFile", "boot-id"]),
        ("addTimeout", json!(110), 7, &["addTimeout", "110"]),
        ("addTimeout", json!("110"), 7, &["addTimeout", "\"110\""]),
        ("addTimeout", json!("-1s"), 7, &["addTimeout", "-1s"]),
        ("addTimeout", json!("1h"), 7, &["addTimeout", "1h"]),
        ("addTimeout", json!("99999999999999999999s"), 7, &["addTimeout", "99999999999999999999s"]),
        ("ipam", json!("berth"), 7, &["ipam", "berth"]),
        ("ipam", json!({"type": 5}), 7, &["ipam.type", "5"]),
        ("args", json!(5), 7, &["args", "5"]),
        ("args", json!({"cni": []}), 7, &["args.cni", "[]"]),
        ("args", json!({"cni": {"ips": "10.77.0.9"}}), 7, &["args.cni.ips", "10.77.0.9"]),
        ("args", json!({"cni": {"ips": [5]}}), 7, &["args.cni.ips[0]", "5"]),
        ("args", json!({"cni": {"mac": "zz"}}), 7, &["args.cni.mac", "zz"]),
        ("runtimeConfig", json!(5), 7, &["runtimeConfig", "5"]),
        ("runtimeConfig", json!({"ips": {}}), 7, &["runtimeConfig.ips", "{}"]),
        ("runtimeConfig", json!({"ips": ["10.77.0.9", "x"]}), 7, &["runtimeConfig.ips[1]", "x"]),
        ("runtimeConfig", json!({"ips": ["10.77.0.9/33"]}), 7, &["runtimeConfig.ips[0]", "10.77.0.9/33"]),
        ("runtimeConfig", json!({"ips": ["10.77.0.9", "10.77.0.11"]}), 7, &["10.77.0.9", "10.77.0.11"]),
        ("runtimeConfig", json!({"ips": ["192.0.2.7"]}), 7, &["192.0.2.7"]),
        ("runtimeConfig", json!({"mac": 5}), 7, &["runtimeConfig.mac", "5"]),
        ("runtimeConfig", json!({"mac": "02:00"}), 7, &["runtimeConfig.mac", "02:00"]),
        ("runtimeConfig", json!({"mac": "01:00:5e:00:00:01"}), 7, &["01:00:5e:00:00:01"]),
        ("runtimeConfig", json!({"mac": "00:00:00:00:00:00"}), 7, &["00:00:00:00:00:00"]),
        ("dns", json!("10.77.0.1"), 7, &["dns", "10.77.0.1"]),
        ("dns", json!({"nameservers": "10.77.0.1"}), 7, &["dns.nameservers", "10.77.0.1"]),
        ("dns", json!({"search": [5]}), 7, &["dns.search", "[5]"]),
        ("prevResult", json!("x"), 7, &["prevResult", "x"]),
    ]
}

/// Standard input as a whole.
const WHOLE: &[(&str, u32)] = &[
    ("", 6),
    (" \n", 6),
    ("{", 6),
    ("{\"name\":\"lan\"", 6),
    ("{\"name\":\"lan\",}", 6),
    ("garbage", 6),
    ("{\"name\":\"lan\"} {}", 6),
    ("\u{0}", 6),
    ("null", 7),
    ("[]", 7),
    ("\"x\"", 7),
    ("{}", 7),
];

/// Pieces of a `prevResult` that is right otherwise.
fn results() -> Vec<(&'static str, Value, u32, &'static [&'static str])> {
    vec![
        ("cniVersion", json!("7.0.0"), 1, &["cniVersion", "7.0.0"]),
        ("cniVersion", json!(7), 7, &["cniVersion", "7"]),
        ("interfaces", json!({}), 7, &["prevResult.interfaces", "{}"]),
        ("interfaces", json!([5]), 7, &["prevResult.interfaces[0]", "5"]),
        ("interfaces", json!([{"mac": "02:00:00:00:00:01"}]), 7, &["prevResult.interfaces[0]"]),
        ("interfaces", json!([{"name": 5}]), 7, &["prevResult.interfaces[0]", "5"]),
        (
            "interfaces",
            json!([{"name": "eth0", "mac": 5, "sandbox": "/n"}]),
            7,
            &["prevResult.interfaces[0]", "5"],
        ),
        ("interfaces", json!([{"name": "eth0", "sandbox": 5}]), 7, &["prevResult.interfaces[0]", "5"]),
        ("interfaces", json!([{"name": "other", "sandbox": "/n"}]), 7, &["eth0"]),
        ("ips", json!({}), 7, &["prevResult.ips", "{}"]),
        ("ips", json!([5]), 7, &["prevResult.ips[0]", "5"]),
        ("ips", json!([{"address": "10.77.0.9"}]), 7, &["prevResult.ips[0]", "10.77.0.9"]),
        ("ips", json!([{"address": "10.77.0.9/33"}]), 7, &["prevResult.ips[0]", "10.77.0.9/33"]),
        ("ips", json!([{"address": "10.77.0.9/16", "gateway": "x"}]), 7, &["prevResult.ips[0]", "x"]),
        ("ips", json!([{"address": "10.77.0.9/16", "interface": "0"}]), 7, &["prevResult.ips[0]", "\"0\""]),
        ("ips", json!([{"address": "10.77.0.9/16", "interface": 7}]), 7, &["prevResult.ips[0]", "7"]),
        ("routes", json!("x"), 7, &["prevResult.routes", "x"]),
        ("routes", json!([5]), 7, &["prevResult.routes[0]", "5"]),
        ("routes", json!([{"gw": "10.77.0.1"}]), 7, &["prevResult.routes[0]", "10.77.0.1"]),
        ("routes", json!([{"dst": "10.0.0.0/99"}]), 7, &["prevResult.routes[0]", "10.0.0.0/99"]),
        ("routes", json!([{"dst": "10.0.0.0/8", "gw": "x"}]), 7, &["prevResult.routes[0]", "x"]),
    ]
}

/// A refusal with that code and these words in its message, without delay.
fn refused(answer: &Answer, code: u32, words: &[&str]) -> Play {
    let error = answer.refused(&[code])?;
    for word in words {
        answer.holds(error.msg.contains(word), &format!("the message does not name {word}"))?;
    }
    answer.holds(answer.outcome.took() < FAST, "took too long")
}

/// A breach unless the pod and the store are as they were.
fn untouched(stage: &Stage, pod: &Pod, links: usize) -> Play {
    let (here, held) = (stage.links(pod)?, stage.held_by(pod)?);
    holds(here.len() == links, "a refused call changed the container", &here)?;
    holds(held.is_empty(), "a refused call holds an address", &held)?;
    let addresses = stage.addresses(pod)?;
    holds(addresses.is_empty(), "a refused call gave an address", &addresses)
}

fn b1_a_wrong_environment_is_named(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let node = stage.node_links()?;
    for (name, value, words) in ENVIRONMENT {
        let call = stage.call("ADD", &config, &pod).variable(name, value);
        let answer = stage.ask(&format!("ADD with {name}={value:?}"), &call)?;
        refused(&answer, 4, words)?;
    }
    untouched(stage, &pod, 0)?;
    holds(stage.node_links()? == node, "a refused call changed the node", &node)
}

fn b2_a_wrong_configuration_is_named(stage: &mut Stage) -> Play {
    stage.needs_berth("the keys are Berth's")?;
    let (pod, node) = (stage.pod()?, stage.node_links()?);
    for (text, code) in WHOLE {
        let call = stage.call("ADD", &stage.config(), &pod).garbage(text);
        refused(&stage.ask(&format!("the input {text:?}"), &call)?, *code, &[])?;
    }
    for (key, value, code, words) in configurations() {
        let mut config = stage.config();
        let what = format!("{key} {value}");
        config[key] = value;
        refused(&stage.ask(&what, &stage.call("ADD", &config, &pod))?, code, words)?;
    }
    untouched(stage, &pod, 0)?;
    holds(stage.node_links()? == node, "a refused call changed the node", &node)
}

fn b3_a_wrong_prevresult_is_named(stage: &mut Stage) -> Play {
    stage.needs_berth("it is a main plugin, which has no prevResult in ADD")?;
    let (pod, mac) = (stage.pod()?, "02:00:00:00:0b:03");
    foreign_link(stage, &pod, "eth0", mac)?;
    for (key, value, code, words) in results() {
        let mut config = stage.config();
        config["prevResult"] = json!({
            "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": mac, "sandbox": pod.netns}],
        });
        let what = format!("prevResult.{key} {value}");
        config["prevResult"][key] = value;
        refused(&stage.ask(&what, &stage.call("ADD", &config, &pod))?, code, words)?;
    }
    untouched(stage, &pod, 1)
}

fn b4_del_fails_only_for_what_it_reads(stage: &mut Stage) -> Play {
    stage.needs_berth("the keys are Berth's")?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let broken = |key: &str, value: &Value| {
        let mut config = stage.config();
        config[key] = value.clone();
        stage.call("DEL", &config, &pod)
    };
    // The first word of each is the key.
    let needed = ["cniVersion", "name", "type", "socket", "stateDir", "bootIDFile"];
    for (key, value, code, words) in configurations() {
        let readable = value == json!("undeclared") || value == json!("macvlan");
        if needed.contains(&key) && !readable {
            let answer = stage.ask(&format!("DEL with {key} {value}"), &broken(key, &value))?;
            refused(&answer, code, words)?;
        }
    }
    for (text, code) in WHOLE {
        let call = stage.call("DEL", &stage.config(), &pod).garbage(text);
        refused(&stage.ask(&format!("DEL with the input {text:?}"), &call)?, *code, &[])?;
    }
    stage.keeps(&pod, &result, "a refused DEL took the attachment")?;
    for (key, value) in [
        ("addTimeout", json!(110)),
        ("args", json!(5)),
        ("runtimeConfig", json!({"ips": {}})),
        ("dns", json!("x")),
        ("prevResult", json!("x")),
        ("prevResult", json!({"cniVersion": "7.0.0"})),
        ("prevResult", json!({"interfaces": [5], "ips": [{"address": 5}]})),
    ] {
        let answer = stage.ask(&format!("DEL with {key} {value}"), &broken(key, &value))?;
        answer.silent()?;
        answer.holds(answer.outcome.took() < FAST, "took too long")?;
    }
    let garbage = stage.call("DEL", &stage.config(), &pod).variable("CNI_ARGS", "nonsense");
    stage.ask("DEL with CNI_ARGS that are wrong", &garbage)?.silent()?;
    stage.nothing_left(&pod, "DEL with a malformed key leaves something")
}

fn b5_check_status_and_gc_name_what_is_wrong(stage: &mut Stage) -> Play {
    stage.needs_berth("the keys are Berth's")?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    for (key, value, code, words) in results() {
        // Which interface it is about CHECK sees in the container.
        if words == ["eth0"] {
            continue;
        }
        let (mut config, mut prev) = (stage.config(), result.clone());
        let what = format!("CHECK with prevResult.{key} {value}");
        prev[key] = value;
        config["prevResult"] = prev;
        refused(&stage.ask(&what, &stage.call("CHECK", &config, &pod))?, code, words)?;
    }
    for verb in ["STATUS", "GC"] {
        for (text, code) in WHOLE {
            let call = stage.bare(verb, &stage.config()).garbage(text);
            refused(&stage.ask(&format!("{verb} with the input {text:?}"), &call)?, *code, &[])?;
        }
        for (key, value) in [("network", json!(7)), ("socket", json!("relative.sock")), ("type", json!("x"))]
        {
            let mut config = stage.config();
            let written = value.to_string();
            config[key] = value;
            let answer = stage.ask(&format!("{verb} with {key} {written}"), &stage.bare(verb, &config))?;
            refused(&answer, 7, &[key, &written])?;
        }
    }
    stage.keeps(&pod, &result, "a refused call harmed the attachment")
}
