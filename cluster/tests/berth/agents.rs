//! Agents die at every point of an ADD and a DEL, have the wrong name, the wrong token, no rights.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_cluster::agent::AgentPlan;
use berth_cluster::control::User;
use berth_cluster::habits::Habits;
use berth_testbed::client::{Client, Finding};

use berth_testbed::agent::AGENT_POINTS;
use serde_json::json;

use crate::stage::{PATIENCE, Stage, manifest, must, story, took};

#[test]
fn an_agent_that_dies_or_may_not_serve_fails_no_add_and_loses_nothing() {
    let Some(mut stage) = Stage::build(2, 6) else { return };
    let stage = &mut stage;
    let names = [stage.pods("a", 2, 0), stage.pods("b", 2, 1)].concat();
    stage.settled(4);
    story("an agent is killed at every point of ADD and DEL", stage, dies);
    story("T24: a node name that no Node has", stage, no_such_node);
    story("two agents with one node name: the second serves DELs only", stage, two_of_one_name);
    story("rights taken away, and given back", stage, without_rights);
    story("a token that is no longer valid", stage, without_token);
    story("the definition of leases is gone, and all records with it", stage, without_definition);
    stage.delete(&names);
    stage.empty();
    stage.nothing_failed();
}

#[test]
fn a_damaged_journal_is_made_again_and_nothing_alive_is_given_away() {
    let Some(mut stage) = Stage::build(1, 4) else { return };
    let stage = &mut stage;
    let mut names = stage.pods("a", 3, 0);
    stage.settled(3);
    let held: Vec<_> = names.iter().map(|name| stage.addresses(name)).collect();
    let node = &mut stage.cluster.nodes[0];
    node.kill_agent();
    let files = node.folder().join("state");
    must(std::fs::write(files.join("ledger.redb"), b"damaged"), "damage");
    must(node.start_agent(), "the agent's start");
    stage.bars_gone(0);
    let socket = stage.cluster.nodes[0].folder().join("agent.sock");
    println!("            {}", ailment(&socket, "journal", "ledger.redb.damaged-1"));
    println!("            {}", stage.event("JournalSetAside"));
    assert_eq!(must(std::fs::read(files.join("ledger.redb.damaged-1")), "the damaged file"), b"damaged");

    // The one free address is assigned, and those of living pods are not.
    stage.pod("b-1", 0, &json!({}));
    stage.settled(4);
    stage.wire_is_clean();
    let kept: Vec<_> = names.iter().map(|name| stage.addresses(name)).collect();
    assert_eq!(kept, held);
    must(std::fs::remove_file(files.join("ledger.redb.damaged-1")), "the advice of the finding");
    assert!(stage.doctor(0).iter().all(|finding| finding.what != "journal"));
    // The journal's content is restored: their DELs free the addresses.
    names.push("b-1".to_owned());
    stage.delete(&names);
    stage.empty();
    stage.nothing_failed();
}

fn dies(stage: &mut Stage) {
    stage.habits(&Habits { notice_after: Duration::ZERO, ..Habits::default() });
    for point in AGENT_POINTS {
        let began = Instant::now();
        let node = &mut stage.cluster.nodes[0];
        node.kill_agent();
        must(node.start_agent_to_die(Some(point)), "the agent's start");
        stage.bars_gone(0);
        let releases = point.starts_with("agent.release");
        if releases {
            stage.delete(&["a-2".to_owned()]);
        } else {
            stage.renew("a-1");
        }
        let deadline = Instant::now() + PATIENCE;
        while stage.cluster.nodes[0].agent_runs() {
            assert!(Instant::now() < deadline, "it does not die at {point}");
            std::thread::sleep(Duration::from_millis(5));
        }
        must(stage.cluster.nodes[0].start_agent(), "the agent's start");
        if releases {
            stage.settled(3);
            stage.pod("a-2", 0, &json!({}));
        }
        stage.settled(4);
        took(point, began);
    }
    stage.wire_is_clean();
    stage.nothing_failed();
    stage.habits(&Habits::default());
}

/// A second agent on a node, under another name and with its own files; it ends with the closure.
fn beside<T>(stage: &Stage, name: &str, asked: impl FnOnce(&Path) -> T) -> T {
    let folder = stage.cluster.folder().join(format!("beside-{name}"));
    let plan = second_plan(stage, &folder, name);
    must(std::fs::create_dir_all(folder.join("state")), "a folder");
    // Another machine than the one that has the name.
    for file in ["boot-id", "machine-id"] {
        must(std::fs::copy(stage.cluster.nodes[1].folder().join(file), folder.join(file)), file);
    }
    let mut agent = must(plan.start(None), "the second agent");
    must(plan.wait_ready(&mut agent), "the second agent's answer");
    asked(&folder.join("agent.sock"))
}

fn second_plan(stage: &Stage, folder: &Path, name: &str) -> AgentPlan {
    let plan = must(stage.cluster.nodes[1].agent_plan().cloned().ok_or("no agent"), "the plan");
    let flags = vec!["--rung".to_owned(), "none".to_owned()];
    AgentPlan { folder: folder.to_owned(), node: name.to_owned(), flags, ..plan }
}

/// Finding of a doctor about a failed check.
fn ailment(socket: &Path, what: &str, part: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let findings: Vec<Finding> = Client::new(socket).doctor().unwrap_or_default();
        let found = findings.iter().find(|finding| finding.what == what && !finding.ok);
        if let Some(finding) = found.filter(|finding| finding.text.contains(part)) {
            return finding.text.clone();
        }
        assert!(Instant::now() < deadline, "{what} with {part:?} in {findings:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn no_such_node(stage: &mut Stage) {
    let text = beside(stage, "n9", |socket| ailment(socket, "node-name", "no Node object"));
    println!("            {text}");
    stage.converged();
}

fn two_of_one_name(stage: &mut Stage) {
    beside(stage, "n1", |socket| {
        println!("            {}", ailment(socket, "node-name", "held by"));
        // Longer than the first may be silent before its name is taken: it is not silent.
        std::thread::sleep(Duration::from_secs(12));
        ailment(socket, "node-name", "held by");
    });
    // It has judged no other node's records, and the first continues.
    stage.converged();
    assert!(stage.doctor(0).iter().all(|finding| finding.what != "node-name" || finding.ok));
    stage.renew("a-1");
    stage.settled(4);
    stage.wire_is_clean();
    stage.nothing_failed();
}

fn without_rights(stage: &mut Stage) {
    stage.kubectl(&["delete", "clusterrolebinding", "berth-agent"]);
    let began = Instant::now();
    stage.renew("a-1");
    let deleted = |stage: &Stage| stage.cluster.attachments().len() == 3;
    stage.until("DEL", deleted);
    std::thread::sleep(Duration::from_secs(5));
    assert!(stage.running("a-1").is_none(), "an ADD waits for its record");
    let said: Vec<Finding> = stage.doctor(0).into_iter().filter(|finding| !finding.ok).collect();
    println!("            {said:?}");
    let logs = stage.logs()[0].clone();
    assert!(logs.contains("forbidden"), "{logs}");
    stage.kubectl(&["apply", "--server-side", "-f", &manifest().display().to_string()]);
    stage.settled(4);
    took("DEL without rights, ADD as soon as they are back", began);
    stage.wire_is_clean();
    stage.nothing_failed();
}

fn without_token(stage: &mut Stage) {
    let account = stage.cluster.control.kubeconfig(&User::Account(berth_cluster::agent::ACCOUNT.to_owned()));
    let good = must(std::fs::read_to_string(&account), "the kubeconfig");
    let bad: PathBuf = account.clone();
    must(std::fs::write(&bad, good.replace("account-berth-system", "expired-berth-system")), "write");
    let node = &mut stage.cluster.nodes[0];
    node.kill_agent();
    must(node.start_agent(), "an agent with an expired token");
    let socket = stage.cluster.nodes[0].folder().join("agent.sock");
    println!("            {}", ailment(&socket, "node-name", ""));
    println!("            {}", ailment(&socket, "api-server", ""));
    stage.renew("a-1");
    stage.until("DEL", |stage| stage.cluster.attachments().len() == 3);
    std::thread::sleep(Duration::from_secs(2));
    assert!(stage.running("a-1").is_none(), "an ADD waits");
    must(std::fs::write(&account, good), "write");
    let node = &mut stage.cluster.nodes[0];
    node.kill_agent();
    must(node.start_agent(), "the agent's start");
    stage.settled(4);
    stage.wire_is_clean();
    stage.nothing_failed();
}

/// Deleting the definition deletes every record. The agents write them again as soon as they can.
fn without_definition(stage: &mut Stage) {
    stage.kubectl(&["delete", "crd", "ipleases.berth.dev"]);
    let began = Instant::now();
    stage.renew("b-1");
    stage.until("DEL", |stage| stage.cluster.attachments().len() == 3);
    std::thread::sleep(Duration::from_secs(5));
    assert!(stage.running("b-1").is_none(), "an ADD waits for its record");
    let said: Vec<Finding> = stage.doctor(1).into_iter().filter(|finding| !finding.ok).collect();
    println!("            {said:?}");
    stage.kubectl(&["apply", "--server-side", "-f", &manifest().display().to_string()]);
    stage.settled(4);
    took("all records written again, and an ADD served", began);
    stage.wire_is_clean();
    stage.nothing_failed();
}
