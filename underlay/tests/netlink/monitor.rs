//! Kernel events from this and other namespaces.

use berth_underlay::monitor::{KernelEvent, Monitor};
use berth_underlay::netns::NetnsFile;
use berth_underlay::nsid;
use berth_underlay::read::Reader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{Namespace, eventually, in_node, ip, mac, run};

const MAC: &str = "b2:00:5e:00:53:01";

/// Collects events until one fits, at most 5 s.
fn until(monitor: &mut Monitor, what: &str, fits: impl Fn(&KernelEvent) -> bool) -> Vec<KernelEvent> {
    let mut all = Vec::new();
    for _ in 0..50 {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::from_borrowed_fd(monitor.fd(), PollFlags::IN)], Some(&tick)).unwrap();
        all.extend(monitor.drain().unwrap());
        if all.iter().any(&fits) {
            return all;
        }
    }
    panic!("never came: {what}; came: {all:#?}");
}

#[test]
fn a_link_deleted_inside_a_pod_is_reported_with_its_number() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut monitor = Monitor::open().unwrap();
        assert!(monitor.hears_all_namespaces());
        pod.namespace.ip("link del net1");
        let (nsid, ifindex) = (Some(pod.nsid), pod.link.ifindex);
        until(&mut monitor, "the deletion", |event| {
            matches!(event, KernelEvent::LinkGone { nsid: n, ifindex: i, mac: m, name, parent_index }
                if *n == nsid && *i == ifindex && *m == Some(mac(MAC)) && name == "net1"
                && *parent_index == Some(node.parent.ifindex))
        });
    });
}

#[test]
fn a_move_is_told_apart_from_a_deletion() {
    in_node(|node| {
        let (pod, other) = (node.pod(MAC), Namespace::new());
        let mut monitor = Monitor::open().unwrap();
        run("ip", &["-n", &pod.namespace.name, "link", "set", "net1", "netns", &other.name]);
        let (nsid, ifindex) = (Some(pod.nsid), pod.link.ifindex);
        let events = until(&mut monitor, "the move", |event| {
            matches!(event, KernelEvent::LinkMoved { nsid: n, ifindex: i, mac: m, .. }
                if *n == nsid && *i == ifindex && *m == Some(mac(MAC)))
        });
        let gone =
            |event: &KernelEvent| matches!(event, KernelEvent::LinkGone { ifindex: i, .. } if *i == ifindex);
        assert!(!events.iter().any(gone), "{events:?}");
    });
}

#[test]
fn the_end_of_a_namespace_is_reported() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut monitor = Monitor::open().unwrap();
        let nsid = pod.nsid;
        pod.namespace.delete();
        until(&mut monitor, "the end", |event| *event == KernelEvent::NamespaceGone { nsid });
    });
}

#[test]
fn states_and_addresses_are_reported_in_order() {
    in_node(|node| {
        let pod = node.pod(MAC);
        let mut monitor = Monitor::open().unwrap();
        pod.namespace.ip("addr add 192.0.2.7/24 dev net1");
        pod.namespace.ip("addr del 192.0.2.7/24 dev net1");
        pod.namespace.ip("link set net1 down");
        let address = "192.0.2.7/24".parse().unwrap();
        let (nsid, ifindex) = (Some(pod.nsid), pod.link.ifindex);
        let down = |event: &KernelEvent| matches!(event, KernelEvent::LinkSeen { nsid: n, ifindex: i, up: false, .. } if *n == nsid && *i == ifindex);
        let events = until(&mut monitor, "down", down);
        let place = |wanted: &KernelEvent| events.iter().position(|event| event == wanted).unwrap();
        let seen = place(&KernelEvent::AddressSeen { nsid, ifindex, address });
        let gone = place(&KernelEvent::AddressGone { nsid, ifindex, address });
        assert!(seen < gone && gone < events.iter().position(down).unwrap(), "{events:#?}");
    });
}

/// The kernel assigns the node's own namespace an nsid too, when a process reads a link that has its parent
/// here; its own events then carry that nsid.
#[test]
fn own_events_stay_own_when_the_node_gets_a_number_in_itself() {
    in_node(|node| {
        let mut monitor = Monitor::open().unwrap();
        let mut reader = Reader::new().unwrap();
        let own = NetnsFile::own().unwrap();
        nsid::assign(reader.socket(), &own, nsid::draw()).unwrap();
        ip("link set eth1 mtu 1400");
        let index = node.parent.ifindex;
        let events = until(
            &mut monitor,
            "the change of eth1",
            |event| matches!(event, KernelEvent::LinkSeen { ifindex, .. } if *ifindex == index),
        );
        let all_own = events.iter().all(|event| match event {
            KernelEvent::LinkSeen { nsid, .. } => nsid.is_none(),
            _ => true,
        });
        assert!(all_own, "{events:?}");
    });
}

#[test]
fn lost_events_are_reported() {
    in_node(|_| {
        let mut monitor = Monitor::open().unwrap();
        let mut batch = String::new();
        for number in 0..20_000 {
            batch.push_str(if number % 2 == 0 { "link set lo mtu 1500\n" } else { "link set lo mtu 1600\n" });
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("batch");
        std::fs::write(&file, batch).unwrap();
        run("ip", &["-batch", file.to_str().unwrap()]);
        let mut lost = false;
        eventually("an overrun", || {
            lost |= monitor.drain().unwrap().contains(&KernelEvent::Overrun);
            lost
        });
        // Events still arrive afterwards.
        ip("link set lo mtu 1700");
        until(
            &mut monitor,
            "a later event",
            |event| matches!(event, KernelEvent::LinkSeen { name, .. } if name == "lo"),
        );
    });
}
