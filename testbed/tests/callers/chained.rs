//! Berth after upstream's macvlan without IPAM: it addresses a link that is another plugin's.

use berth_testbed::callers::Keep;
use berth_testbed::world::POD_LINK;
use serde_json::json;

use crate::support::{Bench, NEWEST, addresses, berth, macvlan, refused, silent};

fn start(addresses: u16) -> Option<Bench> {
    Bench::start(addresses, NEWEST, |lab| vec![macvlan(&json!({})), berth(lab, &json!({}))])
}

#[test]
fn the_main_plugins_link_gets_the_address_and_goes_with_the_chain() {
    let Some(bench) = start(4) else { return };
    silent(&bench.runtime.status().unwrap());
    let pod = bench.pod();
    let result = bench.add(&pod);
    let links = bench.lab.world.links(&pod).unwrap().unwrap();
    let link = links.iter().find(|link| link.name == POD_LINK).unwrap();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1, "{result}");
    assert_eq!(result["interfaces"][0]["mac"], link.mac.unwrap().to_string());
    assert!(link.up, "{link:?}");
    assert_eq!(result["ips"][0]["interface"], 0);
    bench.attached(&pod, &result);
    bench.answers(&result);
    bench.quiet("check", &pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.quiet("del", &pod);
    silent(&bench.runtime.call_in("del", &pod, "").unwrap());
}

#[test]
fn check_tells_that_the_address_was_taken_off() {
    let Some(bench) = start(4) else { return };
    let pod = bench.pod();
    let result = bench.add(&pod);
    berth_testbed::world::ip(&pod.netns, &format!("addr flush dev {POD_LINK}\n")).unwrap();
    let failure = refused(&bench.runtime.call("check", &pod).unwrap());
    assert!(failure.msg.contains(&addresses(&result)[0].to_string()), "{failure:?}");
    bench.quiet("del", &pod);
    bench.gone(&pod);
}

#[test]
fn a_failed_add_is_deleted_though_the_main_plugins_link_is_there() {
    let Some(bench) = start(1) else { return };
    let (holder, late) = (bench.pod(), bench.pod());
    bench.add(&holder);
    let failure = refused(&bench.runtime.call("add", &late).unwrap());
    assert_eq!(failure.code, 11, "{failure:?}");
    let links = bench.lab.world.links(&late).unwrap().unwrap();
    assert!(links.iter().any(|link| link.name == POD_LINK), "macvlan's own, which its DEL removes");
    bench.quiet("del", &late);
    bench.gone(&late);
}

#[test]
fn a_lost_cache_and_a_lost_namespace_free_the_address() {
    let Some(mut bench) = start(4) else { return };
    let (pod, ended) = (bench.pod(), bench.pod());
    bench.add(&pod);
    bench.add(&ended);
    bench.runtime.cache = bench.lab.world.folder().join("empty");
    // Without prevResult Berth cannot identify the addresses that it added; macvlan, which comes after it,
    // removes the link.
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.lab.world.remove(&ended);
    silent(&bench.runtime.call_in("del", &ended, "").unwrap());
    bench.freed(&ended.container_id);
}

#[test]
fn gc_of_the_chain_keeps_what_is_listed() {
    let Some(bench) = start(4) else { return };
    let (kept, dropped) = (bench.pod(), bench.pod());
    let result = bench.add(&kept);
    bench.add(&dropped);
    silent(&bench.runtime.gc(Keep::Only(&[&kept])).unwrap());
    bench.gone(&dropped);
    bench.attached(&kept, &result);
    bench.answers(&result);
    bench.quiet("check", &kept);
}
