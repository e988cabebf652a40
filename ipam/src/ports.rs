//! L2 ports: which networks are served on one, and which pool gives an address there.
//!
//! A port is an interface of the node and a VLAN on it, whatever names lead there. It is in one L2
//! domain, so all networks that are served on it draw from pools of one segment: that of the network
//! that was declared first. A network of another segment is left out on this node.
//!
//! Invariant: on a port an address is a member of at most one pool that is served there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::alloc::gives;
use crate::config::{Config, LinkSpec, Network, Wire, vlan_device};
use crate::name::{IfName, NetworkName, PoolName, SegmentName};
use crate::record::AddressKey;

/// An interface of the node, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its own name: a network may call it by an alternative one.
    pub name: IfName,
    /// The VLAN that it carries, where it is a VLAN device on another interface of the node.
    pub carries: Option<Wire>,
}

/// The interfaces of the node by the names that networks and attachments call them. `None`: the node has
/// no interface of that name. A name without a row was not read.
pub type Interfaces = BTreeMap<IfName, Option<Interface>>;

/// Reason why a network is left out on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Port of the network.
    pub port: Wire,
    /// The segment of the network's pools.
    pub segment: SegmentName,
    /// The network that was declared before it.
    pub first: NetworkName,
    /// The segment of that network's pools.
    pub first_segment: SegmentName,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, segment, first, first_segment } = self;
        write!(
            f,
            "its pools are in segment {segment}, and those of network {first}, declared before it on {port}, are \
             in segment {first_segment}; a parent and VLAN is in one segment"
        )
    }
}

#[derive(Debug, Clone)]
struct Port {
    segment: SegmentName,
    first: NetworkName,
    pools: BTreeSet<PoolName>,
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    interfaces: Interfaces,
    /// VLANs by the names of their shared devices, for those that the kernel has not made yet.
    vlans: BTreeMap<IfName, Wire>,
    served: BTreeMap<Wire, Port>,
    left_out: BTreeMap<NetworkName, LeftOut>,
}

impl Ports {
    /// The ports of all declared networks.
    pub fn new(config: &Config, interfaces: Interfaces) -> Self {
        let vlan = |network: &Network| match &network.link {
            LinkSpec::Vlan { parent, id, .. } => Some((vlan_device(parent, *id), network.link.wire())),
            LinkSpec::Macvlan { .. } => None,
        };
        let vlans = config.networks.values().filter_map(vlan).collect();
        let mut ports = Self { interfaces, vlans, served: BTreeMap::new(), left_out: BTreeMap::new() };
        let mut networks: Vec<_> = config.networks.iter().collect();
        networks.sort_by_key(|(name, network)| (network.declared, *name));
        for (name, network) in networks {
            ports.serve(config, name, network);
        }
        ports
    }

    fn serve(&mut self, config: &Config, name: &NetworkName, network: &Network) {
        let mut pools = network.pools.iter().filter_map(|name| config.pools.get(name));
        let Some(segment) = pools.next().map(|pool| pool.segment.clone()) else { return };
        if self.of_device(network.link.parent()).is_none() {
            return; // Its ADDs fail on this node, so it keeps no other network from the port.
        }
        let port = self.port_of(&network.link.wire());
        let first = self.served.entry(port.clone()).or_insert_with(|| Port {
            segment: segment.clone(),
            first: name.clone(),
            pools: BTreeSet::new(),
        });
        if first.segment == segment {
            first.pools.extend(network.pools.iter().cloned());
            return;
        }
        let (first, first_segment) = (first.first.clone(), first.segment.clone());
        self.left_out.insert(name.clone(), LeftOut { port, segment, first, first_segment });
    }

    /// The interfaces that it was made with.
    pub fn interfaces(&self) -> &Interfaces {
        &self.interfaces
    }

    /// The networks that are left out on this node.
    pub fn left_out(&self) -> &BTreeMap<NetworkName, LeftOut> {
        &self.left_out
    }

    fn is_absent(&self, interface: &IfName) -> bool {
        self.interfaces.get(interface).is_some_and(Option::is_none)
    }

    /// The port that a wire is, under whatever name a network or a frame calls it.
    pub fn port_of(&self, wire: &Wire) -> Wire {
        let known = self.interfaces.get(&wire.parent).and_then(Option::as_ref);
        match (known, wire.vlan) {
            (Some(known), Some(_)) => Wire { parent: known.name.clone(), vlan: wire.vlan },
            (Some(Interface { carries: Some(carried), .. }), None) => carried.clone(),
            (Some(known), None) => Wire { parent: known.name.clone(), vlan: None },
            // A VLAN device that is made for the first ADD.
            (None, None) => match self.vlans.get(&wire.parent) {
                Some(vlan) => self.port_of(vlan),
                None => wire.clone(),
            },
            (None, Some(_)) => wire.clone(),
        }
    }

    /// The port that a device of the node is on; `None`: the node has no device of that name by now, and
    /// one that had it may have another.
    pub fn of_device(&self, device: &IfName) -> Option<Wire> {
        // A shared VLAN device is made for the first ADD that needs it.
        let made_on = self.vlans.get(device).map(|vlan| &vlan.parent);
        let known = !self.is_absent(device) || made_on.is_some_and(|parent| !self.is_absent(parent));
        known.then(|| self.port_of(&Wire { parent: device.clone(), vlan: None }))
    }

    /// The segment that is served on a port.
    pub fn segment(&self, port: &Wire) -> Option<&SegmentName> {
        self.served.get(port).map(|port| &port.segment)
    }

    /// An address of a subnet that is served on a port, whether a pool gives it or not: a router's, too.
    pub fn named(&self, config: &Config, port: &Wire, address: IpAddr) -> Option<AddressKey> {
        let served = self.served.get(port)?;
        let mut pools = served.pools.iter().filter_map(|name| config.pools.get(name));
        let named = pools.any(|pool| pool.subnet.contains(address));
        named.then(|| AddressKey { segment: served.segment.clone(), address })
    }

    /// The pool that gives an address on a port, over all networks that are served there.
    pub fn member(&self, config: &Config, port: &Wire, address: IpAddr) -> Option<(PoolName, AddressKey)> {
        let served = self.served.get(port)?;
        let pools = served.pools.iter().filter_map(|name| Some((name, config.pools.get(name)?)));
        let mut pools = pools.filter(|(_, pool)| gives(pool, address));
        let (name, _) = pools.next()?;
        Some((name.clone(), AddressKey { segment: served.segment.clone(), address }))
    }
}
