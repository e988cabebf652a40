//! Upstream's plugins after Berth in a chain: what they need they find, and no DEL misses it.

use berth_testbed::lab::Lab;
use berth_testbed::skip;
use berth_testbed::world::Pod;
use serde_json::{Value, json};

use crate::support::{Bench, NEWEST, berth, refused, result, silent};

/// A list of Berth as main plugin, then `next`.
fn start(next: &Value) -> Option<Bench> {
    start_by(|_| next.clone())
}

fn start_by(next: impl Fn(&Lab) -> Value) -> Option<Bench> {
    Bench::start(4, NEWEST, |lab| vec![berth(lab, &json!({})), next(lab)])
}

/// A pod from ADD up to its DEL; `None` if the plugin after Berth cannot work here, which is recorded.
fn lives(bench: &Bench) -> Option<(Pod, Value)> {
    let pod = bench.pod();
    let added = bench.runtime.call("add", &pod).unwrap();
    if !added.succeeded() {
        // Berth's part succeeded; the plugin after it failed, and then nothing must be left.
        let failure = refused(&added);
        bench.quiet("del", &pod);
        bench.gone(&pod);
        skip::because(&format!("the plugin behind Berth does not work on this machine: {}", failure.msg));
        return None;
    }
    let result = result(&added);
    bench.attached(&pod, &result);
    bench.answers(&result);
    silent(&bench.runtime.status().unwrap());
    Some((pod, result))
}

/// Its CHECK and its DEL, also once more, late and without a namespace.
fn ends(bench: &Bench, pod: &Pod) {
    bench.quiet("check", pod);
    bench.quiet("del", pod);
    bench.gone(pod);
    bench.quiet("del", pod);
    silent(&bench.runtime.call_in("del", pod, "").unwrap());
}

#[test]
fn tuning_sets_what_it_is_asked_for() {
    let tuning = |lab: &Lab| {
        json!({"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.log_martians": "1"}, "mtu": 1400,
            "dataDir": lab.world.folder().join("tuning")})
    };
    let Some(bench) = start_by(tuning) else { return };
    let Some((pod, _)) = lives(&bench) else { return };
    ends(&bench, &pod);
}

#[test]
fn tuning_may_change_the_mac_under_which_the_address_is_held() {
    let tuning = |lab: &Lab| json!({"type": "tuning", "mac": "02:00:00:00:77:99", "dataDir": lab.world.folder().join("tuning")});
    let Some(bench) = start_by(tuning) else { return };
    let Some((pod, result)) = lives(&bench) else { return };
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:77:99", "{result}");
    let links = bench.lab.world.links(&pod).unwrap().unwrap();
    assert!(links.iter().any(|link| link.mac.is_some_and(|mac| mac.to_string() == "02:00:00:00:77:99")));
    ends(&bench, &pod);
}

#[test]
fn sbr_moves_the_routes_and_does_not_keep_the_address_when_its_own_del_fails() {
    let Some(bench) = start(&json!({"type": "sbr"})) else { return };
    let Some((pod, _)) = lives(&bench) else { return };
    bench.quiet("check", &pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
    // Last in the list is first in DEL: without a namespace sbr fails, and libcni calls no other plugin. The
    // address is free because the agent saw the namespace end.
    let lost = bench.pod();
    bench.add(&lost);
    bench.lab.world.remove(&lost);
    let failure = refused(&bench.runtime.call_in("del", &lost, "").unwrap());
    assert!(failure.msg.contains("no such file"), "{failure:?}");
    bench.freed(&lost.container_id);
}

#[test]
fn portmap_maps_a_port() {
    let Some(mut bench) = start(&json!({"type": "portmap", "capabilities": {"portMappings": true}})) else {
        return;
    };
    bench.runtime.capabilities =
        json!({"portMappings": [{"hostPort": 8077, "containerPort": 80, "protocol": "tcp"}]});
    let Some((pod, _)) = lives(&bench) else { return };
    ends(&bench, &pod);
}

#[test]
fn bandwidth_refuses_a_link_without_a_host_end_and_nothing_stays() {
    let Some(mut bench) = start(&json!({"type": "bandwidth", "capabilities": {"bandwidth": true}})) else {
        return;
    };
    // No bandwidth is requested, so ADD and DEL have nothing to do. Its CHECK still requires a veth.
    let Some((pod, _)) = lives(&bench) else { return };
    let failure = refused(&bench.runtime.call("check", &pod).unwrap());
    assert!(failure.msg.contains("veth"), "{failure:?}");
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.runtime.capabilities = json!({"bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000,
        "egressRate": 1_000_000, "egressBurst": 1_000_000}});
    let pod = bench.pod();
    let failure = refused(&bench.runtime.call("add", &pod).unwrap());
    assert!(failure.msg.contains("veth"), "{failure:?}");
    bench.quiet("del", &pod);
    bench.gone(&pod);
}
