//! What the operator declared, in validated form. The wire form is the `api` crate's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

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

/// One `UnderlayNetwork`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The kind of link that its pods get, and on which parent.
    pub link: LinkSpec,
    /// The pools, in the order in which those of one family are tried.
    pub pools: Vec<PoolName>,
    /// Whether pods take addresses and routes from router advertisements.
    pub accept_ra: bool,
    /// How long an ADD waits for a free address.
    pub add_timeout: Duration,
    /// How long a link must be gone from a living namespace before its address is released.
    pub settle: Duration,
    /// How long nobody must have been seen in a namespace before it counts as leaked; `None`: never.
    pub leaked_after: Option<Duration>,
    /// MACs that answer for addresses of others, as a router with proxy ARP does; their answers
    /// veto nothing.
    pub proxy_macs: BTreeSet<Mac>,
}

/// The link of an `UnderlayNetwork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum LinkSpec {
    /// A macvlan on `parent` for each pod.
    Macvlan {
        /// The interface on the physical network.
        parent: IfName,
        /// How its macvlans see each other.
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
        /// Whether the pod gets the VLAN device itself (then one pod a node and id).
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

    /// MTU in bytes, if one is set.
    pub fn mtu(&self) -> Option<u32> {
        match self {
            Self::Macvlan { mtu, .. } | Self::Vlan { mtu, .. } => *mtu,
        }
    }
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

/// One `IPPool`.
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
    /// Whether new leases are refused; existing ones stay.
    pub disabled: bool,
}

/// A route that the pod gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Its destination.
    pub to: IpNetwork,
    /// The next hop; already filled in with the pool's gateway where none was declared. `None`: on link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}
