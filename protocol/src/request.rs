//! Requests of the plugin and of the operator to the agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::identity::{NetnsIdentity, TxnId};
use berth_ipam::mac::Mac;
use berth_ipam::name::{ContainerId, IfName, NetworkName, SegmentName};
use serde::{Deserialize, Serialize};

/// One request, tagged by its name: `{"lease": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// ADD, first step: record addresses for an attachment.
    Lease(Lease),
    /// ADD, second step: the link exists (and is down, in role main).
    Bind(Bind),
    /// ADD, last step: the interface is up and configured. Closes the transaction.
    Done(Done),
    /// DEL: the attachment is over.
    Release(Release),
    /// CHECK: does the reservation still belong to the attachment?
    Check(Check),
    /// GC: every attachment of one CNI network that is missing from the runtime's list is reconciled at once.
    Gc(Gc),
    /// STATUS: can the agent serve an ADD?
    Status {
        /// The network that an ADD would be for; absent: all of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// Every lease that is not free.
    Leases,
    /// Every pool with its counts.
    Pools,
    /// The history of one address.
    Explain {
        /// Address in question.
        address: IpAddr,
        /// Its segment; absent: the only one in which it is in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        segment: Option<SegmentName>,
    },
    /// Stream of future events, one [`crate::response::EventRow`] per response, until the client disconnects.
    Events {
        /// Continue after the recent past; otherwise `done` follows its last event.
        follow: bool,
    },
    /// An operator frees an address.
    AdminRelease {
        /// Address in question.
        address: IpAddr,
        /// Its segment; absent: the only one in which it is in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        segment: Option<SegmentName>,
        /// Free it in spite of evidence of life; it is quarantined first.
        force: bool,
    },
    /// The agent's health.
    Doctor,
    /// A temporary macvlan with a new MAC probes the gateway: shows port security.
    DoctorUnderlay {
        /// The parent interface.
        parent: IfName,
    },
}

/// ADD, first step. A repetition with the same transaction has the same response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lease {
    /// Names this ADD; the same in its bind and done.
    pub txn: TxnId,
    /// Key of the attachment.
    pub attachment: AttachmentKey,
    /// The CNI network name of the runtime's call.
    pub cni_network: NetworkName,
    /// The role of the plugin.
    pub role: Role,
    /// The pod's namespace.
    pub netns: NetnsIdentity,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Addresses requested by name (`runtimeConfig.ips` and its older channels); empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// True if the interface already has exactly these addresses, from another IPAM, to be tracked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopt: bool,
    /// A MAC that the runtime or a main plugin decided; absent: derived from the attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The pod's `berth.dev/...` annotations; absent if the runtime passes no annotations to the plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Time limit for a free address, in milliseconds; absent: the network's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_timeout_ms: Option<u64>,
}

/// ADD, second step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bind {
    /// The transaction of the lease.
    pub txn: TxnId,
    /// Key of the attachment.
    pub attachment: AttachmentKey,
    /// The link's index in the pod's namespace.
    pub ifindex: u32,
    /// The link's MAC, read back.
    pub mac: Mac,
}

/// ADD, last step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Done {
    /// The transaction of the lease.
    pub txn: TxnId,
    /// Key of the attachment.
    pub attachment: AttachmentKey,
}

/// Request of a DEL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Key of the attachment.
    pub attachment: AttachmentKey,
    /// The CNI network name.
    pub cni_network: NetworkName,
    /// The role of the plugin.
    pub role: Role,
    /// Change that the plugin made to the link before this request.
    pub link: LinkRemoval,
    /// An ADD that the plugin itself undoes; absent in a DEL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<TxnId>,
}

/// State of the link that the plugin reports with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LinkRemoval {
    /// The plugin removed the link (main) or its addresses (chained), or found none.
    Gone,
    /// The plugin had no namespace to look into: the agent must see to it.
    Unreachable,
    /// The plugin is a delegate: another plugin removes the link, perhaps later.
    NotMine,
}

/// Request of a GC. It frees nothing by itself: a live attachment is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gc {
    /// The CNI network name of the runtime's call; other networks are not affected.
    pub cni_network: NetworkName,
    /// Attachments that the runtime still has.
    pub valid: Vec<Valid>,
}

/// An attachment that the runtime still has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Valid {
    /// ID of the container.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// Name of the interface.
    pub ifname: IfName,
}

/// Request of a CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// Key of the attachment.
    pub attachment: AttachmentKey,
}
