//! Validated names. Each is parsed once, at the edge; inside, holding one is the proof.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Reason why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct NameError {
    kind: &'static str,
    value: String,
    rule: &'static str,
}

/// The start of a text, as it is quoted: a megabyte of nonsense does not become a megabyte of error.
fn quotable(text: &str) -> String {
    const CHARACTERS: usize = 300;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { kind: $kind, value: quotable(text), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// `CNI_CONTAINERID` (CNI SPEC, "Parameters").
    ContainerId,
    "container id",
    |text| text.len() <= 253 && is_cni_name(text),
    "it starts with a letter or digit, followed by letters, digits, `_`, `.` or `-`, at most 253 in all"
);
name!(
    /// `CNI_IFNAME`: a Linux interface name (CNI SPEC, "Parameters"; the kernel's `dev_valid_name`).
    IfName,
    "interface name",
    is_interface_name,
    "it has 1 to 15 characters, is not `.` or `..`, and holds no `/`, `:` or whitespace"
);
name!(
    /// The name of an `UnderlayNetwork`, or of a CNI network that stands for one.
    NetworkName,
    "network name",
    |text| text.len() <= 253 && is_cni_name(text),
    "it starts with a letter or digit, followed by letters, digits, `_`, `.` or `-`, at most 253 in all"
);
name!(
    /// The name of an `IPPool`.
    PoolName,
    "pool name",
    |text| text.len() <= 253 && is_cni_name(text),
    "it starts with a letter or digit, followed by letters, digits, `_`, `.` or `-`, at most 253 in all"
);
name!(
    /// The name of a segment: one L2 domain, in which addresses are unique. It becomes the first
    /// part of a record's name, so it holds no dot.
    SegmentName,
    "segment name",
    |text| text.len() <= 63 && is_label(text),
    "it is a DNS label: lower-case letters, digits and `-`, at most 63, not starting or ending with `-`"
);
name!(
    /// The name of a node.
    NodeName,
    "node name",
    |text| text.len() <= 253 && is_cni_name(text),
    "it starts with a letter or digit, followed by letters, digits, `_`, `.` or `-`, at most 253 in all"
);

fn is_cni_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace())
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_follow_the_cni_rule() {
        for good in ["a", "0", "cni-1234", "A.b_c-d"] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ä"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel_rule() {
        for good in ["eth0", "net1", "a.100", "ethernet-over-1"] {
            assert!(good.parse::<IfName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteencharacter"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_says_kind_value_and_rule() {
        let error = "Big.Name".parse::<SegmentName>().unwrap_err().to_string();
        assert!(error.starts_with("segment name \"Big.Name\" is not valid: it is a DNS label"), "{error}");
        let long = "x y".repeat(100_000).parse::<NetworkName>().unwrap_err().to_string();
        assert!(long.len() < 600 && long.contains("\"x y"), "{}", long.len());
    }
}
