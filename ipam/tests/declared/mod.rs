//! What the ledger's tests declare: one network with one pool, small enough to be fought for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool};
use berth_ipam::interval::{IntervalSet, to_bits};

/// An address of the pool's subnet.
pub fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// A network with `count` addresses from 10.0.0.10 on.
pub fn config(count: u8) -> Config {
    let mut members = IntervalSet::new();
    members.insert(to_bits(address(10)), to_bits(address(9 + count)));
    let pool = Pool {
        segment: "default".parse().unwrap(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        members,
        gateway: None,
        routes: Vec::new(),
        disabled: false,
        access: berth_ipam::access::Access::default(),
    };
    let network = Network {
        declared: 0,
        link: LinkSpec::Macvlan { parent: "eth1".parse().unwrap(), mode: MacvlanMode::Bridge, mtu: None },
        pools: vec!["p".parse().unwrap()],
        accept_ra: false,
        add_timeout: Duration::from_secs(110),
        settle: Duration::from_secs(2),
        leaked_after: None,
        proxy_macs: BTreeSet::new(),
        source_guard: None,
    };
    Config {
        networks: BTreeMap::from([("lan".parse().unwrap(), network)]),
        pools: BTreeMap::from([("p".parse().unwrap(), pool)]),
    }
}
