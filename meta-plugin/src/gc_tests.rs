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
