//! The parts of a CNI configuration that the node's installation checks: it is a valid list for a runtime,
//! and Berth is in it.
//!
//! Pure. The keys of a single plugin are left to that plugin.

use berth_ipam::name::NetworkName;
use serde_json::Value;

/// The type of Berth's plugin, which is also the name of its binary.
pub(crate) const PLUGIN: &str = "berth";

/// Reason why a file is not a list with Berth in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConflistError {
    /// It is not JSON.
    #[error("the file is not JSON")]
    Json(#[source] serde_json::Error),
    /// A key is absent or holds something else.
    #[error("{key} is {found}; a CNI list requires {wanted} here")]
    Key {
        /// Path of the key.
        key: String,
        /// Value in the file.
        found: String,
        /// Description of the required value.
        wanted: &'static str,
    },
    /// It is a list, but none of Berth's.
    #[error("no plugin of the list has the type {PLUGIN}, in type or in ipam.type")]
    Foreign,
}

/// Checks that the text is a CNI list with Berth in it, as a plugin or as the IPAM of one.
pub(crate) fn check(text: &[u8]) -> Result<(), ConflistError> {
    let list: Value = serde_json::from_slice(text).map_err(ConflistError::Json)?;
    let named = list["name"].as_str().is_some_and(|name| name.parse::<NetworkName>().is_ok());
    if !named {
        return Err(wrong("name", &list["name"], "the network's name"));
    }
    let plugins = list["plugins"].as_array().filter(|plugins| !plugins.is_empty());
    let Some(plugins) = plugins else {
        return Err(wrong("plugins", &list["plugins"], "at least one plugin"));
    };
    for (index, plugin) in plugins.iter().enumerate() {
        if plugin["type"].as_str().is_none_or(str::is_empty) {
            return Err(wrong(&format!("plugins[{index}].type"), &plugin["type"], "a plugin's name"));
        }
    }
    let ours = |plugin: &Value| is_ours(plugin) || is_ours(&plugin["ipam"]);
    if plugins.iter().any(ours) { Ok(()) } else { Err(ConflistError::Foreign) }
}

/// True if any part of a configuration, at any depth, calls Berth: also in nested lists, as meta plugins have
/// them. A file that is not JSON calls no plugin.
pub(crate) fn calls_berth(text: &[u8]) -> bool {
    serde_json::from_slice(text).is_ok_and(|value| mentions(&value))
}

fn mentions(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(mentions),
        Value::Object(members) => is_ours(value) || members.values().any(mentions),
        _ => false,
    }
}

fn is_ours(value: &Value) -> bool {
    value["type"] == PLUGIN
}

fn wrong(key: &str, found: &Value, wanted: &'static str) -> ConflistError {
    let found = match found {
        Value::Null => "absent".to_owned(),
        // An operator's typing error fits; a file that was taken for another does not fill the screen.
        value => value.to_string().chars().take(80).collect(),
    };
    ConflistError::Key { key: key.to_owned(), found, wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        check(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn berth_may_be_anywhere_in_the_list() {
        for text in [
            r#"{"name":"pods","plugins":[{"type":"berth","network":"lan"}]}"#,
            r#"{"name":"pods","plugins":[{"type":"macvlan","ipam":{"type":"berth"}}]}"#,
            r#"{"name":"pods","plugins":[{"type":"macvlan"},{"type":"berth"},{"type":"tuning"}]}"#,
        ] {
            check(text.as_bytes()).unwrap();
            assert!(calls_berth(text.as_bytes()));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "JSON"),
            ("{", "JSON"),
            ("[]", "name is absent"),
            ("7", "name is absent"),
            (r#"{"plugins":[{"type":"berth"}]}"#, "name is absent"),
            (r#"{"name":"","plugins":[{"type":"berth"}]}"#, "name is \"\""),
            (r#"{"name":"a/b","plugins":[{"type":"berth"}]}"#, "name is \"a/b\""),
            (r#"{"name":7,"plugins":[{"type":"berth"}]}"#, "name is 7"),
            (r#"{"name":"pods","type":"berth"}"#, "plugins is absent"),
            (r#"{"name":"pods","plugins":[]}"#, "plugins is []"),
            (r#"{"name":"pods","plugins":{"type":"berth"}}"#, "plugins is {"),
            (r#"{"name":"pods","plugins":[{"type":"berth"},{}]}"#, "plugins[1].type is absent"),
            (r#"{"name":"pods","plugins":["berth"]}"#, "plugins[0].type is absent"),
            (
                r#"{"name":"pods","plugins":[{"type":"macvlan","ipam":{"type":"host-local"}}]}"#,
                "no plugin of the list",
            ),
        ] {
            assert!(refusal(text).contains(part), "{text}: {}", refusal(text));
        }
    }

    #[test]
    fn a_meta_plugins_delegate_calls_berth_too() {
        let multus =
            r#"{"name":"m","type":"multus","delegates":[{"name":"x","plugins":[{"type":"berth"}]}]}"#;
        assert!(calls_berth(multus.as_bytes()));
        assert!(!calls_berth(br#"{"name":"m","type":"calico","berth":{"kind":"berth"}}"#));
        assert!(!calls_berth(b"type: berth"));
    }
}
