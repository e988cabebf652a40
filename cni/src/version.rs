//! The versions of the specification that Berth supports: an explicit list, never a range.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::error::{Error, quotable};

/// One version of the specification. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.1.0: results with `ip4` and `ip6`.
    V0_1_0,
    /// 0.2.0: the VERSION verb.
    V0_2_0,
    /// 0.3.0: results with lists of interfaces and addresses.
    V0_3_0,
    /// 0.3.1: chains of plugins.
    V0_3_1,
    /// 0.4.0: CHECK, and `prevResult` in DEL.
    V0_4_0,
    /// 1.0.0: addresses no longer carry their family.
    V1_0_0,
    /// 1.1.0: GC and STATUS, more fields in results.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// The form used in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version that a configuration or result names. None named means 0.1.0.
    pub(crate) fn of(object: &serde_json::Map<String, Value>) -> Result<Self, Error> {
        match object.get("cniVersion") {
            None | Some(Value::Null) => Ok(Self::V0_1_0),
            Some(Value::String(text)) if text.is_empty() => Ok(Self::V0_1_0),
            Some(Value::String(text)) => text.parse(),
            Some(other) => Err(Error::field("cniVersion", other, "a string such as \"1.1.0\"")),
        }
    }

    /// True if results have the shape of 0.1.0 and 0.2.0: `ip4` and `ip6` objects.
    pub(crate) fn has_ip4_ip6(self) -> bool {
        self <= Self::V0_2_0
    }

    /// True if each address of a result carries its family.
    pub(crate) fn has_address_family(self) -> bool {
        (Self::V0_3_0..=Self::V0_4_0).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| Error::UnsupportedVersion { wanted: quotable(text) })
    }
}

/// The response to VERSION. It depends on no input: runtimes send an empty stdin, or only a version.
pub fn report() -> Value {
    let supported: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
    json!({"cniVersion": Version::LATEST.as_str(), "supportedVersions": supported})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_versions_are_known() {
        for version in Version::ALL {
            assert_eq!(version.as_str().parse::<Version>().unwrap(), version);
        }
        for unlisted in ["0.3.2", "1.0.1", "1.2.0", "1.1", "v1.1.0", " 1.1.0"] {
            assert!(unlisted.parse::<Version>().is_err(), "{unlisted}");
        }
    }

    #[test]
    fn no_version_is_the_oldest() {
        for text in ["{}", r#"{"cniVersion":""}"#, r#"{"cniVersion":null}"#] {
            assert_eq!(Version::of(&serde_json::from_str(text).unwrap()).unwrap(), Version::V0_1_0);
        }
        assert!(Version::of(&serde_json::from_str(r#"{"cniVersion":1}"#).unwrap()).is_err());
    }

    #[test]
    fn the_report_lists_all_seven() {
        let report = report();
        assert_eq!(report["cniVersion"], "1.1.0");
        assert_eq!(report["supportedVersions"].as_array().unwrap().len(), 7);
    }
}
