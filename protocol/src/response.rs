//! What the agent answers.

use std::net::IpAddr;

use berth_ipam::attachment::PodRef;
use berth_ipam::config::{MacvlanMode, Route};
use berth_ipam::identity::NetnsCookie;
use berth_ipam::mac::Mac;
use berth_ipam::name::{ContainerId, IfName, NetworkName, NodeName, PoolName, SegmentName};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// One answer, tagged by its name: `{"ok": {"lease": {...}}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::large_enum_variant, reason = "one value at a time exists, on its way to or from the wire")]
pub enum Response {
    /// To lease.
    Lease(LeaseGrant),
    /// To bind, done, release and check: nothing to add.
    Done,
    /// To status.
    Status(Status),
    /// To leases.
    Leases(Vec<LeaseRow>),
    /// To pools.
    Pools(Vec<PoolRow>),
    /// To explain.
    Explain(Explanation),
    /// To events: one a line.
    Event(EventRow),
    /// To an administrator's release: what was done.
    Released {
        /// In words.
        summary: String,
    },
    /// To doctor and doctor underlay.
    Doctor(Diagnosis),
}

/// What a plugin needs to make and configure the interface.
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
    /// Whether router advertisements are accepted.
    #[serde(rename = "acceptRA")]
    pub accept_ra: bool,
    /// The link that an ADD before this one bound; absent: the link is to be made. This ADD repeats that
    /// one, and leaves the link where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<BoundLink>,
}

/// The link of an attachment, in the pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoundLink {
    /// Its index.
    pub ifindex: u32,
    /// Its MAC.
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
        /// Its mode.
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

/// Why something was not done. The code is the CNI error code that the plugin passes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// A CNI error code (docs/errors.md).
    pub code: u32,
    /// What went wrong, with the offending key and value.
    pub msg: String,
    /// What to do about it.
    #[serde(default)]
    pub details: String,
}

/// The agent's readiness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether an ADD would be served.
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
    /// In use.
    Bound,
    /// Evidence says that it may be over.
    Suspect,
    /// Kept for the same pod's next sandbox.
    Held,
    /// Kept for an owner that is expected back.
    Retained,
    /// Nobody's, but not to be given: something answers for it.
    Quarantined,
}

/// One row of `leases`: one address. Holder fields are null where there is no holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRow {
    /// The `UnderlayNetwork`.
    pub network: Option<NetworkName>,
    /// The CNI network name.
    pub cni_network: Option<NetworkName>,
    /// The pool.
    pub pool: Option<PoolName>,
    /// The L2 domain.
    pub segment: SegmentName,
    /// Without a prefix length.
    pub address: IpAddr,
    /// Its state.
    pub state: LeaseState,
    /// Why it is in that state: a code of docs/verdicts.md.
    pub reason: String,
    /// The node.
    pub node: Option<NodeName>,
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: Option<ContainerId>,
    /// `CNI_IFNAME`.
    pub ifname: Option<IfName>,
    /// The pod; null outside Kubernetes.
    pub pod: Option<PodRef>,
    /// The link's MAC, once known.
    pub mac: Option<Mac>,
    /// The namespace's cookie, a decimal string.
    pub netns_cookie: Option<NetnsCookie>,
    /// The namespace's number in the agent's namespace.
    pub nsid: Option<i32>,
    /// The link's index in the namespace, once known.
    pub ifindex: Option<u32>,
    /// Counts the holders of this address.
    pub generation: Option<u64>,
}

/// One row of `pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// The pool.
    pub pool: PoolName,
    /// Its L2 domain.
    pub segment: SegmentName,
    /// Its subnet.
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

/// The answer to `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The address.
    pub address: IpAddr,
    /// Its row, or null if it is free.
    pub lease: Option<LeaseRow>,
    /// Milliseconds since it came to be so, by `CLOCK_BOOTTIME`; null if that was before this boot or never.
    pub since_ms: Option<u64>,
    /// The evidence that ends this state; null if it is free, held or reserved.
    #[serde(default)]
    pub ended_by: Option<String>,
    /// What an operator can do where the state lasts; null: nothing.
    #[serde(default)]
    pub to_do: Option<String>,
    /// Who spoke for it on the wires that the watcher in the kernel sits on; empty where none does.
    #[serde(default)]
    pub wires: Vec<WireRow>,
    /// Observations and verdicts on it, oldest first.
    pub history: Vec<EventRow>,
}

/// What the watcher knows of an address on one wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireRow {
    /// The interface in the node's namespace.
    pub parent: IfName,
    /// The VLAN on it; null: untagged.
    pub vlan: Option<u16>,
    /// How long ago a frame from outside last spoke for the address, in milliseconds; null: none did.
    pub heard_in_ago_ms: Option<u64>,
    /// The same of frames from this node.
    pub heard_out_ago_ms: Option<u64>,
    /// Who spoke last; of an address with a holder here, who else did.
    pub speaker: Option<Mac>,
    /// How often it was spoken for.
    pub hits: u32,
    /// How often by somebody else than its holder here.
    pub conflicts: u32,
}

/// One observation, verdict or action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow {
    /// When, in milliseconds of `CLOCK_BOOTTIME`.
    pub at_ms: u64,
    /// How long ago when the answer was made, in milliseconds.
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
    /// In words.
    pub text: String,
}

/// What an [`EventRow`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A fact from a source.
    Observation,
    /// What the ledger made of the facts.
    Verdict,
    /// What was carried out.
    Action,
    /// Something needs a hand.
    Warning,
}

/// The answer to `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Whether nothing needs a hand.
    pub healthy: bool,
    /// What was looked at.
    pub checks: Vec<Finding>,
}

/// One thing that `doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What, as a short stable name: `rung.netlink`, `capability.net_admin`, `store`.
    pub what: String,
    /// Whether it is well.
    pub ok: bool,
    /// Whether its being unwell needs a hand (a refused optional rung does not).
    pub needs_a_hand: bool,
    /// What was found, and what to do about it.
    pub text: String,
}
