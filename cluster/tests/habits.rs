//! Normal and deviating behaviour of the stand-in, as a plugin sees it: one that only records its calls.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use berth_cluster::chain::ANNOTATIONS;
use berth_cluster::cluster::{Cluster, Options};
use berth_cluster::cni::Cni;
use berth_cluster::habits::Habits;
use berth_cluster::workload;
use berth_testbed::cleanup::{self, Folder};
use berth_testbed::kubernetes::Programs;
use berth_testbed::skip;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// Writes a line for each call. While the file `fail` is there an ADD takes it away and fails; while `slow`
/// is there a DEL takes its time.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
echo "$(cut -d' ' -f1 /proc/uptime)|$CNI_COMMAND|$CNI_CONTAINERID|$CNI_NETNS|$CNI_ARGS|$(tr -d '\n')" >>"$here/calls"
case $CNI_COMMAND in
ADD)
    if rm "$here/fail" 2>/dev/null; then echo '{"code": 11, "msg": "not now"}'; exit 1; fi
    echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.50.16.9/16"}]}' ;;
DEL) if [ -e "$here/slow" ]; then sleep 5; fi ;;
esac
"#;

/// A call as the plugin saw it.
#[derive(Debug, Clone)]
struct Call {
    at: f64,
    command: String,
    container: String,
    netns: String,
    args: String,
    input: Value,
}

/// A cluster with one node, and a plugin that records its calls.
struct Stage {
    cluster: Cluster,
    folder: Folder,
    read: usize,
}

impl Stage {
    /// `None`, with a skip, where there can be none.
    #[expect(clippy::unwrap_used, reason = "a stage that cannot be built fails its test")]
    fn build(name: &str) -> Option<Self> {
        if skip::unless_root() {
            return None;
        }
        if let Err(names) = Programs::of_environment() {
            let names = names.join(", ");
            skip::because(&format!("needs {names}; `cargo xtask tools kubernetes` builds them with Go"));
            return None;
        }
        let folder = Folder::create(&format!("{}-{name}", cleanup::prefix())).unwrap();
        let plugin = folder.path().join("recorder");
        std::fs::write(&plugin, PLUGIN).unwrap();
        std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "records", "plugins": [
            {"type": "recorder", "node": "@NODE@", "capabilities": {ANNOTATIONS: true}},
        ]});
        let file = folder.path().join("records.conflist");
        std::fs::write(&file, list.to_string()).unwrap();
        let plugins: Vec<PathBuf> = vec![folder.path().to_owned()];
        let options = Options { cni: Cni::File(file), ..Options::floor(1, 4, plugins) };
        let cluster = Cluster::start(&options, &mut |_, _| {}).unwrap();
        Some(Self { cluster, folder, read: 0 })
    }

    fn touch(&self, name: &str) {
        assert!(std::fs::write(self.folder.path().join(name), "").is_ok(), "{name}");
    }

    fn habits(&self, habits: Habits) {
        let lock = &self.cluster.nodes[0].habits;
        *lock.write().unwrap_or_else(std::sync::PoisonError::into_inner) = habits;
    }

    /// The calls since the last time, as soon as there are `count` and for a moment no more.
    fn calls(&mut self, count: usize) -> Vec<Call> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().skip(self.read).collect();
            if lines.len() >= count || Instant::now() > deadline {
                std::thread::sleep(Duration::from_millis(500));
                let text = std::fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default();
                let calls: Vec<Call> = text.lines().skip(self.read).map(call).collect();
                assert_eq!(calls.len(), count, "{calls:#?} {:?}", self.cluster.tally.complaints());
                self.read += calls.len();
                return calls;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn until(&self, what: &str, mut done: impl FnMut(&Cluster) -> bool) {
        let waited = self.cluster.wait_until(what, PATIENCE, || Ok(done(&self.cluster)));
        let cluster = &self.cluster;
        assert!(
            waited.is_ok(),
            "{waited:?}: {} pods, {} running, {} sandboxes, {:?}, {:?}",
            cluster.pods(),
            cluster.running(),
            cluster.sandboxes(),
            cluster.tally.complaints(),
            cluster.tally.take(),
        );
    }

    /// A Deployment of one pod, which runs.
    fn app(&self) -> Vec<workload::App> {
        let mut apps = workload::apps(1, 1);
        apps[0].annotations = json!({"berth.dev/pool": "a"});
        let created = workload::create(&self.cluster, &apps);
        assert!(created.is_ok(), "{created:?}");
        self.until("the pod running", |cluster| cluster.running() == 1);
        apps
    }

    fn remove(&self, apps: &[workload::App]) {
        let deleted = workload::delete(&self.cluster, apps);
        assert!(deleted.is_ok(), "{deleted:?}");
        self.until("the pod gone", |cluster| cluster.pods() == 0);
    }
}

fn call(line: &str) -> Call {
    let parts: Vec<&str> = line.splitn(6, '|').collect();
    Call {
        at: parts[0].parse().unwrap_or_default(),
        command: parts[1].to_owned(),
        container: parts[2].to_owned(),
        netns: parts[3].to_owned(),
        args: parts[4].to_owned(),
        input: serde_json::from_str(parts[5]).unwrap_or_default(),
    }
}

fn commands(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.command.as_str()).collect()
}

#[test]
fn a_failed_add_is_undone_and_tried_again_under_another_name_and_every_del_is_whole() {
    let Some(mut stage) = Stage::build("manners") else { return };
    stage.touch("fail");
    let apps = stage.app();
    let calls = stage.calls(3);
    assert_eq!(commands(&calls), ["ADD", "DEL", "ADD"]);
    let [failed, undone, added] = &calls[..] else { unreachable!("three were asked for") };
    assert_eq!(undone.container, failed.container);
    assert!(!undone.netns.is_empty() && undone.input.get("prevResult").is_none());
    assert_ne!(added.container, failed.container, "a new container id");
    assert_ne!(added.netns, failed.netns, "in a new namespace");
    assert!(added.at - undone.at >= 0.9, "after a second: {}", added.at - undone.at);
    assert!(added.args.starts_with("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=app-1-"));
    assert!(added.args.contains(&format!("K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=", added.container)));
    assert_eq!(added.input["runtimeConfig"][ANNOTATIONS], json!({"berth.dev/pool": "a"}));
    assert_eq!((&added.input["node"], &added.input["name"]), (&json!("n1"), &json!("records")));

    stage.habits(Habits {
        late_del: Duration::from_millis(700),
        repeated_dels: 2,
        repeat_after: Duration::from_millis(100),
        ..Habits::default()
    });
    let before: f64 = uptime();
    stage.remove(&apps);
    let calls = stage.calls(3);
    assert_eq!(commands(&calls), ["DEL", "DEL", "DEL"]);
    assert!(calls.iter().all(|call| call.container == added.container));
    assert!(calls[0].at - before >= 0.7, "late");
    assert!(!calls[0].netns.is_empty() && calls[0].input.get("prevResult").is_some());
    for again in &calls[1..] {
        assert!(again.netns.is_empty() && again.input.get("prevResult").is_none(), "{again:?}");
    }
}

#[test]
fn a_kubelet_that_starts_again_calls_nobody_for_the_living_and_del_for_those_who_are_gone() {
    let Some(mut stage) = Stage::build("restart") else { return };
    let apps = stage.app();
    let uids = workload::uids(&stage.cluster);
    assert_eq!(commands(&stage.calls(1)), ["ADD"]);
    stage.cluster.nodes[0].kill_kubelet();
    assert_eq!((stage.cluster.running(), stage.cluster.sandboxes()), (0, 1), "the sandbox lives on");
    stage.cluster.start_kubelet(0).unwrap();
    stage.until("the pod running", |cluster| cluster.running() == 1);
    assert_eq!(workload::uids(&stage.cluster), uids);
    assert!(stage.calls(0).is_empty(), "a kubelet that starts calls no plugin for a pod that runs");

    stage.cluster.nodes[0].kill_kubelet();
    workload::delete(&stage.cluster, &apps).unwrap();
    let force = ["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"];
    stage.cluster.control.kubectl(&force).unwrap();
    stage.cluster.start_kubelet(0).unwrap();
    let calls = stage.calls(1);
    assert_eq!(commands(&calls), ["DEL"]);
    assert!(!calls[0].netns.is_empty() && calls[0].input.get("prevResult").is_some(), "{calls:?}");
    stage.until("an empty disk", |cluster| cluster.sandboxes() == 0);
}

fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

#[test]
fn a_del_can_be_killed_or_never_come_and_a_sandbox_can_outlive_its_object() {
    let Some(mut stage) = Stage::build("habits") else { return };
    let apps = stage.app();
    stage.touch("slow");
    stage.habits(Habits { kill_del_after: Some(Duration::from_millis(300)), ..Habits::default() });
    workload::delete(&stage.cluster, &apps).unwrap();
    std::thread::sleep(Duration::from_millis(600));
    std::fs::remove_file(stage.folder.path().join("slow")).unwrap();
    stage.until("the pod gone", |cluster| cluster.pods() == 0);
    let calls = stage.calls(3);
    assert_eq!(commands(&calls), ["ADD", "DEL", "DEL"], "killed, and repeated");
    assert!(calls[2].input.get("prevResult").is_some() && !calls[2].netns.is_empty());

    stage.habits(Habits { no_del: true, ..Habits::default() });
    let apps = stage.app();
    stage.remove(&apps);
    assert_eq!(commands(&stage.calls(1)), ["ADD"], "no DEL");
    assert_eq!(stage.cluster.sandboxes(), 0);

    stage.habits(Habits { keep_forced: true, inhabited: true, ..Habits::default() });
    let apps = stage.app();
    let force = ["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"];
    stage.cluster.control.kubectl(&force).unwrap();
    stage.until("a second sandbox", |cluster| cluster.sandboxes() == 2);
    assert_eq!(commands(&stage.calls(2)), ["ADD", "ADD"], "the first lives on without its object");
    stage.remove(&apps);
    assert_eq!(commands(&stage.calls(1)), ["DEL"]);

    // The reboot finds it on the disk, and runs its DEL without a namespace.
    stage.habits(Habits::default());
    stage.cluster.power_off(0);
    stage.cluster.power_on(0).unwrap();
    let calls = stage.calls(1);
    assert!(calls[0].netns.is_empty() && calls[0].input.get("prevResult").is_some(), "{calls:?}");
    stage.until("an empty disk", |cluster| cluster.sandboxes() == 0);
}
