//! The serialized form of a lease. Only agents write it; the rules refuse mistakes of manual edits.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One address held by one attachment. Agents create and delete these objects; do not edit them.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "IPLease",
    plural = "ipleases",
    doc = "One address held by one attachment. Agents create and delete these objects; do not edit them.",
    derive = "PartialEq",
    shortname = "blease",
    category = "berth",
    selectable = ".spec.node",
    selectable = ".spec.pool",
    cel,
    validation = Rule::new("isIP(self.spec.address) && (ip(self.spec.address).family() == 4 ? self.metadata.name == self.spec.segment + '.' + self.spec.address : self.metadata.name.startsWith(self.spec.segment + '.') && size(self.metadata.name) == size(self.spec.segment) + 40 && isIP(self.metadata.name.substring(size(self.spec.segment) + 1).replace('-', ':')) && ip(self.metadata.name.substring(size(self.spec.segment) + 1).replace('-', ':')) == ip(self.spec.address))")
        .message("the name must be segment.address, an IPv6 address in it as 8 groups of 4 hexadecimal digits joined by '-': it is the lock on the address").field_path(".spec.address"),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Pod-Namespace", type_ = "string", json_path = ".spec.pod.namespace"),
    printcolumn(name = "Pod", type_ = "string", json_path = ".spec.pod.name"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IPLeaseSpec {
    /// The L2 domain in which the address is unique. It cannot be changed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("segment is a DNS label"),
        validation = Rule::new("self == oldSelf").message("segment cannot be changed: the lease is named after it")
    )]
    pub segment: String,
    /// The address, without a prefix length. It cannot be changed.
    #[schemars(length(min = 2, max = 45))]
    #[x_kube(
        validation = Rule::new("isIP(self)").message("address is an IP address without a prefix length"),
        validation = Rule::new("self == oldSelf").message("address cannot be changed: the lease is named after it")
    )]
    pub address: String,
    /// The `IPPool` it came from.
    #[schemars(length(min = 1, max = 253))]
    pub pool: String,
    /// The `UnderlayNetwork` of the attachment.
    #[schemars(length(min = 1, max = 253))]
    pub network: String,
    /// The container of the attachment (`CNI_CONTAINERID`).
    #[serde(rename = "containerID")]
    #[schemars(length(min = 1, max = 253))]
    pub container_id: String,
    /// The interface of the attachment (`CNI_IFNAME`).
    #[schemars(length(min = 1, max = 15))]
    pub ifname: String,
    /// The CNI network name of the runtime's call.
    #[schemars(length(min = 1, max = 253))]
    pub cni_network: String,
    /// The role in which the plugin was called.
    pub role: LeaseRole,
    /// The node of the attachment; absent: the address is retained for its owner, which is on no node. It
    /// changes only from or to absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("node cannot be changed from one to another: a record is written by the agent of its node; an address that shows no life on its node is freed there first"))]
    pub node: Option<String>,
    /// The boot of the node in which the lease was created.
    #[serde(rename = "bootID")]
    #[schemars(length(max = 64))]
    pub boot_id: String,
    /// The machine on which the lease was created.
    #[serde(rename = "machineID")]
    #[schemars(length(max = 64))]
    pub machine_id: String,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<LeasePod>,
    /// The network namespace of the attachment.
    pub netns: LeaseNetns,
    /// The ADD that made the lease.
    #[schemars(length(max = 64))]
    pub txn: String,
    /// The MAC of the link, if it was known when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 17, max = 17))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$')")
        .message("mac is six hexadecimal octets joined by colons, as in b2:00:5e:00:53:01"))]
    pub mac: Option<String>,
    /// Counts the leases of this address, as decimal text: one more for each new holder.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+$')").message("generation is a number in decimal digits"))]
    pub generation: String,
}

/// The roles of the plugin.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LeaseRole {
    /// Berth made the link.
    Main,
    /// A plugin before Berth in the list made it.
    Chained,
    /// The plugin that calls Berth for addresses creates it.
    Delegate,
}

/// The pod that an attachment serves.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeasePod {
    /// Namespace of the pod.
    #[schemars(length(max = 253))]
    pub namespace: String,
    /// Name of the pod.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of the pod as reported by the runtime: the hash of its configuration for a static pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub uid: Option<String>,
}

/// A network namespace, as the plugin reported it in its request.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseNetns {
    /// Its cookie, as decimal text: its identity within the boot.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+$')").message("cookie is a number in decimal digits"))]
    pub cookie: String,
    /// The inode of its file, as decimal text. Used again after its end: for people only.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+$')").message("inode is a number in decimal digits"))]
    pub inode: String,
    /// Its number in the node's namespace.
    pub nsid: i32,
    /// True if that number was drawn at random for it.
    pub nsid_is_random: bool,
    /// The cookie of the agent's own namespace, in which the nsid was read, as decimal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]+$')").message("agentCookie is a number in decimal digits"))]
    pub agent_cookie: Option<String>,
}
