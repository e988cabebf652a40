//! The interfaces of this node, for the ledger: the agent's own namespace, and the links under the networks'
//! devices, in any namespace.
//!
//! All of it comes from dumps that count only if they are complete. An incomplete part is left out, so that
//! the ledger keeps its state. Left out: the relevance of the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::config::Wire;
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::occupied::{Interface, Place, Survey};
use berth_ipam::name::IfName;
use berth_underlay::facts::LinkFacts;
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::search::{Options, search};

use crate::fdb::{Parent, complete_fdb_of};
use crate::wires::tagged;

/// Parts to read.
#[derive(Debug, Clone)]
pub struct Order {
    /// The ledger's number for it.
    pub number: u64,
    /// The devices, each with the names of its wire.
    pub devices: BTreeMap<IfName, BTreeSet<Wire>>,
    /// Namespaces to look into.
    pub at: BTreeSet<Nsid>,
    /// True if all nameable namespaces are searched and read.
    pub search: bool,
}

/// Reads what was ordered.
pub fn survey(reader: &mut Reader, order: &Order, options: &Options) -> Survey {
    let parents: Vec<_> = order
        .devices
        .iter()
        .filter_map(|(device, wires)| Some((Parent::read(reader, device)?, wires.clone())))
        .collect();
    let mut found = Survey { number: order.number, ..Survey::default() };
    let mut spaces: BTreeMap<Option<Nsid>, Vec<LinkFacts>> = BTreeMap::new();
    if order.search {
        let result = search(reader, options);
        found.searched = Some(result.complete);
        for place in &result.namespaces {
            spaces.entry(place.nsid).or_default();
        }
        for (place, link) in result.iter() {
            spaces.entry(place.nsid).or_default().push(link.clone());
        }
    } else {
        for nsid in order.at.iter().map(|nsid| Some(*nsid)).chain([None]) {
            if let Ok(links) = reader.links(nsid) {
                spaces.insert(nsid, links);
            } else if matches!(reader.link(nsid, 1), LinkRead::NoNamespace) {
                // It has ended, and its links with it.
                spaces.insert(nsid, Vec::new());
            }
        }
    }
    for (at, links) in spaces {
        if let Some(at) = at {
            found.looked.insert(at);
        }
        let children = children(&parents, at, &links);
        let addresses = if at.is_none() || !children.is_empty() { read(reader, at) } else { None };
        if at.is_none() {
            found.own = addresses.as_ref().map(|addresses| interfaces(&links, addresses));
        }
        found.children.extend(children.iter().map(|(link, wires)| {
            let addresses = addresses.as_ref().map(|all| addresses_of(link, &children, all));
            Interface { addresses, ..interface(at, link, wires.clone()) }
        }));
    }
    for device in order.devices.keys() {
        if let Ok(macs) = complete_fdb_of(reader, device) {
            found.lists.insert(device.clone(), macs.into_iter().collect());
        }
    }
    found
}

/// The addresses of a namespace by the index of their interface; `None`: the list is not complete.
fn read(reader: &mut Reader, at: Option<Nsid>) -> Option<Vec<(u32, IpAddr)>> {
    let addresses = reader.addresses(at).ok()?;
    Some(addresses.into_iter().map(|facts| (facts.ifindex, facts.address.ip())).collect())
}

/// The links of a namespace that are under one of the parents, with the names of their wire.
fn children<'a>(
    parents: &[(Parent, BTreeSet<Wire>)],
    at: Option<Nsid>,
    links: &'a [LinkFacts],
) -> Vec<(&'a LinkFacts, BTreeSet<Wire>)> {
    let under = |link: &'a LinkFacts| {
        let (_, wires) = parents.iter().find(|(parent, _)| parent.has_child(at, link))?;
        match (link.kind.as_deref(), link.vlan_id) {
            // The node's own VLAN devices have their parent's MAC, and their addresses are the node's.
            (Some("vlan"), _) if at.is_none() => None,
            (Some("vlan"), Some(id)) => {
                Some((link, wires.iter().filter_map(|wire| tagged(wire, Some(id))).collect()))
            }
            _ => Some((link, wires.clone())),
        }
    };
    links.iter().filter_map(under).collect()
}

/// The addresses that count for a link: its own, and those of interfaces of its namespace that are under
/// no parent, as a bridge over it or the loopback.
fn addresses_of(
    link: &LinkFacts,
    children: &[(&LinkFacts, BTreeSet<Wire>)],
    all: &[(u32, IpAddr)],
) -> BTreeSet<IpAddr> {
    let on_other = |ifindex: u32| {
        children.iter().any(|(other, _)| other.ifindex == ifindex && other.ifindex != link.ifindex)
    };
    all.iter().filter(|(ifindex, _)| !on_other(*ifindex)).map(|(_, address)| *address).collect()
}

fn interfaces(links: &[LinkFacts], addresses: &[(u32, IpAddr)]) -> Vec<Interface> {
    let with_addresses = links.iter().map(|link| {
        let own = addresses.iter().filter(|(ifindex, _)| *ifindex == link.ifindex);
        let addresses = Some(own.map(|(_, address)| *address).collect());
        Interface { addresses, ..interface(None, link, BTreeSet::new()) }
    });
    with_addresses.collect()
}

fn interface(at: Option<Nsid>, link: &LinkFacts, wires: BTreeSet<Wire>) -> Interface {
    let is_macvlan = matches!(link.kind.as_deref(), Some("macvlan" | "macvtap"));
    Interface {
        place: Place { at, ifindex: link.ifindex },
        name: link.name.clone(),
        mac: link.mac,
        wires,
        listed: is_macvlan && link.macvlan_mode != Some(berth_ipam::config::MacvlanMode::Passthru),
        addresses: None,
    }
}

#[cfg(test)]
mod tests {
    use berth_ipam::mac::Mac;

    use super::*;

    fn link(ifindex: u32, kind: &str) -> LinkFacts {
        LinkFacts {
            ifindex,
            name: format!("l{ifindex}"),
            mac: Some(Mac([2, 0, 0, 0, 0, 7])),
            up: true,
            kind: Some(kind.to_owned()),
            vlan_id: (kind == "vlan").then_some(5),
            parent_index: Some(3),
            parent_nsid: Some(Nsid(9)),
            ..LinkFacts::default()
        }
    }

    fn wire(vlan: Option<u16>) -> Wire {
        Wire { parent: "eth1".parse().unwrap(), vlan }
    }

    #[test]
    fn links_of_every_kind_count_under_their_very_parent() {
        let parents = [(Parent::at(3, Some(Nsid(9))), BTreeSet::from([wire(None)]))];
        let pod = Some(Nsid(70_000));
        for (kind, vlan) in [("macvlan", None), ("macvtap", None), ("ipvlan", None), ("vlan", Some(5))] {
            let links = [LinkFacts { up: false, ..link(2, kind) }];
            let found = children(&parents, pod, &links);
            assert_eq!(
                found.iter().map(|(_, wires)| wires.clone()).collect::<Vec<_>>(),
                [[wire(vlan)].into()]
            );
        }
        let strangers = [
            link(2, "veth"),
            LinkFacts { parent_index: Some(4), ..link(2, "macvlan") },
            LinkFacts { parent_nsid: Some(Nsid(8)), ..link(2, "macvlan") },
        ];
        assert!(children(&parents, pod, &strangers).is_empty(), "the other end of a veth is no child");
        let own = [LinkFacts { parent_nsid: None, ..link(2, "vlan") }];
        assert!(children(&parents, None, &own).is_empty());
    }

    #[test]
    fn an_address_beside_a_link_counts_for_it_and_another_childs_does_not() {
        let links = [link(2, "macvlan"), link(4, "macvlan"), link(5, "bridge")];
        let children: Vec<_> = links[..2].iter().map(|link| (link, BTreeSet::from([wire(None)]))).collect();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let all = [(2, address(2)), (4, address(4)), (5, address(5)), (1, address(1))];
        let counted = addresses_of(&links[0], &children, &all);
        assert_eq!(counted, BTreeSet::from([address(1), address(2), address(5)]));
    }
}
