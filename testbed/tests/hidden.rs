//! Links that a pod's root moves where no search looks: what frees their addresses, and what keeps them.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use berth_testbed::lab::{Attachment, Lab, Options};
use berth_testbed::skip;
use berth_testbed::world::{Pod, ip, ip_shows, open_socket};

/// The silence that proves a hidden link's end, and the time in which it must have.
const SILENCE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_mins(1);
/// Longer than the silence and a round of probes.
const LONG: Duration = Duration::from_secs(13);
const CHANGED: &str = "02:00:00:00:07:07";

fn reason(lab: &Lab, attachment: &Attachment) -> Option<String> {
    let rows = lab.leases().unwrap();
    rows.into_iter().find(|row| row.address == attachment.address).map(|row| row.reason)
}

fn eventually(bound: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    while Instant::now() < end {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Waits for the agent's programs, without which links under the parent hear no probes; false: none run here.
fn has_programs(lab: &Lab) -> bool {
    let mut rung = None;
    eventually(PATIENCE, || {
        let found = lab.client().doctor().unwrap();
        rung = found.into_iter().find(|found| found.what == "rung.ebpf");
        rung.as_ref().is_some_and(|found| !found.text.contains("being loaded"))
    });
    let ok = rung.as_ref().is_some_and(|found| found.ok);
    if !ok {
        skip::because(&format!("this agent has no rung here: {rung:?}"));
    }
    ok
}

/// Moves a pod's link to a namespace that only the socket holds, and sets it up there with these commands. The agent
/// stands still, so that no search meets the namespace while it has a name.
fn hide(lab: &mut Lab, pod: &Pod, commands: &str) -> UdpSocket {
    let to = lab.world.pod().unwrap();
    if let Ok(agent) = lab.agent() {
        agent.pause();
    }
    let holder = open_socket(&to).unwrap();
    ip(&pod.netns, &format!("link set eth0 down\nlink set eth0 netns {}\n", to.name)).unwrap();
    if !commands.is_empty() {
        ip(&to.netns, commands).unwrap();
    }
    lab.world.remove(&to);
    if let Ok(agent) = lab.agent() {
        agent.resume();
    }
    holder
}

fn up_under_another_mac(attachment: &Attachment) -> String {
    format!(
        "link set eth0 address {CHANGED}\naddress add {}/16 dev eth0\nlink set eth0 up\n",
        attachment.address
    )
}

#[test]
fn a_hidden_link_that_stays_silent_is_given_up_after_its_del() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start_dual(&options, 4).unwrap();
    if !has_programs(&lab) {
        return;
    }
    let pods = lab.attach_many(2).unwrap();
    let _holders: Vec<_> = pods.iter().map(|moved| hide(&mut lab, &moved.pod, "")).collect();
    assert!(eventually(PATIENCE, || reason(&lab, &pods[0]).as_deref() == Some("moved-out-of-sight")));
    let over = Instant::now();
    lab.detach(&pods[0].pod).unwrap();
    lab.world.remove(&pods[1].pod);
    for (pod, wanted) in pods.iter().zip(["moved-over", "moved-namespace-gone"]) {
        assert!(
            eventually(PATIENCE, || reason(&lab, pod).as_deref() == Some(wanted)),
            "{:?}",
            reason(&lab, pod)
        );
    }
    for pod in &pods {
        assert!(eventually(PATIENCE, || reason(&lab, pod).is_none()), "{:?}", reason(&lab, pod));
        assert!(over.elapsed() >= SILENCE, "{:?}", over.elapsed());
    }
}

#[test]
fn a_hidden_link_that_is_up_under_another_mac_keeps_its_address() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pods = lab.attach_many(2).unwrap();
    let told = hide(&mut lab, &pods[0].pod, &up_under_another_mac(&pods[0]));
    lab.detach(&pods[0].pod).unwrap();
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert!(reason(&lab, &pods[0]).is_some(), "{:#?}", lab.client().history(pods[0].address).unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(told);
    // A namespace ends a moment after its last holder.
    assert!(eventually(PATIENCE, || reason(&lab, &pods[0]).is_none()), "{:?}", reason(&lab, &pods[0]));

    lab.kill_agent();
    let untold = hide(&mut lab, &pods[1].pod, &up_under_another_mac(&pods[1]));
    lab.world.remove(&pods[1].pod);
    lab.start_agent(None).unwrap();
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert!(reason(&lab, &pods[1]).is_some(), "{:#?}", lab.client().history(pods[1].address).unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(reason(&lab, &pods[1]).as_deref(), Some("netns-gone-search-incomplete"));
    drop(untold);
    assert!(eventually(PATIENCE, || reason(&lab, &pods[1]).is_none()), "{:?}", reason(&lab, &pods[1]));
}

#[test]
fn a_link_that_was_moved_to_the_nodes_own_namespace_is_kept_and_removed_after_its_del() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pods = lab.attach_many(2).unwrap();
    let node = lab.world.node().file_name().unwrap().to_string_lossy().into_owned();
    for (number, moved) in pods.iter().enumerate() {
        let lines =
            format!("link set eth0 down\nlink set eth0 name m{number}\nlink set m{number} netns {node}\n");
        ip(&moved.pod.netns, &lines).unwrap();
        let address = format!("address add {}/32 dev m{number}\nlink set m{number} up\n", moved.address);
        ip(lab.world.node(), &address).unwrap();
    }
    for restart in [false, true] {
        if restart {
            lab.kill_agent();
            lab.start_agent(None).unwrap();
        }
        for moved in &pods {
            let is_bound = eventually(PATIENCE, || reason(&lab, moved).as_deref() == Some("bound"));
            assert!(is_bound, "{:?}", reason(&lab, moved));
        }
    }
    lab.detach(&pods[0].pod).unwrap();
    assert!(eventually(PATIENCE, || reason(&lab, &pods[0]).is_none()), "{:?}", reason(&lab, &pods[0]));
    let links = ip_shows(lab.world.node(), "link show").unwrap();
    assert!(!links.contains("m0@") && links.contains("m1@"), "{links}");
    lab.world.remove(&pods[1].pod);
    std::thread::sleep(SILENCE);
    assert_eq!(reason(&lab, &pods[1]).as_deref(), Some("bound"), "it is on an interface of the node");
    ip(lab.world.node(), "link delete m1\n").unwrap();
    assert!(eventually(PATIENCE, || reason(&lab, &pods[1]).is_none()), "{:?}", reason(&lab, &pods[1]));
}
