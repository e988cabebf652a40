//! A chain in which another IPAM assigns the addresses: Debian's `macvlan` with `host-local`, then berth.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_testbed::lab::{Lab, Options};
use berth_testbed::plugin::{Call, Outcome, Plugin};
use berth_testbed::skip;
use berth_testbed::world::{PARENT, Pod, SUBNET};
use serde_json::{Value, json};

const DEBIAN: &str = "/usr/lib/cni";

struct Chain {
    lab: Lab,
    macvlan: Plugin,
    config: Value,
}

impl Chain {
    /// Both IPAMs with the same addresses.
    fn new() -> Option<Self> {
        let options = Options::of_tests(1.0)?;
        if !Path::new(DEBIAN).join("macvlan").exists() {
            skip::because("needs the Debian package containernetworking-plugins");
            return None;
        }
        let lab = Lab::start(&options, 8, "").unwrap();
        let (first, last) = (lab.addresses[0], lab.addresses[lab.addresses.len() - 1]);
        let config = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": PARENT, "mode": "bridge",
            "ipam": {
                "type": "host-local", "dataDir": lab.world.folder().join("host-local"),
                "ranges": [[{"subnet": SUBNET, "rangeStart": first, "rangeEnd": last}]],
            },
        });
        let macvlan =
            Plugin { binary: PathBuf::from(DEBIAN).join("macvlan"), node: lab.world.node().to_owned() };
        Some(Self { lab, macvlan, config })
    }

    fn main(&self, command: &str, pod: &Pod) -> Outcome {
        let call = Call::new(command, &self.config, pod).variable("CNI_PATH", DEBIAN);
        self.macvlan.run(&call).unwrap()
    }

    /// Result of the main plugin's ADD.
    fn add_main(&self, pod: &Pod) -> Value {
        let outcome = self.main("ADD", pod);
        outcome.expect_success().unwrap();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    fn berth(&self, command: &str, pod: &Pod, prev: &Value) -> Outcome {
        let mut config = self.lab.config.clone();
        config["prevResult"] = prev.clone();
        self.lab.plugin.run(&Call::new(command, &config, pod)).unwrap()
    }

    fn state(&self, address: IpAddr) -> Option<String> {
        self.lab.leases().unwrap().into_iter().find(|row| row.address == address).map(|row| row.state)
    }
}

fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn an_address_of_host_local_is_tracked_as_it_is_and_freed_by_proof_when_no_del_comes() {
    let Some(chain) = Chain::new() else { return };
    let pod = chain.lab.world.pod().unwrap();
    let prev = chain.add_main(&pod);
    let given = address(&prev);
    let outcome = chain.berth("ADD", &pod, &prev);
    outcome.expect_success().unwrap();
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(result, prev, "nothing is added, and nothing lost");
    assert_eq!(chain.state(given).as_deref(), Some("bound"));
    chain.berth("CHECK", &pod, &result).expect_success().unwrap();
    // Berth gives it to no other pod.
    let others = chain.lab.attach_many(3).unwrap();
    assert!(others.iter().all(|other| other.address != given));

    chain.lab.world.remove(&pod);
    let end = Instant::now() + Duration::from_secs(10);
    while chain.state(given).is_some() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(chain.state(given), None, "free by the kernel's proof");
}

#[test]
fn in_order_both_let_go_and_an_address_that_berth_gave_to_another_is_refused() {
    let Some(chain) = Chain::new() else { return };
    let pod = chain.lab.world.pod().unwrap();
    let prev = chain.add_main(&pod);
    let given = address(&prev);
    chain.berth("ADD", &pod, &prev).expect_success().unwrap();
    // The last plugin of the list gets its DEL first.
    chain.berth("DEL", &pod, &prev).expect_success().unwrap();
    chain.main("DEL", &pod).expect_success().unwrap();
    assert_eq!(chain.state(given), None);
    chain.lab.world.remove(&pod);

    // host-local's next one is Berth's already.
    let all: Vec<_> = (0..8).map(|_| chain.lab.attach(&chain.lab.world.pod().unwrap()).unwrap()).collect();
    let late = chain.lab.world.pod().unwrap();
    let prev = chain.add_main(&late);
    let taken = address(&prev);
    let holder = all.iter().find(|holder| holder.address == taken).unwrap();
    let began = Instant::now();
    let outcome = chain.berth("ADD", &late, &prev);
    assert!(outcome.expect_success().is_err());
    assert!(outcome.stdout.contains(&taken.to_string()), "{}", outcome.stdout);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(chain.state(taken).as_deref(), Some("bound"), "{holder:?} keeps it");
    chain.main("DEL", &late).expect_success().unwrap();
}

/// Berth as main, with host-local as the IPAM that its configuration names.
fn under_berth(chain: &Chain, dir: &Path) -> Value {
    let mut config = chain.lab.config.clone();
    config["ipam"] = chain.config["ipam"].clone();
    config["ipam"]["dataDir"] = json!(dir);
    config
}

fn files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir.join("lan")) else { return 0 };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.parse::<IpAddr>().is_ok()).count()
}

#[test]
fn host_local_under_berth_gives_and_berth_makes_the_link_and_defends_the_address() {
    let Some(chain) = Chain::new() else { return };
    let dir = chain.lab.world.folder().join("under");
    let config = under_berth(&chain, &dir);
    let call = |command: &str, pod: &Pod, prev: Option<&Value>| {
        let mut config = config.clone();
        if let Some(prev) = prev {
            config["prevResult"] = prev.clone();
        }
        let call = Call::new(command, &config, pod).variable("CNI_PATH", DEBIAN);
        chain.lab.plugin.run(&call).unwrap()
    };
    let pod = chain.lab.world.pod().unwrap();
    let outcome = call("ADD", &pod, None);
    outcome.expect_success().unwrap();
    let result: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let given = address(&result);
    assert_eq!(result["ips"][0]["interface"], 0);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
    assert_eq!((chain.state(given).as_deref(), files(&dir)), (Some("bound"), 1));
    call("CHECK", &pod, Some(&result)).expect_success().unwrap();

    // A pod of Berth's own IPAM never gets it, and host-local's loss of its file does not matter.
    std::fs::remove_file(dir.join("lan").join(given.to_string())).unwrap();
    assert!(call("CHECK", &pod, Some(&result)).expect_success().is_err(), "the delegate is asked too");
    std::fs::remove_dir_all(dir.join("lan")).unwrap();
    let late = chain.lab.world.pod().unwrap();
    let refused = call("ADD", &late, None);
    assert!(refused.expect_success().is_err(), "host-local gives the first address twice");
    assert!(refused.stdout.contains(&given.to_string()), "{}", refused.stdout);
    assert_eq!(files(&dir), 0, "and what it gave was taken back by its own DEL");
    let links = chain.lab.world.links(&late).unwrap().unwrap();
    assert!(links.iter().all(|link| link.name == "lo"), "{links:?}");

    call("DEL", &pod, Some(&result)).expect_success().unwrap();
    assert_eq!(chain.state(given), None);
    call("ADD", &late, None).expect_success().unwrap();
    assert_eq!(files(&dir), 1);
    call("DEL", &late, None).expect_success().unwrap();
    assert_eq!(files(&dir), 0);
}
