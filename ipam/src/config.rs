//! Declarations of the operator, in validated form. The wire form is the `api` crate's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::access::Access;
use crate::interval::IntervalSet;
use crate::mac::Mac;
use crate::name::{IfName, NetworkName, PoolName, SegmentName};

/// Everything declared: the networks and the pools they draw from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// `UnderlayNetwork` documents by name.
    pub networks: BTreeMap<NetworkName, Network>,
    /// `IPPool` documents by name.
    pub pools: BTreeMap<PoolName, Pool>,
}

/// Declaration of one `UnderlayNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its place in the order of declaration: of two networks that cannot both be served on a node the
    /// one with the smaller number is, and of equal ones that with the lesser name. The time of creation
    /// in seconds since 1970 in a cluster, the place among the documents of the files elsewhere.
    pub declared: u64,
    /// The kind of link that its pods get, and on which parent.
    pub link: LinkSpec,
    /// The pools, in the order in which those of one family are tried.
    pub pools: Vec<PoolName>,
    /// True if pods take addresses and routes from router advertisements.
    pub accept_ra: bool,
    /// Time that an ADD waits for a free address.
    pub add_timeout: Duration,
    /// Time that a link must be gone from a living namespace before its address is released.
    pub settle: Duration,
    /// Time without any task in a namespace after which it counts as leaked; `None`: never.
    pub leaked_after: Option<Duration>,
    /// MACs that answer for addresses of others, as a router with proxy ARP does; their answers
    /// veto nothing.
    pub proxy_macs: BTreeSet<Mac>,
    /// Addresses that any pod may claim, where pods may else claim only the addresses that are leased to
    /// their MAC; `None`: they may claim all addresses.
    pub source_guard: Option<BTreeSet<IpAddr>>,
}

/// The link of an `UnderlayNetwork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum LinkSpec {
    /// A macvlan on `parent` for each pod.
    Macvlan {
        /// The interface on the physical network.
        parent: IfName,
        /// Forwarding mode between its macvlans.
        mode: MacvlanMode,
        /// MTU in bytes; the parent's if absent.
        mtu: Option<u32>,
    },
    /// VLAN `id` on `parent`: a shared device with bridge-mode macvlans, or the device itself.
    Vlan {
        /// The interface on the physical network.
        parent: IfName,
        /// The 802.1Q id, 1 to 4094.
        id: u16,
        /// True if the pod gets the VLAN device itself (then one pod a node and id).
        exclusive: bool,
        /// MTU in bytes; the parent's if absent.
        mtu: Option<u32>,
    },
}

impl LinkSpec {
    /// The physical interface under it.
    pub fn parent(&self) -> &IfName {
        match self {
            Self::Macvlan { parent, .. } | Self::Vlan { parent, .. } => parent,
        }
    }

    /// The device in the node's namespace that pods' frames leave through: the parent, or the shared VLAN device `<parent>.<id>` (`bv<hash>` where that is
    /// longer than an interface name may be). An exclusive VLAN device lives in its pod, so there
    /// it is the parent, which carries its frames tagged.
    pub fn device(&self) -> IfName {
        match self {
            Self::Macvlan { parent, .. } | Self::Vlan { parent, exclusive: true, .. } => parent.clone(),
            Self::Vlan { parent, id, .. } => vlan_device(parent, *id),
        }
    }

    /// The device on which the wire is asked and listened to. `None` for an exclusive VLAN device:
    /// it lives in its pod, and its parent carries other segments.
    pub fn wire_device(&self) -> Option<IfName> {
        match self {
            Self::Vlan { exclusive: true, .. } => None,
            _ => Some(self.device()),
        }
    }

    /// The wire that its pods' frames pass.
    pub fn wire(&self) -> Wire {
        match self {
            Self::Macvlan { parent, .. } => Wire { parent: parent.clone(), vlan: None },
            Self::Vlan { parent, id, .. } => Wire { parent: parent.clone(), vlan: Some(*id) },
        }
    }

    /// The device with a list of unicast MACs that shows the pods' links; `None` where no list does (passthru
    /// takes the parent's MAC, a VLAN device has its parent's too).
    pub fn macvlan_parent(&self) -> Option<IfName> {
        match self {
            Self::Macvlan { mode: MacvlanMode::Passthru, .. } | Self::Vlan { exclusive: true, .. } => None,
            _ => Some(self.device()),
        }
    }

    /// MTU in bytes, if one is set.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Self::Macvlan { mtu, .. } | Self::Vlan { mtu, .. } => *mtu,
        }
    }
}

/// A wire: an interface on the physical network, and the VLAN on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wire {
    /// The interface in the node's namespace.
    pub parent: IfName,
    /// The 802.1Q id; `None`: untagged.
    pub vlan: Option<u16>,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vlan {
            None => write!(f, "{}", self.parent),
            Some(id) => write!(f, "VLAN {id} of {}", self.parent),
        }
    }
}

/// The name of the shared device of a VLAN: `<parent>.<id>`, or `bv<hash>` where that is longer than an
/// interface name may be.
pub fn vlan_device(parent: &IfName, id: u16) -> IfName {
    let plain = format!("{parent}.{id}");
    let hash = Sha256::digest(plain.as_bytes());
    let short = || format!("bv{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]).parse();
    plain.parse().or_else(|_| short()).unwrap_or_else(|_| parent.clone())
}

/// The mode of a macvlan (`ip-link(8)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// Macvlans of one parent reach each other.
    #[default]
    Bridge,
    /// They do not.
    Private,
    /// They do through the external switch only.
    Vepa,
    /// One macvlan takes the whole parent, with the parent's MAC.
    Passthru,
}

/// Declaration of one `IPPool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The L2 domain in which its addresses are unique.
    pub segment: SegmentName,
    /// The subnet: decides family and prefix length.
    pub subnet: IpNetwork,
    /// The addresses that may be given: ranges less exclusions.
    pub members: IntervalSet,
    /// The router in that subnet, if any.
    pub gateway: Option<IpAddr>,
    /// Routes that the pod gets.
    pub routes: Vec<Route>,
    /// True if new leases are refused; existing ones stay.
    pub disabled: bool,
    /// Pods that may draw from it.
    pub access: Access,
}

/// A route that the pod gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Destination of the route.
    pub to: IpNetwork,
    /// The next hop; already filled in with the pool's gateway where none was declared. `None`: on link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// True if the next hop is reached on the link although no address of the link has it in its subnet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub onlink: bool,
    /// Its metric; of two routes to one destination the lower one is used. `None`: the kernel's own, 0 for IPv4
    /// and 1024 for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_vlan_device_has_a_name_that_fits() {
        let vlan = |parent: &str, id| LinkSpec::Vlan {
            parent: parent.parse().unwrap(),
            id,
            exclusive: false,
            mtu: None,
        };
        assert_eq!(vlan("eth1", 100).device().as_str(), "eth1.100");
        let long = vlan("enp0s31f6abcde", 4094).device();
        assert!(long.as_str().starts_with("bv") && long.as_str().len() == 10, "{long}");
        assert_ne!(long, vlan("enp0s31f6abcde", 4093).device());
    }
}
