//! `sourceGuard`: a pod may claim on the segment the addresses leased to its MAC, and no others.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;
use berth_testbed::client::Finding;
use berth_testbed::lab::{Attachment, Families, Lab, Options, network_config};
use berth_testbed::skip;
use berth_testbed::stranger::{Stranger, announce_from};
use berth_testbed::world::PARENT;

const PATIENCE: Duration = Duration::from_secs(20);
/// Time limit for a frame that passes.
const SOON: Duration = Duration::from_millis(300);
const ON: &str = "  sourceGuard: arp\n  sourceGuardAllow: [10.77.0.100]\n";

fn finding(lab: &Lab, what: &str) -> Option<Finding> {
    lab.client().doctor().unwrap().into_iter().find(|finding| finding.what == what)
}

fn guard(lab: &Lab) -> Option<Finding> {
    finding(lab, &format!("guard.{PARENT}"))
}

fn wait(lab: &Lab, what: &str, wanted: impl Fn(Option<Finding>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(guard(lab)) {
        assert!(Instant::now() < deadline, "{what} does not come about: {:?}", guard(lab));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// True if a program becomes attached to the parent.
fn is_watched(lab: &Lab) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = finding(lab, &format!("watch.{PARENT}"));
        match found {
            Some(found) if found.ok => return true,
            _ if Instant::now() >= deadline => return false,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Declares the network again.
fn declare(lab: &mut Lab, extra: &str) {
    let text = network_config(&lab.addresses, extra, Families::V4);
    lab.setup.write("config/lan.yaml", &text).unwrap();
    lab.agent().unwrap().reload();
}

/// Number of frames that the guard dropped, from doctor.
fn dropped(lab: &Lab) -> u64 {
    let text = guard(lab).unwrap().text;
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
}

/// True if the stranger receives a pod's announcement of an IPv4 address.
fn is_heard(stranger: &Stranger, pod: &Attachment, mac: Mac, address: IpAddr) -> bool {
    stranger.heard().unwrap();
    // The sender of a dropped frame gets ENOBUFS.
    let _ = announce_from(&pod.pod.netns, "eth0", mac, address);
    std::thread::sleep(SOON);
    stranger.heard().unwrap().contains(&(address, mac))
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

#[test]
fn a_guarded_pod_speaks_for_its_lease_and_for_what_is_allowed_alone() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    if !is_watched(&lab) {
        return skip::because("no eBPF program sits on the parent here");
    }
    let stranger = Stranger::join(&lab.world).unwrap();
    let [a, b] = [(); 2].map(|()| lab.attach(&lab.world.pod().unwrap()).unwrap());
    assert!(guard(&lab).is_none());
    assert!(is_heard(&stranger, &a, a.mac, b.address), "without a guard a pod may claim any address");

    declare(&mut lab, ON);
    wait(&lab, "the guard", |found| found.is_some_and(|found| found.ok));
    assert_eq!(dropped(&lab), 0);
    let other = Mac([2, 0, 0, 0, 9, 9]);
    for (mac, address, heard, what) in [
        (a.mac, b.address, false, "another pod's address"),
        (a.mac, v4(200), false, "an address without a lease"),
        (other, a.address, false, "its own address by another MAC"),
        (a.mac, a.address, true, "its own address"),
        (a.mac, v4(100), true, "an address that is allowed"),
        (a.mac, IpAddr::from([169, 254, 1, 1]), true, "a link-local address"),
    ] {
        let before = dropped(&lab);
        assert_eq!(is_heard(&stranger, &a, mac, address), heard, "{what}");
        assert_eq!(dropped(&lab) - before, u64::from(!heard), "{what}");
    }
    for (address, drops) in [("fd00:77::5", 1), ("fe80::5", 0)] {
        let before = dropped(&lab);
        let _ = announce_from(&a.pod.netns, "eth0", a.mac, address.parse().unwrap());
        std::thread::sleep(SOON);
        assert_eq!(dropped(&lab) - before, drops, "{address}");
    }
    assert!(is_heard(&stranger, &b, b.mac, b.address), "and so does the other pod for its own");
    let _ = announce_from(&a.pod.netns, "eth0", a.mac, b.address);
    let names = format!("{}/eth0", a.pod.container_id);
    wait(&lab, "the pod's name", |found| found.is_some_and(|found| found.text.contains(&names)));

    // What is leased from now on passes from its first frame.
    stranger.heard().unwrap();
    let before = dropped(&lab);
    let c = lab.attach(&lab.world.pod().unwrap()).unwrap();
    std::thread::sleep(SOON);
    assert!(stranger.heard().unwrap().contains(&(c.address, c.mac)));
    assert_eq!(dropped(&lab), before);

    declare(&mut lab, "");
    wait(&lab, "the end of the guard", |found| found.is_none());
    assert!(is_heard(&stranger, &a, a.mac, b.address), "the guard is switched off");
}

#[test]
fn a_guard_that_is_not_in_force_is_told() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let options = Options { rung: Some("none".to_owned()), ..options };
    let lab = Lab::start(&options, 4, ON).unwrap();
    let found = guard(&lab).unwrap();
    assert!(!found.ok && found.text.contains("not in force"), "{found:?}");
}
