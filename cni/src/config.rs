//! The network configuration on standard input.
//!
//! The object is kept as it arrived; keys that Berth does not read are not checked. `null` counts as absent
//! everywhere except in the list of valid attachments, where the specification of GC distinguishes an absent
//! list from an empty one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::mac::Mac;
use berth_ipam::name::{ContainerId, IfName, NetworkName};
use serde_json::{Map, Value};

use crate::args::{Args, address_with_or_without_prefix};
use crate::error::Error;
use crate::result::CniResult;
use crate::version::Version;

/// One plugin's configuration as the runtime hands it over.
#[derive(Debug, Clone, PartialEq)]
pub struct NetConf {
    version: Version,
    name: NetworkName,
    raw: Map<String, Value>,
}

/// One attachment that a GC must keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValidAttachment {
    /// ID of its container.
    pub container_id: ContainerId,
    /// Name of its interface.
    pub ifname: IfName,
}

impl NetConf {
    /// Parses standard input: an object with a known version and a valid name.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(input).map_err(|cause| Error::NotJson { cause })?;
        let Value::Object(raw) = value else {
            return Err(Error::field("whole", &value, "a JSON object"));
        };
        let version = Version::of(&raw)?;
        let advice = "the runtime copies it from the network configuration list; give the list a name";
        let missing = Error::MissingField { key: "name", advice };
        let name = match raw.get("name") {
            None | Some(Value::Null) => return Err(missing),
            Some(Value::String(text)) if text.is_empty() => return Err(missing),
            Some(Value::String(text)) => text.parse().map_err(|error| {
                Error::field("name", &Value::String(text.clone()), format!("a name: {error}"))
            })?,
            Some(other) => return Err(Error::field("name", other, "a string")),
        };
        Ok(Self { version, name, raw })
    }

    /// The version that an input names, for the error object when [`Self::parse`] refused the rest.
    pub fn version_hint(input: &[u8]) -> Version {
        let object: Option<Map<String, Value>> = serde_json::from_slice(input).ok();
        object.and_then(|object| Version::of(&object).ok()).unwrap_or(Version::LATEST)
    }

    /// `cniVersion`: the version in which results and errors are printed.
    pub fn version(&self) -> Version {
        self.version
    }

    /// `name`: the CNI network name.
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The whole object, for a delegate.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// Refuses a verb that this configuration's version does not have.
    pub fn require(&self, command: &'static str, needs: Version) -> Result<(), Error> {
        if self.version < needs {
            return Err(Error::VerbTooNew { command, needs, has: self.version });
        }
        Ok(())
    }

    /// The value at a dotted path; absent and `null` are `None`, anything but an object on the way
    /// is an error.
    pub fn get(&self, path: &str) -> Result<Option<&Value>, Error> {
        let mut object = &self.raw;
        let mut walked = String::new();
        let mut keys = path.split('.').peekable();
        while let Some(key) = keys.next() {
            walked.push_str(key);
            let value = match object.get(key) {
                None | Some(Value::Null) => return Ok(None),
                Some(value) => value,
            };
            if keys.peek().is_none() {
                return Ok(Some(value));
            }
            object = value.as_object().ok_or_else(|| Error::field(walked.as_str(), value, "an object"))?;
            walked.push('.');
        }
        Ok(None)
    }

    /// The string at a dotted path.
    pub fn text(&self, path: &str) -> Result<Option<&str>, Error> {
        match self.get(path)? {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::field(path, other, "a string")),
        }
    }

    /// The addresses requested by name, from all three channels in the order in which the reference's IPAM
    /// reads them: `CNI_ARGS`, `args.cni.ips`, `runtimeConfig.ips`. Without duplicates.
    pub fn requested_ips(&self, args: &Args) -> Result<Vec<IpAddr>, Error> {
        let mut wanted = args.ips.clone();
        for path in ["args.cni.ips", "runtimeConfig.ips"] {
            let expected = "a list of IP addresses, with or without a prefix length";
            let Some(value) = self.get(path)? else { continue };
            let list = value.as_array().ok_or_else(|| Error::field(path, value, expected))?;
            for (index, item) in list.iter().enumerate() {
                let address = item.as_str().and_then(address_with_or_without_prefix);
                let wrong = || Error::field(format!("{path}[{index}]"), item, "an IP address");
                wanted.push(address.ok_or_else(wrong)?);
            }
        }
        let mut unique = Vec::with_capacity(wanted.len());
        for address in wanted {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        Ok(unique)
    }

    /// The requested MAC: `runtimeConfig.mac`, else `args.cni.mac`, else `CNI_ARGS`.
    pub fn requested_mac(&self, args: &Args) -> Result<Option<Mac>, Error> {
        for path in ["runtimeConfig.mac", "args.cni.mac"] {
            let Some(text) = self.text(path)? else { continue };
            if text.is_empty() {
                continue;
            }
            let wrong =
                |_| Error::field(path, &Value::String(text.to_owned()), "six octets joined by colons");
            return text.parse().map(Some).map_err(wrong);
        }
        Ok(args.mac)
    }

    /// The pod's annotations with keys that start with `prefix`, from the capability
    /// `io.kubernetes.cri.pod-annotations` (containerd and CRI-O put them into `runtimeConfig`). `None`: the
    /// runtime passes no annotations.
    pub fn pod_annotations(&self, prefix: &str) -> Result<Option<BTreeMap<String, String>>, Error> {
        // The key holds dots, so it cannot be part of a path.
        let capability = "io.kubernetes.cri.pod-annotations";
        let path = format!("runtimeConfig.{capability}");
        let object = |value| Value::as_object(value).ok_or_else(|| Error::field(&*path, value, "an object"));
        let Some(config) = self.get("runtimeConfig")? else { return Ok(None) };
        let Some(config) = config.as_object() else {
            return Err(Error::field("runtimeConfig", config, "an object"));
        };
        let Some(all) = config.get(capability).filter(|value| !value.is_null()) else { return Ok(None) };
        let mut found = BTreeMap::new();
        for (key, value) in object(all)?.iter().filter(|(key, _)| key.starts_with(prefix)) {
            let wrong = || Error::field(format!("{path}.{key}"), value, "a string");
            found.insert(key.clone(), value.as_str().ok_or_else(wrong)?.to_owned());
        }
        Ok(Some(found))
    }

    /// `dns`, copied unchanged into the result. Its fields are checked against the types of the
    /// specification, because a runtime would fail on a malformed result of a successful ADD.
    pub fn dns(&self) -> Result<Option<&Value>, Error> {
        let Some(dns) = self.get("dns")? else { return Ok(None) };
        self.text("dns.domain")?;
        for path in ["dns.nameservers", "dns.search", "dns.options"] {
            let Some(list) = self.get(path)? else { continue };
            let texts = list.as_array().is_some_and(|list| list.iter().all(Value::is_string));
            if !texts {
                return Err(Error::field(path, list, "a list of strings"));
            }
        }
        Ok(Some(dns))
    }

    /// Result of the previous plugins of the chain; in DEL and CHECK, the result of the whole chain.
    pub fn prev_result(&self) -> Result<Option<CniResult>, Error> {
        self.get("prevResult")?.map(|value| CniResult::parse("prevResult", value, self.version)).transpose()
    }

    /// Attachments that a GC must keep. An absent list is an error: an empty list removes every attachment,
    /// and an omission does not ask for that. `null` counts as an empty list, because runtimes written in Go
    /// print one so.
    pub fn valid_attachments(&self) -> Result<Vec<ValidAttachment>, Error> {
        const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let Some((key, value)) = KEYS.iter().find_map(|key| Some((*key, self.raw.get(*key)?))) else {
            let advice = "GC without a list of attachments to keep would remove every attachment; pass an empty list to ask for that";
            return Err(Error::MissingField { key: KEYS[0], advice });
        };
        let list = match value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(list) => list,
            other => return Err(Error::field(key, other, "a list of {containerID, ifname}")),
        };
        let parse = |(index, item): (usize, &Value)| {
            let part = |name: &str| item.get(name).and_then(Value::as_str);
            let container_id = part("containerID").and_then(|text| text.parse().ok());
            let ifname = part("ifname").and_then(|text| text.parse().ok());
            match (container_id, ifname) {
                (Some(container_id), Some(ifname)) => Ok(ValidAttachment { container_id, ifname }),
                _ => Err(Error::field(
                    format!("{key}[{index}]"),
                    item,
                    "an object with a valid containerID and ifname",
                )),
            }
        };
        list.iter().enumerate().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> NetConf {
        NetConf::parse(text.as_bytes()).unwrap()
    }

    fn refused(text: &str) -> String {
        NetConf::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn pod_annotations_come_by_the_capability_and_only_those_with_the_prefix() {
        let of = |text: &str| conf(text).pod_annotations("berth.dev/");
        assert_eq!(of(r#"{"name":"l"}"#).unwrap(), None);
        assert_eq!(of(r#"{"name":"l","runtimeConfig":{"mac":""}}"#).unwrap(), None);
        let given = of(
            r#"{"name":"l","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"berth.dev/ips":"10.0.0.7","x":5}}}"#,
        );
        assert_eq!(given.unwrap(), Some([("berth.dev/ips".to_owned(), "10.0.0.7".to_owned())].into()));
        for wrong in ["[]", r#"{"berth.dev/ips":7}"#] {
            let text =
                format!(r#"{{"name":"l","runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{wrong}}}}}"#);
            let error = of(&text).unwrap_err().to_string();
            assert!(error.contains("io.kubernetes.cri.pod-annotations"), "{error}");
        }
    }

    #[test]
    fn e12_input_is_an_object_with_a_valid_name() {
        assert!(matches!(NetConf::parse(b""), Err(Error::NotJson { .. })));
        assert!(matches!(NetConf::parse(b"{"), Err(Error::NotJson { .. })));
        assert!(refused("[]").contains("JSON object"));
        assert!(matches!(NetConf::parse(b"{}"), Err(Error::MissingField { key: "name", .. })));
        assert!(refused(r#"{"name":"a b"}"#).contains("\"a b\""));
        assert!(refused(r#"{"name":7}"#).contains('7'));
        assert_eq!(conf(r#"{"name":"lan"}"#).name().as_str(), "lan");
    }

    #[test]
    fn v1_an_unknown_version_is_refused_before_the_rest() {
        let error = refused(r#"{"cniVersion":"9.9.9"}"#);
        assert!(error.contains("9.9.9") && error.contains("0.1.0"), "{error}");
        assert_eq!(NetConf::version_hint(br#"{"cniVersion":"0.4.0"}"#), Version::V0_4_0);
        assert_eq!(NetConf::version_hint(b"nonsense"), Version::LATEST);
    }

    #[test]
    fn v3_verbs_have_a_first_version() {
        let old = conf(r#"{"name":"lan","cniVersion":"0.3.1"}"#);
        assert!(old.require("CHECK", Version::V0_4_0).is_err());
        assert!(conf(r#"{"name":"lan","cniVersion":"1.1.0"}"#).require("GC", Version::V1_1_0).is_ok());
    }

    #[test]
    fn dotted_paths_name_the_step_that_fails() {
        let conf = conf(r#"{"name":"lan","ipam":{"type":"berth"},"args":5,"runtimeConfig":null}"#);
        assert_eq!(conf.text("ipam.type").unwrap(), Some("berth"));
        assert_eq!(conf.text("ipam.network").unwrap(), None);
        assert_eq!(conf.get("runtimeConfig.ips").unwrap(), None);
        let error = conf.get("args.cni.ips").unwrap_err().to_string();
        assert!(error.contains("args is 5"), "{error}");
    }

    #[test]
    fn a9_the_three_channels_add_up_in_order() {
        let conf = conf(
            r#"{"name":"lan","args":{"cni":{"ips":["10.0.0.2"]}},"runtimeConfig":{"ips":["10.0.0.3/24","10.0.0.1","2001:db8::1/64"]}}"#,
        );
        let args = Args::parse("IP=10.0.0.1").unwrap();
        let ips: Vec<_> = conf.requested_ips(&args).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"]);
    }

    #[test]
    fn a9_a_wrong_request_names_key_and_value() {
        for (text, key) in [
            (r#"{"name":"l","runtimeConfig":{"ips":"10.0.0.1"}}"#, "runtimeConfig.ips"),
            (r#"{"name":"l","runtimeConfig":{"ips":["10.0.0.1", 5]}}"#, "runtimeConfig.ips[1]"),
            (r#"{"name":"l","args":{"cni":{"ips":["x"]}}}"#, "args.cni.ips[0]"),
        ] {
            let error = conf(text).requested_ips(&Args::default()).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let mac = conf(r#"{"name":"l","runtimeConfig":{"mac":"b2:0"}}"#).requested_mac(&Args::default());
        assert!(mac.unwrap_err().to_string().contains("b2:0"));
    }

    #[test]
    fn a9_the_runtimes_mac_prevails() {
        let args = Args::parse("MAC=02:00:00:00:00:01").unwrap();
        let both = conf(r#"{"name":"l","runtimeConfig":{"mac":"02:00:00:00:00:02"}}"#);
        assert_eq!(both.requested_mac(&args).unwrap().unwrap().to_string(), "02:00:00:00:00:02");
        assert_eq!(conf(r#"{"name":"l"}"#).requested_mac(&args).unwrap(), args.mac);
    }

    #[test]
    fn dns_has_the_types_of_the_specification() {
        for good in ["{}", r#"{"nameservers":["10.0.0.1"],"domain":"a","search":[],"own":5}"#, "null"] {
            assert!(conf(&format!(r#"{{"name":"l","dns":{good}}}"#)).dns().is_ok(), "{good}");
        }
        for (bad, key) in [
            (r#""10.0.0.1""#, "dns is"),
            (r#"{"nameservers":"10.0.0.1"}"#, "dns.nameservers"),
            (r#"{"search":[5]}"#, "dns.search"),
            (r#"{"domain":[]}"#, "dns.domain"),
        ] {
            let error = conf(&format!(r#"{{"name":"l","dns":{bad}}}"#)).dns().unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn g4_absent_null_and_empty_lists_differ() {
        assert!(matches!(conf(r#"{"name":"l"}"#).valid_attachments(), Err(Error::MissingField { .. })));
        for empty in ["null", "[]"] {
            let conf = conf(&format!(r#"{{"name":"l","cni.dev/valid-attachments":{empty}}}"#));
            assert_eq!(conf.valid_attachments().unwrap(), []);
        }
    }

    #[test]
    fn g1_either_key_is_read_and_the_first_preferred() {
        let both = conf(
            r#"{"name":"l","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#,
        );
        assert_eq!(both.valid_attachments().unwrap()[0].container_id.as_str(), "c");
        let older = conf(r#"{"name":"l","cni.dev/attachments":[{"containerID":"d","ifname":"eth0"}]}"#);
        assert_eq!(older.valid_attachments().unwrap().len(), 1);
        let wrong = conf(r#"{"name":"l","cni.dev/attachments":[{"containerID":"d"}]}"#);
        assert!(wrong.valid_attachments().unwrap_err().to_string().contains("[0]"));
    }
}
