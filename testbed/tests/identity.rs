//! Identities: reused nsids, links that a pod's root moves, marks and copies, and an agent that changes its
//! own namespace. Nothing alive is released, and no link of another attachment is removed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it by panicking")]

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use berth_ipam::identity::Nsid;
use berth_testbed::lab::{Attachment, Lab, Options};
use berth_testbed::plugin::Call;
use berth_testbed::world::{PARENT, Pod, ip, ip_shows, open_socket};
use serde_json::json;

/// A MAC that a runtime requests.
const ASKED_FOR: &str = "02:00:00:00:06:01";
/// Longer than the settle time and a few searches.
const LONG: Duration = Duration::from_secs(6);
const SOON: Duration = Duration::from_secs(15);

fn state(lab: &Lab, address: IpAddr) -> Option<(String, String)> {
    let rows = lab.leases().unwrap();
    rows.into_iter().find(|row| row.address == address).map(|row| (row.state, row.reason))
}

/// Waits until the address is free.
fn freed(lab: &Lab, address: IpAddr) {
    let end = Instant::now() + SOON;
    while state(lab, address).is_some() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let history = lab.client().history(address).unwrap();
    assert_eq!(state(lab, address), None, "{history:#?}");
}

/// The address stays taken for a while.
fn kept(lab: &Lab, address: IpAddr) -> (String, String) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        let history = || lab.client().history(address).unwrap();
        assert!(state(lab, address).is_some(), "{:#?}", history());
        std::thread::sleep(Duration::from_millis(200));
    }
    state(lab, address).unwrap()
}

/// Makes the kernel assign an nsid to the pod's namespace before any of Berth's programs does; returns that
/// nsid.
fn numbered(lab: &Lab, pod: &Pod, port: &str) -> String {
    let node = lab.world.node();
    ip(node, &format!("link add {port} type veth peer name up0 netns {}\n", pod.name)).unwrap();
    let shown = ip_shows(node, "netns list-id").unwrap();
    let line = shown.lines().find(|line| line.ends_with(&format!(" {})", pod.name)));
    let number = line.and_then(|line| line.strip_prefix("nsid ")?.split(' ').next());
    number.unwrap_or_else(|| panic!("{shown}")).to_owned()
}

fn add_with_mac(lab: &Lab, pod: &Pod) -> Attachment {
    let mut config = lab.config.clone();
    config["runtimeConfig"] = json!({"mac": ASKED_FOR});
    let outcome = lab.plugin.run(&Call::new("ADD", &config, pod)).unwrap();
    lab.attached(pod, &outcome).unwrap()
}

fn index_of(lab: &Lab, pod: &Pod, name: &str) -> Option<i32> {
    let links = lab.world.links(pod).unwrap()?;
    links.into_iter().find(|link| link.name == name).map(|link| link.ifindex)
}

/// A pod ends while the agent is stopped, and another gets its nsid, with a link of its index and this MAC.
fn impostor(lab: &mut Lab, mac: &str) -> (Attachment, Pod) {
    // A search of the agent's, which runs, may draw the number first: then another pod is taken.
    let mut pods = (0..8).map(|last| (lab.world.pod().unwrap(), format!("vx{last}")));
    let given = pods.find_map(|(pod, port)| {
        let number = numbered(lab, &pod, &port);
        (number.parse::<i32>().unwrap() < Nsid::FIRST_DRAWN).then_some((pod, port, number))
    });
    let (pod, port, number) = given.unwrap();
    let attachment = add_with_mac(lab, &pod);
    let index = index_of(lab, &pod, "eth0").unwrap();
    lab.kill_agent();
    lab.world.remove(&pod);
    let node = lab.world.node().to_owned();
    let end = Instant::now() + SOON;
    while !ip_shows(&node, &format!("-o link show {port}")).unwrap().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    // The kernel assigns the lowest free nsid; lower ones may have become free, too.
    let mut others = (0..8).map(|last| (lab.world.pod().unwrap(), format!("vy{last}")));
    let other = others.find(|(other, port)| numbered(lab, other, port) == number).map(|(other, _)| other);
    let other = other.unwrap_or_else(|| panic!("number {number} does not come back"));
    let lines = format!(
        "link add other0 type veth peer name other1\nlink set other0 up\nlink set other1 up\n\
         link add link other0 name net1 index {index} netns {} address {mac} type macvlan mode bridge\n",
        other.name
    );
    ip(&node, &lines).unwrap();
    ip(&other.netns, "link set net1 up\n").unwrap();
    lab.start_agent(None).unwrap();
    (attachment, other)
}

#[test]
fn a_late_del_removes_no_link_of_the_namespace_that_got_the_number() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let (dead, other) = impostor(&mut lab, ASKED_FOR);
    lab.detach(&dead.pod).unwrap().expect_success().unwrap();
    freed(&lab, dead.address);
    assert!(index_of(&lab, &other, "net1").is_some(), "the other pod's link is untouched");
}

#[test]
fn a_dead_pods_lease_is_not_kept_by_another_link_of_its_number_and_index() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let (dead, other) = impostor(&mut lab, "02:00:00:00:06:07");
    freed(&lab, dead.address);
    assert!(index_of(&lab, &other, "net1").is_some());
}

#[test]
fn a_link_that_was_moved_under_another_mac_is_kept_over_a_restart() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pods = lab.attach_many(2).unwrap();
    let to = lab.world.pod().unwrap();
    for (name, moved) in [("m0", &pods[0]), ("m1", &pods[1])] {
        let lines =
            format!("link set eth0 down\nlink set eth0 name {name}\nlink set {name} netns {}\n", to.name);
        ip(&moved.pod.netns, &lines).unwrap();
        let last = if name == "m0" { 7 } else { 8 };
        let address = moved.address;
        let lines = format!(
            "link set {name} address 02:00:00:00:07:0{last}\naddress add {address}/16 dev {name}\nlink set {name} up\n"
        );
        ip(&to.netns, &lines).unwrap();
    }
    // The second one lost its alias, too.
    ip(&to.netns, "link set m1 alias \"\"\n").unwrap();
    for restart in [false, true] {
        if restart {
            lab.kill_agent();
            lab.start_agent(None).unwrap();
        }
        kept(&lab, pods[0].address);
        assert!(state(&lab, pods[1].address).is_some());
    }
    let found = kept(&lab, pods[0].address);
    assert_eq!(found.1, "bound", "found by its alias");
}

/// Moves a pod's link, while it is down, to a namespace that only the socket holds.
fn hidden(lab: &Lab, pod: &Pod) -> UdpSocket {
    let to = lab.world.pod().unwrap();
    let holder = open_socket(&to).unwrap();
    ip(&pod.netns, &format!("link set eth0 down\nlink set eth0 netns {}\n", to.name)).unwrap();
    lab.world.remove(&to);
    holder
}

#[test]
fn a_link_in_a_namespace_that_only_a_socket_holds_stays_unknown_over_a_restart() {
    let Some(options) = Options::of_tests(1.0) else { return };
    stays_unknown(&options);
}

#[test]
fn a_link_in_a_namespace_that_only_a_socket_holds_stays_unknown_without_programs() {
    let Some(options) = Options::of_tests(1.0) else { return };
    stays_unknown(&Options { rung: Some("none".to_owned()), ..options });
}

fn stays_unknown(options: &Options) {
    let mut lab = Lab::start(options, 4, "").unwrap();
    let pods = lab.attach_many(3).unwrap();
    // Received and followed; the namespace of the second one ends as well.
    let mut holders: Vec<_> = pods[..2].iter().map(|moved| hidden(&lab, &moved.pod)).collect();
    lab.world.remove(&pods[1].pod);
    kept(&lab, pods[0].address);
    lab.kill_agent();
    // The agent has no record of this one.
    holders.push(hidden(&lab, &pods[2].pod));
    lab.start_agent(None).unwrap();
    kept(&lab, pods[2].address);
    for (number, moved) in pods.iter().enumerate() {
        let (_, reason) = state(&lab, moved.address).unwrap();
        if number < 2 && reason == "bound" {
            // The search met it while its new namespace had a name, and the number leads to it since.
            continue;
        }
        let to_do = lab.client().to_do(moved.address).unwrap();
        assert!(to_do.is_some_and(|text| text.contains("--force")), "{reason}");
    }
}

#[test]
fn aliases_that_a_pods_root_deletes_edits_or_copies_release_and_remove_nothing_of_others() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 8, "").unwrap();
    let mut pods = Vec::new();
    for number in 0..6 {
        let pod = lab.world.pod().unwrap();
        if number % 2 == 1 {
            numbered(&lab, &pod, &format!("vx{number}"));
        }
        pods.push(lab.attach(&pod).unwrap());
    }
    let victim = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let shown = ip_shows(&victim.pod.netns, "-o link show eth0").unwrap();
    let copied = shown.split("alias ").nth(1).unwrap().split(['\\', '\n']).next().unwrap().trim().to_owned();
    for (number, attachment) in pods.iter().enumerate() {
        let alias = match number / 2 {
            0 => "\"\"",
            1 => "berth:other:c:eth0:7",
            _ => copied.as_str(),
        };
        ip(&attachment.pod.netns, &format!("link set eth0 alias {alias}\n")).unwrap();
    }
    lab.kill_agent();
    lab.start_agent(None).unwrap();
    lab.detach(&victim.pod).unwrap().expect_success().unwrap();
    for attachment in &pods {
        assert!(index_of(&lab, &attachment.pod, "eth0").is_some(), "{attachment:?}");
        assert_eq!(state(&lab, attachment.address).unwrap().0, "bound");
    }
    kept(&lab, pods[0].address);
    for attachment in &pods {
        assert!(index_of(&lab, &attachment.pod, "eth0").is_some(), "{attachment:?}");
        lab.world.remove(&attachment.pod);
        freed(&lab, attachment.address);
    }
    freed(&lab, victim.address);
}

#[test]
fn a_link_that_takes_a_dead_pods_mac_keeps_no_address_whose_end_was_told() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let lab = Lab::start(&options, 4, "").unwrap();
    let dead = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let thief = lab.world.pod().unwrap();
    let node = lab.world.node();
    let lines = format!("link add link {PARENT} name own0 netns {} type macvlan mode bridge\n", thief.name);
    ip(node, &lines).unwrap();
    lab.world.remove(&dead.pod);
    let end = Instant::now() + SOON;
    // Refused while the ended pod's link is up.
    let take = format!("link set own0 address {}\nlink set own0 up\n", dead.mac);
    while ip(&thief.netns, &take).is_err() && Instant::now() < end {}
    freed(&lab, dead.address);
    assert!(index_of(&lab, &thief, "own0").is_some());
}

#[test]
fn an_agent_in_another_namespace_frees_old_pods_and_new_ones() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&options, 6, "").unwrap();
    let old = lab.attach_many(3).unwrap();
    lab.stop_agent().unwrap();
    let second = lab.world.second_node().unwrap();
    lab.setup.node = second.clone();
    lab.plugin.node = second;
    lab.start_agent(None).unwrap();
    for attachment in &old {
        assert!(state(&lab, attachment.address).is_some());
    }
    let new = lab.attach_many(2).unwrap();
    lab.detach(&new[0].pod).unwrap().expect_success().unwrap();
    freed(&lab, new[0].address);
    lab.world.remove(&new[1].pod);
    freed(&lab, new[1].address);
    // Its nsids are read again: a plain DEL works, and a lost one, too.
    lab.detach(&old[0].pod).unwrap().expect_success().unwrap();
    freed(&lab, old[0].address);
    let end = Instant::now() + SOON;
    while state(&lab, old[1].address).unwrap().1 != "bound" && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.world.remove(&old[1].pod);
    freed(&lab, old[1].address);
    assert!(state(&lab, old[2].address).is_some(), "and the living one is kept");
}
