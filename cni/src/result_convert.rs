//! Conversion of results between versions: upgrade when parsed, downgrade when printed.
//!
//! Three shapes exist: `ip4` and `ip6` (to 0.2.0), lists with the family in each address (0.3.0 to 0.4.0),
//! lists without it (from 1.0.0). 1.1.0 added optional fields, which are removed for an older reader if they
//! come from a newer plugin. Fields of the same name in an older result are private extensions and stay.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::version::Version;

/// Fields of an interface that are new in 1.1.0.
const INTERFACE_1_1: [&str; 3] = ["mtu", "socketPath", "pciID"];

/// Fields of a route that are new in 1.1.0.
const ROUTE_1_1: [&str; 5] = ["mtu", "advmss", "priority", "table", "scope"];

/// Brings a result of version `from` into the shape of 1.0.0.
pub(crate) fn upgrade(
    key: &str,
    mut body: Map<String, Value>,
    from: Version,
) -> Result<Map<String, Value>, Error> {
    if from.has_address_family() {
        for entry in entries(&mut body, "ips") {
            entry.shift_remove("version");
        }
    }
    if from.has_ip4_ip6() {
        let (mut ips, mut routes) = (Vec::new(), Vec::new());
        // Without meaning where they come from; here they would have one.
        for list in ["interfaces", "ips", "routes"] {
            body.shift_remove(list);
        }
        for family in ["ip4", "ip6"] {
            let Some(value) = body.shift_remove(family).filter(|value| !value.is_null()) else { continue };
            let path = format!("{key}.{family}");
            let Value::Object(mut entry) = value else {
                return Err(Error::field(path, &value, "an object with an ip"));
            };
            match entry.shift_remove("routes") {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) => routes.extend(list),
                Some(other) => return Err(Error::field(format!("{path}.routes"), &other, "a list")),
            }
            let Some(address) = entry.shift_remove("ip") else {
                return Err(Error::field(path, &Value::Object(entry), "an object with an ip"));
            };
            for key in ["address", "interface"] {
                entry.shift_remove(key);
            }
            let mut moved = Map::from_iter([("address".to_owned(), address)]);
            moved.extend(entry);
            ips.push(Value::Object(moved));
        }
        for (list, content) in [("ips", ips), ("routes", routes)] {
            if !content.is_empty() {
                body.insert(list.to_owned(), Value::Array(content));
            }
        }
    }
    Ok(body)
}

/// Converts a result in the shape of 1.0.0, with content of version `from`, to that of `to`.
pub(crate) fn downgrade(mut body: Map<String, Value>, from: Version, to: Version) -> Map<String, Value> {
    if from >= Version::V1_1_0 && to < Version::V1_1_0 {
        for (list, fields) in [("interfaces", &INTERFACE_1_1[..]), ("routes", &ROUTE_1_1[..])] {
            for entry in entries(&mut body, list) {
                for field in fields {
                    entry.shift_remove(*field);
                }
            }
        }
    }
    if to.has_address_family() {
        for entry in entries(&mut body, "ips") {
            let version = if is_v6(entry.get("address")) { "6" } else { "4" };
            // From 1.0.0 on an address has no version field: a field of that name is a private extension.
            entry.shift_remove("version");
            let mut labelled = Map::from_iter([("version".to_owned(), Value::from(version))]);
            labelled.append(entry);
            *entry = labelled;
        }
    }
    if !to.has_ip4_ip6() {
        return body;
    }
    if !from.has_ip4_ip6() {
        // Without meaning where they come from, and so unchecked; here they would be addresses.
        for family in ["ip4", "ip6"] {
            body.shift_remove(family);
        }
    }
    into_ip4_ip6(body)
}

/// These versions hold one address of each family and no interfaces: the first of each is kept.
fn into_ip4_ip6(mut body: Map<String, Value>) -> Map<String, Value> {
    body.shift_remove("interfaces");
    let ips = take_list(&mut body, "ips");
    let routes = take_list(&mut body, "routes");
    for (family, wants_v6) in [("ip4", false), ("ip6", true)] {
        let first = ips.iter().filter_map(Value::as_object).find(|ip| is_v6(ip.get("address")) == wants_v6);
        let Some(mut entry) = first.cloned() else { continue };
        for key in ["interface", "ip", "routes"] {
            entry.shift_remove(key);
        }
        let address = entry.shift_remove("address").unwrap_or_default();
        let mut moved = Map::from_iter([("ip".to_owned(), address)]);
        moved.append(&mut entry);
        let of_family = |route: &&Value| is_v6(route.get("dst")) == wants_v6;
        let routes: Vec<_> = routes.iter().filter(of_family).cloned().collect();
        if !routes.is_empty() {
            moved.insert("routes".to_owned(), Value::Array(routes));
        }
        body.insert(family.to_owned(), Value::Object(moved));
    }
    body
}

fn take_list(body: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match body.shift_remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn entries<'a>(
    body: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    body.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn is_v6(value: Option<&Value>) -> bool {
    let parsed: Option<IpNetwork> = value.and_then(Value::as_str).and_then(|text| text.parse().ok());
    parsed.is_some_and(|network| network.is_ipv6())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::result::{CniResult, Ip, Route};

    fn own() -> CniResult {
        let mut result = CniResult::new();
        let position = result.push_interface("eth0", "b2:00:00:00:00:01".parse().unwrap(), "/run/netns/a");
        for (address, gateway) in [("10.0.0.7/24", Some("10.0.0.1")), ("2001:db8::7/64", None)] {
            let gateway = gateway.map(|text: &str| text.parse().unwrap());
            result.push_ip(&Ip { address: address.parse().unwrap(), gateway, interface: Some(position) });
        }
        for (to, via) in [("0.0.0.0/0", "10.0.0.1"), ("::/0", "2001:db8::1")] {
            let (to, via) = (to.parse().unwrap(), via.parse().ok());
            result.push_route(&Route { to, via, priority: None });
        }
        result
    }

    #[test]
    fn v2_an_own_result_fits_each_version() {
        for version in [Version::V0_1_0, Version::V0_2_0] {
            assert_eq!(
                own().to_json(version),
                json!({
                    "cniVersion": version.as_str(),
                    "ip4": {"ip": "10.0.0.7/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}]},
                    "ip6": {"ip": "2001:db8::7/64", "routes": [{"dst": "::/0", "gw": "2001:db8::1"}]},
                })
            );
        }
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let printed = own().to_json(version);
            assert_eq!(printed["ips"][0]["version"], "4");
            assert_eq!(printed["ips"][1]["version"], "6");
        }
        for version in [Version::V1_0_0, Version::V1_1_0] {
            let printed = own().to_json(version);
            assert_eq!(
                printed["ips"][0],
                json!({"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 0})
            );
            assert_eq!(printed["cniVersion"], version.as_str());
        }
    }

    #[test]
    fn a3_a_result_of_the_same_version_passes_unchanged() {
        let samples = [
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.7/24", "gateway": "10.0.0.1", "x": 1,
                "routes": [{"dst": "0.0.0.0/0", "y": 2}]}, "dns": {"search": ["a"]}, "invented": [1]}),
            json!({"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "/n", "mtu": 9, "q": 1}],
                "ips": [{"version": "4", "address": "10.0.0.7/24", "interface": 0, "z": {}}],
                "routes": [{"dst": "0.0.0.0/0", "table": 5}], "dns": {}}),
            json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n",
                "mtu": 1400, "socketPath": "/s", "pciID": "0", "new": true}],
                "ips": [{"address": "10.0.0.7/24", "interface": 0}],
                "routes": [{"dst": "0.0.0.0/0", "mtu": 1, "advmss": 2, "priority": 3, "table": 4, "scope": 5, "w": 6}],
                "dns": {"nameservers": ["10.0.0.1"]}, "invented": {"a": null}}),
        ];
        for sample in samples {
            let version: Version = sample["cniVersion"].as_str().unwrap().parse().unwrap();
            let parsed = CniResult::parse("prevResult", &sample, Version::LATEST).unwrap();
            assert_eq!(parsed.to_json(version), sample);
        }
    }

    #[test]
    fn v2_fields_of_1_1_are_dropped_for_an_older_reader_and_inventions_are_not() {
        let new = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "mtu": 9000, "invented": 1}],
            "routes": [{"dst": "0.0.0.0/0", "table": 4, "gw": "10.0.0.1"}]});
        let parsed = CniResult::parse("prevResult", &new, Version::LATEST).unwrap();
        let old = parsed.to_json(Version::V1_0_0);
        assert_eq!(old["interfaces"][0], json!({"name": "eth0", "invented": 1}));
        assert_eq!(old["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.0.0.1"}));
    }

    #[test]
    fn any_version_in_any_version_out() {
        for from in Version::ALL {
            let printed = own().to_json(from);
            let parsed = CniResult::parse("prevResult", &printed, Version::LATEST).unwrap();
            let addresses: Vec<_> = parsed.ips().iter().map(|ip| ip.address.to_string()).collect();
            assert_eq!(addresses, ["10.0.0.7/24", "2001:db8::7/64"], "{from}");
            assert_eq!(parsed.routes().len(), 2);
            for to in Version::ALL {
                let again = CniResult::parse("prevResult", &parsed.to_json(to), Version::LATEST).unwrap();
                assert_eq!(again.ips().len(), 2, "{from} to {to}");
            }
        }
    }

    /// Found by the fuzz target `prev_result`.
    #[test]
    fn a_name_without_meaning_gets_none_by_a_conversion() {
        let parse = |value| CniResult::parse("prevResult", &value, Version::LATEST).unwrap();
        let new = parse(json!({"ip4": {"ip": "nonsense"}, "ip6": {"ip": "fd00::ni64"},
            "ips": [{"address": "10.0.0.7/24", "version": "8", "ip": "x", "routes": [{"dst": "::/5"}]}]}));
        assert_eq!(
            new.to_json(Version::V0_2_0),
            json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.7/24", "version": "8"}})
        );
        assert_eq!(new.to_json(Version::V0_4_0)["ips"][0]["version"], "4");
        assert_eq!(new.to_json(Version::V1_1_0)["ip6"], json!({"ip": "fd00::ni64"}), "it passes unchanged");
        let old = parse(json!({"cniVersion": "0.2.0", "interfaces": [7], "ips": 3, "routes": "x",
            "ip4": {"ip": "10.0.0.7/24", "address": "10.0.0.8/24", "interface": 4}}));
        assert_eq!(
            old.to_json(Version::V1_0_0),
            json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]})
        );
    }

    #[test]
    fn a4_what_is_appended_comes_last() {
        let prev =
            json!({"cniVersion": "1.0.0", "interfaces": [{"name": "h"}, {"name": "eth0", "sandbox": "/n"}]});
        let mut result = CniResult::parse("prevResult", &prev, Version::LATEST).unwrap();
        assert_eq!(result.container_interface("eth0"), Some(1));
        assert_eq!(result.container_interface("h"), None);
        result.push_ip(&Ip { address: "10.0.0.7/24".parse().unwrap(), gateway: None, interface: Some(1) });
        assert_eq!(
            result.to_json(Version::V1_0_0)["ips"],
            json!([{"address": "10.0.0.7/24", "interface": 1}])
        );
        assert_eq!(result.ips_of(Some(0)).len(), 0);
        assert_eq!(result.ips_of(Some(1)).len(), 1);
    }

    #[test]
    fn a_wrong_result_names_the_place() {
        for (value, place) in [
            (json!(5), "prevResult is 5"),
            (json!({"cniVersion": "7"}), "\"7\""),
            (json!({"ips": {}}), "prevResult.ips"),
            (json!({"ips": [{"address": "10.0.0.7"}]}), "prevResult.ips[0]"),
            (json!({"interfaces": [{}]}), "prevResult.interfaces[0]"),
            (json!({"interfaces": [{"name": "a"}, {"name": "b", "mac": 5}]}), "prevResult.interfaces[1]"),
            (json!({"ips": [{"address": "10.0.0.7/8", "interface": "0"}]}), "prevResult.ips[0]"),
            (json!({"ips": [{"address": "10.0.0.7/8", "interface": 0}]}), "prevResult.ips[0]"),
            (json!({"routes": [{"dst": "10.0.0.0/8"}, {"gw": "10.0.0.1"}]}), "prevResult.routes[1]"),
            (json!({"routes": [{"dst": "10.0.0.0/8", "gw": "x"}]}), "prevResult.routes[0]"),
            (json!({"cniVersion": "0.2.0", "ip4": {}}), "prevResult.ip4"),
            (json!({"cniVersion": "0.2.0", "ip4": 1}), "prevResult.ip4"),
        ] {
            let error = CniResult::parse("prevResult", &value, Version::LATEST).unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
    }
}
