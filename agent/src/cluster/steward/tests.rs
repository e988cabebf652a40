use std::collections::BTreeMap;

use berth_ipam::identity::{BootId, MachineId};
use serde_json::{Value, json};

use super::*;
use crate::cluster::script::{CLOCKS, Fault, Script};
use tally::Declared;

const POOL: &str = "/apis/berth.dev/v1alpha1/ippools/lan";
const STEWARD: &str = "/apis/coordination.k8s.io/v1/namespaces/berth-system/leases/berth-steward";
const BEAT: &str = "/apis/coordination.k8s.io/v1/namespaces/berth-system/leases/berth-node-a";

fn picture(records: u64) -> Picture {
    Picture {
        pools: BTreeMap::from([("lan".parse().unwrap(), Declared { generation: 2, total: 10 })]),
        records: Some(BTreeMap::from([("lan".parse().unwrap(), records)])),
    }
}

fn start(script: &Script, node: &str) -> watch::Sender<Picture> {
    let (painter, picture) = watch::channel(picture(4));
    let (_, pace) = watch::channel(Duration::from_secs(2));
    let me = Identity {
        node: node.parse().unwrap(),
        boot_id: BootId("b".to_owned()),
        machine_id: MachineId("m".to_owned()),
    };
    let setup = Setup { namespace: "berth-system".to_owned(), me, picture, pace, clocks: CLOCKS };
    tokio::spawn(run(script.client(), setup));
    painter
}

fn cluster() -> Script {
    let script = Script::default();
    script.put(POOL, json!({"metadata": {"name": "lan"}, "spec": {"a key of": "the future"}}));
    let pools = r#"{"lan":{"bound":3,"suspect":1,"held":0,"quarantined":2}}"#;
    script.put(
        BEAT,
        json!({"metadata": {"name": "berth-node-a", "annotations": {"berth.dev/pools": pools}},
        "spec": {"leaseDurationSeconds": 10}}),
    );
    script
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn patches(script: &Script) -> usize {
    script.log().iter().filter(|(_, what)| what.starts_with("PATCH")).count()
}

fn counts(script: &Script) -> Value {
    script.get(POOL).unwrap()["status"].clone()
}

#[tokio::test(start_paused = true)]
async fn one_of_two_writes_the_status_soon_and_then_when_it_changes() {
    let script = cluster();
    let (first, second) = (start(&script, "a"), start(&script, "b"));
    pass(1).await;
    let expected = json!({"total": 10, "bound": 3, "suspect": 1, "held": 0, "retained": 0, "quarantined": 2, "free": 4,
        "observedGeneration": 2});
    assert_eq!(counts(&script), expected);
    assert_eq!(script.get(POOL).unwrap()["spec"]["a key of"], "the future");
    assert_eq!(script.get(STEWARD).unwrap()["spec"]["holderIdentity"], "a/m/b");
    for number in 0..8 {
        // The node is alive.
        script.put(BEAT, script.get(BEAT).unwrap());
        first.send_replace(picture(4 + number % 2));
        second.send_replace(picture(4 + number % 2));
        pass(5).await;
    }
    let written = patches(&script);
    assert!((2..=5).contains(&written), "{written} in 40 s, though it changed every 5 s");
}

#[tokio::test(start_paused = true)]
async fn another_follows_when_the_steward_is_gone() {
    let script = cluster();
    let first = start(&script, "a");
    pass(1).await;
    let second = start(&script, "b");
    pass(60).await;
    assert_eq!(script.get(STEWARD).unwrap()["spec"]["holderIdentity"], "a/m/b");
    drop(first);
    second.send_replace(picture(6));
    pass(60).await;
    assert_eq!(script.get(STEWARD).unwrap()["spec"]["holderIdentity"], "b/m/b");
    assert_eq!(counts(&script)["bound"], 6, "the silent node's suspect counts as bound");
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_is_tried_again_calmly() {
    let script = cluster();
    let painter = start(&script, "a");
    for fault in [Fault::Code(403), Fault::Code(409), Fault::Code(500), Fault::Hang, Fault::Unreachable] {
        script.faults(move |_, _| Some(fault));
        let before = script.log().len();
        pass(100).await;
        let asked = script.log().len() - before;
        assert!((10..=60).contains(&asked), "{fault:?}: {asked} requests in 100 s");
    }
    script.faults(|_, _| None);
    painter.send_replace(picture(9));
    pass(60).await;
    assert_eq!(counts(&script)["bound"], 9);
    // A pool that is deleted under its hands.
    script.delete(POOL);
    painter.send_replace(picture(1));
    pass(30).await;
    script.put(POOL, json!({"metadata": {"name": "lan"}}));
    pass(30).await;
    assert_eq!(counts(&script)["bound"], 1);
}
