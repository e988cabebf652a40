//! Leases in the API server's format. Unused metadata, `managedFields` above all, is dropped while parsing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use berth_api::{ApiError, lease};
use berth_ipam::record::{AddressKey, Version, Versioned};
use serde::Deserialize;
use serde_json::value::RawValue;

/// An object, or another JSON value in the place of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    pub metadata: Metadata,
    /// The raw text: it is parsed once, into a record.
    pub spec: Option<Box<RawValue>>,
    /// Of a `Status`.
    pub code: u16,
    /// Of a `Status`.
    pub message: String,
}

/// Of an object or a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub finalizers: Vec<String>,
    pub deletion_timestamp: Option<String>,
    #[serde(rename = "continue")]
    pub more: String,
}

/// A page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Page {
    pub metadata: Metadata,
    pub items: Vec<Object>,
}

/// A stored object that this agent cannot read: created manually, or by a newer Berth. The address that its
/// name locks counts as taken.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// Name of the object.
    pub object: String,
    /// Address that the name locks; `None` if it locks none.
    pub key: Option<AddressKey>,
    /// Version of the object.
    pub version: Version,
    /// Description of the fault, and advice.
    pub cause: Arc<ApiError>,
}

impl Object {
    pub fn version(&self) -> Version {
        let Metadata { uid, resource_version, .. } = &self.metadata;
        Version { uid: uid.clone(), resource_version: resource_version.clone() }
    }

    /// The record in it.
    pub fn read(self) -> Result<Versioned, Box<Unreadable>> {
        let version = self.version();
        let name = self.metadata.name;
        match lease::read(&name, self.spec.as_deref().map_or("null", RawValue::get)) {
            Ok(record) => Ok(Versioned { version, record }),
            Err(cause) => {
                let key = key_of(&name);
                Err(Box::new(Unreadable { object: name, key, version, cause: Arc::new(cause) }))
            }
        }
    }
}

/// The address of the record named `name`: the inverse of [`AddressKey::record_name`].
pub fn key_of(name: &str) -> Option<AddressKey> {
    let (segment, address) = name.split_once('.')?;
    let address = match address.parse::<Ipv4Addr>() {
        Ok(v4) => IpAddr::V4(v4),
        Err(_) => IpAddr::V6(address.replace('-', ":").parse::<Ipv6Addr>().ok()?),
    };
    let key = AddressKey { segment: segment.parse().ok()?, address };
    (key.record_name() == name).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_addresses() {
        for (segment, address) in [("default", "10.0.0.7"), ("a-1", "2001:db8::7"), ("x", "::ffff:10.0.0.7")]
        {
            let key = AddressKey { segment: segment.parse().unwrap(), address: address.parse().unwrap() };
            assert_eq!(key_of(&key.record_name()), Some(key));
        }
        for name in
            ["", "default", "10.0.0.7", "default.2001-db8--7", "default.10.0.0.07", "A.10.0.0.7", "a.b"]
        {
            assert_eq!(key_of(name), None, "{name}");
        }
    }
}
