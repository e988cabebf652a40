//! A configuration list as a runtime reads it: the plugins in their order, and the input of each.
//!
//! Pure: `runtime.rs` starts the plugins. The rules are libcni's: `name` and `cniVersion` come from the list,
//! `prevResult` from the previous plugin or from the cache (for DEL from 0.4.0 on only), and each plugin gets
//! the capabilities that it declares.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The capability with a pod's annotations.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// A configuration list.
#[derive(Debug, Clone)]
pub struct Chain {
    name: Value,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

/// The annotation by which a pod picks a list, as with Multus in front; the first is for those that name none.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// All lists of a node.
#[derive(Debug, Clone)]
pub struct Chains(Vec<Chain>);

impl Chains {
    /// Parses conflists, one per text.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let chains: Vec<Chain> = texts.iter().map(|text| Chain::parse(text)).collect::<Result<_>>()?;
        if chains.is_empty() {
            return Err(Error::Configuration { what: "is missing".to_owned() });
        }
        Ok(Self(chains))
    }

    /// The list of a pod with these annotations.
    pub fn of(&self, annotations: &Value) -> Result<&Chain> {
        let Some(wanted) = annotations[DEFAULT_NETWORK].as_str() else { return Ok(&self.0[0]) };
        let found = self.0.iter().find(|chain| chain.name == wanted);
        found.ok_or_else(|| Error::Configuration { what: format!("named {wanted} does not exist") })
    }
}

/// Data of a call, in addition to the sandbox's own.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The result so far, or that of the ADD.
    pub previous: Option<&'a Value>,
    /// The pod's annotations.
    pub annotations: &'a Value,
}

impl Chain {
    /// Reads a conflist.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| Error::Configuration { what };
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
        let version = value["cniVersion"].as_str().ok_or_else(|| wrong("has no cniVersion".to_owned()))?;
        if !value["name"].is_string() {
            return Err(wrong("has no name".to_owned()));
        }
        let listed = value["plugins"].as_array().ok_or_else(|| wrong("has no plugins".to_owned()))?;
        let mut plugins = Vec::new();
        for (index, plugin) in listed.iter().enumerate() {
            let object = plugin.as_object().filter(|object| object.get("type").is_some_and(Value::is_string));
            plugins.push(object.ok_or_else(|| wrong(format!("has no type in plugin {index}")))?.clone());
        }
        if plugins.is_empty() {
            return Err(wrong("has an empty list of plugins".to_owned()));
        }
        Ok(Self { name: value["name"].clone(), version: version.to_owned(), plugins })
    }

    /// Number of its plugins.
    pub fn len(&self) -> usize {
        self.plugins.len()
    }

    /// Never: a list without plugins is refused.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// The program of a plugin.
    pub fn program(&self, index: usize) -> &str {
        self.plugins[index]["type"].as_str().unwrap_or_default()
    }

    /// True if a DEL gets the result of the ADD.
    pub fn remembers(&self) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (0, 4)
    }

    /// Input of a plugin on its standard input.
    pub fn input(&self, index: usize, given: Given<'_>) -> Value {
        let mut config = self.plugins[index].clone();
        let declared = config.remove("capabilities");
        config.insert("name".to_owned(), self.name.clone());
        config.insert("cniVersion".to_owned(), Value::from(self.version.as_str()));
        if let Some(previous) = given.previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        if declared.is_some_and(|declared| declared[ANNOTATIONS] == true) && given.annotations.is_object() {
            config.insert(
                "runtimeConfig".to_owned(),
                Value::from(Map::from_iter([(ANNOTATIONS.to_owned(), given.annotations.clone())])),
            );
        }
        Value::from(config)
    }
}

/// The addresses of an ADD's result, in its order, without prefix lengths.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |entry: &Value| entry["address"].as_str()?.split('/').next()?.parse().ok();
    listed.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(version: &str) -> Chain {
        Chain::parse(
            &json!({"cniVersion": version, "name": "lan", "plugins": [
                {"type": "berth", "network": "lan", "capabilities": {ANNOTATIONS: true, "ips": true}},
                {"type": "tuning"},
            ]})
            .to_string(),
        )
        .unwrap()
    }

    #[test]
    fn each_plugin_gets_name_version_result_and_the_capabilities_that_it_declares() {
        let chain = chain("0.3.1");
        let (result, annotations) = (json!({"ips": []}), json!({"a": "b"}));
        let first = chain.input(0, Given { previous: None, annotations: &annotations });
        assert_eq!(
            first,
            json!({"type": "berth", "network": "lan", "name": "lan", "cniVersion": "0.3.1",
                   "runtimeConfig": {ANNOTATIONS: {"a": "b"}}})
        );
        let second = chain.input(1, Given { previous: Some(&result), annotations: &annotations });
        assert_eq!(
            second,
            json!({"type": "tuning", "name": "lan", "cniVersion": "0.3.1", "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn a_pod_gets_the_list_that_it_names() {
        let list = |name: &str| {
            json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": name}]}).to_string()
        };
        let chains = Chains::parse(&["a", "b"].map(list)).unwrap();
        assert_eq!(chains.of(&json!({})).unwrap().program(0), "a");
        assert_eq!(chains.of(&json!({DEFAULT_NETWORK: "b"})).unwrap().program(0), "b");
        assert!(chains.of(&json!({DEFAULT_NETWORK: "c"})).is_err() && Chains::parse(&[]).is_err());
    }

    #[test]
    fn a_del_is_given_the_result_from_0_4_on() {
        assert!(!chain("0.3.1").remembers());
        assert!(["0.4.0", "1.0.0", "1.1.0"].iter().all(|version| chain(version).remembers()));
    }

    #[test]
    fn a_list_without_what_a_runtime_needs_is_refused() {
        for text in [
            "[",
            r#"{"name": "a", "plugins": [{"type": "b"}]}"#,
            r#"{"cniVersion": "1.0.0", "plugins": [{"type": "b"}]}"#,
            r#"{"cniVersion": "1.0.0", "name": "a", "plugins": []}"#,
            r#"{"cniVersion": "1.0.0", "name": "a", "plugins": [{}]}"#,
        ] {
            assert!(Chain::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_of_both_layouts_lose_their_prefix() {
        let result =
            json!({"ips": [{"version": "4", "address": "10.50.16.0/16"}, {"address": "fd00::1/64"}]});
        assert_eq!(addresses(&result).len(), 2);
        assert!(addresses(&json!({})).is_empty());
    }
}
