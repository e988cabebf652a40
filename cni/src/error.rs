//! What can be wrong with a call, and the error object that a runtime reads.
//!
//! The codes that these errors map to are the plugin's business: one table there covers all errors.

use berth_ipam::name::NameError;
use serde_json::{Value, json};

use crate::version::Version;

/// Codes of the specification and of libcni that Berth uses (SPEC, "Error").
pub mod code {
    /// The configuration's version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// An environment variable is missing or wrong.
    pub const BAD_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed: files, sockets, the kernel.
    pub const IO: u32 = 5;
    /// Input cannot be decoded.
    pub const DECODE: u32 = 6;
    /// The configuration is wrong.
    pub const BAD_CONFIG: u32 = 7;
    /// The namespace is wrong (libcni).
    pub const BAD_NETNS: u32 = 8;
    /// A transient condition: try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: an ADD would not be served.
    pub const UNAVAILABLE: u32 = 50;
    /// The plugin itself failed (libcni).
    pub const INTERNAL: u32 = 999;
}

/// What is wrong with a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `CNI_COMMAND` names no verb.
    #[error("CNI_COMMAND {value:?} is no verb of CNI; it is one of ADD, DEL, CHECK, GC, STATUS, VERSION")]
    UnknownCommand {
        /// What it says.
        value: String,
    },
    /// Variables that the verb needs are absent or empty.
    #[error("{command} needs the environment variables {}, which are not set", names.join(", "))]
    MissingVariables {
        /// The verb.
        command: &'static str,
        /// The variables, all of them.
        names: Vec<&'static str>,
    },
    /// A variable holds what is no text.
    #[error("the environment variable {name} is not valid UTF-8")]
    NotText {
        /// The variable.
        name: &'static str,
    },
    /// A variable holds no valid name.
    #[error("the environment variable {name} is wrong")]
    WrongVariable {
        /// The variable.
        name: &'static str,
        /// The rule that its value breaks.
        #[source]
        cause: NameError,
    },
    /// `CNI_ARGS` cannot be understood.
    #[error("CNI_ARGS has {part:?}, {rule}")]
    WrongArgs {
        /// The offending pair.
        part: String,
        /// What it should be.
        rule: &'static str,
    },
    /// Standard input is no JSON.
    #[error("the network configuration on standard input is not JSON")]
    NotJson {
        /// Where it stops being JSON.
        #[source]
        cause: serde_json::Error,
    },
    /// The configuration's version is not one of [`Version::ALL`].
    #[error("cniVersion {wanted:?} is not supported; this plugin supports {}", list())]
    UnsupportedVersion {
        /// What the configuration says.
        wanted: String,
    },
    /// The verb is younger than the configuration's version.
    #[error("{command} needs cniVersion {needs} or newer, the configuration says {has}")]
    VerbTooNew {
        /// The verb.
        command: &'static str,
        /// The first version with it.
        needs: Version,
        /// The configuration's version.
        has: Version,
    },
    /// A key of the configuration is missing.
    #[error("the network configuration has no {key:?}: {advice}")]
    MissingField {
        /// The key, with dots for nesting.
        key: &'static str,
        /// What to put there.
        advice: &'static str,
    },
    /// A key of the configuration has a wrong value.
    #[error("the network configuration's {key} is {value}, it must be {expected}")]
    WrongField {
        /// The key, with dots for nesting.
        key: String,
        /// Its value as JSON, shortened.
        value: String,
        /// What it should be.
        expected: String,
    },
}

impl Error {
    /// A [`Self::WrongField`].
    pub fn field(key: impl Into<String>, value: &Value, expected: impl Into<String>) -> Self {
        Self::WrongField { key: key.into(), value: shortened(value), expected: expected.into() }
    }
}

fn list() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

/// A value as it is quoted in messages.
fn shortened(value: &Value) -> String {
    quotable(&value.to_string())
}

/// A text as it is quoted in messages: a megabyte of nonsense does not become a megabyte of error.
pub(crate) fn quotable(text: &str) -> String {
    const CHARACTERS: usize = 120;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The JSON object by which a plugin reports a failure on standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorObject {
    /// The configuration's version, as far as it is known.
    pub version: Version,
    /// See [`code`].
    pub code: u32,
    /// What went wrong.
    pub msg: String,
    /// What to do about it.
    pub details: String,
}

impl ErrorObject {
    /// Reads what a plugin printed; `None`: that is no error object.
    pub fn parse(output: &[u8]) -> Option<Self> {
        let object: Value = serde_json::from_slice(output).ok()?;
        let text = |key| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let version = text("cniVersion").and_then(|text| text.parse().ok());
        Some(Self {
            version: version.unwrap_or(Version::LATEST),
            code: object.get("code")?.as_u64()?.try_into().ok()?,
            msg: text("msg")?,
            details: text("details").unwrap_or_default(),
        })
    }

    /// The object as it is printed; `details` is left out when empty.
    pub fn to_json(&self) -> Value {
        let mut object = json!({"cniVersion": self.version.as_str(), "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            object["details"] = Value::String(self.details.clone());
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_object_has_the_documented_keys() {
        let object = ErrorObject {
            version: Version::V1_0_0,
            code: code::TRY_AGAIN,
            msg: "busy".to_owned(),
            details: String::new(),
        };
        assert_eq!(object.to_json().to_string(), r#"{"cniVersion":"1.0.0","code":11,"msg":"busy"}"#);
        let detailed = ErrorObject { details: "wait".to_owned(), ..object };
        assert_eq!(detailed.to_json()["details"], "wait");
        assert_eq!(ErrorObject::parse(detailed.to_json().to_string().as_bytes()), Some(detailed));
        assert_eq!(ErrorObject::parse(b"{\"code\":-1,\"msg\":\"\"}"), None);
    }

    #[test]
    fn quoted_values_are_short() {
        let error = Error::field("name", &Value::String("ä".repeat(1000)), "short").to_string();
        assert!(error.len() < 400, "{}", error.len());
        // Found by the fuzz target prev_result.
        let error = "1".repeat(1_000_000).parse::<Version>().unwrap_err().to_string();
        assert!(error.len() < 400 && error.contains("\"111"), "{}", error.len());
        let error = crate::Args::parse(&format!("FOO={}", "x".repeat(100_000))).unwrap_err().to_string();
        assert!(error.len() < 400 && error.contains("FOO=x"), "{}", error.len());
    }
}
