//! Networks that share ports and addresses in every way that an operator may declare.

use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool};
use berth_ipam::interval::to_bits;

use crate::declared::{address, config};

/// Four networks that all give 10.0.0.10 to 10.0.0.13: two share the pools of segment `default` on eth1,
/// two others that of segment `b`, which may be on eth1 too, and one may go to segment `c`. The bits of
/// `edit` say which. No segment is served on two ports, because eth1 and eth2 are two L2 networks.
pub fn segments(edit: u8) -> Config {
    let Config { networks, pools } = config(4);
    let (network, pool) = (networks.into_values().next().unwrap(), pools.into_values().next().unwrap());
    let with = |segment: &str, first: u8, last: u8| {
        let members = [(to_bits(address(first)), to_bits(address(last)))].into_iter().collect();
        Pool { segment: segment.parse().unwrap(), members, ..pool.clone() }
    };
    let on = |declared: u64, parent: &str, pools: &[&str]| Network {
        declared,
        link: LinkSpec::Macvlan { parent: parent.parse().unwrap(), mode: MacvlanMode::Bridge, mtu: None },
        pools: pools.iter().map(|name| name.parse().unwrap()).collect(),
        ..network.clone()
    };
    let bit = |bit: u8| edit & (1 << bit) != 0;
    let parent = |second: bool| if second { "eth2" } else { "eth1" };
    // Every other edit leaves the oldest network as it is.
    let lan: &[&str] = if bit(3) && bit(0) { &["r"] } else { &["p1", "p2"] };
    let networks = [
        ("lan", on(if bit(4) { 9 } else { 1 }, "eth1", lan)),
        ("lan-too", on(2, "eth1", &["p2", "p1"])),
        ("other", on(3, parent(bit(1)), &["q"])),
        ("tail", on(4, parent(!bit(2)), &["q"])),
    ];
    // Those addresses are given by no pool for a while.
    let last = if bit(5) && bit(0) { 12 } else { 13 };
    let pools = [
        ("p1", with("default", 10, 11)),
        ("p2", with("default", 12, last)),
        ("q", with("b", 10, 13)),
        ("r", with("c", 10, 13)),
    ];
    Config {
        networks: networks.into_iter().map(|(name, network)| (name.parse().unwrap(), network)).collect(),
        pools: pools.into_iter().map(|(name, pool)| (name.parse().unwrap(), pool)).collect(),
    }
}
