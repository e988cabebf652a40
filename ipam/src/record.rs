//! The record of one address: what the store holds, and its name there.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::attachment::{AttachmentKey, PodRef, Role};
use crate::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, TxnId};
use crate::mac::Mac;
use crate::name::{NetworkName, NodeName, PoolName, SegmentName};

/// An address in its segment: what a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressKey {
    /// The L2 domain.
    pub segment: SegmentName,
    /// The address, without a prefix length.
    pub address: IpAddr,
}

impl AddressKey {
    /// The record's name: `<segment>.<address>`, an IPv6 address as 8 groups of 4 hex digits
    /// joined by `-`. The name is only a lock; [`LeaseRecord::address`] is the truth.
    pub fn record_name(&self) -> String {
        let mut name = format!("{}.", self.segment);
        match self.address {
            IpAddr::V4(v4) => {
                let _ = write!(name, "{v4}");
            }
            IpAddr::V6(v6) => {
                for (index, group) in v6.segments().iter().enumerate() {
                    let joint = if index == 0 { "" } else { "-" };
                    let _ = write!(name, "{joint}{group:04x}");
                }
            }
        }
        name
    }
}

/// One address held by one attachment: complete from its creation on, so that one write makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRecord {
    /// The L2 domain in which the address is unique.
    pub segment: SegmentName,
    /// Address of the lease.
    pub address: IpAddr,
    /// The pool it came from.
    pub pool: PoolName,
    /// Attachment that holds it.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The CNI network name under which the runtime asked.
    pub cni_network: NetworkName,
    /// The role in which the plugin was called.
    pub role: Role,
    /// The node of the attachment.
    pub node: NodeName,
    /// The boot in which the record was made.
    pub boot_id: BootId,
    /// The machine on which it was made.
    pub machine_id: MachineId,
    /// The pod, if the runtime named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The namespace of the attachment.
    pub netns: NetnsIdentity,
    /// The agent's own namespace, in which the number of that one was learnt; absent in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<NetnsCookie>,
    /// The ADD that made it.
    pub txn: TxnId,
    /// The MAC, if it was known by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Counts the leases of this address: one more for each new holder (against ABA, trap T7).
    pub generation: u64,
}

impl LeaseRecord {
    /// Key of the record.
    pub fn address_key(&self) -> AddressKey {
        AddressKey { segment: self.segment.clone(), address: self.address }
    }

    /// True if a store's record is this one. Its MAC may have been learnt later, and older versions wrote no
    /// place.
    pub fn is_kept_in(&self, found: &Self) -> bool {
        Self { mac: found.mac, place: found.place.and(self.place), ..self.clone() } == *found
    }
}

/// Version of a record in a store. Both parts are opaque: compare them, never order them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Version {
    /// Names the record from its creation to its deletion; a record that is made again has another.
    pub uid: String,
    /// Changes with each write.
    pub resource_version: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} at {}", self.uid, self.resource_version)
    }
}

/// A record and the version in which a store had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Versioned {
    /// Version of the record.
    pub version: Version,
    /// Record of the lease.
    pub record: LeaseRecord,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_kubernetes_names() {
        let key = |address: &str| AddressKey {
            segment: "default".parse().unwrap(),
            address: address.parse().unwrap(),
        };
        assert_eq!(key("10.0.0.7").record_name(), "default.10.0.0.7");
        assert_eq!(key("2001:db8::7").record_name(), "default.2001-0db8-0000-0000-0000-0000-0000-0007");
    }
}
