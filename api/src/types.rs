//! The serialized form of the declarations, the same in files and in Kubernetes.
//!
//! Values stay text here: an API server stores them as written. Each rule about a single object is a CEL rule
//! on its type, so that a cluster and a file refuse the same objects with the same messages. Rules about two
//! objects, or with arithmetic that CEL lacks, are checked by the conversion. Every list and text is bounded,
//! because an API server refuses rules with too high a worst-case cost.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn has its own type")]

mod lease;
mod status;

use std::collections::BTreeMap;

use kube::core::cel::Message;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

pub use lease::{IPLease, IPLeaseSpec, LeaseNetns, LeasePod, LeaseRole};
pub use status::{Condition, ConditionStatus, IPPoolStatus, UnderlayNetworkStatus};

/// A network on the underlay: which kind of link its pods get, on which parent, with addresses from
/// which pools.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "UnderlayNetwork",
    doc = "A network on the underlay: the link its pods get, and the pools of their addresses.",
    derive = "PartialEq",
    shortname = "unet",
    category = "berth",
    status = "UnderlayNetworkStatus",
    cel,
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.link.type"),
    printcolumn(name = "Parent", type_ = "string", json_path = ".spec.link.parent"),
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.pools"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnderlayNetworkSpec {
    /// The link that a pod gets.
    pub link: Link,
    /// Names of `IPPool`s. A pod gets one address of each family among them; those of one family are
    /// tried in this order. They belong to one segment.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(validation = Rule::new("self.all(name, self.exists_one(other, other == name))")
        .message("a pool is named twice; name each pool once"))]
    pub pools: Vec<String>,
    /// Accepts addresses and routes from router advertisements in pods. Default: false.
    #[serde(rename = "acceptRA", default, skip_serializing_if = "Option::is_none")]
    pub accept_ra: Option<bool>,
    /// Time limit of an ADD for a free address, 0s to 230s. Default: 110s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s') && duration(self) <= duration('230s')")
        .message("addTimeout must be 0s to 230s, because kubelet gives up after 240s"))]
    pub add_timeout: Option<String>,
    /// Time for which a link must be gone from a living namespace before its address is released, 0s to 10m.
    /// Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s') && duration(self) <= duration('10m')")
        .message("settle must be 0s to 10m"))]
    pub settle: Option<String>,
    /// Time without any task in a namespace after which it counts as leaked, 5s to 24h. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s') && duration(self) <= duration('24h')")
        .message("leakedAfter must be 5s to 24h: two scans at least 5s apart are needed; leave it out for never"))]
    pub leaked_after: Option<String>,
    /// MACs that answer for addresses of others, such as a router with proxy ARP. Their answers veto no
    /// address. Default: none.
    #[serde(rename = "proxyMACs", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 17, max = 17)))]
    #[x_kube(validation = Rule::new("self.all(mac, mac.matches('^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$'))")
        .message("a MAC in proxyMACs is six hexadecimal octets joined by colons, as in 00:00:5e:00:53:01"))]
    pub proxy_macs: Option<Vec<String>>,
    /// Drops ARP and neighbour discovery of pods that claim an address not leased to their MAC: off or arp.
    /// Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Rule::new("self in ['off', 'arp']").message("sourceGuard is off or arp"))]
    pub source_guard: Option<String>,
    /// Addresses that any pod may claim, such as the virtual ones of keepalived. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), inner(length(min = 2, max = 45)))]
    #[x_kube(validation = Rule::new("self.all(address, isIP(address))")
        .message("an entry of sourceGuardAllow is one address, as in 192.0.2.1 or 2001:db8::1"))]
    pub source_guard_allow: Option<Vec<String>>,
}

/// The link of an `UnderlayNetwork`. One flat shape, because the structural schema of an API server must not
/// depend on values; the rules define the keys of each type.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("self.type != 'macvlan' || (!has(self.id) && !has(self.exclusive))")
        .message("id and exclusive belong to a link of type vlan; remove them, or write type: vlan"),
    validation = Rule::new("self.type != 'vlan' || has(self.id)")
        .message("a link of type vlan needs id, its 802.1Q number"),
    validation = Rule::new("self.type != 'vlan' || !has(self.mode)")
        .message("mode belongs to a link of type macvlan; a vlan's macvlans are in mode bridge; remove it")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// `macvlan`: a macvlan on the parent for each pod. `vlan`: the same on VLAN `id` of the parent,
    /// or that VLAN device itself.
    #[serde(rename = "type")]
    pub kind: LinkType,
    /// The interface on the physical network, 1 to 15 characters.
    #[schemars(length(min = 1, max = 15))]
    pub parent: String,
    /// Macvlan mode between the links of one parent (macvlan only). Default: bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The 802.1Q number, 1 to 4094 (vlan only, required there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 4094").message("a VLAN id is 1 to 4094"))]
    pub id: Option<i32>,
    /// Gives a pod the VLAN device itself, one pod per node and ID (vlan only). Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    /// MTU in bytes, 68 to 65535, and at least 1280 with an IPv6 pool. Default: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 68 && self <= 65535").message("an MTU is 68 to 65535 bytes"))]
    pub mtu: Option<i32>,
}

/// The kinds of link.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LinkType {
    /// A macvlan for each pod.
    Macvlan,
    /// A VLAN, shared or exclusive.
    Vlan,
}

/// The modes of a macvlan (`ip-link(8)`).
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Macvlans of one parent reach each other.
    Bridge,
    /// They do not.
    Private,
    /// They do through the external switch only.
    Vepa,
    /// One macvlan uses the whole parent.
    Passthru,
}

/// A pool: the addresses of a subnet that pods may get.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    doc = "A pool: which addresses of a subnet may be given to pods.",
    derive = "PartialEq",
    shortname = "bpool",
    category = "berth",
    status = "IPPoolStatus",
    cel,
    printcolumn(name = "Segment", type_ = "string", json_path = ".spec.segment"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "Gateway", type_ = "string", json_path = ".spec.gateway"),
    printcolumn(name = "Disabled", type_ = "boolean", json_path = ".spec.disabled"),
    printcolumn(name = "Total", type_ = "integer", json_path = ".status.total"),
    printcolumn(name = "Bound", type_ = "integer", json_path = ".status.bound"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!isCIDR(self.subnet) || !has(self.gateway) || (isIP(self.gateway) && (cidr(self.subnet).containsIP(self.gateway) || (ip(self.gateway).family() == cidr(self.subnet).ip().family() && ((has(self.onlink) && self.onlink) || (ip(self.gateway).family() == 6 && ip(self.gateway).isLinkLocalUnicast())))))")
        .message(expression("'gateway ' + self.gateway + ' must be an address inside subnet ' + self.subnet + ', a link-local IPv6 address for an IPv6 subnet, or, with onlink: true, an address of the same family'")),
    validation = Rule::new("!isCIDR(self.subnet) || !has(self.ranges) || self.ranges.all(range, isCIDR(range) ? cidr(self.subnet).containsCIDR(range) : range.split('-').all(end, isIP(end) && cidr(self.subnet).containsIP(end)))")
        .message("ranges must be addresses, CIDRs or first-last (without blanks), all inside subnet"),
    validation = Rule::new("!isCIDR(self.subnet) || !has(self.exclude) || self.exclude.all(range, isCIDR(range) ? cidr(self.subnet).containsCIDR(range) : range.split('-').all(end, isIP(end) && cidr(self.subnet).containsIP(end)))")
        .message("exclude must be addresses, CIDRs or first-last (without blanks), all inside subnet"),
    validation = Rule::new("!isCIDR(self.subnet) || !has(self.routes) || self.routes.all(route, !has(route.via) || (isIP(route.via) && (cidr(self.subnet).containsIP(route.via) || (ip(route.via).family() == cidr(self.subnet).ip().family() && ((has(self.onlink) && self.onlink) || (ip(route.via).family() == 6 && ip(route.via).isLinkLocalUnicast()))))))")
        .message("via of a route must be an address inside subnet, a link-local IPv6 address for an IPv6 subnet, or, with onlink: true, an address of the same family"),
    validation = Rule::new("!isCIDR(self.subnet) || !has(self.routes) || self.routes.all(route, isCIDR(route.to) && cidr(route.to).ip().family() == cidr(self.subnet).ip().family())")
        .message("to of a route must be a CIDR of the subnet's family, as in 0.0.0.0/0 or ::/0"),
    validation = Rule::new("has(self.gateway) || !has(self.routes) || self.routes.all(route, has(route.via) || !isCIDR(route.to) || cidr(route.to).prefixLength() > 0)")
        .message("a default route needs via, or a gateway in its pool")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IPPoolSpec {
    /// The L2 domain in which its addresses are unique: a DNS label. It cannot be changed. Default:
    /// `default`.
    #[serde(default = "default_segment")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("segment cannot be changed, because the records of its addresses are named after it; make another pool"))]
    pub segment: String,
    /// The subnet in CIDR notation, without host bits: decides family and prefix length. It cannot be
    /// changed.
    #[schemars(length(min = 4, max = 49))]
    #[x_kube(
        validation = Rule::new("isCIDR(self)").message("subnet must be in CIDR notation, as in 192.0.2.0/24 or 2001:db8::/64"),
        validation = Rule::new("self == oldSelf").message("subnet cannot be changed; make another pool")
    )]
    pub subnet: String,
    /// Assignable addresses, ends included: `A-B`, a CIDR, or one address. Default: the whole subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 2, max = 91)))]
    pub ranges: Option<Vec<String>>,
    /// Excluded addresses, in the same notation. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), inner(length(min = 2, max = 91)))]
    pub exclude: Option<Vec<String>>,
    /// The router: in the subnet, link-local for an IPv6 subnet, or outside of it with `onlink`. It is never
    /// assigned to a pod, and adds no route by itself. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub gateway: Option<String>,
    /// Allows `gateway` and `via` of routes outside the subnet; such routes are created as on-link. Default:
    /// false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onlink: Option<bool>,
    /// Routes that a pod gets. Default: none but the subnet's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub routes: Option<Vec<Route>>,
    /// Refuses new leases; existing ones stay. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Labels that a pod's namespace must have for new leases (Kubernetes store only). Default: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<NamespaceSelector>,
    /// Addresses that are assigned to one workload only. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reservations: Option<Vec<Reservation>>,
}

/// A route that a pod gets.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Its destination in CIDR notation; `0.0.0.0/0` and `::/0` are the default routes.
    #[schemars(length(min = 4, max = 49))]
    pub to: String,
    /// The next hop: inside the subnet, link-local for an IPv6 subnet, or outside of it with `onlink`. Default: the pool's gateway; without one the destination is
    /// on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub via: Option<String>,
    /// Its metric, 1 to 2147483647; of two routes to one destination the lower one is used. Default: the kernel's own,
    /// or the next one above those of the pod's other interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 1").message("a metric is 1 to 2147483647"))]
    pub metric: Option<i32>,
}

/// A message of a rule that names the values.
fn expression(text: &str) -> Message {
    Message::Expression(text.to_owned())
}

/// A selector of namespaces by their labels; all parts must be met. An empty one selects every namespace.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Further label requirements, all of which must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub match_expressions: Option<Vec<LabelRequirement>>,
}

/// A requirement of a label.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0")
    .message("operators In and NotIn need values, Exists and DoesNotExist take none"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// The key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// The test of its value.
    pub operator: LabelOperator,
    /// Values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(max = 63)))]
    pub values: Option<Vec<String>>,
}

/// Tests of a label, as Kubernetes defines them.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Addresses that are assigned to one workload only: the pods of a namespace, one pod of it, or those of one
/// controller.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!has(self.podName) || !has(self.owner)")
    .message("a reservation is for podName or for owner, not for both"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// The addresses, in the notation of `ranges`; all of them are assignable in the pool.
    #[schemars(length(min = 1, max = 16), inner(length(min = 2, max = 91)))]
    pub addresses: Vec<String>,
    /// The namespace of the pods.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The name of the pod. Default: every pod of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub pod_name: Option<String>,
    /// The controller of the pods (Kubernetes store only). Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ReservationOwner>,
}

/// A controller of pods, as named in their `ownerReferences`.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReservationOwner {
    /// Its kind, as in `StatefulSet` or `VirtualMachineInstance`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the owner.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The segment of a pool that names none.
pub const DEFAULT_SEGMENT: &str = "default";

fn default_segment() -> String {
    DEFAULT_SEGMENT.to_owned()
}

/// The custom resource definitions as YAML documents, one per kind, for an API server.
pub fn crds() -> Result<Vec<String>, ApiError> {
    [UnderlayNetwork::crd(), IPPool::crd(), IPLease::crd()]
        .iter()
        .map(|crd| yaml_serde::to_string(crd).map_err(|cause| ApiError::WriteDefinition { cause }))
        .collect()
}

/// The same as one text, in the form of `deploy/crds.yaml`.
pub fn definitions() -> Result<String, ApiError> {
    let head = "# Generated by `cargo xtask crds` from the types in api/; do not edit.\n";
    Ok(crds()?.into_iter().fold(head.to_owned(), |text, crd| text + "---\n" + &crd))
}
