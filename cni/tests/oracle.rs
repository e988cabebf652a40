//! Comparison of results with another implementation of the specification (rscni-types), in both directions:
//! each side parses the output of the other, and both see the same values.
//!
//! Left out: the shape of 0.1.0 and 0.2.0 and unspecified fields, which that crate does not support.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_cni::result::{self, Ip};
use berth_cni::{CniResult, NetConf, Version};
use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use rscni_types::legacy;
use rscni_types::types::{CNIResult, CNIResultWithVersion, Dns, Interface, IpConfig, Route};
use rscni_types::version::SpecVersion;
use serde_json::{Value, json};

/// Versions that both implementations support.
const SHARED: [Version; 5] =
    [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

fn address() -> impl Strategy<Value = (IpAddr, u8)> {
    let four = (any::<u32>(), 0_u8..=32).prop_map(|(bits, prefix)| (Ipv4Addr::from(bits).into(), prefix));
    // Below 2000::/3, so that none is a mapped IPv4 address, which the two label differently.
    let six = (any::<u128>(), 0_u8..=128)
        .prop_map(|(bits, prefix)| (Ipv6Addr::from(bits >> 3 | 1 << 125).into(), prefix));
    prop_oneof![four, six]
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_./ü\"-]{1,12}"
}

fn mac() -> impl Strategy<Value = String> {
    any::<[u8; 6]>().prop_map(|octets| octets.map(|octet| format!("{octet:02x}")).join(":"))
}

fn interface() -> impl Strategy<Value = Interface> {
    let parts =
        (text(), mac(), option::of(any::<u32>()), option::of(text()), option::of(text()), option::of(text()));
    parts.prop_map(|(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
        name,
        mac,
        mtu,
        sandbox,
        socket_path,
        pci_id,
    })
}

fn ip_config() -> impl Strategy<Value = IpConfig> {
    (address(), option::of(0_u32..5), option::of(address())).prop_map(
        |((address, prefix), interface, gateway)| {
            let address = rscni_types::ipnet::IpNet::new(address, prefix).unwrap();
            IpConfig { interface, address, gateway: gateway.map(|(gateway, _)| gateway) }
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
    );
    (address(), option::of(address()), numbers, option::of(any::<u32>())).prop_map(
        |((address, prefix), gw, (mtu, advmss, priority, table), scope)| Route {
            dst: rscni_types::ipnet::IpNet::new(address, prefix).unwrap(),
            gw: gw.map(|(gw, _)| gw),
            mtu,
            advmss,
            priority,
            table,
            scope,
        },
    )
}

fn theirs() -> impl Strategy<Value = CNIResult> {
    let dns = (vec(text(), 1..3), option::of(text()), option::of(vec(text(), 1..3)));
    let dns =
        dns.prop_map(|(nameservers, domain, search)| Dns { nameservers, domain, search, options: None });
    (vec(interface(), 0..4), vec(ip_config(), 0..4), vec(route(), 0..4), option::of(dns)).prop_map(
        |(interfaces, mut ips, routes, dns)| {
            // A position that is not in the list is refused: see result_convert.rs.
            let known = |at: &u32| usize::try_from(*at).is_ok_and(|at| at < interfaces.len());
            for ip in &mut ips {
                ip.interface = ip.interface.filter(known);
            }
            CNIResult { interfaces, ips, routes, dns }
        },
    )
}

fn spec(version: Version) -> SpecVersion {
    version.as_str().parse().unwrap()
}

/// JSON that rscni-types prints for that version.
fn printed(result: &CNIResult, version: Version) -> Value {
    if spec(version).is_legacy() {
        serde_json::to_value(legacy::CNIResult::new(spec(version), result.clone())).unwrap()
    } else {
        serde_json::to_value(CNIResultWithVersion::new(spec(version), result.clone())).unwrap()
    }
}

fn seen(result: &CNIResult) -> Vec<Ip> {
    let network = |ip: &IpConfig| IpNetwork::new(ip.address.addr(), ip.address.prefix_len()).unwrap();
    let one = |ip: &IpConfig| Ip {
        address: network(ip),
        gateway: ip.gateway,
        interface: ip.interface.map(|position| usize::try_from(position).unwrap()),
    };
    result.ips.iter().map(one).collect()
}

proptest! {
    #[test]
    fn what_they_print_we_read_and_print_again(result in theirs(), version in proptest::sample::select(SHARED.to_vec())) {
        let text = printed(&result, version);
        let ours = CniResult::parse("prevResult", &text, Version::V0_1_0).unwrap();
        prop_assert_eq!(ours.ips(), seen(&result));
        prop_assert_eq!(ours.routes().len(), result.routes.len());
        for (own, other) in ours.interfaces().iter().zip(&result.interfaces) {
            prop_assert_eq!((&own.name, &own.sandbox), (&other.name, &other.sandbox));
            prop_assert_eq!(own.mac.map(|mac| mac.to_string()), Some(other.mac.clone()));
        }
        prop_assert_eq!(ours.to_json(version), text, "in the version that it came in, nothing changes");
    }

    #[test]
    fn a_conversion_down_is_the_same_as_theirs(result in theirs(), version in proptest::sample::select(SHARED.to_vec())) {
        let newest = printed(&result, Version::V1_1_0);
        let ours = CniResult::parse("prevResult", &newest, Version::V0_1_0).unwrap().to_json(version);
        let other = printed(&result, version);
        prop_assert_eq!(&ours["ips"], &other["ips"]);
        if version < Version::V1_0_0 {
            prop_assert_eq!(&ours["interfaces"], &other["interfaces"]);
        }
        let read: CNIResult = serde_json::from_value(ours).unwrap();
        prop_assert_eq!(read.ips, result.ips);
        prop_assert_eq!(read.interfaces.len(), result.interfaces.len());
        prop_assert_eq!(read.routes.len(), result.routes.len());
        prop_assert_eq!(read.dns, result.dns);
    }

    #[test]
    fn what_we_make_they_read(
        addresses in vec((address(), option::of(address())), 1..4),
        routes in vec((address(), option::of(address())), 0..4),
        version in proptest::sample::select(SHARED.to_vec()),
    ) {
        let network = |(address, prefix)| IpNetwork::new(address, prefix).unwrap();
        let mut result = CniResult::new();
        let position = result.push_interface("eth0", "02:00:00:00:00:07".parse().unwrap(), "/run/netns/a");
        for (address, gateway) in &addresses {
            let gateway = gateway.map(|(gateway, _)| gateway);
            result.push_ip(&Ip { address: network(*address), gateway, interface: Some(position) });
        }
        for (to, via) in &routes {
            let via = via.map(|(via, _)| via);
            result.push_route(&result::Route { to: network(*to), via, priority: None });
        }
        let read: CNIResultWithVersion = serde_json::from_value(result.to_json(version)).unwrap();
        prop_assert_eq!(read.cni_version(), spec(version));
        prop_assert_eq!(seen(read.result()), result.ips());
        prop_assert_eq!(&read.result().interfaces[0].name, "eth0");
        let gateways: Vec<_> = read.result().routes.iter().map(|route| route.gw).collect();
        prop_assert_eq!(gateways, routes.iter().map(|(_, via)| via.map(|(via, _)| via)).collect::<Vec<_>>());
    }
}

#[test]
fn an_absent_an_empty_and_a_null_list_of_attachments_are_told_apart() {
    // Their reading takes null for absent, which would make a GC remove nothing or everything.
    for (list, count) in [
        (json!(null), Some(0)),
        (json!([]), Some(0)),
        (json!([{"containerID": "c1", "ifname": "eth0"}]), Some(1)),
    ] {
        let text =
            json!({"cniVersion": "1.1.0", "name": "lan", "type": "berth", "cni.dev/valid-attachments": list});
        let ours = NetConf::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(ours.valid_attachments().ok().map(|kept| kept.len()), count);
        let other: rscni_types::types::NetConf = serde_json::from_value(text).unwrap();
        assert_eq!(other.valid_attachments.unwrap_or_default().len(), count.unwrap_or(0));
    }
}
