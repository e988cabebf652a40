//! Responses of the agent.

use std::net::IpAddr;

use berth_ipam::attachment::PodRef;
use berth_ipam::config::{MacvlanMode, Route};
use berth_ipam::identity::NetnsCookie;
use berth_ipam::mac::Mac;
use berth_ipam::name::{ContainerId, IfName, NetworkName, NodeName, PoolName, SegmentName};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// One response, tagged by its name: `{"ok": {"lease": {...}}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::large_enum_variant, reason = "one value at a time exists, on its way to or from the wire")]
pub enum Response {
    /// Response to `lease`.
    Lease(LeaseGrant),
    /// To bind, done, release and check: nothing to add.
    Done,
    /// Response to `status`.
    Status(Status),
    /// Response to `leases`.
    Leases(Vec<LeaseRow>),
    /// Response to `pools`.
    Pools(Vec<PoolRow>),
    /// Response to `explain`.
    Explain(Explanation),
    /// To events: one a line.
    Event(EventRow),
    /// To an administrator's release: what was done.
    Released {
        /// Text for the operator.
        summary: String,
    },
    /// To doctor and doctor underlay.
    Doctor(Diagnosis),
}

/// Parameters with which a plugin creates and configures the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseGrant {
    /// The link to make (role main).
    pub link: LinkPlan,
    /// MTU in bytes; absent: the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// One address of each family, with the subnet's prefix length.
    pub addresses: Vec<Granted>,
    /// Routes to add, in order.
    pub routes: Vec<Route>,
    /// True if router advertisements are accepted.
    #[serde(rename = "acceptRA")]
    pub accept_ra: bool,
    /// The link that an earlier ADD bound; absent: the plugin creates the link. With it, this ADD repeats the
    /// earlier one and leaves the link in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<BoundLink>,
}

/// The link of an attachment, in the pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoundLink {
    /// Index of the link.
    pub ifindex: u32,
    /// MAC address of the link.
    pub mac: Mac,
}

/// The link of role main.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum LinkPlan {
    /// A macvlan on `parent` (which may be a shared VLAN device that the agent has made).
    Macvlan {
        /// Its parent in the node's namespace.
        parent: IfName,
        /// Mode of the macvlan.
        mode: MacvlanMode,
    },
    /// The VLAN device itself.
    Vlan {
        /// Its parent in the node's namespace.
        parent: IfName,
        /// The 802.1Q id.
        id: u16,
    },
}

/// One address of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Granted {
    /// The address with its subnet's prefix length.
    pub address: IpNetwork,
    /// The subnet's router, if declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Reason why something was not done. The code is the CNI error code that the plugin passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// A CNI error code (docs/errors.md).
    pub code: u32,
    /// Description of the failure, with the offending key and value.
    pub msg: String,
    /// Advice for the operator.
    #[serde(default)]
    pub details: String,
}

/// The agent's readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// True if an ADD would be served.
    pub ready: bool,
    /// Lasting, node-local reasons why not.
    pub reasons: Vec<String>,
}

/// The state of an address that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Recorded for an ADD that is under way.
    Reserved,
    /// The address is in use.
    Bound,
    /// Evidence suggests that the attachment has ended.
    Suspect,
    /// Kept for the same pod's next sandbox.
    Held,
    /// Kept for an owner that is expected back.
    Retained,
    /// No holder, and not assignable: a station answers for the address.
    Quarantined,
}

/// One row of `leases`: one address. Holder fields are null without a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRow {
    /// Name of the `UnderlayNetwork`.
    pub network: Option<NetworkName>,
    /// The CNI network name.
    pub cni_network: Option<NetworkName>,
    /// Name of the pool.
    pub pool: Option<PoolName>,
    /// The L2 domain.
    pub segment: SegmentName,
    /// Without a prefix length.
    pub address: IpAddr,
    /// State of the address.
    pub state: LeaseState,
    /// Reason why it is in that state: a code of docs/verdicts.md.
    pub reason: String,
    /// Name of the node.
    pub node: Option<NodeName>,
    /// Value of `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: Option<ContainerId>,
    /// Value of `CNI_IFNAME`.
    pub ifname: Option<IfName>,
    /// The pod; null outside Kubernetes.
    pub pod: Option<PodRef>,
    /// The link's MAC, if known.
    pub mac: Option<Mac>,
    /// The namespace's cookie, a decimal string.
    pub netns_cookie: Option<NetnsCookie>,
    /// The namespace's number in the agent's namespace.
    pub nsid: Option<i32>,
    /// The link's index in the namespace, if known.
    pub ifindex: Option<u32>,
    /// Counts the holders of this address.
    pub generation: Option<u64>,
}

/// One row of `pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// Name of the pool.
    pub pool: PoolName,
    /// Its L2 domain.
    pub segment: SegmentName,
    /// Subnet of the pool.
    pub subnet: IpNetwork,
    /// Addresses in it, as a decimal string (a /64 does not fit into a JSON double).
    pub total: String,
    /// Of them reserved or bound.
    pub bound: u64,
    /// Of them suspect.
    pub suspect: u64,
    /// Of them held.
    pub held: u64,
    /// Of them retained.
    pub retained: u64,
    /// Of them quarantined.
    pub quarantined: u64,
    /// The rest, as a decimal string.
    pub free: String,
    /// ADDs waiting in line.
    pub waiting: u64,
}

/// The response to `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Address in question.
    pub address: IpAddr,
    /// Its row, or null if it is free.
    pub lease: Option<LeaseRow>,
    /// Milliseconds since it came to be so, by `CLOCK_BOOTTIME`; null if that was before this boot or never.
    pub since_ms: Option<u64>,
    /// The evidence that ends this state; null if it is free, held or reserved.
    #[serde(default)]
    pub ended_by: Option<String>,
    /// Advice for the operator if the state lasts; null: no action is needed.
    #[serde(default)]
    pub to_do: Option<String>,
    /// Stations that announced the address on the segments that an eBPF watcher covers; empty without a
    /// watcher.
    #[serde(default)]
    pub wires: Vec<WireRow>,
    /// Observations and verdicts on it, oldest first.
    pub history: Vec<EventRow>,
}

/// Observations of the eBPF watcher about an address on one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireRow {
    /// The interface in the node's namespace.
    pub parent: IfName,
    /// The VLAN on it; null: untagged.
    pub vlan: Option<u16>,
    /// Age in milliseconds of the last frame from outside that announced the address; null: none was seen.
    pub heard_in_ago_ms: Option<u64>,
    /// The same of frames from this node.
    pub heard_out_ago_ms: Option<u64>,
    /// Last station that announced it; for an address with a holder here, the last other station.
    pub speaker: Option<Mac>,
    /// Number of announcements seen.
    pub hits: u32,
    /// Number of announcements by a station other than the holder here.
    pub conflicts: u32,
}

/// One observation, verdict or action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow {
    /// Time in milliseconds of `CLOCK_BOOTTIME`.
    pub at_ms: u64,
    /// Age in milliseconds at the time of the response.
    pub ago_ms: u64,
    /// `observation`, `verdict`, `action` or `warning`.
    pub kind: EventKind,
    /// A stable code (docs/verdicts.md).
    pub code: String,
    /// The address, if it is about one.
    pub address: Option<IpAddr>,
    /// The segment of that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentName>,
    /// `network/containerID/ifname`, if it is about one.
    pub attachment: Option<String>,
    /// Text for the operator.
    pub text: String,
}

/// Subject of an [`EventRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A fact from a source.
    Observation,
    /// Verdict of the ledger.
    Verdict,
    /// An action that was carried out.
    Action,
    /// A condition that requires action.
    Warning,
}

/// The response to `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// True if no action is required.
    pub healthy: bool,
    /// List of the checks.
    pub checks: Vec<Finding>,
}

/// Result of one check of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable name of the check: `rung.netlink`, `capability.net_admin`, `store`.
    pub what: String,
    /// True if the check passed.
    pub ok: bool,
    /// True if a failure requires action (a refused optional attach mode does not).
    pub needs_a_hand: bool,
    /// Finding of the check, and advice.
    pub text: String,
}
