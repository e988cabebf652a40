//! The world, the plugin runner, the FDB poller and the monitor, tested with upstream's plugins, which are
//! independent of Berth: their measurements do not depend on Berth's output.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_testbed::fdb::FdbWatch;
use berth_testbed::monitor::{GAP_MAX, Monitor, STEADY, Witness};
use berth_testbed::plugin::{Call, Plugin};
use berth_testbed::skip;
use berth_testbed::world::{self, PARENT, World, pool_addresses};
use serde_json::{Value, json};

/// Folder of the binaries of Debian's `containernetworking-plugins`.
const UPSTREAM: &str = "/usr/lib/cni";

/// True if this machine cannot run these tests.
fn skipped() -> bool {
    if skip::unless_root() {
        return true;
    }
    let missing = !Path::new(UPSTREAM).join("macvlan").exists();
    if missing {
        skip::because("needs upstream's plugins; apt-get install containernetworking-plugins");
    }
    missing
}

fn macvlan(world: &World) -> (Plugin, Value) {
    let plugin = Plugin { binary: PathBuf::from(UPSTREAM).join("macvlan"), node: world.node().to_owned() };
    let ipam = json!({
        "type": "host-local", "dataDir": world.folder(),
        "ranges": [[{"subnet": world::SUBNET, "rangeStart": "10.77.0.10", "rangeEnd": "10.77.0.29"}]],
    });
    let config =
        json!({"cniVersion": "1.0.0", "name": "floor", "type": "macvlan", "master": PARENT, "ipam": ipam});
    (plugin, config)
}

#[test]
fn an_upstream_pod_is_seen_on_the_wire_in_its_namespace_and_in_the_fdb() {
    if skipped() {
        return;
    }
    let world = World::build().unwrap();
    let addresses = pool_addresses(20);
    let mut monitor = Monitor::start(&world, &addresses, STEADY).unwrap();
    let proof = monitor.prove(&world, addresses[19]).unwrap();
    println!("planted duplicate reported after {proof:?}");
    let fdb = FdbWatch::start(world.node(), PARENT).unwrap();
    let (plugin, config) = macvlan(&world);
    let pod = world.pod().unwrap();
    let added = plugin.run(&Call::new("ADD", &config, &pod)).unwrap().added().unwrap();
    assert_eq!(added.addresses, [addresses[0]]);
    let links = world.links(&pod).unwrap().unwrap();
    let link = links.iter().find(|link| link.name == world::POD_LINK).unwrap();
    assert_eq!(link.mac, added.mac);
    assert!(monitor.answers(addresses[0]).unwrap(), "the neighbour hears the pod");
    assert!(!monitor.answers(addresses[1]).unwrap(), "this address has no holder");
    let mac = added.mac.unwrap();
    fdb.watch(mac).unwrap();
    assert_eq!(fdb.gone(mac), None);
    let from = Instant::now();
    world.remove(&pod);
    let gone = fdb.wait_gone(mac, Duration::from_secs(5)).unwrap();
    println!("kernel part of a namespace's end: {:?}", gone - from);
    assert_eq!(world.links(&pod).unwrap(), None, "the namespace has ended");
    let findings = monitor.finish();
    assert!(findings.duplicates.is_empty(), "{:?}", findings.duplicates);
    assert!(findings.failed.is_none(), "{findings:?}");
    println!("{} samples, worst gap {:?}", findings.samples, findings.worst_gap);
    // Other tests share the processors: ten times the bound still shows that it samples.
    assert!(findings.samples > 5 && findings.worst_gap < 10 * GAP_MAX, "{findings:?}");
}

#[test]
fn a_duplicate_after_the_proof_is_reported_by_both_witnesses() {
    if skipped() {
        return;
    }
    let world = World::build().unwrap();
    let addresses = pool_addresses(4);
    let mut monitor = Monitor::start(&world, &addresses, STEADY).unwrap();
    monitor.prove(&world, addresses[3]).unwrap();
    // host-local with two data folders assigns one address twice: the fault that Berth must not have.
    let (plugin, config) = macvlan(&world);
    for half in ["a", "b"] {
        let mut config = config.clone();
        config["ipam"]["dataDir"] = json!(world.folder().join(half));
        let pod = world.pod().unwrap();
        plugin.run(&Call::new("ADD", &config, &pod)).unwrap().expect_success().unwrap();
    }
    monitor.wait_reported(addresses[0], Duration::from_secs(3)).unwrap();
    let witnesses: Vec<Witness> = monitor.finish().duplicates.iter().map(|d| d.witness).collect();
    assert!(witnesses.contains(&Witness::Wire) && witnesses.contains(&Witness::Namespaces), "{witnesses:?}");
}

#[test]
fn a_world_leaves_nothing_behind() {
    if skipped() {
        return;
    }
    let world = World::build().unwrap();
    let id = world.id().to_owned();
    let pod = world.pod().unwrap();
    let process = world.inhabit(&pod).unwrap();
    let pid = process.pid();
    let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
    let pins = world.bpffs().map(|path| format!(" {} bpf ", path.display())).unwrap();
    assert!(mounts().contains(&pins));
    drop((process, world));
    assert!(!mounts().contains(&pins));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    for folder in ["/run/netns", "/tmp"] {
        let left: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(&id) && name[id.len()..].starts_with('-') || *name == id)
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_plugin_that_fails_tells_its_code_and_one_that_hangs_is_killed() {
    if skipped() {
        return;
    }
    let world = World::build().unwrap();
    let (plugin, mut config) = macvlan(&world);
    config["master"] = json!("absent0");
    let pod = world.pod().unwrap();
    let outcome = plugin.run(&Call::new("ADD", &config, &pod)).unwrap();
    assert!(!outcome.succeeded() && outcome.added().is_err());
    assert_eq!(outcome.failure().unwrap().code, 999, "{outcome:?}");
    let script = world.folder().join("hang");
    std::fs::write(&script, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hanging = Plugin { binary: script, ..plugin };
    let running = hanging.start(&Call::bare("VERSION", &json!({}))).unwrap();
    let from = Instant::now();
    assert!(running.finish(Duration::from_millis(100)).is_err());
    assert!(from.elapsed() < Duration::from_secs(5));
}
