//! Silence counts only while an answer could have been sent and received: parents that go down, lose carrier
//! or are replaced, a stopped agent, a neighbour that floods the segment.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_testbed::client::Finding;
use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::stranger::Stranger;
use berth_testbed::world::{self, PARENT};

/// Time limit of an ADD in these worlds.
const ADD_TIMEOUT: Duration = Duration::from_secs(4);
/// Time for candidates to be probed ahead, and more.
const WARM: Duration = Duration::from_millis(1_500);
/// Time limit for the report of a change, under load.
const TOLD: Duration = Duration::from_secs(10);

/// Worlds with as many addresses, one for each way to listen: by a program in the kernel, and by a socket.
fn labs(addresses: u16) -> Vec<Lab> {
    let Some(options) = Options::of_tests(1.0) else { return Vec::new() };
    let extra = format!("  addTimeout: {}s\n", ADD_TIMEOUT.as_secs());
    let rungs = [None, Some("none".to_owned())];
    let lab = |rung| {
        let options = Options { rung, ..options.clone() };
        let mut lab = Lab::prepare(&options, addresses, &extra, Families::V4).unwrap();
        lab.start_agent(None).unwrap();
        std::thread::sleep(WARM);
        lab
    };
    rungs.into_iter().map(lab).collect()
}

fn parent(lab: &Lab, state: &str) {
    world::ip(lab.world.node(), &format!("link set {PARENT} {state}\n")).unwrap();
}

fn address(lab: &Lab, index: usize) -> IpAddr {
    IpAddr::V4(lab.addresses[index])
}

fn port(lab: &Lab) -> Finding {
    let what = format!("wire.{PARENT}");
    lab.client().doctor().unwrap().into_iter().find(|finding| finding.what == what).unwrap()
}

fn until(what: &str, mut test: impl FnMut() -> bool) {
    let end = Instant::now() + TOLD;
    while !test() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has_event(lab: &Lab, address: IpAddr, code: &str) -> bool {
    lab.client().history(address).unwrap().iter().any(|event| event.code == code)
}

#[test]
fn while_the_parent_is_down_adds_wait_and_fail_with_the_reason() {
    for lab in labs(3) {
        let stranger = Stranger::join(&lab.world).unwrap();
        parent(&lab, "down");
        stranger.take(address(&lab, 0)).unwrap();
        stranger.take(address(&lab, 1)).unwrap();
        let failed = lab.plugin.run(&lab.call("ADD", &lab.world.pod().unwrap())).unwrap();
        let error = failed.failure().unwrap_or_else(|| panic!("{failed:?}"));
        assert_eq!(error.code, 11, "{error:?}");
        assert!(error.msg.contains("the wire on eth1") && error.msg.contains("eth1 is down"), "{error:?}");
        let found = port(&lab);
        assert!(!found.ok && found.text.contains("eth1 is down"), "{found:?}");
        parent(&lab, "up");
        let attached = lab.attach(&lab.world.pod().unwrap()).unwrap();
        assert_eq!(attached.address, address(&lab, 2), "the neighbour has the others");
        until("doctor reports that the port receives", || port(&lab).ok);
    }
}

#[test]
fn an_add_that_meets_a_lost_carrier_is_served_when_it_is_back() {
    for lab in labs(2) {
        let stranger = Stranger::join(&lab.world).unwrap();
        lab.world.cut_cable(true).unwrap();
        stranger.take(address(&lab, 0)).unwrap();
        let pod = lab.world.pod().unwrap();
        let mut waiting = lab.plugin.start(&lab.call("ADD", &pod)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        assert!(waiting.runs(), "it did not wait: {:?}", waiting.finish(TOLD));
        let found = port(&lab);
        assert!(!found.ok && found.text.contains("eth1 has no carrier"), "{found:?}");
        lab.world.cut_cable(false).unwrap();
        let added = waiting.finish(TOLD).unwrap().added().unwrap();
        assert_eq!(added.addresses, [address(&lab, 1)]);
    }
}

#[test]
fn another_device_of_the_parents_name_knows_of_no_silence() {
    for lab in labs(2) {
        let stranger = Stranger::join(&lab.world).unwrap();
        stranger.take(address(&lab, 0)).unwrap();
        lab.world.replace_parent().unwrap();
        let attached = lab.attach(&lab.world.pod().unwrap()).unwrap();
        assert_eq!(attached.address, address(&lab, 1));
    }
}

#[test]
fn what_is_taken_while_the_agent_stands_still_is_not_given() {
    // One address, so that no order of candidates hides what was silent before.
    for mut lab in labs(1) {
        let stranger = Stranger::join(&lab.world).unwrap();
        lab.agent().unwrap().pause();
        stranger.take(address(&lab, 0)).unwrap();
        std::thread::sleep(Duration::from_secs(3));
        lab.agent().unwrap().resume();
        let outcome = lab.plugin.run(&lab.call("ADD", &lab.world.pod().unwrap())).unwrap();
        assert!(outcome.expect_success().is_err(), "{}", outcome.stdout);
        assert!(outcome.stdout.contains(&stranger.mac().to_string()), "{}", outcome.stdout);
    }
}

#[test]
fn a_returned_port_claims_its_pods_addresses_unless_another_host_has_one() {
    for lab in labs(2) {
        let first = lab.attach(&lab.world.pod().unwrap()).unwrap();
        let second = lab.attach(&lab.world.pod().unwrap()).unwrap();
        let stranger = Stranger::join(&lab.world).unwrap();
        parent(&lab, "down");
        until("the port is reported as down", || !port(&lab).ok);
        stranger.take(first.address).unwrap();
        stranger.heard().unwrap();
        parent(&lab, "up");
        until("the other holder is reported", || has_event(&lab, first.address, "second-holder"));
        let mut claims = Vec::new();
        until("the living pod's address is claimed", || {
            claims.extend(stranger.heard().unwrap());
            claims.contains(&(second.address, second.mac))
        });
        std::thread::sleep(Duration::from_millis(500));
        claims.extend(stranger.heard().unwrap());
        assert!(!claims.contains(&(first.address, first.mac)), "it is talked over: {claims:?}");
        assert_eq!(lab.leases().unwrap().len(), 2, "nothing is freed");
    }
}

#[test]
fn a_flood_on_the_segment_stops_no_add() {
    for lab in labs(10) {
        let stranger = Stranger::join(&lab.world).unwrap();
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let flood = scope.spawn(|| stranger.flood(&stop));
            std::thread::sleep(Duration::from_millis(500));
            for _ in 0..5 {
                let outcome = lab.plugin.run(&lab.call("ADD", &lab.world.pod().unwrap()));
                let outcome = outcome.and_then(|outcome| outcome.added());
                if outcome.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
                outcome.unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            flood.join().unwrap().unwrap()
        });
        assert!(sent > 20_000, "the flood was too small: {sent} frames");
    }
}

#[test]
fn a_parent_that_became_a_bridges_port_is_named_by_add_and_doctor() {
    for lab in labs(2).into_iter().take(1) {
        let lines = format!("link add brx type bridge\nlink set {PARENT} master brx\n");
        world::ip(lab.world.node(), &lines).unwrap();
        let failed = lab.plugin.run(&lab.call("ADD", &lab.world.pod().unwrap())).unwrap();
        let error = failed.failure().unwrap_or_else(|| panic!("{failed:?}"));
        assert_eq!(error.code, 7, "{error:?}");
        assert!(error.msg.contains("eth1 is a port of brx"), "{error:?}");
        let found = port(&lab);
        assert!(!found.ok && found.text.contains(&error.msg), "{found:?}");
    }
}
