//! A cluster with Berth, and the operations and assertions of the scenarios.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use berth_cluster::bench::metrics::{self, Requests};
use berth_cluster::cluster::{Cluster, Options};
use berth_cluster::habits::Habits;
use berth_cluster::kubelet::Running;
use berth_cluster::records::Record;
use berth_testbed::census;
use berth_testbed::client::{Client, Finding};
use berth_testbed::kubernetes::Programs;
use berth_testbed::skip;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api as Kind;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

/// Time limit of any step on a machine that builds at the same time.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// Namespace of the pods.
const NAMESPACE: &str = "default";

/// Cluster of the scenarios.
pub struct Stage {
    pub cluster: Cluster,
}

/// Path of `deploy/berth.yaml`.
pub fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/berth.yaml")
}

/// Runs a scenario and prints its duration.
pub fn story(name: &str, stage: &mut Stage, play: impl FnOnce(&mut Stage)) {
    let began = Instant::now();
    println!("         {name}");
    play(stage);
    println!("{:>8.2} s  {name}", began.elapsed().as_secs_f64());
}

/// Prints a duration.
pub fn took(what: &str, since: Instant) {
    println!("{:>8.2} s    {what}", since.elapsed().as_secs_f64());
}

impl Stage {
    /// `None`, with a skip, where there can be none.
    pub fn build(nodes: u32, pods: u32) -> Option<Self> {
        if skip::unless_root() {
            return None;
        }
        if let Err(names) = Programs::of_environment() {
            let names = names.join(", ");
            skip::because(&format!("needs {names}; `cargo xtask tools kubernetes` builds them with Go"));
            return None;
        }
        let Some(binaries) = std::env::var_os("BERTH_BIN_DIR").map(PathBuf::from) else {
            skip::because("needs Berth's binaries; `cargo xtask test` builds them and sets BERTH_BIN_DIR");
            return None;
        };
        let began = Instant::now();
        let options = Options::berth(nodes, pods, &binaries, &manifest());
        let cluster = must(Cluster::start(&options, &mut |_, _| {}), "the cluster's start");
        took("the cluster's start", began);
        Some(Self { cluster })
    }

    /// Another manner of all kubelets.
    pub fn habits(&self, habits: &Habits) {
        for node in &self.cluster.nodes {
            *node.habits.write().unwrap_or_else(PoisonError::into_inner) = habits.clone();
        }
    }

    /// Pods that are bound to a node in advance, as `name` with each of the numbers after it.
    pub fn pods(&self, name: &str, count: usize, node: usize) -> Vec<String> {
        let names: Vec<String> = (1..=count).map(|number| format!("{name}-{number}")).collect();
        for name in &names {
            self.pod(name, node, &json!({}));
        }
        names
    }

    /// One of them, with annotations.
    pub fn pod(&self, name: &str, node: usize, annotations: &Value) {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "nodeName": self.cluster.nodes[node].name(), "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "containers": [{"name": "main", "image": "none"}],
                "tolerations": [{"operator": "Exists"}],
            },
        });
        let object: Pod = must(serde_json::from_value(object), "a pod");
        let api = must(self.cluster.control.api(), "the API");
        let kind: Kind<Pod> = Kind::namespaced(api.client(), NAMESPACE);
        let made = api.ask("create a pod", async move { kind.create(&PostParams::default(), &object).await });
        must(made, name);
    }

    /// Deletes pods; they terminate.
    pub fn delete(&self, names: &[String]) {
        self.end(names, &DeleteParams::default());
    }

    /// Force-deletes pods: their objects are gone at once.
    pub fn force(&self, names: &[String]) {
        self.end(names, &DeleteParams::default().grace_period(0));
    }

    fn end(&self, names: &[String], how: &DeleteParams) {
        let api = must(self.cluster.control.api(), "the API");
        for name in names {
            let kind: Kind<Pod> = Kind::namespaced(api.client(), NAMESPACE);
            let (name, how) = (name.clone(), how.clone());
            must(api.ask("delete a pod", async move { kind.delete(&name, &how).await }), "delete a pod");
        }
    }

    /// Waits for something.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        self.within(what, PATIENCE, &mut done);
    }

    /// Waits for something that must come soon; how long it took.
    pub fn within(&self, what: &str, limit: Duration, done: &mut dyn FnMut(&Self) -> bool) -> Duration {
        let began = Instant::now();
        let waited = self.cluster.wait_until(what, limit, || Ok(done(self)));
        assert!(waited.is_ok(), "{waited:?}: {}", self.told());
        began.elapsed()
    }

    /// Diagnosis for a step that did not complete.
    fn told(&self) -> String {
        let cluster = &self.cluster;
        format!(
            "{} pods, {} running, {} sandboxes; strayed {:?}; kubelets: {:?}; calls: {:?}; agents: {:#?}",
            cluster.pods(),
            cluster.running(),
            cluster.sandboxes(),
            cluster.strayed(),
            cluster.tally.complaints(),
            cluster.tally.take(),
            self.logs(),
        )
    }

    /// The ends of the agents' logs.
    pub fn logs(&self) -> Vec<String> {
        let ends = self.cluster.nodes.iter().map(|node| {
            let text = std::fs::read_to_string(node.folder().join("agent.log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        });
        ends.collect()
    }

    /// Waits until this number of pods runs, and the records are exactly those of the living sandboxes.
    pub fn settled(&self, pods: usize) {
        self.until(&format!("{pods} pods running"), |stage| stage.cluster.running() == pods);
        self.converged();
    }

    /// Waits until the records are exactly those of the sandboxes that live; how long that took.
    pub fn converged(&self) -> Duration {
        let exact = |stage: &Self| stage.cluster.strayed().is_ok_and(|strayed| strayed.is_empty());
        self.within("records of exactly the living", PATIENCE, &mut { exact })
    }

    /// Restarts the kubelet of a node, which then removes sandboxes without a pod.
    pub fn reap(&mut self, node: usize) {
        self.cluster.nodes[node].kill_kubelet();
        must(self.cluster.start_kubelet(node), "the kubelet's start");
    }

    /// Waits until no pod, no sandbox and no record is left.
    pub fn empty(&self) {
        let gone = |cluster: &Cluster| cluster.pods() == 0 && cluster.sandboxes() == 0;
        self.until("no pod left", |stage| gone(&stage.cluster));
        self.until("no record left", |stage| stage.records().is_some_and(|records| records.is_empty()));
    }

    /// The records, if the API server responds.
    pub fn records(&self) -> Option<Vec<Record>> {
        self.cluster.records().ok()
    }

    /// A pod that runs, by its name.
    pub fn running(&self, name: &str) -> Option<(String, Running)> {
        let kubelets = self.cluster.nodes.iter().filter_map(berth_cluster::node::Node::kubelet);
        let mut all = kubelets.flat_map(berth_cluster::kubelet::Kubelet::running);
        all.find(|(_, running)| running.name == name)
    }

    /// Waits until a pod of that name runs; its addresses.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.until(&format!("{name} running"), |stage| stage.running(name).is_some());
        self.running(name).map(|(_, running)| running.addresses).unwrap_or_default()
    }

    /// The addresses of a pod that runs, by its uid.
    pub fn addresses_of(&self, uid: &str) -> Vec<IpAddr> {
        let kubelets = self.cluster.nodes.iter().filter_map(berth_cluster::node::Node::kubelet);
        let found = kubelets.filter_map(|kubelet| kubelet.running().remove(uid));
        found.flat_map(|running| running.addresses).collect()
    }

    /// Waits until an agent serves ADDs: nothing of the cluster keeps them waiting.
    pub fn bars_gone(&self, node: usize) {
        self.until("an agent that may serve", |stage| {
            let findings = stage.doctor(node);
            let well = |what: &str| findings.iter().any(|finding| finding.what == what && finding.ok);
            let ill = |what: &str| findings.iter().any(|finding| finding.what == what && !finding.ok);
            well("api-server") && !ill("node-name") && !ill("store")
        });
    }

    /// Has the sandbox of a running pod die, so that it gets another one.
    pub fn renew(&self, name: &str) {
        let found = self.running(name);
        assert!(found.is_some(), "{name} runs");
        let Some((uid, old)) = found else { return };
        for kubelet in self.cluster.nodes.iter().filter_map(berth_cluster::node::Node::kubelet) {
            kubelet.renew(&uid);
        }
        self.until("the sandbox's end", |stage| {
            stage.running(name).is_none_or(|(_, now)| now.container != old.container)
        });
    }

    /// Each address has one holder on the wire at most, and those of sandboxes that live have one.
    pub fn wire_is_clean(&self) {
        let living: Vec<IpAddr> =
            self.cluster.attachments().into_iter().flat_map(|(_, addresses)| addresses).collect();
        let ask = || census::judge(&must(self.cluster.census(2, 0), "the census"));
        let (duplicates, mut absent) = ask();
        assert!(duplicates.is_empty(), "{duplicates:?}");
        // An answer can be missing for seconds: all namespaces share the kernel's neighbour table.
        absent.retain(|address| living.contains(address));
        for _ in 0..5 {
            if absent.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
            let (_, silent) = ask();
            absent.retain(|address| silent.contains(address));
        }
        assert!(absent.is_empty(), "{absent:?}");
    }

    /// Asserts that no ADD and no DEL failed since the last call; returns the number of ADDs.
    pub fn nothing_failed(&self) -> usize {
        let calls = self.cluster.tally.take();
        let failed: Vec<_> = calls.iter().filter(|(_, calls)| calls.failed > 0).collect();
        assert!(failed.is_empty(), "{failed:?}; {:#?}", self.logs());
        calls.get("ADD").map_or(0, |calls| calls.times.len())
    }

    /// Requests that the API server received since its start.
    pub fn requests(&self) -> Requests {
        let text = self.cluster.control.api().and_then(|api| api.text("/metrics"));
        metrics::read(&must(text, "the metrics"))
    }

    /// Findings of a node's agent about its health; empty while it does not respond.
    pub fn doctor(&self, node: usize) -> Vec<Finding> {
        let socket = self.cluster.nodes[node].folder().join("agent.sock");
        Client::new(&socket).doctor().unwrap_or_default()
    }

    /// Stops the runtime of a node from passing annotations: its chain no longer declares that capability.
    pub fn withhold_annotations(&mut self, node: usize) {
        let path = self.cluster.nodes[node].folder().join("net.d/10-cluster.conflist");
        let text = must(std::fs::read_to_string(&path), "the list");
        let mut list: Value = must(serde_json::from_str(&text), "the list");
        if let Some(plugin) = list["plugins"][0].as_object_mut() {
            plugin.remove("capabilities");
        }
        must(std::fs::write(&path, list.to_string()), "write the list");
        self.reap(node);
    }

    /// Writes a lease by hand, after the pattern of another: of a container on `node` that never was.
    pub fn forge(&self, pattern: &str, address: IpAddr, node: &str) {
        let mut lease: Value = must(serde_json::from_str(pattern), "a lease");
        let name = lease["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = lease["spec"]["address"].as_str().unwrap_or_default().to_owned();
        lease["metadata"] = json!({"name": name.replace(&old, &address.to_string())});
        let spec = &mut lease["spec"];
        spec["address"] = json!(address);
        // The MAC of a link that is there would be a sign of life.
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("mac");
        }
        spec["node"] = json!(node);
        for (key, value) in [("containerID", "neverwas"), ("txn", "0123456789abcdef0123456789abcdef")] {
            spec[key] = json!(format!("{value}{}", if key == "txn" { "" } else { node }));
        }
        spec["netns"] =
            json!({"cookie": "987654321", "inode": "4026539999", "nsid": 77, "nsidIsRandom": true});
        self.apply_again(&lease.to_string());
    }

    /// Creates an object that was read before, or made up.
    pub fn apply_again(&self, text: &str) {
        let mut object: Value = must(serde_json::from_str(text), "an object");
        let name = object["metadata"]["name"].clone();
        object["metadata"] = json!({"name": name});
        let path = self.cluster.folder().join("by-hand.json");
        must(std::fs::write(&path, object.to_string()), "write");
        self.kubectl(&["create", "-f", &path.display().to_string()]);
    }

    /// Waits until an event with that reason is there.
    pub fn event(&self, reason: &str) -> String {
        let find = |stage: &Self| {
            let api = stage.cluster.control.api().ok()?;
            let kind: Kind<Event> = Kind::all(api.client());
            let listed = api.ask("events", async move { kind.list(&ListParams::default()).await }).ok()?;
            let found = listed.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))?;
            Some(found.message.unwrap_or_default())
        };
        self.until(&format!("the event {reason}"), |stage| find(stage).is_some());
        find(self).unwrap_or_default()
    }

    /// kubectl, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        must(self.cluster.control.kubectl(arguments), &arguments.join(" "))
    }
}

/// Unwraps a result that the scenario needs.
#[expect(clippy::panic, reason = "a stage that does not work fails its test")]
pub fn must<T, E: std::fmt::Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}
