//! A control plane, two nodes and the floor: pods get addresses, nodes lose their power and come back, parts
//! of the control plane stop and are restored, and in the end nothing of it is left.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_cluster::cluster::{Cluster, Options};
use berth_cluster::cni::Cni;
use berth_cluster::control::{ControlPlane, Part, Settings};
use berth_cluster::network::{self, Network};
use berth_cluster::workload;
use berth_testbed::cleanup::{self, Folder};
use berth_testbed::kubernetes::Programs;
use berth_testbed::{census, skip, world};

/// Time limit of any step on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_mins(2);

/// The programs, or a skip that names the missing ones.
fn programs() -> Option<Programs> {
    if skip::unless_root() {
        return None;
    }
    match Programs::of_environment() {
        Ok(programs) => Some(programs),
        Err(names) => {
            let names = names.join(", ");
            skip::because(&format!("needs {names}; `cargo xtask tools kubernetes` builds them with Go"));
            None
        }
    }
}

/// Upstream's plugins: the newest if they were built, else Debian's.
fn plugins() -> Option<Vec<PathBuf>> {
    let built = std::env::var_os("BERTH_TOOLS_DIR").map(PathBuf::from);
    let places: Vec<PathBuf> = built.into_iter().chain([PathBuf::from("/usr/lib/cni")]).collect();
    let found = places.iter().any(|place| place.join("macvlan").exists());
    if !found {
        skip::because("needs upstream's plugins; `cargo xtask tools` builds them");
    }
    found.then_some(places)
}

/// Remains of this process's clusters: namespaces, folders, mounts, processes.
fn left(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["/run/netns".into(), std::env::temp_dir()] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        found.extend(names.filter(|name| name == id || name.starts_with(&format!("{id}-"))));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&format!("/{id}"))).map(str::to_owned));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&format!("/{id}/")) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn nothing_left(id: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !left(id).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(left(id).is_empty(), "{:?}", left(id));
}

fn told(what: &str, took: Duration) {
    println!("{:>8.2} s  {what}", took.as_secs_f64());
}

/// Each address of the pools has one holder on the wire.
fn everybody_has_an_address(cluster: &Cluster) {
    let (duplicates, absent) = census::judge(&cluster.census(3, 5).unwrap_or_default());
    assert!(!cluster.census(1, 0).unwrap_or_default().is_empty(), "the outsider cannot ask");
    assert!(duplicates.is_empty(), "{duplicates:?}");
    assert!(absent.is_empty(), "{absent:?}");
}

fn ten_run(cluster: &Cluster) {
    let waited = cluster.wait_until("10 pods running", PATIENCE, || Ok(cluster.running() == 10));
    assert!(waited.is_ok(), "{waited:?}: {:?} {:?}", cluster.tally.complaints(), cluster.tally.take());
}

#[test]
fn ten_pods_on_the_floor_live_through_a_loss_of_power_and_leave_nothing() {
    let (Some(_), Some(plugins)) = (programs(), plugins()) else { return };
    live_through_a_loss_of_power(&Options::floor(2, 10, plugins));
}

#[test]
fn ten_pods_on_berth_live_through_a_loss_of_power_and_leave_nothing() {
    let Some(_) = programs() else { return };
    let Some(binaries) = std::env::var_os("BERTH_BIN_DIR").map(PathBuf::from) else {
        skip::because("needs the built binaries; `cargo xtask test` builds them and sets BERTH_BIN_DIR");
        return;
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/berth.yaml");
    live_through_a_loss_of_power(&Options {
        cni: Cni::Berth,
        agent: Some(binaries.join("berth-agent")),
        manifests: vec![manifest],
        ..Options::floor(2, 10, vec![binaries])
    });
}

#[expect(clippy::unwrap_used, reason = "a failed step fails its test")]
fn live_through_a_loss_of_power(options: &Options) {
    let mut cluster = Cluster::start(options, &mut told).unwrap();
    let id = cluster.network.id().to_owned();
    assert!(left(&id).len() > 10, "the search for what is left finds what is there");

    let apps = workload::apps(1, 10);
    workload::create(&cluster, &apps).unwrap();
    ten_run(&cluster);
    workload::confirm(&cluster, 10, PATIENCE).unwrap();
    everybody_has_an_address(&cluster);

    // Proof that the census can find what must not be: the switch takes a pod's addresses, too.
    let (v4, v6) = network::address(3);
    let planted = |verb: &str| {
        world::ip(
            cluster.network.wire(),
            &format!("addr {verb} {v4}/16 dev br-u\naddr {verb} {v6}/64 dev br-u nodad\n"),
        )
    };
    planted("add").unwrap();
    let (duplicates, absent) = census::judge(&cluster.census(3, 5).unwrap());
    assert_eq!(duplicates, [IpAddr::V4(v4), IpAddr::V6(v6)]);
    assert!(absent.is_empty(), "{absent:?}");
    planted("del").unwrap();

    let before = workload::uids(&cluster);
    cluster.power_off(0);
    assert!(cluster.nodes[0].netns().is_none());
    assert_eq!(cluster.running(), 5, "the other node's pods run on");
    cluster.power_on(0).unwrap();
    ten_run(&cluster);
    assert_eq!(workload::uids(&cluster), before, "a loss of power changes no pod object");
    everybody_has_an_address(&cluster);

    workload::delete(&cluster, &apps).unwrap();
    let gone = || Ok(cluster.running() == 0 && cluster.nodes.iter().all(|node| node.sandboxes() == 0));
    cluster.wait_until("all pods gone", PATIENCE, gone).unwrap();
    let (_, absent) = census::judge(&cluster.census(1, 0).unwrap());
    assert_eq!(absent.len(), 20, "no address is answered for");
    let calls = cluster.tally.take();
    assert_eq!(calls["ADD"].failed + calls["DEL"].failed, 0, "{calls:?}");
    assert_eq!(calls["ADD"].times.len(), 15, "ten, and five again after the loss of power");
    assert!(calls["ADD"].cpu > Duration::ZERO);
    drop(cluster);
    nothing_left(&id);
}

#[test]
fn each_part_can_stop_and_etcd_can_go_back() {
    let Some(programs) = programs() else { return };
    cleanup::sweep();
    let id = format!("{}-parts", cleanup::prefix());
    let folder = Folder::create(&id).unwrap();
    let network = Network::build(&id).unwrap();
    let (settings, netns) = (Settings::default(), network.control());
    let mut plane = ControlPlane::start(&programs, netns, folder.path(), settings, &[], &mut told).unwrap();
    let make = |plane: &ControlPlane, name: &str| plane.kubectl(&["create", "namespace", name]).unwrap();
    let has = |plane: &ControlPlane, name: &str| plane.kubectl(&["get", "namespace", name]).is_ok();

    make(&plane, "before");
    let copy = plane.snapshot().unwrap();
    make(&plane, "after");
    assert!(has(&plane, "before") && has(&plane, "after"));
    plane.restore(&copy).unwrap();
    assert!(has(&plane, "before") && !has(&plane, "after"), "etcd is back in the past");

    plane.kill(Part::ApiServer);
    assert!(plane.pid(Part::ApiServer).is_none() && !has(&plane, "before"));
    told("the API server again", plane.launch(Part::ApiServer).unwrap());
    assert!(has(&plane, "before"));

    plane.pause(Part::Etcd);
    let stuck = plane.kubectl(&["get", "namespace", "before", "--request-timeout=1s"]);
    plane.resume(Part::Etcd);
    assert!(stuck.is_err(), "nothing is answered while etcd hangs");
    assert!(has(&plane, "before"));
    drop(plane);
    assert!(Path::new("/run/netns").join(format!("{id}-cp")).exists(), "its namespace is another's");
    drop((network, folder));
    nothing_left(&id);
}
