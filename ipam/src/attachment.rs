//! An attachment: one interface that one container has on one network.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{ContainerId, IfName, NetworkName};

/// The primary key that the CNI specification recommends: network, container id, interface name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentKey {
    /// Name of the `UnderlayNetwork`.
    pub network: NetworkName,
    /// Container id, from `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// Interface name, from `CNI_IFNAME`.
    pub ifname: IfName,
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container_id, self.ifname)
    }
}

/// The role in which the plugin was called (DESIGN section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// First in the list: Berth makes the link.
    Main,
    /// After a main plugin: Berth addresses that plugin's link.
    Chained,
    /// `ipam.type`: Berth returns addresses only; another plugin makes the link.
    Delegate,
}

/// The pod that an attachment serves, where the runtime named one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodRef {
    /// Namespace, from `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// Pod name, from `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; older runtimes omit it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}
