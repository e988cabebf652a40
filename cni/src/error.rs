//! Faults of a call, and the error object that a runtime reads.
//!
//! The plugin maps these errors to CNI error codes, in one table for all of its errors.

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

/// Fault of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `CNI_COMMAND` names no verb.
    #[error("CNI_COMMAND {value:?} is not a CNI command; use one of ADD, DEL, CHECK, GC, STATUS, VERSION")]
    UnknownCommand {
        /// Value of the variable.
        value: String,
    },
    /// Variables that the verb needs are absent or empty.
    #[error("{command} requires the environment variables {}, which are not set", names.join(", "))]
    MissingVariables {
        /// The CNI command.
        command: &'static str,
        /// The variables, all of them.
        names: Vec<&'static str>,
    },
    /// A variable that is not UTF-8 text.
    #[error("the environment variable {name} is not valid UTF-8")]
    NotText {
        /// Name of the variable.
        name: &'static str,
    },
    /// A variable holds no valid name.
    #[error("the environment variable {name} is invalid")]
    WrongVariable {
        /// Name of the variable.
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
        /// Description of the valid form.
        rule: &'static str,
    },
    /// Standard input is not JSON.
    #[error("the network configuration on standard input is not JSON")]
    NotJson {
        /// Position at which the JSON is malformed.
        #[source]
        cause: serde_json::Error,
    },
    /// The configuration's version is not one of [`Version::ALL`].
    #[error("cniVersion {wanted:?} is not supported; use one of {}", list())]
    UnsupportedVersion {
        /// Version in the configuration.
        wanted: String,
    },
    /// The verb is younger than the configuration's version.
    #[error("{command} requires cniVersion {needs} or newer, the configuration has {has}")]
    VerbTooNew {
        /// The CNI command.
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
        /// Advice for the missing key.
        advice: &'static str,
    },
    /// A key of the configuration has a wrong value.
    #[error("the network configuration's {key} is {value}; it must be {expected}")]
    WrongField {
        /// The key, with dots for nesting.
        key: String,
        /// Its value as JSON, shortened.
        value: String,
        /// Description of the valid values.
        expected: String,
    },
}

impl Error {
    /// Constructs a [`Self::WrongField`].
    pub fn field(key: impl Into<String>, value: &Value, expected: impl Into<String>) -> Self {
        Self::WrongField { key: key.into(), value: shortened(value), expected: expected.into() }
    }
}

fn list() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

/// Value in the form quoted in messages.
fn shortened(value: &Value) -> String {
    quotable(&value.to_string())
}

/// Text in the form quoted in messages, shortened so that a large input does not make a large error.
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
    /// Version of the configuration, as far as it could be read.
    pub version: Version,
    /// Error code: see [`code`].
    pub code: u32,
    /// Description of the failure.
    pub msg: String,
    /// Advice for the operator.
    pub details: String,
}

impl ErrorObject {
    /// Parses a plugin's output; `None` if it is not an error object.
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

    /// The object in printed form; an empty `details` is omitted.
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
