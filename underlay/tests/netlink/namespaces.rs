//! Opening, entering, cookies and numbers.

use std::path::Path;

use berth_ipam::identity::Nsid;
use berth_underlay::error::Error;
use berth_underlay::netns::{self, NetnsFile, run_in, socket_in};
use berth_underlay::nsid;
use berth_underlay::socket::Socket;
use berth_underlay::sysctl::{self, Setting};

use crate::support::{Namespace, in_node, ip, name, run};

#[test]
fn only_network_namespaces_are_opened() {
    for path in ["/proc/self/ns/mnt", "/etc/passwd", "/run", "/dev/null"] {
        let error = NetnsFile::open(path).unwrap_err();
        assert!(matches!(error, Error::NotNetns { .. }), "{path}: {error:?}");
        assert!(error.to_string().contains("is not a network namespace"), "{error}");
    }
    assert!(matches!(NetnsFile::open("/run/netns/there-is-none"), Err(Error::OpenNetns { .. })));
}

#[test]
fn cookies_tell_namespaces_apart_and_nobody_stays_inside() {
    let (one, two) = (Namespace::new(), Namespace::new());
    let before = netns::own_cookie().unwrap();
    let (first, second) = (one.file().cookie().unwrap(), two.file().cookie().unwrap());
    assert!(first != second && first != before && second != before);
    assert_eq!(one.file().cookie().unwrap(), first);
    assert_eq!(netns::own_cookie().unwrap(), before);
    assert_eq!(NetnsFile::own().unwrap().cookie().unwrap(), before);
    assert!(one.file().is_same(&one.file()) && !one.file().is_same(&two.file()));
}

#[test]
fn a_panic_inside_is_an_error() {
    let pod = Namespace::new();
    assert!(matches!(run_in(&pod.file(), || panic!("planned")), Err(Error::Panicked)));
}

#[test]
fn a_socket_from_inside_speaks_for_the_inside() {
    in_node(|_| {
        let pod = Namespace::new();
        let mut inside = berth_underlay::read::Reader::over(socket_in(&pod.file()).unwrap());
        let links = inside.links(None).unwrap();
        assert!(links.iter().all(|link| link.name != "eth1") && links.iter().any(|link| link.name == "lo"));
    });
}

#[test]
fn numbers_are_random_stay_and_never_meet() {
    in_node(|_| {
        let mut socket = Socket::open().unwrap();
        let (one, two) = (Namespace::new(), Namespace::new());
        assert_eq!(nsid::read(&mut socket, &one.file()).unwrap(), None);
        let drawn = nsid::draw();
        let (given, random) = nsid::assign(&mut socket, &one.file(), drawn).unwrap();
        assert_eq!((given.0, random), (drawn, true));
        // A second assignment keeps the first nsid, which still counts as assigned.
        assert_eq!(nsid::assign(&mut socket, &one.file(), nsid::draw()).unwrap(), (given, true));
        assert_eq!(nsid::read(&mut socket, &one.file()).unwrap(), Some(given));
        // The same number for another namespace: a collision, and another number.
        let (other, random) = nsid::assign(&mut socket, &two.file(), drawn).unwrap();
        assert!(other != given && random);
    });
}

#[test]
fn numbers_of_the_kernel_are_not_taken_for_random() {
    in_node(|_| {
        let pod = Namespace::new();
        run("ip", &["netns", "set", &pod.name, "auto"]);
        let mut socket = Socket::open().unwrap();
        let (given, random) = nsid::read_or_assign(&mut socket, &pod.file()).unwrap();
        assert!(!random && given.0 < Nsid::FIRST_DRAWN);
    });
}

#[test]
fn settings_reach_the_namespace_of_the_calling_thread() {
    in_node(|_| {
        let pod = Namespace::new();
        ip(&format!("link add veth-a type veth peer name net1 netns {}", pod.name));
        run_in(&pod.file(), || {
            for (setting, value, file) in [
                (Setting::ArpIgnore, 1, "ipv4/conf/net1/arp_ignore"),
                (Setting::ArpAnnounce, 2, "ipv4/conf/net1/arp_announce"),
                (Setting::AcceptRa, 0, "ipv6/conf/net1/accept_ra"),
                (Setting::AcceptDad, 0, "ipv6/conf/net1/accept_dad"),
                (Setting::DisableIpv6, 1, "ipv6/conf/net1/disable_ipv6"),
            ] {
                assert!(sysctl::write(&name("net1"), setting, value).unwrap());
                let read = std::fs::read_to_string(Path::new("/proc/sys/net").join(file)).unwrap();
                assert_eq!(read.trim(), value.to_string(), "{file}");
            }
            for setting in [Setting::ArpIgnore, Setting::AcceptRa] {
                let error = sysctl::write(&name("net9"), setting, 1).unwrap_err();
                assert!(matches!(error, Error::Sysctl { .. }), "{error:?}");
            }
        })
        .unwrap();
    });
}
