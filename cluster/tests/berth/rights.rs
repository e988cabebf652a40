//! Rights of agents: the access of one node's token to the records of another, with the admission policy and
//! without it. For the attacks RBAC lets the tokens do everything, so that the policy alone denies them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use berth_cluster::agent::ACCOUNT;
use serde_json::{Value, json};

use crate::stage::{Stage, manifest, must, story, took};

/// Another place for agents than the one in the file.
const ELSEWHERE: (&str, &str) = ("network", "underlay");

#[test]
fn a_token_of_one_node_writes_nothing_about_another() {
    let Some(mut stage) = Stage::build(2, 6) else { return };
    let stage = &mut stage;
    let names = [stage.pods("a", 1, 0), stage.pods("b", 1, 1)].concat();
    stage.settled(2);
    story("tokens that name no node: doctor says so, and agents work", stage, without_node);
    story("tokens bound to nodes, no policy: doctor says so", stage, without_policy);
    story("the policy denies each attack", stage, attacks);
    story("real agents work under the policy", stage, lives);
    story("spec.node changes only from and to retained", stage, node_stays);
    story("the policy bites in another namespace", stage, elsewhere);
    stage.delete(&names);
    stage.empty();
    stage.nothing_failed();
}

/// The shipped file, with the names of another installation replaced as its head says.
fn policy(stage: &Stage, namespace: &str, account: &str) -> PathBuf {
    let shipped = manifest().with_file_name("admission-policy.yaml");
    let text = must(std::fs::read_to_string(shipped), "the policy");
    let text = text.replace("berth-system", namespace).replace("berth-agent", account);
    let path = stage.cluster.folder().join(format!("policy-{namespace}.yaml"));
    must(std::fs::write(&path, text), "write the policy");
    path
}

fn said(stage: &Stage, node: usize, part: &str, ok: bool) {
    stage.until(&format!("rights with {part:?}"), |stage| {
        let findings = stage.doctor(node);
        findings.iter().any(|found| found.what == "rights" && found.ok == ok && found.text.contains(part))
    });
}

fn without_node(stage: &mut Stage) {
    for node in [0, 1] {
        said(stage, node, "records are unprotected: the agent's token names no node", false);
    }
    stage.renew("a-1");
    stage.settled(2);
    stage.nothing_failed();
}

fn without_policy(stage: &mut Stage) {
    for index in [0, 1] {
        let node = &mut stage.cluster.nodes[index];
        let bound = must(stage.cluster.control.bound_kubeconfig(ACCOUNT, node.name()), "a bound token");
        node.lead_agent(&bound);
        node.kill_agent();
        must(node.start_agent(), "the agent's start");
    }
    for index in [0, 1] {
        stage.bars_gone(index);
        said(stage, index, "no admission policy denied a heartbeat of another node", false);
    }
}

/// Requests that must be denied, as `kubectl` arguments after the object's file, if there is one.
struct Attacker<'a> {
    stage: &'a Stage,
    token: PathBuf,
    policy: &'static str,
}

impl Attacker<'_> {
    fn tries(&self, arguments: &[&str]) -> Result<String, String> {
        let outcome = self.stage.cluster.control.kubectl_as(&self.token, arguments);
        outcome.map_err(|error| format!("{error:?}"))
    }

    /// A denial by the policy alone.
    fn is_denied(&self, what: &str, arguments: &[&str]) {
        let denial = match self.tries(arguments) {
            Err(denial) => denial,
            Ok(answer) => unreachable!("{what} is admitted: {answer}"),
        };
        let by = format!("ValidatingAdmissionPolicy '{}'", self.policy);
        assert!(denial.contains(&by), "{what}: {denial}");
        println!("            {what}: denied");
    }

    fn may(&self, what: &str, arguments: &[&str]) {
        must(self.tries(arguments), what);
    }

    /// Writes an object into a file.
    fn file(&self, name: &str, object: &Value) -> String {
        let path = self.stage.cluster.folder().join(name);
        must(std::fs::write(&path, object.to_string()), "write");
        path.display().to_string()
    }
}

/// Waits until the API server applies a policy that was just written: until then it admits what is tried.
fn in_force(attacker: &Attacker<'_>, arguments: &[&str]) {
    let began = Instant::now();
    attacker.stage.until("the policy in force", |_| attacker.tries(arguments).is_err());
    took("the policy is in force", began);
}

fn apply(stage: &Stage, path: &Path) {
    stage.kubectl(&["apply", "-f", &path.display().to_string()]);
}

/// RBAC lets a service account do everything.
fn let_all(stage: &Stage, account: &str) {
    let account = format!("--serviceaccount={account}");
    stage.kubectl(&["create", "clusterrolebinding", "all", "--clusterrole=cluster-admin", &account]);
}

fn heartbeat(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "berth-system"},
        "spec": {"holderIdentity": "forged/forged", "leaseDurationSeconds": 10},
    })
}

/// A record of `node` at a free address, copied from another record.
fn forged(pattern: &Value, node: &str, last: u8) -> Value {
    let mut record = pattern.clone();
    let address = format!("10.50.16.{last}");
    record["metadata"] = json!({"name": format!("default.{address}")});
    (record["spec"]["address"], record["spec"]["node"]) = (json!(address), json!(node));
    record
}

fn attacks(stage: &mut Stage) {
    let stage = &*stage;
    let records = stage.records().unwrap_or_default();
    let Some(victim) = records.iter().find(|record| record.node == "n1" && record.address.is_ipv4()) else {
        unreachable!("n1 has one")
    };
    let text = stage.kubectl(&["get", "iplease", &victim.name, "-o", "json"]);
    let pattern: Value = must(serde_json::from_str(&text), "a record");
    let token = must(stage.cluster.control.bound_kubeconfig(ACCOUNT, "n2"), "a bound token");
    let attacker = Attacker { stage, token, policy: "berth-own-node" };
    let_all(stage, ACCOUNT);
    apply(stage, &policy(stage, "berth-system", "berth-agent"));
    let beat = attacker.file("beat.json", &heartbeat("berth-node-n9"));
    in_force(&attacker, &["create", "--dry-run=server", "-f", &beat]);

    attacker.is_denied("a heartbeat of a node that is not there", &["create", "-f", &beat]);
    let forgery = attacker.file("forgery.json", &forged(&pattern, "n1", 200));
    attacker.is_denied("a forged record of another node", &["create", "-f", &forgery]);
    let mut replaced = pattern.clone();
    replaced["spec"]["containerID"] = json!("forged");
    let replaced = attacker.file("replaced.json", &replaced);
    attacker.is_denied("another node's record replaced", &["replace", "-f", &replaced]);
    let drop_node = r#"[{"op":"remove","path":"/spec/node"}]"#;
    let patch = ["patch", "iplease", &victim.name, "--type=json", "-p"];
    attacker.is_denied("another node's record retained", &[&patch[..], &[drop_node]].concat());
    attacker.is_denied("another node's record deleted", &["delete", "iplease", &victim.name]);
    attacker.is_denied("all records deleted", &["delete", "ipleases", "--all"]);
    let lease = ["--namespace=berth-system", "lease", "berth-node-n1"];
    let renew = ["--type=merge", "-p", r#"{"spec":{"holderIdentity":"forged/forged"}}"#];
    attacker.is_denied("another node's heartbeat", &[&["patch"][..], &lease, &renew].concat());
    attacker.is_denied("another node's heartbeat deleted", &[&["delete"][..], &lease].concat());
    let elsewhere = attacker.file("elsewhere.json", &{
        let mut beat = heartbeat("berth-node-n2");
        beat["metadata"]["namespace"] = json!("default");
        beat
    });
    attacker.is_denied("a Lease outside of the agents' namespace", &["create", "-f", &elsewhere]);
    let office = ["--namespace=berth-system", "lease", "berth-steward", "--type=merge", "-p"];
    let other = [&["patch"][..], &office, &[r#"{"spec":{"holderIdentity":"n1/forged"}}"#]].concat();
    attacker.is_denied("the office in another node's name", &other);
    let unbound =
        stage.cluster.control.kubeconfig(&berth_cluster::control::User::Account(ACCOUNT.to_owned()));
    let unbound = Attacker { token: unbound, ..attacker };
    unbound.is_denied("a token that names no node", &["delete", "iplease", &victim.name]);
    status(stage);
    stage.kubectl(&["delete", "clusterrolebinding", "all"]);
    stage.converged();
}

/// The status of pools is the elected agent's.
fn status(stage: &Stage) {
    let holder = stage.kubectl(&[
        "--namespace=berth-system",
        "get",
        "lease",
        "berth-steward",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ]);
    let elected = holder.split('/').next().unwrap_or_default().to_owned();
    let other = if elected == "n1" { "n2" } else { "n1" };
    let token = |node: &str| must(stage.cluster.control.bound_kubeconfig(ACCOUNT, node), "a bound token");
    let patch = ["patch", "ippool", "lan-v4", "--type=merge", "-p"];
    let counts = [&patch[..], &[r#"{"status":{"free":0}}"#, "--subresource=status"]].concat();
    let attacker = Attacker { stage, token: token(other), policy: "berth-elected" };
    attacker.is_denied("a pool's status by an agent that is not elected", &counts);
    let spec = [&patch[..], &[r#"{"spec":{"disabled":true}}"#]].concat();
    attacker.is_denied("a pool's spec", &spec);
    let elected = Attacker { stage, token: token(&elected), policy: "berth-elected" };
    elected.is_denied("a pool's spec by the elected agent", &spec);
    elected.may("a pool's status by the elected agent", &counts);
}

fn lives(stage: &mut Stage) {
    for index in [0, 1] {
        said(stage, index, "an admission policy keeps this agent's token", true);
    }
    let more = [stage.pods("c", 2, 0), stage.pods("d", 2, 1)].concat();
    stage.settled(6);
    stage.renew("a-1");
    stage.renew("b-1");
    stage.settled(6);
    // The elected agent counts.
    let bound = "jsonpath={.status.bound}";
    stage.until("the status of a pool", |stage| {
        stage.kubectl(&["get", "ippool", "lan-v4", "-o", bound]) == "6"
    });
    stage.wire_is_clean();
    stage.delete(&more);
    stage.settled(2);
    for index in [0, 1] {
        let node = &mut stage.cluster.nodes[index];
        node.kill_agent();
        must(node.start_agent(), "the agent's start");
        stage.bars_gone(index);
    }
    stage.settled(2);
    stage.nothing_failed();
}

/// For all users, admission policy or not.
fn node_stays(stage: &mut Stage) {
    let stage = &*stage;
    let text = stage.kubectl(&["get", "ipleases", "-o", "json"]);
    let list: Value = must(serde_json::from_str(&text), "records");
    let record = forged(&list["items"][0], "n7", 201);
    stage.apply_again(&record.to_string());
    let patch = |patch: &str| {
        stage.cluster.control.kubectl(&[
            "patch",
            "iplease",
            "default.10.50.16.201",
            "--type=json",
            "-p",
            patch,
        ])
    };
    let moved = patch(r#"[{"op":"replace","path":"/spec/node","value":"n8"}]"#);
    let Err(refused) = moved else { unreachable!("node changed from one to another") };
    assert!(format!("{refused:?}").contains("node cannot be changed"), "{refused:?}");
    must(patch(r#"[{"op":"replace","path":"/spec/containerID","value":"heir"}]"#), "a hand-over on one node");
    must(patch(r#"[{"op":"remove","path":"/spec/node"}]"#), "retained");
    must(patch(r#"[{"op":"add","path":"/spec/node","value":"n8"}]"#), "a retained one claimed");
    stage.kubectl(&["delete", "iplease", "default.10.50.16.201"]);
    stage.converged();
}

fn elsewhere(stage: &mut Stage) {
    let stage = &*stage;
    let (namespace, name) = ELSEWHERE;
    let account = format!("{namespace}:{name}");
    stage.kubectl(&["create", "namespace", namespace]);
    stage.kubectl(&["create", "serviceaccount", name, "--namespace", namespace]);
    let text = stage.kubectl(&["get", "ipleases", "-o", "json"]);
    let list: Value = must(serde_json::from_str(&text), "records");
    let token = must(stage.cluster.control.bound_kubeconfig(&account, "n2"), "a bound token");
    let attacker = Attacker { stage, token, policy: "berth-own-node" };
    let_all(stage, &account);
    let own = attacker.file("own.json", &forged(&list["items"][0], "n2", 202));
    let forgery = attacker.file("forgery-elsewhere.json", &forged(&list["items"][0], "n1", 203));
    let dry = ["create", "--dry-run=server", "-f"];
    attacker.may("the policy of berth-system lets others pass", &[&dry[..], &[&forgery]].concat());
    apply(stage, &policy(stage, namespace, name));
    in_force(&attacker, &[&dry[..], &[&forgery]].concat());
    attacker.is_denied("a forged record of another node, elsewhere", &["create", "-f", &forgery]);
    attacker.may("a record of its own node, of another address", &[&dry[..], &[&own]].concat());
    let beat = attacker.file("beat-elsewhere.json", &{
        let mut beat = heartbeat("berth-node-n1");
        beat["metadata"]["namespace"] = json!(namespace);
        beat
    });
    attacker.is_denied("a heartbeat of another node, elsewhere", &["create", "-f", &beat]);
    stage.kubectl(&["delete", "clusterrolebinding", "all"]);
    stage.kubectl(&["delete", "-f", &policy(stage, namespace, name).display().to_string()]);
}
