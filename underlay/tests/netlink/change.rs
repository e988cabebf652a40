//! Changes through rtnetlink, from the temporary name to the last route.

use berth_ipam::config::{MacvlanMode, Route};
use berth_underlay::change::{Changer, LinkChange, RouteSocket, VlanSpec};
use berth_underlay::error::Error;
use berth_underlay::facts::{ADDRESS_TENTATIVE, RouteFacts};
use berth_underlay::netns::run_in;
use berth_underlay::read::{LinkRead, Reader};

use crate::support::{Namespace, block_on, in_node, mac, name};

const MAC: &str = "b2:00:5e:00:53:01";

fn changer() -> Changer {
    Changer::start(RouteSocket::open().unwrap()).unwrap()
}

#[test]
fn a_macvlan_is_made_configured_and_removed() {
    in_node(|node| {
        let pod = Namespace::new();
        let (socket, mut reader) =
            run_in(&pod.file(), || (RouteSocket::open().unwrap(), Reader::new().unwrap())).unwrap();
        block_on(async {
            let mut spec = node.macvlan("berth-tmp0", Some(mac(MAC)), MacvlanMode::Bridge);
            spec.mtu = Some(1400);
            changer().create_macvlan(&spec, Some(&pod.file())).await.unwrap();
            let link = reader.link_by_name(None, &name("berth-tmp0")).found().unwrap();
            assert_eq!((link.up, link.mac, link.mtu), (false, Some(mac(MAC)), 1400));

            let inside = Changer::start(socket).unwrap();
            let change = LinkChange {
                name: Some(&name("net1")),
                alias: Some("berth:lan:c1:net1:42"),
                ..LinkChange::default()
            };
            inside.change_link(link.ifindex, &change).await.unwrap();
            for address in ["192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64"] {
                let address = address.parse().unwrap();
                inside.add_address(link.ifindex, address, true).await.unwrap();
                inside.add_address(link.ifindex, address, true).await.unwrap();
            }
            inside.set_up(link.ifindex).await.unwrap();
            for (to, via) in [
                ("0.0.0.0/0", Some("192.0.2.1")),
                ("198.51.100.9/24", Some("192.0.2.1")),
                ("203.0.113.0/24", None),
                ("::/0", Some("2001:db8::1")),
                ("2001:db8:1::/48", None),
            ] {
                let route = route(to, via);
                inside.add_route(link.ifindex, &route, None).await.unwrap();
                inside.add_route(link.ifindex, &route, None).await.unwrap();
            }

            let link = reader.link_by_name(None, &name("net1")).found().unwrap();
            assert_eq!((link.up, link.alias.as_deref()), (true, Some("berth:lan:c1:net1:42")));
            check_addresses_and_routes(&mut reader);
            check_next_hops_outside_the_subnet(&inside, &mut reader, link.ifindex).await;

            assert!(inside.delete_address(link.ifindex, "192.0.2.8/24".parse().unwrap()).await.unwrap());
            assert!(!inside.delete_address(link.ifindex, "192.0.2.8/24".parse().unwrap()).await.unwrap());
            assert!(
                reader
                    .addresses(None)
                    .unwrap()
                    .iter()
                    .any(|facts| facts.address.to_string() == "192.0.2.7/24")
            );
            assert!(inside.delete_link(link.ifindex).await.unwrap());
            assert!(!inside.delete_link(link.ifindex).await.unwrap());
            assert!(!inside.delete_address(link.ifindex, "192.0.2.7/24".parse().unwrap()).await.unwrap());
            assert_eq!(reader.link(None, link.ifindex), LinkRead::NoDevice);
        });
    });
}

/// Reads back what [`a_macvlan_is_made_configured_and_removed`] added.
fn check_addresses_and_routes(reader: &mut Reader) {
    let addresses = reader.addresses(None).unwrap();
    for text in ["192.0.2.7/24", "192.0.2.8/24", "2001:db8::7/64"] {
        let facts = addresses.iter().find(|facts| facts.address.to_string() == text).unwrap();
        assert_eq!(facts.flags & ADDRESS_TENTATIVE, 0, "{text}");
    }
    let routes = reader.routes().unwrap();
    for (to, via) in
        [("0.0.0.0/0", Some("192.0.2.1")), ("198.51.100.0/24", Some("192.0.2.1")), ("203.0.113.0/24", None)]
    {
        let via = via.map(|via| via.parse().unwrap());
        assert!(
            routes.iter().any(|r| r.to.to_string() == to && r.via == via && r.table == 254),
            "{to}: {routes:?}"
        );
    }
    assert!(
        routes.iter().any(|r| r.to.to_string() == "::/0" && r.via == Some("2001:db8::1".parse().unwrap()))
    );
}

fn route(to: &str, via: Option<&str>) -> Route {
    let (to, via) = (to.parse().unwrap(), via.map(|via| via.parse().unwrap()));
    Route { to, via, onlink: false, metric: None }
}

/// A link-local next hop, one that no subnet holds, and a second route to one destination.
async fn check_next_hops_outside_the_subnet(inside: &Changer, reader: &mut Reader, ifindex: u32) {
    let far = route("10.1.0.0/16", Some("203.0.114.1"));
    let refused = inside.add_route(ifindex, &far, None).await.unwrap_err();
    assert!(refused.to_string().contains("10.1.0.0/16 via 203.0.114.1"), "{refused}");
    for (to, via, metric) in [
        ("10.1.0.0/16", "203.0.114.1", 0),
        ("2001:db8:2::/48", "2001:db8:f::1", 1024),
        ("2001:db8:3::/48", "fe80::1", 1024),
        ("0.0.0.0/0", "192.0.2.2", 7),
        ("::/0", "2001:db8::2", 1030),
    ] {
        let onlink = !via.starts_with("fe80");
        let wanted = Route { onlink, metric: Some(metric), ..route(to, Some(via)) };
        inside.add_route(ifindex, &wanted, None).await.unwrap();
        let held = reader.routes().unwrap();
        let same = |held: &&RouteFacts| held.to == wanted.to && held.via == wanted.via;
        let found = held.iter().find(same).unwrap_or_else(|| panic!("{to}: {held:?}"));
        assert_eq!((found.metric, found.table), (metric, 254), "{to}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    in_node(|node| {
        let pod = Namespace::new();
        block_on(async {
            let changer = changer();
            let spec = node.macvlan("one", Some(mac(MAC)), MacvlanMode::Bridge);
            changer.create_macvlan(&spec, Some(&pod.file())).await.unwrap();
            pod.ip("link set one up");
            let same_name = node.macvlan("one", None, MacvlanMode::Bridge);
            let error = changer.create_macvlan(&same_name, Some(&pod.file())).await.unwrap_err();
            assert!(matches!(&error, Error::CreateLink { cause, .. } if cause.is(libc::EEXIST)), "{error:?}");

            let mut no_parent = node.macvlan("three", None, MacvlanMode::Bridge);
            no_parent.parent_index = 9999;
            let error = changer.create_macvlan(&no_parent, Some(&pod.file())).await.unwrap_err();
            assert!(matches!(&error, Error::CreateLink { cause, .. } if cause.is(libc::ENODEV)), "{error:?}");

            let error = changer.set_up(9999).await.unwrap_err();
            assert!(matches!(&error, Error::ChangeLink { cause, .. } if cause.is(libc::ENODEV)), "{error:?}");
            let crossed = route("::/0", Some("192.0.2.1"));
            let error = changer.add_route(node.parent.ifindex, &crossed, None).await.unwrap_err();
            assert!(matches!(error, Error::AddRoute { .. }));
            assert!(error.to_string().contains("::/0 via 192.0.2.1"), "{error}");
        });
    });
}

/// The kernel accepts the second one and refuses to set it up; the bridge table shows the conflict in time.
#[test]
fn a_mac_that_a_sibling_has_is_told_apart() {
    in_node(|node| {
        let (pod, other) = (node.pod(MAC), Namespace::new());
        let mut reader = Reader::new().unwrap();
        assert!(reader.fdb(node.parent.ifindex).unwrap().contains(&mac(MAC)));
        let inside =
            run_in(&other.file(), || (RouteSocket::open().unwrap(), Reader::new().unwrap())).unwrap();
        block_on(async {
            let second = node.macvlan("two", Some(mac(MAC)), MacvlanMode::Bridge);
            match changer().create_macvlan(&second, Some(&other.file())).await {
                Ok(()) => {}
                Err(error) => assert!(matches!(error, Error::MacInUse { mac: Some(_) }), "{error:?}"),
            }
            let (socket, mut reader) = inside;
            let inside = Changer::start(socket).unwrap();
            let link = reader.link_by_name(None, &name("two")).found().unwrap();
            let up = inside.set_up(link.ifindex).await;
            assert!(matches!(up, Err(Error::MacInUse { mac: None })), "{up:?}");
            // Other ways to set it up fail as well. The code takes it as proof that one up link of a MAC
            // rules out another.
            let third = LinkChange { mac: Some(mac("02:00:00:00:00:03")), ..LinkChange::default() };
            inside.change_link(link.ifindex, &third).await.unwrap();
            inside.set_up(link.ifindex).await.unwrap();
            let back = LinkChange { mac: Some(mac(MAC)), ..LinkChange::default() };
            assert!(inside.change_link(link.ifindex, &back).await.is_err());
            pod.namespace.ip("link set net1 down");
            inside.change_link(link.ifindex, &back).await.unwrap();
        });
    });
}

#[test]
fn a_passthru_child_has_its_parents_mac() {
    in_node(|node| {
        let pod = Namespace::new();
        block_on(async {
            let spec = node.macvlan("net1", Some(mac(MAC)), MacvlanMode::Passthru);
            changer().create_macvlan(&spec, Some(&pod.file())).await.unwrap();
        });
        let mut reader = Reader::inside(&pod.file()).unwrap();
        let link = reader.link_by_name(None, &name("net1")).found().unwrap();
        assert_eq!((link.mac, link.macvlan_mode), (node.parent.mac, Some(MacvlanMode::Passthru)));
    });
}

/// On a kernel with VLAN devices the device is correct; on another one the error names the missing module.
#[test]
fn a_vlan_device_is_made_or_refused_with_a_reason() {
    in_node(|node| {
        let pod = Namespace::new();
        let vlan = name("eth1.100");
        let spec = VlanSpec { parent_index: node.parent.ifindex, name: &vlan, id: 100, mac: None, mtu: None };
        let created = block_on(async { changer().create_vlan(&spec, Some(&pod.file())).await });
        match created {
            Ok(()) => {
                let mut reader = Reader::inside(&pod.file()).unwrap();
                let link = reader.link_by_name(None, &vlan).found().unwrap();
                assert_eq!((link.kind.as_deref(), link.vlan_id), (Some("vlan"), Some(100)));
            }
            Err(error) => {
                assert!(matches!(error, Error::NoVlanDevices), "{error:?}");
                assert!(error.to_string().contains("8021q"));
            }
        }
    });
}

#[test]
fn outside_a_runtime_a_changer_is_refused() {
    assert!(matches!(Changer::start(RouteSocket::open().unwrap()), Err(Error::NoRuntime)));
}
