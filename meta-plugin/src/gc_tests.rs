use super::*;
use crate::sim::{Agent, Sim, conf};

#[test]
fn g4_an_absent_list_is_refused_and_nobody_is_asked() {
    let mut sim = Sim::new();
    assert!(matches!(gc(&mut sim, &conf("")), Err(PluginError::Call(_))));
    assert!(sim.log.is_empty());
    for empty in ["null", "[]"] {
        gc(&mut sim, &conf(&format!(r#""cni.dev/valid-attachments":{empty}"#))).unwrap();
    }
    assert_eq!((sim.log, sim.kept), (vec!["gc", "gc"], vec![0, 0]));
}

#[test]
fn g2_of_a_list_too_long_for_a_request_as_much_is_named_as_fits() {
    let listed = |count: usize| {
        let one = |number| format!(r#"{{"containerID":"{number:064}","ifname":"eth0"}}"#);
        let all: Vec<_> = (0..count).map(one).collect();
        format!(r#""cni.dev/valid-attachments":[{}]"#, all.join(","))
    };
    let mut sim = Sim::new();
    // What a node of Kubernetes can have goes in one piece.
    gc(&mut sim, &conf(&listed(500))).unwrap();
    gc(&mut sim, &conf(&listed(2000))).unwrap();
    assert_eq!(sim.kept, [500, 500]);
}

#[test]
fn g2_the_agents_report_is_passed_on() {
    let list = r#""cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]"#;
    let mut sim = Sim::new();
    gc(&mut sim, &conf(list)).unwrap();
    assert_eq!(sim.kept, [1]);
    sim.agent = Agent::Refusing(5);
    assert!(matches!(gc(&mut sim, &conf(list)), Err(PluginError::Refused(_))));
    sim.agent = Agent::AwayUntil(Duration::MAX);
    let error = gc(&mut sim, &conf(list)).unwrap_err();
    assert_eq!(error.object(berth_cni::Version::LATEST).code, 11);
}
