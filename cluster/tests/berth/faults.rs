//! Agents behind proxies that delay, refuse and lose: watches seconds behind, replies lost, responses that
//! mean "later", a slow API server, a definition of another version. One cluster, its pools as large as its
//! pods.
//!
//! Every scenario asserts that the proxy injected its fault, that no ADD failed, that no address has two
//! holders, and that the records end as those of exactly the living pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_cluster::control::User;
use berth_cluster::habits::Habits;
use berth_cluster::proxy::{Counts, Proxy, Refusal, Verb};
use serde_json::{Value, json};

use crate::stage::{Stage, manifest, must, story, took};

/// Resource that agents write.
const LEASES: &str = "ipleases";
/// Delay of the watches.
const LAG: Duration = Duration::from_secs(8);
/// By how much the slow API server is slower.
const SLOW: Duration = Duration::from_millis(400);
/// Number of pods, and of addresses of each family.
const PODS: usize = 10;

/// A scenario that leaves the pods as they were.
type Play = fn(&mut Stage, &[Proxy], &[String]);

#[test]
fn faults_between_agent_and_api_server_delay_an_add_and_fail_none() {
    let Some(mut stage) = Stage::build(2, 10) else { return };
    let stage = &mut stage;
    let proxies = [proxy(stage, 0), proxy(stage, 1)];
    let mut names = [stage.pods("a", 5, 0), stage.pods("b", 5, 1)].concat();
    stage.settled(PODS);
    story("T6: one node's watches are 5 s behind", stage, |stage| names = behind(stage, &proxies, &names));
    let plays: [(&str, Play); 4] = [
        ("replies to creates, replacements and deletes are lost", lost),
        ("429, 500 and 409 for writes, 410 for watches", refused),
        ("every request takes 400 ms longer", slow),
        ("the definition of leases is an older one", older),
    ];
    for (name, play) in plays {
        story(name, stage, |stage| play(stage, &proxies, &names));
    }
    stage.delete(&names);
    stage.empty();
    stage.wire_is_clean();
    stage.nothing_failed();
}

/// A proxy that the agent of a node goes through from now on.
fn proxy(stage: &mut Stage, node: usize) -> Proxy {
    let account = User::Account(berth_cluster::agent::ACCOUNT.to_owned());
    let proxy = must(stage.cluster.control.proxy(&account, &format!("n{node}")), "a proxy");
    let node_of = &mut stage.cluster.nodes[node];
    node_of.lead_agent(proxy.kubeconfig());
    node_of.kill_agent();
    must(node_of.start_agent(), "the agent's start");
    stage.bars_gone(node);
    proxy
}

/// Living sandboxes with addresses that have no record or another holder's.
///
/// The living ones are read before and after the records: a sandbox that is alive at both times was alive in
/// between.
fn unrecorded(stage: &Stage) -> Vec<String> {
    let living = |stage: &Stage| -> BTreeMap<String, Vec<IpAddr>> {
        stage.cluster.attachments().into_iter().collect()
    };
    let before = living(stage);
    let records = must(stage.cluster.records(), "the records");
    let after = living(stage);
    let lasting = before.iter().filter(|(container, addresses)| after.get(*container) == Some(addresses));
    let all =
        lasting.flat_map(|(container, addresses)| addresses.iter().map(move |address| (container, address)));
    let recorded = |container: &str, address: IpAddr| {
        records.iter().any(|record| record.address == address && record.container == container)
    };
    all.filter(|(container, address)| !recorded(container, **address))
        .map(|(container, address)| format!("{address} of {container}"))
        .collect()
}

/// Waits until this number of pods runs and the records are theirs; every living address has a record
/// throughout.
fn settled_safely(stage: &Stage, pods: usize) {
    stage.until(&format!("{pods} pods running"), |stage| {
        let bare = unrecorded(stage);
        assert!(bare.is_empty(), "released alive: {bare:?}; {:#?}", stage.logs());
        stage.cluster.running() == pods
    });
    stage.settled(pods);
}

/// The pods of a node are deleted and others of the same names are created, on that node.
fn again(stage: &Stage, names: &[String], node: usize) {
    stage.delete(names);
    stage.until("the previous pods' end", |stage| names.iter().all(|name| stage.running(name).is_none()));
    stage.until("their objects' end", |stage| stage.cluster.pods() + names.len() == PODS);
    for name in names {
        stage.pod(name, node, &json!({}));
    }
}

/// Three pods are deleted, and then there are three of another name on a node.
fn move_pods(stage: &Stage, names: &[String], node: usize, name: &str) -> Vec<String> {
    stage.delete(names);
    stage.until("the previous pods' end", |stage| stage.cluster.pods() + names.len() == PODS);
    let made = stage.pods(name, names.len(), node);
    settled_safely(stage, PODS);
    made
}

/// Prints the faults of a proxy since `before`.
fn tell(proxy: &Proxy, before: &Counts) {
    let now = proxy.faults.counts();
    let refused: BTreeMap<_, _> = now
        .refused
        .iter()
        .map(|(of, count)| (of, count - before.refused.get(of).unwrap_or(&0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    println!(
        "            {} requests, {} slow, {} pieces of watches late, {} watches expired, refused {refused:?}, \
         lost in all {:?}",
        now.requests - before.requests,
        now.slow - before.slow,
        now.late - before.late,
        now.expired - before.expired,
        now.lost,
    );
}

/// The first node releases addresses and takes others while the second receives no events for 5 s; then the
/// second releases and takes. Pods change nodes, so that each node requests the other's addresses.
fn behind(stage: &mut Stage, proxies: &[Proxy], names: &[String]) -> Vec<String> {
    let (faults, before) = (&proxies[1].faults, proxies[1].faults.counts());
    faults.lag(LAG);
    let began = Instant::now();
    let (mine, theirs) = (names[..3].to_vec(), names[5..8].to_vec());
    stage.delete(&[mine.clone(), theirs.clone()].concat());
    stage.until("four left", |stage| stage.cluster.running() == 4 && stage.cluster.pods() == 4);
    // The first node is served at once and takes any address; the second has stale records.
    let quick = stage.pods("quick", 3, 0);
    let late = stage.pods("late", 3, 1);
    settled_safely(stage, PODS);
    took("six of ten pods replaced on both nodes", began);
    // On the delayed node every event is its own: it must not misread its own events.
    for name in &names[8..10] {
        stage.renew(name);
    }
    again(stage, &late, 1);
    settled_safely(stage, PODS);
    took("and two sandboxes and three pods on the node that is behind", began);
    // The first node has these addresses for a moment in between. The second receives that event long after
    // it has them again, and must not act on it.
    let began = Instant::now();
    let left = move_pods(stage, &late, 0, "left");
    let back = move_pods(stage, &left, 1, "back");
    took("and three more that left it and came back", began);
    assert!(began.elapsed() < LAG, "the news of that are still to come");
    // It believes that all of these addresses are taken.
    let came = move_pods(stage, &quick, 1, "came");
    took("and three that came to it, where only old news of free addresses are", began);
    // Any action on a late event has happened by this time.
    std::thread::sleep(LAG);
    assert_eq!(unrecorded(stage), Vec::<String>::new());
    faults.calm();
    let home = move_pods(stage, &came, 0, "home");
    tell(&proxies[1], &before);
    assert!(faults.counts().late > before.late + 10, "watches were late: {:?}", faults.counts());
    stage.wire_is_clean();
    stage.nothing_failed();
    [names[3..5].to_vec(), names[8..10].to_vec(), back, home].concat()
}

/// Each kind of write is applied and its reply lost: the writer must find out the outcome.
fn lost(stage: &mut Stage, proxies: &[Proxy], names: &[String]) {
    let began = Instant::now();
    let before = proxies[0].faults.counts();
    let faults = &proxies[0].faults;
    faults.lose_replies(3, Verb::Delete, LEASES);
    faults.lose_replies(3, Verb::Create, LEASES);
    let mine = some_of(stage, names, 0);
    again(stage, &mine, 0);
    settled_safely(stage, PODS);
    took("three pods replaced; six replies lost", began);
    // Without its DEL the next sandbox of a pod takes over the record, by one replacement for each family.
    stage.habits(&Habits { notice_after: Duration::ZERO, no_del: true, ..Habits::default() });
    faults.lose_replies(2, Verb::Update, LEASES);
    for name in &mine[..2] {
        stage.renew(name);
        settled_safely(stage, PODS);
    }
    took("two sandboxes replaced; two replies lost", began);
    stage.habits(&Habits::default());
    tell(&proxies[0], &before);
    assert_eq!(faults.counts().lost, [(Verb::Create, 3), (Verb::Update, 2), (Verb::Delete, 3)].into());
    stage.wire_is_clean();
    stage.nothing_failed();
}

/// The node on which a pod runs.
fn on(stage: &Stage, name: &str) -> Option<usize> {
    stage.cluster.nodes.iter().position(|node| {
        node.kubelet().is_some_and(|kubelet| kubelet.running().values().any(|running| running.name == name))
    })
}

/// Three of the pods that run on a node.
fn some_of(stage: &Stage, names: &[String], node: usize) -> Vec<String> {
    names.iter().filter(|name| on(stage, name) == Some(node)).take(3).cloned().collect()
}

/// Responses that mean "later", "perhaps" and "not so", in the middle of ADDs and DELs on both nodes.
fn refused(stage: &mut Stage, proxies: &[Proxy], names: &[String]) {
    let began = Instant::now();
    let before: Vec<Counts> = proxies.iter().map(|proxy| proxy.faults.counts()).collect();
    let refusals = [Refusal::TooMany(1), Refusal::Internal, Refusal::Conflict];
    for proxy in proxies {
        for how in refusals {
            for verb in [Verb::Create, Verb::Delete] {
                proxy.faults.refuse(2, verb, LEASES, how);
            }
        }
    }
    let (first, second) = (some_of(stage, names, 0), some_of(stage, names, 1));
    stage.delete(&[first.clone(), second.clone()].concat());
    let count = first.len() + second.len();
    stage.until("the previous pods' end", |stage| stage.cluster.pods() == PODS - count);
    for (names, node) in [(&first, 0), (&second, 1)] {
        for name in names {
            stage.pod(name, node, &json!({}));
        }
    }
    settled_safely(stage, PODS);
    took("pods replaced on both nodes; creates and deletes answered 429, 500, 409", began);
    for (proxy, before) in proxies.iter().zip(&before) {
        tell(proxy, before);
        let codes = [409, 429, 500].into_iter();
        let each = codes.flat_map(|code| [Verb::Create, Verb::Delete].map(|verb| ((verb, code), 2)));
        assert_eq!(proxy.faults.counts().refused, each.collect(), "all of them happened");
    }

    // Watches end in the middle, and are refused at their resource version: only a new list helps.
    let began = Instant::now();
    for proxy in proxies {
        for resource in [LEASES, "ippools", "pods"] {
            proxy.faults.refuse(1, Verb::Watch, resource, Refusal::Expired);
        }
        proxy.faults.expire_watches();
    }
    again(stage, &first[..1], 0);
    settled_safely(stage, PODS);
    stage.until("all watches restarted", |_| proxies.iter().all(|proxy| proxy.faults.left() == 0));
    for node in 0..2 {
        stage.bars_gone(node);
    }
    again(stage, &second[..1], 1);
    settled_safely(stage, PODS);
    took("watches answered 410, in the midst and at their start", began);
    for (proxy, before) in proxies.iter().zip(&before) {
        tell(proxy, before);
        let counts = proxy.faults.counts();
        assert!(counts.expired >= before.expired + 4, "watches expired: {counts:?}");
        assert_eq!(counts.refused.get(&(Verb::Watch, 410)), Some(&3));
    }
    stage.wire_is_clean();
    stage.nothing_failed();
}

fn slow(stage: &mut Stage, proxies: &[Proxy], names: &[String]) {
    let began = Instant::now();
    let before = proxies[0].faults.counts();
    for proxy in proxies {
        proxy.faults.slow(SLOW);
    }
    let mine = some_of(stage, names, 0);
    again(stage, &mine, 0);
    settled_safely(stage, PODS);
    took("three pods replaced", began);
    for proxy in proxies {
        proxy.faults.calm();
    }
    tell(&proxies[0], &before);
    // Two families, each with its delete and its create.
    assert!(proxies[0].faults.counts().slow >= before.slow + 12, "requests were slow");
    stage.wire_is_clean();
    stage.nothing_failed();
}

/// Definitions without a field that this version writes: one that it cannot read a record without, and one
/// that it can.
fn older(stage: &mut Stage, _proxies: &[Proxy], names: &[String]) {
    let patience = |stage: &Stage, text: Value| {
        let patch = json!({"spec": {"addTimeout": text}}).to_string();
        stage.kubectl(&["patch", "underlaynetwork", "lan", "--type=merge", "-p", &patch]);
    };
    // An ADD that waits in vain must report the reason within the scenario.
    patience(stage, json!("3s"));
    for field in ["generation", "pod"] {
        without(stage, field, &names[0]);
    }
    patience(stage, Value::Null);
    // Every address has a holder again, on any node.
    let began = Instant::now();
    stage.delete(names);
    stage.empty();
    for (number, name) in names.iter().enumerate() {
        stage.pod(name, number % 2, &json!({}));
    }
    settled_safely(stage, PODS);
    took("all pods replaced", began);
    stage.wire_is_clean();
    stage.nothing_failed();
}

/// While the definition lacks `field`, a sandbox ends and an agent is restarted.
fn without(stage: &mut Stage, field: &str, renewed: &str) {
    let began = Instant::now();
    let path = stage.cluster.folder().join("older.json");
    must(std::fs::write(&path, without_field(stage, field)), "write");
    stage.kubectl(&["replace", "-f", &path.display().to_string()]);
    // The API server may serve by the previous definition for this time.
    std::thread::sleep(Duration::from_secs(1));
    let node = on(stage, renewed).unwrap_or_default();
    let other = &mut stage.cluster.nodes[1 - node];
    other.kill_agent();
    must(other.start_agent(), "the agent's start");
    stage.renew(renewed);
    stage.until("DEL", |stage| stage.cluster.attachments().len() == PODS - 1);
    let mut said = Vec::new();
    stage.until("a doctor that names the definition", |stage| {
        said = stage.doctor(node).into_iter().filter(|finding| !finding.ok).collect();
        said.iter().any(|finding| finding.what == "records" && finding.text.contains("deploy/crds.yaml"))
    });
    println!("            {said:?}");
    let mut calls = BTreeMap::new();
    stage.until("an ADD that has waited in vain", |stage| {
        calls.extend(stage.cluster.tally.take());
        calls.get("ADD").is_some_and(|calls| calls.failed > 0)
    });
    println!("            {:?}", calls["ADD"].failures);
    assert!(calls["ADD"].failures.iter().all(|text| text.contains("deploy/crds.yaml of this version")));
    assert!(calls["ADD"].times.is_empty() && calls["DEL"].failed == 0, "{calls:?}");
    stage.wire_is_clean();
    stage.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &manifest().display().to_string()]);
    let back = Instant::now();
    stage.settled(PODS);
    stage.cluster.tally.take();
    took(
        &format!(
            "without {field}, of these {:.2} s with the right definition again",
            back.elapsed().as_secs_f64()
        ),
        began,
    );
    stage.wire_is_clean();
    for node in 0..2 {
        stage.until("a doctor that is content", |stage| {
            let findings = stage.doctor(node);
            !findings.is_empty() && findings.iter().all(|finding| finding.what != "records")
        });
    }
}

/// The definition of leases as an older version has it.
fn without_field(stage: &Stage, field: &str) -> String {
    let right = stage.kubectl(&["get", "crd", "ipleases.berth.dev", "-o", "json"]);
    let mut crd: Value = must(serde_json::from_str(&right), "the definition");
    let version = &mut crd["spec"]["versions"][0];
    let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert!(spec["properties"].as_object_mut().is_some_and(|all| all.remove(field).is_some()));
    if let Some(required) = spec["required"].as_array_mut() {
        required.retain(|name| name != field);
    }
    crd["metadata"] = json!({"name": "ipleases.berth.dev"});
    crd.to_string()
}
