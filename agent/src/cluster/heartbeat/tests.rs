use berth_ipam::identity::{BootId, MachineId};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::cluster::script::{CLOCKS, Fault, Script};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/berth-system/leases/berth-node-n1";

struct Rig {
    script: Script,
    bars: UnboundedReceiver<Input>,
    counts: watch::Sender<Vec<PoolCount>>,
    pace: watch::Receiver<Duration>,
    contact: Contact,
}

fn node(machine: &str, boot: &str) -> Value {
    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}, "status": {"nodeInfo": {
        "machineID": machine, "bootID": boot, "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "kubeletVersion": "", "operatingSystem": "", "osImage": "", "systemUUID": ""
    }}})
}

fn start(script: &Script, machine: &str, boot: &str) -> Rig {
    let (inputs, bars) = unbounded_channel();
    let (counts, counted) = watch::channel(Vec::new());
    let (pace, paced) = watch::channel(PERIOD_MIN);
    let me = Identity {
        node: "n1".parse().unwrap(),
        boot_id: BootId(boot.to_owned()),
        machine_id: MachineId(machine.to_owned()),
    };
    let namespace = "berth-system".to_owned();
    let contact = Contact::new(CLOCKS.own);
    let setup =
        Setup { namespace, me, counts: counted, inputs, pace, contact: contact.clone(), clocks: CLOCKS };
    tokio::spawn(run(script.client(), setup));
    Rig { script: script.clone(), bars, counts, pace: paced, contact }
}

impl Rig {
    async fn bar(&mut self) -> Option<String> {
        let bar = tokio::time::timeout(Duration::from_mins(10), self.bars.recv()).await;
        match bar.expect("a bar comes or goes").unwrap() {
            Input::Bar(BAR, why) => why,
            other => panic!("{other:?}"),
        }
    }

    async fn is_quiet_for(&mut self, seconds: u64) -> bool {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.bars.try_recv().is_err()
    }

    fn lease(&self) -> Value {
        self.script.get(LEASE).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_bar_comes_first_and_goes_with_the_name() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    let mut rig = start(&script, "m1", "b1");
    assert!(rig.bar().await.unwrap().starts_with(name::STARTING));
    assert_eq!(rig.bar().await, None);
    let lease = rig.lease();
    assert_eq!(lease["spec"]["holderIdentity"], "m1/b1");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 10);
    assert_eq!(lease["metadata"]["annotations"]["berth.dev/fence"], "unarmed");
    assert_eq!(lease["metadata"]["annotations"]["berth.dev/pools"], "{}");
    assert_eq!(lease["metadata"]["labels"]["berth.dev/lease"], "heartbeat");

    let before = script.log().len();
    assert!(rig.is_quiet_for(20).await);
    let renewals = script.log().len() - before;
    assert!((9..=11).contains(&renewals), "one request every 2 s, and nothing else: {renewals}");
}

#[tokio::test(start_paused = true)]
async fn each_heartbeat_that_is_served_is_contact() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    let mut rig = start(&script, "m1", "b1");
    assert_eq!(rig.contact.last(), None);
    rig.bar().await;
    assert_eq!(rig.bar().await, None);
    let ago = |rig: &Rig| (CLOCKS.own)().since(rig.contact.last().unwrap());
    assert!(rig.is_quiet_for(300).await);
    assert!(ago(&rig) <= PERIOD_MIN, "on a node where nothing else happens: {:?}", ago(&rig));
    script.faults(|_, _| Some(Fault::Unreachable));
    assert!(rig.is_quiet_for(60).await);
    assert!(ago(&rig) >= Duration::from_secs(58), "{:?}", ago(&rig));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_node_has_is_not_taken() {
    let script = Script::default();
    let mut rig = start(&script, "m1", "b1");
    rig.bar().await;
    assert!(rig.bar().await.unwrap().contains("no Node object is called n1"));
    assert!(rig.is_quiet_for(120).await);
    assert!(script.get(LEASE).is_none());
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    assert_eq!(rig.bar().await, None, "as soon as there is one");
}

#[tokio::test(start_paused = true)]
async fn two_agents_with_one_name() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    let mut first = start(&script, "m1", "b1");
    first.bar().await;
    assert_eq!(first.bar().await, None);
    let mut second = start(&script, "m2", "b2");
    second.bar().await;
    assert!(second.bar().await.unwrap().contains("held by m1/b1"));
    assert!(second.is_quiet_for(300).await && first.is_quiet_for(0).await);

    // An outage, and its end: neither a change of hands.
    script.faults(|_, _| Some(Fault::Unreachable));
    assert!(first.is_quiet_for(300).await && second.is_quiet_for(0).await);
    script.faults(|_, _| None);
    assert!(first.is_quiet_for(300).await && second.is_quiet_for(0).await);

    // The Node object changes hands: so does the name.
    script.put("/api/v1/nodes/n1", node("m2", "b2"));
    assert_eq!(second.bar().await, None);
    assert!(first.bar().await.unwrap().contains("held by m2/b2"));
}

#[tokio::test(start_paused = true)]
async fn whatever_the_api_server_does_the_name_stays() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    let mut rig = start(&script, "m1", "b1");
    rig.bar().await;
    assert_eq!(rig.bar().await, None);
    for fault in [
        Fault::Code(409),
        Fault::Code(500),
        Fault::Code(429),
        Fault::Code(401),
        Fault::Code(403),
        Fault::Code(404),
        Fault::Hang,
        Fault::LostReply,
        Fault::Unreachable,
    ] {
        script.faults(move |method, _| (method != http::Method::GET).then_some(fault));
        assert!(rig.is_quiet_for(60).await, "{fault:?}");
        script.faults(|_, _| None);
        assert!(rig.is_quiet_for(10).await, "{fault:?}, and after");
        let before = rig.lease()["metadata"]["resourceVersion"].clone();
        assert!(
            rig.is_quiet_for(5).await && rig.lease()["metadata"]["resourceVersion"] != before,
            "{fault:?}"
        );
    }
    script.delete(LEASE);
    assert!(rig.is_quiet_for(10).await);
    assert_eq!(rig.lease()["spec"]["holderIdentity"], "m1/b1", "made again");
}

#[tokio::test(start_paused = true)]
async fn the_pace_follows_the_number_of_nodes() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    for number in 0..499 {
        script.put(&format!("/api/v1/nodes/x{number}"), json!({"metadata": {"name": format!("x{number}")}}));
    }
    let mut rig = start(&script, "m1", "b1");
    rig.bar().await;
    rig.bar().await;
    rig.pace.changed().await.unwrap();
    assert_eq!(*rig.pace.borrow(), Duration::from_secs(10));
    assert!(rig.is_quiet_for(4).await);
    assert_eq!(rig.lease()["spec"]["leaseDurationSeconds"], 50, "told before the longer pause");
    assert_eq!(period(3), PERIOD_MIN);
}

#[tokio::test(start_paused = true)]
async fn what_changes_in_the_pools_is_told() {
    let script = Script::default();
    script.put("/api/v1/nodes/n1", node("m1", "b1"));
    let mut rig = start(&script, "m1", "b1");
    rig.bar().await;
    rig.bar().await;
    rig.counts.send_replace(vec![PoolCount {
        pool: "lan".parse().unwrap(),
        segment: "default".parse().unwrap(),
        subnet: "192.0.2.0/24".parse().unwrap(),
        total: 10,
        bound: 4,
        suspect: 1,
        held: 0,
        abroad: 0,
        quarantined: 0,
        free: 5,
        waiting: 0,
    }]);
    assert!(rig.is_quiet_for(15).await);
    assert!(
        rig.lease()["metadata"]["annotations"]["berth.dev/pools"].as_str().unwrap().contains("\"bound\":4")
    );
}
