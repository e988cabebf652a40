//! The counts of pools, from the records and from each node's heartbeat.
//!
//! Pure. The number of taken addresses comes from the records, so it is also correct for nodes that are down.
//! Suspect, held and quarantined addresses are known only to their nodes, from the heartbeats. The addresses
//! of a silent node count as bound, because unknown means in use.
//!
//! Invariant: bound, suspect, held and retained add up to the number of records.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_api::types::IPPoolStatus;
use berth_ipam::config::{Config, Pool};
use berth_ipam::name::PoolName;
use berth_ipam::record::LeaseRecord;
use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::Lease;

use crate::cluster::claim::Claim;
use crate::cluster::heartbeat::counts::{self, Counts};
use crate::cluster::heartbeat::name::PREFIX;

/// The status of one pool is written at most this often.
pub const PACE: Duration = Duration::from_secs(10);
/// And so often although nothing changed: the pool may be another one of that name.
const AGAIN: Duration = Duration::from_mins(10);

/// An agent's view of the cluster. It is empty at first, and then nothing is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// The pools that are declared.
    pub pools: BTreeMap<PoolName, Declared>,
    /// Number of records of each pool; `None`: they were not listed yet.
    pub records: Option<BTreeMap<PoolName, u64>>,
}

/// A pool as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declared {
    /// Value of `metadata.generation`.
    pub generation: i64,
    /// Number of assignable addresses.
    pub total: u128,
}

impl Picture {
    /// Sets the pools of a configuration, with their generations. A pool without one is not counted.
    pub fn declare(&mut self, config: &Config, generations: &BTreeMap<PoolName, i64>) {
        let pools = config.pools.iter().filter_map(|(name, pool)| {
            let generation = *generations.get(name)?;
            Some((name.clone(), Declared { generation, total: total(pool) }))
        });
        self.pools = pools.collect();
    }

    /// All records there are.
    pub fn list<'a>(&mut self, records: impl IntoIterator<Item = &'a LeaseRecord>) {
        let mut counted = BTreeMap::new();
        for record in records {
            *counted.entry(record.pool.clone()).or_insert(0) += 1;
        }
        self.records = Some(counted);
    }

    /// One record more.
    pub fn add(&mut self, pool: &PoolName) {
        if let Some(records) = &mut self.records {
            *records.entry(pool.clone()).or_insert(0) += 1;
        }
    }

    /// One record less.
    pub fn remove(&mut self, pool: &PoolName) {
        if let Some(count) = self.records.as_mut().and_then(|records| records.get_mut(pool)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Number of assignable addresses of a pool.
pub fn total(pool: &Pool) -> u128 {
    berth_ipam::alloc::usable(pool).len()
}

/// State of the steward, with its last writes.
#[derive(Debug, Default)]
pub struct Tally {
    beats: Option<BTreeMap<String, Beat>>,
    written: BTreeMap<PoolName, Written>,
}

#[derive(Debug)]
struct Beat {
    claim: Claim,
    alive: bool,
    counts: BTreeMap<String, Counts>,
}

#[derive(Debug)]
struct Written {
    /// `None`: the write failed.
    status: Option<IPPoolStatus>,
    at: Time,
}

impl Tally {
    /// Sets all heartbeats. They are listed again before `gap` is over.
    pub fn heard(&mut self, asked: Time, answered: Time, gap: Duration, leases: &[Lease]) {
        let mut former = self.beats.take().unwrap_or_default();
        let mut beats = BTreeMap::new();
        for lease in leases {
            let Some(name) = lease.metadata.name.as_ref().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let beat = former.remove(name);
            let mut claim = beat.map_or_else(|| Claim::new(String::new(), gap), |beat| beat.claim);
            claim.set_gap(gap);
            let alive = !claim.look(asked, answered, Some(lease)).is_given_up();
            beats.insert(name.clone(), Beat { claim, alive, counts: counts::read(lease) });
        }
        self.beats = Some(beats);
    }

    /// Pools with a status to write, those that waited longest first.
    pub fn due(&mut self, now: Time, picture: &Picture) -> Vec<(PoolName, IPPoolStatus)> {
        self.written.retain(|name, _| picture.pools.contains_key(name));
        let (Some(records), Some(_)) = (&picture.records, &self.beats) else { return Vec::new() };
        let mut due: Vec<_> = picture
            .pools
            .iter()
            .filter_map(|(name, declared)| {
                let status = self.status(name, *declared, records.get(name).copied().unwrap_or(0));
                let written = self.written.get(name);
                let wait = match written {
                    None => Duration::ZERO,
                    Some(written) if written.status.as_ref() == Some(&status) => AGAIN,
                    Some(_) => PACE,
                };
                let at = written.map(|written| written.at);
                at.is_none_or(|at| now.since(at) >= wait).then(|| (at, name.clone(), status))
            })
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        due.into_iter().map(|(_, name, status)| (name, status)).collect()
    }

    /// A status was written, or (`None`) not.
    pub fn written(&mut self, now: Time, name: PoolName, status: Option<IPPoolStatus>) {
        self.written.insert(name, Written { status, at: now });
    }

    fn status(&self, name: &PoolName, declared: Declared, records: u64) -> IPPoolStatus {
        let alive = self.beats.iter().flat_map(BTreeMap::values).filter(|beat| beat.alive);
        let told = alive.filter_map(|beat| beat.counts.get(name.as_str())).fold(Counts::default(), sum);
        let suspect = told.suspect.min(records);
        let held = told.held.min(records - suspect);
        let rest = declared.total.saturating_sub(u128::from(records));
        let quarantined = u128::from(told.quarantined).min(rest);
        IPPoolStatus {
            total: Some(number(declared.total)),
            bound: Some(number(records - suspect - held)),
            suspect: Some(number(suspect)),
            held: Some(number(held)),
            retained: Some(0),
            quarantined: Some(number(quarantined)),
            free: Some(number(rest - quarantined)),
            observed_generation: Some(declared.generation),
        }
    }
}

fn sum(one: Counts, other: &Counts) -> Counts {
    Counts {
        bound: one.bound.saturating_add(other.bound),
        suspect: one.suspect.saturating_add(other.suspect),
        held: one.held.saturating_add(other.held),
        quarantined: one.quarantined.saturating_add(other.quarantined),
    }
}

/// A number as the status can hold it: an IPv6 subnet has more addresses.
fn number(count: impl Into<u128>) -> i64 {
    i64::try_from(count.into()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
