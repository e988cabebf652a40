//! Input from a runtime: the network configuration on standard input, and the result in it.
//!
//! Berth's own settings are read by path, as the plugin reads them. Tested invariant: an accepted input can
//! be printed in every version and parsed again with the same content; a refused input has a short error.

use berth_cni::{Args, CniResult, Error, NetConf, Version};
use serde_json::Value;

/// An error quotes what it is about, but a megabyte of nonsense does not become a megabyte of error.
const MESSAGE_MAX: usize = 2048;
/// Keys that the plugin reads by path.
const PATHS: [&str; 9] = [
    "type",
    "network",
    "socket",
    "stateDir",
    "addTimeout",
    "ipam.type",
    "ipam.network",
    "runtimeConfig.mac",
    "args.cni.mac",
];

fn told(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() <= MESSAGE_MAX, "{} bytes of message", text.len());
}

/// A configuration; if it is text, `CNI_ARGS` too.
pub fn conf(input: &[u8]) {
    let text = std::str::from_utf8(input).unwrap_or_default();
    let args = Args::parse(text).unwrap_or_else(|error| {
        assert!(!error.to_string().is_empty());
        Args::default()
    });
    let hint = NetConf::version_hint(input);
    let conf = match NetConf::parse(input) {
        Ok(conf) => conf,
        Err(error) => return told(&error),
    };
    assert_eq!(conf.version(), hint);
    assert!(conf.name().as_str().parse() == Ok(conf.name().clone()));
    for path in PATHS {
        let _ = conf.text(path).map_err(|error| told(&error));
    }
    match conf.requested_ips(&args) {
        Ok(ips) => assert!((1..ips.len()).all(|at| !ips[..at].contains(&ips[at])), "each once: {ips:?}"),
        Err(error) => told(&error),
    }
    let _ = conf.requested_mac(&args).map_err(|error| told(&error));
    let listed =
        ["cni.dev/valid-attachments", "cni.dev/attachments"].iter().any(|key| conf.raw().contains_key(*key));
    match conf.valid_attachments() {
        Ok(_) => assert!(listed, "an absent list is not an empty one"),
        Err(error) => {
            assert_eq!(listed, !matches!(error, Error::MissingField { .. }));
            told(&error);
        }
    }
    let _ = conf.prev_result().map_err(|error| told(&error));
    let printed = Value::Object(conf.raw().clone()).to_string();
    assert_eq!(NetConf::parse(printed.as_bytes()).ok().as_ref(), Some(&conf), "what a delegate gets");
}

/// A result, after a byte that selects the version of a result without one.
pub fn prev_result(input: &[u8]) {
    let Some((&choice, text)) = input.split_first() else { return };
    let default = Version::ALL[usize::from(choice) % Version::ALL.len()];
    let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
    let result = match CniResult::parse("prevResult", &value, default) {
        Ok(result) => result,
        Err(error) => return told(&error),
    };
    let _ = (result.interfaces(), result.container_interface("eth0"), result.routes());
    let addresses = |result: &CniResult| result.ips().iter().map(|ip| ip.address).collect::<Vec<_>>();
    for version in Version::ALL {
        let printed = result.to_json(version);
        assert_eq!(printed["cniVersion"], version.as_str());
        let again = match CniResult::parse("prevResult", &printed, version) {
            Ok(again) => again,
            Err(error) => panic!("{version}: {error}: {printed}"),
        };
        assert_eq!(again.to_json(version), printed, "the same again");
        if version >= Version::V0_3_0 {
            assert_eq!(addresses(&again), addresses(&result), "{version}");
            assert_eq!(again.interfaces(), result.interfaces(), "{version}");
        } else {
            assert!(addresses(&again).iter().all(|address| addresses(&result).contains(address)));
        }
    }
    let names = value.get("cniVersion").and_then(Value::as_str);
    // In its own version a result loses nothing.
    if let Some(origin) = names.and_then(|name| name.parse::<Version>().ok())
        && origin >= Version::V0_3_0
    {
        let printed = result.to_json(origin);
        lossless(&value, &printed, origin);
    }
}

/// Nothing is lost or changed but the addresses' family, which is written as it is.
fn lossless(before: &Value, after: &Value, version: Version) {
    let plain = |value: &Value| {
        let mut value = value.clone();
        if version <= Version::V0_4_0 {
            let ips = value.get_mut("ips").and_then(Value::as_array_mut);
            for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
                ip.shift_remove("version");
            }
        }
        value
    };
    assert_eq!(plain(before), plain(after));
}
