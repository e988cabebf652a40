//! Addresses of the pool that are on interfaces of the node: its own, another runtime's macvlan on the
//! parent, and those that a pod adds to its interface. No answer of theirs reaches the parent.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use berth_testbed::client::Row;
use berth_testbed::guest::Guest;
use berth_testbed::lab::{Attachment, Families, Lab, Options};
use berth_testbed::stranger;
use berth_testbed::world::{self, PARENT, Pod};

/// A link of another runtime's, and when it is seen without any event: a survey, then a search.
const SURVEYED: Duration = Duration::from_secs(20);
/// Silent rounds enough to end a quarantine, and more.
const UNANSWERED: Duration = Duration::from_secs(10);
/// An event is followed by an immediate read; the rest is patience for a shared machine.
const TOLD: Duration = Duration::from_secs(5);

/// Runs a test with the programs, and without them.
fn both(test: impl Fn(&Options)) {
    let Some(options) = Options::of_tests(1.0) else { return };
    test(&options);
    test(&Options { rung: Some("none".to_owned()), ..options });
}

fn row(lab: &Lab, address: Ipv4Addr) -> Option<Row> {
    lab.leases().unwrap().into_iter().find(|row| row.address == IpAddr::V4(address))
}

/// Waits until the address's row is as wanted, or absent.
fn becomes(lab: &Lab, address: Ipv4Addr, limit: Duration, wanted: Option<(&str, &str)>) {
    let end = Instant::now() + limit;
    loop {
        let found = row(lab, address);
        let words = found.as_ref().map(|row| (row.state.as_str(), row.reason.as_str()));
        if words == wanted {
            return;
        }
        assert!(Instant::now() < end, "{address} is {words:?} and not {wanted:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const OCCUPIED: Option<(&str, &str)> = Some(("quarantined", "occupied"));

/// Error text of an ADD that finds no address.
fn refused(lab: &Lab) -> String {
    let pod = lab.world.pod().unwrap();
    let outcome = lab.plugin.run(&lab.call("ADD", &pod).setting("addTimeout", "300ms")).unwrap();
    assert!(outcome.expect_success().is_err(), "{}", outcome.stdout);
    outcome.stdout
}

fn pod_of(lab: &Lab) -> Attachment {
    lab.attach(&lab.world.pod().unwrap()).unwrap()
}

/// A macvlan on the parent in a namespace of another runtime's, that announces nothing.
fn foreign(lab: &Lab, address: Ipv4Addr) -> Pod {
    let pod = lab.world.pod().unwrap();
    let line = format!("link add link {PARENT} name e0 netns {} type macvlan mode bridge\n", pod.name);
    world::ip(lab.world.node(), &line).unwrap();
    world::ip(&pod.netns, &format!("addr add {address}/16 dev e0\nlink set e0 up\n")).unwrap();
    pod
}

#[test]
fn addresses_of_the_node_and_of_others_links_under_the_parent_are_given_to_no_pod() {
    both(|options| {
        let mut lab = Lab::prepare(options, 4, "", Families::V4).unwrap();
        let [own, shim, others, left] = lab.addresses[..] else { panic!("four addresses") };
        let lines = format!(
            "addr add {own}/16 dev {PARENT}\nlink add link {PARENT} name shim type macvlan mode bridge\n\
             addr add {shim}/32 dev shim\nlink set shim up\n"
        );
        world::ip(lab.world.node(), &lines).unwrap();
        let other = foreign(&lab, others);
        lab.start_agent(None).unwrap();
        assert_eq!(pod_of(&lab).address, IpAddr::V4(left));
        for address in [own, shim, others] {
            becomes(&lab, address, TOLD, OCCUPIED);
        }
        let said = refused(&lab);
        for (address, words) in [(own, "interface eth1 of the node"), (shim, "interface shim of the node")] {
            assert!(said.contains(&format!("{address} on {words}")), "{said}");
        }
        lab.world.remove(&other);
        world::ip(lab.world.node(), "link del shim\n").unwrap();
        becomes(&lab, shim, SURVEYED, None);
        becomes(&lab, others, SURVEYED, None);
        let given = [pod_of(&lab).address, pod_of(&lab).address];
        assert!(given.contains(&IpAddr::V4(shim)) && given.contains(&IpAddr::V4(others)), "{given:?}");
        becomes(&lab, own, TOLD, OCCUPIED);
    });
}

#[test]
fn a_link_that_comes_while_the_agent_runs_is_found_by_its_mac_on_the_parent() {
    both(|options| {
        let lab = Lab::start(options, 4, "").unwrap();
        let address = lab.addresses[1];
        foreign(&lab, address);
        becomes(&lab, address, SURVEYED, OCCUPIED);
    });
}

#[test]
fn a_pods_second_address_is_given_to_nobody_until_the_pod_ends() {
    both(|options| {
        let lab = Lab::start(options, 3, "").unwrap();
        let first = pod_of(&lab);
        let free: Vec<_> =
            lab.addresses.iter().copied().filter(|a| IpAddr::V4(*a) != first.address).collect();
        let [quiet, told] = free[..] else { panic!("two are left") };
        let add = |address: Ipv4Addr| {
            world::ip(&first.pod.netns, &format!("addr add {address}/32 dev eth0\n")).unwrap();
        };
        add(quiet);
        becomes(&lab, quiet, TOLD, OCCUPIED);
        add(told);
        stranger::announce_from(&first.pod.netns, "eth0", first.mac, IpAddr::V4(told)).unwrap();
        // Longer than a stranger's silence ends a quarantine.
        std::thread::sleep(Duration::from_secs(4));
        let said = refused(&lab);
        assert!(said.contains(&quiet.to_string()) && said.contains(&told.to_string()), "{said}");
        lab.world.remove(&first.pod);
        becomes(&lab, quiet, SURVEYED, None);
        becomes(&lab, told, SURVEYED, None);
        let given: Vec<_> = (0..3).map(|_| pod_of(&lab).address).collect();
        assert!(given.contains(&IpAddr::V4(told)), "{given:?}");
    });
}

const HEARD: Option<(&str, &str)> = Some(("quarantined", "heard"));

/// A pod that announces the pool's other address, which none of its interfaces has, like a virtual machine
/// behind its interface; and that address.
fn with_guest(lab: &Lab) -> (Attachment, Ipv4Addr) {
    let first = pod_of(lab);
    let other = lab.addresses.iter().copied().find(|a| IpAddr::V4(*a) != first.address).unwrap();
    stranger::announce_from(&first.pod.netns, "eth0", first.mac, IpAddr::V4(other)).unwrap();
    becomes(lab, other, TOLD, HEARD);
    (first, other)
}

#[test]
fn without_programs_an_address_that_a_pod_announces_and_has_on_no_interface_is_kept_as_long_as_the_pod() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let lab = Lab::start(&Options { rung: Some("none".to_owned()), ..options }, 2, "").unwrap();
    let (first, other) = with_guest(&lab);
    std::thread::sleep(UNANSWERED);
    becomes(&lab, other, TOLD, HEARD);
    assert!(refused(&lab).contains(&format!("{other} answered by {}", first.mac)));
    lab.world.remove(&first.pod);
    becomes(&lab, other, SURVEYED, None);
}

#[test]
fn without_programs_an_address_that_a_pod_announces_is_kept_while_its_pool_and_network_are_edited() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::start(&Options { rung: Some("none".to_owned()), ..options }, 2, "").unwrap();
    let (first, other) = with_guest(&lab);
    let path = lab.setup.config().join("lan.yaml");
    let declared = std::fs::read_to_string(&path).unwrap();
    let renamed = declared.replace("lan-v4", "lan-new");
    let (_, pool_alone) = declared.split_once("---").unwrap();
    for edited in [&renamed, pool_alone, &declared] {
        std::fs::write(&path, edited).unwrap();
        lab.agent().unwrap().reload();
        std::thread::sleep(UNANSWERED / 2);
        becomes(&lab, other, TOLD, HEARD);
    }
    assert!(refused(&lab).contains(&format!("{other} answered by {}", first.mac)));
    lab.world.remove(&first.pod);
    becomes(&lab, other, SURVEYED, None);
}

#[test]
fn with_programs_an_address_behind_a_pods_interface_is_kept_as_long_as_it_answers() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let lab = Lab::start(&options, 2, "").unwrap();
    let (first, other) = with_guest(&lab);
    let guest = Guest::start(&first.pod.netns, "eth0", first.mac, other).unwrap();
    std::thread::sleep(UNANSWERED);
    assert!(row(&lab, other).is_some(), "it answered {} times", guest.answers());
    assert!(guest.answers() > 0, "no probe reached the guest");
    drop(guest);
    becomes(&lab, other, SURVEYED, None);
    let IpAddr::V4(own) = first.address else { panic!("an IPv4 pool") };
    becomes(&lab, own, TOLD, Some(("bound", "bound")));
    assert_eq!(pod_of(&lab).address, IpAddr::V4(other));
}

#[test]
fn the_node_that_takes_a_pods_address_is_told_and_frees_nothing() {
    both(|options| {
        let lab = Lab::start(options, 2, "").unwrap();
        let pod = pod_of(&lab);
        let IpAddr::V4(address) = pod.address else { panic!("an IPv4 pool") };
        world::ip(lab.world.node(), &format!("addr add {address}/32 dev {PARENT}\n")).unwrap();
        let end = Instant::now() + TOLD;
        let told = || {
            let events = lab.client().history(pod.address).unwrap();
            events
                .into_iter()
                .any(|event| event.code == "second-holder" && event.text.contains("of the node"))
        };
        while !told() {
            assert!(Instant::now() < end, "the conflict is not reported");
            std::thread::sleep(Duration::from_millis(20));
        }
        becomes(&lab, address, TOLD, Some(("bound", "bound")));
        lab.detach(&pod.pod).unwrap().expect_success().unwrap();
        becomes(&lab, address, TOLD, OCCUPIED);
        world::ip(lab.world.node(), &format!("addr del {address}/32 dev {PARENT}\n")).unwrap();
        becomes(&lab, address, SURVEYED, None);
    });
}
