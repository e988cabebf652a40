//! The result of ADD, of any version.
//!
//! Held as the JSON object that arrived, in the shape of 1.0.0 and later: lists of interfaces,
//! addresses and routes. What Berth adds is appended, nothing is reordered, because an address
//! refers to its interface by position. Typed views are read from the object on demand.

use std::net::IpAddr;

use berth_ipam::mac::Mac;
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::result_convert::{downgrade, upgrade};
use crate::version::Version;

/// A result of this plugin, or of an earlier one in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct CniResult {
    /// In the shape of 1.0.0, without `cniVersion`.
    body: Map<String, Value>,
    /// The version that the content came in.
    origin: Version,
}

/// One entry of `interfaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// MAC of the interface, if the entry has an Ethernet address.
    pub mac: Option<Mac>,
    /// The path of its namespace; absent or empty for one of the node's.
    pub sandbox: Option<String>,
}

/// One entry of `ips`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// The router of its subnet.
    pub gateway: Option<IpAddr>,
    /// The position in `interfaces` of the interface that has it.
    pub interface: Option<usize>,
}

/// One entry of `routes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination of the route.
    pub to: IpNetwork,
    /// The next hop.
    pub via: Option<IpAddr>,
    /// The metric; `None`: the kernel's own.
    pub priority: Option<u32>,
}

impl CniResult {
    /// An empty result.
    pub fn new() -> Self {
        Self { body: Map::new(), origin: Version::LATEST }
    }

    /// Parses a result. `key` is the place where it was found, for messages. A result without a version has
    /// version `default`.
    pub fn parse(key: &str, value: &Value, default: Version) -> Result<Self, Error> {
        let object = value.as_object().ok_or_else(|| Error::field(key, value, "a result object"))?;
        let origin = match object.get("cniVersion") {
            None => default,
            Some(_) => Version::of(object)?,
        };
        let mut body = object.clone();
        body.shift_remove("cniVersion");
        let result = Self { body: upgrade(key, body, origin)?, origin };
        for list in ["interfaces", "ips", "routes"] {
            result.checked_list(key, list)?;
        }
        let interfaces = result.list("interfaces").count();
        let known = |entry: &Value| ip(entry)?.interface.is_none_or(|at| at < interfaces).then_some(());
        result.check_each(key, "interfaces", "an object with a name, all in strings", interface)?;
        result.check_each(key, "ips", "an object with an address such as 192.0.2.7/24", ip)?;
        result.check_each(key, "ips", "of an interface that is in the list", known)?;
        result.check_each(key, "routes", "an object with a dst such as 192.0.2.0/24", route)?;
        Ok(result)
    }

    /// An error that names the first entry of a list that cannot be read.
    fn check_each<T>(
        &self,
        key: &str,
        list: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<(), Error> {
        match self.list(list).enumerate().find(|(_, entry)| read(entry).is_none()) {
            None => Ok(()),
            Some((index, entry)) => Err(Error::field(format!("{key}.{list}[{index}]"), entry, expected)),
        }
    }

    fn checked_list(&self, key: &str, list: &str) -> Result<(), Error> {
        match self.body.get(list) {
            None | Some(Value::Null | Value::Array(_)) => Ok(()),
            Some(other) => Err(Error::field(format!("{key}.{list}"), other, "a list")),
        }
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.body.get(key).and_then(Value::as_array).into_iter().flatten()
    }

    fn push(&mut self, key: &str, value: Value) -> usize {
        let slot = self.body.entry(key).or_insert(Value::Null);
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let list = slot.as_array_mut();
        let position = list.as_ref().map_or(0, |list| list.len());
        if let Some(list) = list {
            list.push(value);
        }
        position
    }

    /// The interfaces, in order.
    pub fn interfaces(&self) -> Vec<Interface> {
        self.list("interfaces").filter_map(interface).collect()
    }

    /// Position of the interface with this name inside a container.
    pub fn container_interface(&self, name: &str) -> Option<usize> {
        self.interfaces().iter().position(|entry| entry.name == name && entry.sandbox.is_some())
    }

    /// The addresses, in order.
    pub fn ips(&self) -> Vec<Ip> {
        self.list("ips").filter_map(ip).collect()
    }

    /// The addresses of the interface at `position`, and those that name no interface at all.
    pub fn ips_of(&self, position: Option<usize>) -> Vec<Ip> {
        self.ips().into_iter().filter(|ip| ip.interface.is_none() || ip.interface == position).collect()
    }

    /// The routes, in order.
    pub fn routes(&self) -> Vec<Route> {
        self.list("routes").filter_map(route).collect()
    }

    /// Appends an interface that is inside the container; returns its position.
    pub fn push_interface(&mut self, name: &str, mac: Mac, sandbox: &str) -> usize {
        self.push("interfaces", json!({"name": name, "mac": mac.to_string(), "sandbox": sandbox}))
    }

    /// Appends an address.
    pub fn push_ip(&mut self, ip: &Ip) {
        let mut entry = json!({"address": ip.address.to_string()});
        if let Some(gateway) = ip.gateway {
            entry["gateway"] = Value::String(gateway.to_string());
        }
        if let Some(interface) = ip.interface {
            entry["interface"] = Value::from(interface);
        }
        self.push("ips", entry);
    }

    /// Assigns all addresses without an interface to the one at `position`.
    pub fn place_ips(&mut self, position: usize) {
        let list = self.body.get_mut("ips").and_then(Value::as_array_mut);
        for entry in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            if entry.get("interface").and_then(Value::as_u64).is_none() {
                entry.insert("interface".to_owned(), Value::from(position));
            }
        }
    }

    /// Appends a route.
    pub fn push_route(&mut self, route: &Route) {
        let mut entry = json!({"dst": route.to.to_string()});
        if let Some(gateway) = route.via {
            entry["gw"] = Value::String(gateway.to_string());
        }
        if let Some(priority) = route.priority {
            entry["priority"] = Value::from(priority);
        }
        self.push("routes", entry);
    }

    /// Sets the metric of the route at `position`.
    pub fn set_priority(&mut self, position: usize, priority: u32) {
        let list = self.body.get_mut("routes").and_then(Value::as_array_mut);
        let entry = list.and_then(|list| list.get_mut(position)).and_then(Value::as_object_mut);
        if let Some(entry) = entry {
            entry.insert("priority".to_owned(), Value::from(priority));
            // The field is new in 1.1.0; it is hidden from older readers.
            self.origin = self.origin.max(Version::V1_1_0);
        }
    }

    /// Sets `dns` unless an earlier plugin of the chain did. An empty object counts as absent.
    pub fn set_dns_if_absent(&mut self, dns: Value) {
        let slot = self.body.entry("dns").or_insert(Value::Null);
        if slot.is_null() || slot.as_object().is_some_and(Map::is_empty) {
            *slot = dns;
        }
    }

    /// The result in the printed form of `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), Value::String(version.as_str().to_owned()));
        object.extend(downgrade(self.body.clone(), self.origin, version));
        Value::Object(object)
    }
}

impl Default for CniResult {
    fn default() -> Self {
        Self::new()
    }
}

/// An optional text, empty if it is absent; `None` if it is not text.
fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    match entry.get(key) {
        None | Some(Value::Null) => Some(""),
        Some(value) => value.as_str(),
    }
}

fn interface(entry: &Value) -> Option<Interface> {
    Some(Interface {
        name: entry.get("name")?.as_str()?.to_owned(),
        // Not every link has a MAC of six octets.
        mac: text(entry, "mac")?.parse().ok(),
        sandbox: Some(text(entry, "sandbox")?).filter(|path| !path.is_empty()).map(str::to_owned),
    })
}

fn ip(entry: &Value) -> Option<Ip> {
    let address = entry.get("address")?.as_str().filter(|text| text.contains('/'))?.parse().ok()?;
    let gateway = Some(text(entry, "gateway")?).filter(|text| !text.is_empty());
    let gateway = gateway.map(str::parse).transpose().ok()?;
    let interface = match entry.get("interface") {
        None | Some(Value::Null) => None,
        // Some plugins encode "no interface" as a negative position.
        Some(position) => usize::try_from(position.as_i64()?).ok(),
    };
    Some(Ip { address, gateway, interface })
}

fn route(entry: &Value) -> Option<Route> {
    let to = entry.get("dst")?.as_str().filter(|text| text.contains('/'))?.parse().ok()?;
    let gateway = Some(text(entry, "gw")?).filter(|text| !text.is_empty());
    // A priority that is not a number is ignored, like an unknown field.
    let priority =
        entry.get("priority").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    Some(Route { to, via: gateway.map(str::parse).transpose().ok()?, priority })
}
