//! Berth as main plugin, in the hands of libcni.

use berth_testbed::callers::Keep;
use berth_testbed::lab::Families;
use berth_testbed::world::POD_LINK;
use serde_json::json;

use crate::support::{Bench, NEWEST, addresses, berth, refused, silent};

fn start(addresses: u16) -> Option<Bench> {
    Bench::start(addresses, NEWEST, |lab| vec![berth(lab, &json!({}))])
}

#[test]
fn a_pod_comes_and_goes_and_a_late_del_is_no_error() {
    let Some(bench) = start(4) else { return };
    silent(&bench.runtime.status().unwrap());
    let pod = bench.pod();
    let result = bench.add(&pod);
    assert_eq!(result["cniVersion"], NEWEST);
    assert_eq!(result["interfaces"][0]["name"], POD_LINK);
    bench.attached(&pod, &result);
    bench.answers(&result);
    assert!(bench.runtime.cached(&pod).is_file());
    bench.quiet("check", &pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.quiet("del", &pod);
    silent(&bench.runtime.call_in("del", &pod, "").unwrap());
    silent(&bench.runtime.call_in("del", &pod, "/run/netns/nosuch").unwrap());
    bench.gone(&pod);
}

#[test]
fn both_families_pass_check_at_once() {
    let plugins = |lab: &berth_testbed::lab::Lab| vec![berth(lab, &json!({}))];
    let Some(bench) = Bench::start_with(4, Families::Dual, NEWEST, plugins) else { return };
    let pod = bench.pod();
    let result = bench.add(&pod);
    bench.quiet("check", &pod);
    assert_eq!(addresses(&result).len(), 2);
    bench.attached(&pod, &result);
    bench.quiet("del", &pod);
    bench.gone(&pod);
}

#[test]
fn a_del_with_an_empty_netns_frees_what_the_runtime_lost() {
    let Some(bench) = start(4) else { return };
    let pod = bench.pod();
    let result = bench.add(&pod);
    bench.attached(&pod, &result);
    silent(&bench.runtime.call_in("del", &pod, "").unwrap());
    // The namespace is alive: the agent removes the link in it, then the address is free.
    bench.freed(&pod.container_id);
    bench.gone(&pod);
}

#[test]
fn the_result_cache_may_move_and_may_be_lost() {
    let Some(mut bench) = start(4) else { return };
    let (moved, lost) = (bench.pod(), bench.pod());
    bench.add(&moved);
    bench.add(&lost);
    let elsewhere = bench.lab.world.folder().join("moved");
    std::fs::rename(&bench.runtime.cache, &elsewhere).unwrap();
    // Without its cache libcni sends no prevResult: CHECK has nothing to compare, DEL needs none.
    let failure = refused(&bench.runtime.call("check", &lost).unwrap());
    assert!(failure.code != 0 && failure.msg.contains("prevResult"), "{failure:?}");
    bench.quiet("del", &lost);
    bench.gone(&lost);
    bench.runtime.cache = elsewhere;
    bench.quiet("check", &moved);
    bench.quiet("del", &moved);
    bench.gone(&moved);
}

#[test]
fn a_failed_add_leaves_nothing_and_its_del_succeeds() {
    let Some(bench) = start(1) else { return };
    let (holder, late) = (bench.pod(), bench.pod());
    let result = bench.add(&holder);
    let failure = refused(&bench.runtime.call("add", &late).unwrap());
    assert_eq!(failure.code, 11, "{failure:?}");
    bench.gone(&late);
    bench.quiet("del", &late);
    silent(&bench.runtime.call_in("del", &late, "").unwrap());
    bench.gone(&late);
    bench.attached(&holder, &result);
    bench.answers(&result);
    bench.quiet("del", &holder);
    bench.gone(&holder);
    // The next one gets it: nothing of the failed ADD is in the way.
    let next = bench.add(&bench.pod());
    assert_eq!(addresses(&next), addresses(&result));
}

#[test]
fn gc_deletes_what_is_not_listed_through_the_runtimes_cache() {
    let Some(bench) = start(8) else { return };
    let pods: Vec<_> = (0..3).map(|_| bench.pod()).collect();
    let results: Vec<_> = pods.iter().map(|pod| bench.add(pod)).collect();
    silent(&bench.runtime.gc(Keep::Only(&[&pods[0], &pods[1]])).unwrap());
    bench.gone(&pods[2]);
    bench.attached(&pods[0], &results[0]);
    bench.answers(&results[0]);
    // A list that was never filled is an empty one.
    for keep in [Keep::Null, Keep::Only(&[])] {
        silent(&bench.runtime.gc(keep).unwrap());
        for pod in &pods {
            bench.gone(pod);
        }
        let pod = bench.pod();
        bench.add(&pod);
        silent(&bench.runtime.gc(Keep::Only(&[&pod])).unwrap());
        assert!(!bench.held(&pod.container_id).is_empty());
        bench.quiet("del", &pod);
    }
}

#[test]
fn gc_without_a_list_is_refused_though_libcni_empties_its_cache_first() {
    let Some(bench) = start(4) else { return };
    let pod = bench.pod();
    bench.add(&pod);
    let failure = refused(&bench.runtime.gc(Keep::Absent).unwrap());
    assert_eq!(failure.code, 7, "{failure:?}");
    assert!(failure.msg.contains("cni.dev/valid-attachments"), "{failure:?}");
    // That is libcni's doing, not Berth's: it sent a DEL for every cached attachment.
    bench.gone(&pod);
}

#[test]
fn gc_leaves_an_attachment_alone_whose_namespace_lives() {
    let Some(mut bench) = start(4) else { return };
    let pod = bench.pod();
    let result = bench.add(&pod);
    // Without its cache libcni deletes nothing; the verb itself reaches Berth.
    bench.runtime.cache = bench.lab.world.folder().join("empty");
    for keep in [Keep::Null, Keep::Only(&[])] {
        silent(&bench.runtime.gc(keep).unwrap());
    }
    assert_eq!(refused(&bench.runtime.gc(Keep::Absent).unwrap()).code, 7);
    bench.attached(&pod, &result);
    bench.answers(&result);
}

#[test]
fn each_version_is_served_as_libcni_speaks_it() {
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let Some(bench) = Bench::start(4, version, |lab| vec![berth(lab, &json!({}))]) else { return };
        let pod = bench.pod();
        let result = bench.add(&pod);
        assert_eq!(result["cniVersion"], version);
        let family = result["ips"][0].get("version").and_then(serde_json::Value::as_str);
        assert_eq!(family, (version != "1.0.0").then_some("4"), "{result}");
        bench.attached(&pod, &result);
        let checked = bench.runtime.call("check", &pod).unwrap();
        assert_eq!(checked.succeeded(), version != "0.3.1", "{checked:?}");
        bench.quiet("del", &pod);
        bench.gone(&pod);
    }
    // These versions have no chains, so libcni sends no list in them: this test uses a list of one.
    for version in ["0.1.0", "0.2.0"] {
        let Some(bench) = Bench::start(4, version, |lab| vec![berth(lab, &json!({}))]) else { return };
        let pod = bench.pod();
        let result = bench.add(&pod);
        assert!(result["ip4"]["ip"].as_str().is_some_and(|ip| ip.starts_with("10.77.")), "{result}");
        bench.quiet("del", &pod);
        bench.gone(&pod);
    }
}

#[test]
fn capability_arguments_and_cni_args_arrive() {
    let capabilities =
        json!({"capabilities": {"ips": true, "mac": true, "io.kubernetes.cri.pod-annotations": true}});
    let Some(mut bench) = Bench::start(8, NEWEST, |lab| vec![berth(lab, &capabilities)]) else { return };
    let (pod, wanted) = (bench.pod(), bench.lab.addresses[5]);
    bench.runtime.capabilities = json!({"ips": [format!("{wanted}/16")], "mac": "02:00:00:00:77:05",
        "io.kubernetes.cri.pod-annotations": {"example.org/colour": "red"}, "portMappings": []});
    bench.runtime.args =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1;OTHER=x".to_owned();
    let result = bench.add(&pod);
    assert_eq!(addresses(&result), [std::net::IpAddr::from(wanted)]);
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:77:05");
    bench.attached(&pod, &result);
    bench.quiet("check", &pod);
    bench.quiet("del", &pod);
    bench.gone(&pod);
    bench.runtime.capabilities = json!({"ips": ["10.77.0.300"]});
    let failure = refused(&bench.runtime.call("add", &pod).unwrap());
    assert!(failure.code == 7 && failure.msg.contains("10.77.0.300"), "{failure:?}");
    bench.gone(&pod);
}
