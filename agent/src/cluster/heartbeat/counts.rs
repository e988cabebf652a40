//! A node's own counts of its addresses in its heartbeat.
//!
//! Pure. Records of every node are in the store, so a dead or isolated node is counted by them; suspect, held
//! and quarantined addresses are known only to the node.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_ipam::ledger::io::PoolCount;
use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::Lease;
use serde::{Deserialize, Serialize};

/// The annotation with the counts, a JSON object by pool.
pub const POOLS: &str = "berth.dev/pools";
/// Annotation with the state of the node's fence, which stops its frames when it loses the cluster.
pub const FENCE: &str = "berth.dev/fence";
/// The only state of the fence that there is yet.
pub const UNARMED: &str = "unarmed";
/// Label that distinguishes heartbeats from other leases.
pub const LABEL: (&str, &str) = ("berth.dev/lease", "heartbeat");

/// Counts change at most this often.
const PACE: Duration = Duration::from_secs(10);
/// Maximum number of published pools; further ones, by name, are left out.
const POOLS_MAX: usize = 200;
/// Maximum length that is read: a longer text is not from an agent.
const BYTES_MAX: usize = 128 * 1024;

/// The counts of one pool on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Reserved or bound.
    pub bound: u64,
    /// Possibly ended attachments.
    pub suspect: u64,
    /// Kept for the next sandbox of their pods.
    pub held: u64,
    /// Addresses without a holder that are not assignable.
    pub quarantined: u64,
}

/// Last published text, and its time.
#[derive(Debug, Clone, Default)]
pub struct Published {
    text: String,
    at: Option<Time>,
}

impl Published {
    /// Writes the counts to the lease: the present ones, or those of a moment ago.
    pub fn put_on(&mut self, now: Time, counts: &[PoolCount], lease: &mut Lease) {
        if self.at.is_none_or(|at| now.since(at) >= PACE) {
            let text = text(counts);
            if self.at.is_none() || self.text != text {
                *self = Self { text, at: Some(now) };
            }
        }
        let meta = &mut lease.metadata;
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(POOLS.to_owned(), self.text.clone());
        annotations.insert(FENCE.to_owned(), UNARMED.to_owned());
        meta.labels.get_or_insert_default().insert(LABEL.0.to_owned(), LABEL.1.to_owned());
    }
}

fn text(counts: &[PoolCount]) -> String {
    let told: BTreeMap<&str, Counts> = counts
        .iter()
        .map(|count| {
            let PoolCount { bound, suspect, held, quarantined, .. } = *count;
            (count.pool.as_str(), Counts { bound, suspect, held, quarantined })
        })
        .filter(|(_, counts)| *counts != Counts::default())
        .take(POOLS_MAX)
        .collect();
    serde_json::to_string(&told).unwrap_or_default()
}

/// Counts of a heartbeat; empty if it cannot be parsed.
pub fn read(lease: &Lease) -> BTreeMap<String, Counts> {
    let annotations = lease.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(POOLS)).filter(|text| text.len() <= BYTES_MAX);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pool: &str, bound: u64) -> PoolCount {
        PoolCount {
            pool: pool.parse().unwrap(),
            segment: "default".parse().unwrap(),
            subnet: "192.0.2.0/24".parse().unwrap(),
            total: 10,
            bound,
            suspect: 2,
            held: 0,
            abroad: 9,
            quarantined: 1,
            free: 0,
            waiting: 0,
        }
    }

    fn published(published: &mut Published, seconds: u64, counts: &[PoolCount]) -> Lease {
        let mut lease = Lease::default();
        published.put_on(Time::from_millis(seconds * 1000), counts, &mut lease);
        lease
    }

    #[test]
    fn counts_come_back_as_they_went() {
        let idle = PoolCount { bound: 0, suspect: 0, quarantined: 0, ..count("idle", 0) };
        let lease = published(&mut Published::default(), 0, &[count("lan", 3), idle]);
        let annotations = lease.metadata.annotations.clone().unwrap();
        assert_eq!(annotations[POOLS], r#"{"lan":{"bound":3,"suspect":2,"held":0,"quarantined":1}}"#);
        assert_eq!(annotations[FENCE], "unarmed");
        let read = read(&lease);
        assert_eq!(read["lan"], Counts { bound: 3, suspect: 2, held: 0, quarantined: 1 });
        assert_eq!(read.len(), 1);
    }

    #[test]
    fn they_change_every_ten_seconds_at_most() {
        let mut state = Published::default();
        let mut bound =
            |seconds, bound| read(&published(&mut state, seconds, &[count("lan", bound)]))["lan"].bound;
        assert_eq!([bound(0, 1), bound(2, 5), bound(9, 6), bound(10, 7), bound(12, 8)], [1, 1, 1, 7, 7]);
        assert_eq!([bound(20, 7), bound(22, 9)], [7, 9], "what did not change used no turn");
    }

    #[test]
    fn their_size_is_bounded_and_nonsense_is_nothing() {
        let many: Vec<_> =
            (0..1000).map(|number| count(&format!("{}{number:04}", "p".repeat(200)), 1)).collect();
        let lease = published(&mut Published::default(), 0, &many);
        let text = &lease.metadata.annotations.as_ref().unwrap()[POOLS];
        assert!(text.len() < BYTES_MAX, "{}", text.len());
        assert_eq!(read(&lease).len(), POOLS_MAX);
        for nonsense in ["", "[]", "{\"lan\":{\"bound\":-1}}", "{\"lan\":", "null"] {
            let mut lease = Lease::default();
            lease.metadata.annotations = Some(BTreeMap::from([(POOLS.to_owned(), nonsense.to_owned())]));
            assert!(read(&lease).is_empty(), "{nonsense}");
        }
    }
}
