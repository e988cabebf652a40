//! The API server and etcd stop, are killed, hang, and are restored to an older state.

use std::time::{Duration, Instant};

use berth_cluster::control::Part;
use berth_cluster::habits::Habits;

use crate::stage::{Stage, must, story, took};

#[test]
fn nothing_is_lost_or_doubled_while_the_api_server_is_away() {
    let Some(mut stage) = Stage::build(2, 12) else { return };
    let stage = &mut stage;
    let names: Vec<String> = [stage.pods("a", 3, 0), stage.pods("b", 3, 1)].concat();
    stage.settled(6);
    story("an API server that hangs: DEL succeeds, ADD waits, all converges", stage, hangs);
    story("an API server that is killed: the same", stage, killed);
    story("etcd starts again under an API server that stays", stage, etcd_again);
    story("watches seconds behind: two nodes want the same last addresses", stage, behind);
    story(
        "etcd is restored to an older state: living addresses are recorded again, dead ones are removed",
        stage,
        back_in_time,
    );
    stage.delete(&names);
    stage.empty();
    stage.wire_is_clean();
}

/// While the API server is away the sandboxes of two pods end: their DELs succeed at once; their ADDs wait.
fn renew_while_away(stage: &mut Stage, away: impl FnOnce(&mut Stage), back: impl FnOnce(&mut Stage)) {
    stage.nothing_failed();
    stage.habits(&Habits { notice_after: Duration::ZERO, ..Habits::default() });
    away(stage);
    let began = Instant::now();
    let before = [stage.addresses("a-1"), stage.addresses("b-1")].concat();
    for name in ["a-1", "b-1"] {
        stage.renew(name);
    }
    std::thread::sleep(Duration::from_secs(4));
    let calls = stage.cluster.tally.take();
    assert_eq!(calls["DEL"].times.len(), 2, "{calls:?}");
    assert!(!calls.contains_key("ADD"), "an ADD waits for its record: {calls:?}");
    took("away; two DELs have succeeded, two ADDs wait", began);
    let began = Instant::now();
    back(stage);
    let after = [stage.addresses("a-1"), stage.addresses("b-1")].concat();
    took("back, until both pods run again", began);
    println!("            {before:?}, then {after:?}");
    stage.settled(6);
    took("and until the records are those of the living", began);
    stage.wire_is_clean();
    assert_eq!(stage.nothing_failed(), 2);
    stage.habits(&Habits::default());
}

fn hangs(stage: &mut Stage) {
    renew_while_away(
        stage,
        |stage| stage.cluster.control.pause(Part::ApiServer),
        |stage| stage.cluster.control.resume(Part::ApiServer),
    );
}

fn killed(stage: &mut Stage) {
    renew_while_away(
        stage,
        |stage| stage.cluster.control.kill(Part::ApiServer),
        |stage| {
            must(stage.cluster.control.launch(Part::ApiServer), "the API server's start");
        },
    );
}

fn etcd_again(stage: &mut Stage) {
    renew_while_away(
        stage,
        |stage| must(stage.cluster.control.halt(Part::Etcd), "etcd's end"),
        |stage| {
            must(stage.cluster.control.launch(Part::Etcd), "etcd's start");
        },
    );
}

/// The second node's agent receives no events while the first releases addresses and takes others; then it
/// gets requests before it has caught up.
fn behind(stage: &mut Stage) {
    let before = stage.pods("early", 3, 0);
    stage.settled(9);
    stage.cluster.nodes[1].pause_agent();
    stage.delete(&before);
    stage.until("six on the first node", |stage| stage.cluster.running() == 6);
    // Twelve addresses, six pods: the first node takes three that are free in the second one's view, and the
    // second gets requests for the other three, which are taken in its view.
    let early = stage.pods("first", 3, 0);
    stage.until("three more", |stage| stage.cluster.running() == 9);
    let late = stage.pods("second", 3, 1);
    std::thread::sleep(Duration::from_secs(3));
    stage.cluster.nodes[1].resume_agent();
    let began = Instant::now();
    stage.settled(12);
    took("twelve pods on twelve addresses, after an agent was 3 s behind", began);
    stage.wire_is_clean();
    stage.delete(&[early, late].concat());
    stage.settled(6);
    stage.nothing_failed();
}

/// Pods of before the copy are deleted after it, and others take their addresses, on either node. The agents
/// see by themselves that the store has forgotten; kubelets are started again, as after every restore.
fn back_in_time(stage: &mut Stage) {
    let gone = stage.pods("gone", 6, 0);
    stage.settled(12);
    let copy = must(stage.cluster.control.snapshot(), "a copy");
    stage.until("the API server", |stage| stage.records().is_some());
    stage.delete(&gone);
    stage.settled(6);
    let new = [stage.pods("new-a", 3, 0), stage.pods("new-b", 3, 1)].concat();
    stage.settled(12);
    // A pod from before has another sandbox than the older copy.
    stage.renew("b-2");
    stage.settled(12);
    for node in &mut stage.cluster.nodes {
        node.kill_kubelet();
    }
    must(stage.cluster.control.restore(&copy), "the copy put back");
    let began = Instant::now();
    assert_eq!(stage.cluster.attachments().len(), 12);
    stage.converged();
    took("records of exactly the living, seven of which the store had lost", began);
    stage.wire_is_clean();
    for node in 0..2 {
        must(stage.cluster.start_kubelet(node), "the kubelet's start");
    }
    let run =
        |stage: &Stage, names: &[String]| names.iter().filter(|name| stage.running(name).is_some()).count();
    stage.until("the lost pods end, the previous ones come again", |stage| {
        run(stage, &gone) == 6 && run(stage, &new) == 0
    });
    stage.settled(12);
    took("and until the previous pods had come again", began);
    stage.wire_is_clean();
    let began = Instant::now();
    stage.delete(&gone);
    stage.until("the previous pods' end", |stage| stage.cluster.running() == 6);
    stage.converged();
    took("and until they and their records were gone", began);
    stage.nothing_failed();
}
