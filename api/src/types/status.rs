//! Status of declarations in a cluster. Informational: no decision depends on it, and files have none.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts of a pool's addresses by the leader. Informational: no decision depends on them.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolStatus {
    /// Addresses that the pool may assign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total: Option<i64>,
    /// Addresses of attachments that live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub bound: Option<i64>,
    /// Addresses of attachments that may have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub suspect: Option<i64>,
    /// Addresses that wait for the next sandbox of their pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub held: Option<i64>,
    /// Addresses that are kept for a pod that does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub retained: Option<i64>,
    /// Addresses that an unknown station answers for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub quarantined: Option<i64>,
    /// Addresses without a holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub free: Option<i64>,
    /// The generation of the pool that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Result of the agents' checks of a network.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnderlayNetworkStatus {
    /// One of each type; Berth writes `Accepted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// One condition in the form that `kubectl wait` reads: true, false or unknown.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, as in `Accepted`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub kind: String,
    /// State of the condition.
    pub status: ConditionStatus,
    /// Reason in one word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// Reason and advice for the operator.
    #[schemars(length(max = 4096))]
    pub message: String,
    /// The generation of the object that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Time at which `status` changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub last_transition_time: Option<String>,
}

/// State of a condition.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// It does not.
    False,
    /// The state is not known yet.
    Unknown,
}
