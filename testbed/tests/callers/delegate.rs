//! Berth as the IPAM of upstream's main plugins: macvlan, bridge, and ptp, which requests an address before
//! it creates a link.

use std::path::Path;

use berth_testbed::callers::Keep;
use berth_testbed::lab::Lab;
use berth_testbed::skip;
use berth_testbed::world::{PARENT, POD_LINK, ip};
use serde_json::{Value, json};

use crate::support::{Bench, NEWEST, addresses, berth, macvlan, refused, silent};

/// Berth as `ipam`.
fn ipam(lab: &Lab) -> Value {
    berth(lab, &json!({}))
}

/// The bridge has its own MAC: otherwise it takes the lowest of its ports' MACs, which another pod changes,
/// and the main plugin's CHECK of the first one fails by chance.
fn bridge(lab: &Lab) -> Value {
    let lines = "link add berth0 address 02:00:00:00:0b:01 type bridge\nlink set berth0 up\n";
    ip(lab.world.node(), lines).unwrap();
    json!({"type": "bridge", "bridge": "berth0", "ipam": ipam(lab)})
}

fn ptp(lab: &Lab) -> Value {
    json!({"type": "ptp", "ipam": ipam(lab)})
}

/// The whole life of two pods under one main plugin.
fn lives(main: fn(&Lab) -> Value) -> Option<Bench> {
    let bench = Bench::start(4, NEWEST, |lab| vec![main(lab)])?;
    live(&bench);
    Some(bench)
}

fn live(bench: &Bench) {
    silent(&bench.runtime.status().unwrap());
    let (pod, other) = (bench.pod(), bench.pod());
    let (result, second) = (bench.add(&pod), bench.add(&other));
    assert_ne!(addresses(&result), addresses(&second));
    bench.attached(&pod, &result);
    bench.attached(&other, &second);
    bench.quiet("check", &pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.quiet("del", &pod);
    silent(&bench.runtime.call_in("del", &pod, "").unwrap());
    // A GC never reaches a delegate: what goes here went by libcni's own DEL.
    silent(&bench.runtime.gc(Keep::Only(&[&other])).unwrap());
    bench.attached(&other, &second);
    silent(&bench.runtime.gc(Keep::Null).unwrap());
    bench.gone(&other);
}

#[test]
fn under_macvlan() {
    let Some(bench) = lives(|lab| macvlan(&ipam(lab))) else { return };
    let result = bench.add(&bench.pod());
    bench.answers(&result);
}

#[test]
fn under_bridge() {
    lives(bridge);
}

#[test]
fn under_ptp() {
    lives(ptp);
}

#[test]
fn a_namespace_that_ends_without_a_del_frees_the_address() {
    for main in [|lab: &Lab| macvlan(&ipam(lab)), bridge, ptp] {
        let Some(bench) = Bench::start(4, NEWEST, |lab| vec![main(lab)]) else { return };
        let pod = bench.pod();
        let result = bench.add(&pod);
        bench.attached(&pod, &result);
        bench.lab.world.remove(&pod);
        bench.freed(&pod.container_id);
        // Late, repeated, with nothing to find.
        silent(&bench.runtime.call_in("del", &pod, "").unwrap());
    }
}

#[test]
fn a_main_plugin_that_fails_gives_the_address_back() {
    let wrong = |lab: &Lab| {
        let mut main = macvlan(&ipam(lab));
        main["mtu"] = json!(100_000);
        vec![main]
    };
    let Some(bench) = Bench::start(4, NEWEST, wrong) else { return };
    let pod = bench.pod();
    let failure = refused(&bench.runtime.call("add", &pod).unwrap());
    assert!(failure.code != 0, "{failure:?}");
    bench.gone(&pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
}

#[test]
fn an_exhausted_pool_is_told_through_the_main_plugin_and_the_del_succeeds() {
    let Some(bench) = Bench::start(1, NEWEST, |lab| vec![macvlan(&ipam(lab))]) else { return };
    let (holder, late) = (bench.pod(), bench.pod());
    let result = bench.add(&holder);
    let failure = refused(&bench.runtime.call("add", &late).unwrap());
    assert_eq!(failure.code, 11, "{failure:?}");
    // Upstream's macvlan leaves its link behind when its IPAM fails; Berth has nothing to release.
    assert!(bench.held(&late.container_id).is_empty());
    bench.quiet("del", &late);
    bench.gone(&late);
    bench.attached(&holder, &result);
}

#[test]
fn under_ipvlan_and_vlan_where_the_kernel_has_them() {
    let Some(bench) =
        Bench::start(4, NEWEST, |lab| vec![json!({"type": "ipvlan", "master": PARENT, "ipam": ipam(lab)})])
    else {
        return;
    };
    let probe =
        |kind: &str| ip(bench.lab.world.node(), &format!("link add link {PARENT} name probe0 type {kind}\n"));
    let missing: Vec<&str> = ["ipvlan", "vlan id 7"]
        .into_iter()
        .filter(|kind| match probe(kind) {
            Ok(()) => ip(bench.lab.world.node(), "link del probe0\n").is_err(),
            Err(_) => true,
        })
        .collect();
    if !missing.is_empty() {
        return skip::because(&format!("this kernel makes no devices of the kinds: {}", missing.join(", ")));
    }
    lives(|lab| json!({"type": "ipvlan", "master": PARENT, "ipam": ipam(lab)}));
    lives(|lab| json!({"type": "vlan", "master": PARENT, "vlanId": 7, "ipam": ipam(lab)}));
}

#[test]
fn what_an_old_main_plugin_asks_for_is_served() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let Some(bench) = Bench::start(4, version, |lab| vec![macvlan(&ipam(lab))]) else { return };
        let pod = bench.pod();
        let result = bench.add(&pod);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(bench.lab.world.addresses_on(&pod, POD_LINK).unwrap(), addresses(&result));
        bench.quiet("del", &pod);
        bench.gone(&pod);
    }
}

#[test]
fn under_debians_plugins_which_know_no_newer_version_than_1_0_0() {
    let debian = Path::new("/usr/lib/cni");
    if !debian.join("macvlan").exists() {
        return skip::because("needs Debian's plugins: apt-get install containernetworking-plugins");
    }
    // Not its bridge: that plugin's CHECK requires the MAC that the bridge had at ADD, and a bridge takes
    // another one with each port.
    for main in [|lab: &Lab| macvlan(&ipam(lab)), ptp] {
        let Some(mut bench) = Bench::start(4, "1.0.0", |lab| vec![main(lab)]) else { return };
        bench.runtime.call_plugins_of(debian);
        live(&bench);
    }
}
