//! Reads by number without entering, the bridge table, and deletion by number.

use std::fmt::Write as _;
use std::time::Instant;

use berth_ipam::config::MacvlanMode;
use berth_ipam::identity::Nsid;
use berth_underlay::error::Error;
use berth_underlay::netns::NetnsFile;
use berth_underlay::nsid;
use berth_underlay::read::{LinkRead, Reader};

use crate::support::{eventually, expect_found, in_node, ip, mac, name, run};

const MAC: &str = "b2:00:5e:00:53:01";

#[test]
fn a_link_is_read_without_entering_its_namespace() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut reader = Reader::new().unwrap();
        let link = expect_found(reader.link(Some(pod.nsid), pod.link.ifindex));
        assert_eq!(link, pod.link);
        assert_eq!((link.name.as_str(), link.mac, link.up), ("net1", Some(mac(MAC)), true));
        assert_eq!((link.kind.as_deref(), link.macvlan_mode), (Some("macvlan"), Some(MacvlanMode::Bridge)));
        assert_eq!((link.parent_index, link.alias, link.mtu), (Some(node.parent.ifindex), None, 1500));
        let own = nsid::read(reader.socket(), &NetnsFile::own().unwrap()).unwrap();
        assert!(own.is_some() && link.parent_nsid == own, "{:?} is not {own:?}", link.parent_nsid);
        // A link that has its parent in the same namespace carries no nsid of the parent, for every reader.
        ip("link add link eth1 name home type macvlan");
        let home = reader.link_by_name(None, &name("home")).found().unwrap();
        assert_eq!((home.parent_index, home.parent_nsid), (Some(node.parent.ifindex), None));
        pod.namespace.ip("link add beside type veth peer name other");
        pod.namespace.ip("link add link beside name child type macvlan");
        let child = reader.link_by_name(Some(pod.nsid), &name("child")).found().unwrap();
        assert_eq!(child.parent_nsid, None);
        // The same index here is another link, or none.
        let here = reader.link(None, node.parent.ifindex).found().unwrap();
        assert_eq!((here.name.as_str(), here.kind.as_deref()), ("eth1", Some("veth")));
        let all = reader.links(Some(pod.nsid)).unwrap();
        assert_eq!(all.iter().filter(|link| link.name == "net1").count(), 1);
        assert!(all.iter().all(|link| link.name != "eth1"));
        pod.namespace.ip("link set net1 alias hello\u{e9}");
        assert_eq!(
            expect_found(reader.link(Some(pod.nsid), pod.link.ifindex)).alias.as_deref(),
            Some("hello\u{e9}")
        );
    });
}

#[test]
fn absence_is_told_apart_from_ignorance() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut reader = Reader::new().unwrap();
        assert_eq!(reader.link(Some(pod.nsid), 9999), LinkRead::NoDevice);
        assert_eq!(reader.link(Some(pod.nsid), 0), LinkRead::NoDevice);
        assert_eq!(reader.link_by_name(Some(pod.nsid), &name("nope")), LinkRead::NoDevice);
        assert_eq!(reader.link(None, 9999), LinkRead::NoDevice);
        let stranger = Nsid(pod.nsid.0 ^ 1);
        assert_eq!(reader.link(Some(stranger), 1), LinkRead::NoNamespace);
        // The error of such a dump is hidden in its end message: it must not look like an empty list.
        assert!(reader.links(Some(stranger)).is_err());
        assert!(reader.addresses(Some(stranger)).is_err());
        let nsid = pod.nsid;
        let ifindex = pod.link.ifindex;
        pod.namespace.delete();
        eventually("the number of a deleted namespace ends", || {
            reader.link(Some(nsid), ifindex) == LinkRead::NoNamespace
        });
    });
}

#[test]
fn a_moved_link_is_no_longer_there_but_stays_in_the_bridge_table() {
    in_node(|node| {
        let (pod, other) = (node.pod(MAC), node.pod("b2:00:5e:00:53:02"));
        let mut reader = Reader::new().unwrap();
        run(
            "ip",
            &[
                "-n",
                &pod.namespace.name,
                "link",
                "set",
                "net1",
                "name",
                "moved",
                "netns",
                &other.namespace.name,
            ],
        );
        assert_eq!(reader.link(Some(pod.nsid), pod.link.ifindex), LinkRead::NoDevice);
        assert!(!reader.fdb(node.parent.ifindex).unwrap().contains(&mac(MAC)), "a move sets the link down");
        other.namespace.ip("link set moved up");
        assert!(reader.fdb(node.parent.ifindex).unwrap().contains(&mac(MAC)));
    });
}

#[test]
fn addresses_are_those_of_the_pod_and_not_of_the_node() {
    in_node(|node| {
        let pod = node.pod(MAC);
        ip("addr add 192.0.2.1/24 dev eth1");
        pod.namespace.ip("addr add 192.0.2.7/24 dev net1");
        pod.namespace.ip("addr add 2001:db8::7/64 dev net1 nodad");
        let mut reader = Reader::new().unwrap();
        let of_pod: Vec<_> = reader.addresses(Some(pod.nsid)).unwrap();
        let texts: Vec<_> = of_pod.iter().map(|facts| facts.address.to_string()).collect();
        assert!(
            texts.contains(&"192.0.2.7/24".to_owned()) && texts.contains(&"2001:db8::7/64".to_owned()),
            "{texts:?}"
        );
        assert!(!texts.contains(&"192.0.2.1/24".to_owned()), "{texts:?}");
        assert!(of_pod.iter().all(|facts| facts.ifindex == pod.link.ifindex), "{of_pod:?}");
        assert!(
            reader.addresses(None).unwrap().iter().any(|facts| facts.address.to_string() == "192.0.2.1/24")
        );
    });
}

#[test]
fn the_bridge_table_holds_the_macs_of_children_that_are_up() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut reader = Reader::new().unwrap();
        let here = |reader: &mut Reader| reader.fdb(node.parent.ifindex).unwrap().contains(&mac(MAC));
        assert!(here(&mut reader));
        pod.namespace.ip("link set net1 down");
        assert!(!here(&mut reader));
        pod.namespace.ip("link set net1 up");
        assert!(here(&mut reader));
        // Another parent's table does not show it, and a parent that is not there is unknown.
        let cable = reader.link_by_name(None, &name("cable")).found().unwrap();
        assert!(!reader.fdb(cable.ifindex).unwrap().contains(&mac(MAC)));
        assert!(reader.fdb(9999).is_err());
        pod.namespace.delete();
        eventually("the MAC leaves the table", || !here(&mut reader));
    });
}

#[test]
fn a_bridge_table_of_a_thousand_is_read_in_milliseconds() {
    in_node(|node| {
        let mut batch = String::new();
        for number in 0..1000 {
            let (high, low) = (number / 256, number % 256);
            writeln!(batch, "fdb add b2:00:00:00:{high:02x}:{low:02x} dev eth1 self").unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("batch");
        std::fs::write(&file, batch).unwrap();
        run("bridge", &["-batch", file.to_str().unwrap()]);
        let mut reader = Reader::new().unwrap();
        let mut best = std::time::Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            let macs = reader.fdb(node.parent.ifindex).unwrap();
            best = best.min(start.elapsed());
            assert!(macs.len() >= 1000, "{}", macs.len());
        }
        println!("bridge table of 1000: {best:?}");
        assert!(best.as_millis() < 20, "{best:?}");
    });
}

#[test]
fn deletion_by_number_takes_only_the_link_that_was_meant() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut reader = Reader::new().unwrap();
        let wrong = reader.delete_link(pod.nsid, pod.link.ifindex, mac("b2:00:5e:00:53:99"));
        assert!(matches!(wrong, Err(Error::OtherLink { .. })), "{wrong:?}");
        expect_found(reader.link(Some(pod.nsid), pod.link.ifindex));
        assert!(reader.delete_link(pod.nsid, pod.link.ifindex, mac(MAC)).unwrap());
        assert_eq!(reader.link(Some(pod.nsid), pod.link.ifindex), LinkRead::NoDevice);
        assert!(!reader.delete_link(pod.nsid, pod.link.ifindex, mac(MAC)).unwrap());
        assert!(!reader.delete_link(Nsid(pod.nsid.0 ^ 1), 1, mac(MAC)).unwrap());
        // The parent, which may have the same index number, is untouched.
        expect_found(reader.link(None, node.parent.ifindex));
    });
}
