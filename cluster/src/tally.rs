//! Counts of the runtime while plugins run: calls, times, failures, resources. One tally serves all nodes; a
//! phase of a bench takes it and leaves an empty one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use berth_testbed::cleanup::Usage;
use berth_testbed::stats::Times;

/// Number of failures with their text kept.
const FAILURES_KEPT: usize = 5;

/// The calls of one command (ADD, DEL) of whole chains.
#[derive(Debug, Default, Clone)]
pub struct Calls {
    /// Durations of the successful calls.
    pub times: Times,
    /// Number of failed calls.
    pub failed: usize,
    /// Texts of the first failures.
    pub failures: Vec<String>,
    /// Processor time of all plugins.
    pub cpu: Duration,
    /// The most memory that one plugin held, in KiB.
    pub memory_kib: u64,
}

/// Shared by all nodes.
#[derive(Debug, Default)]
pub struct Tally {
    calls: Mutex<BTreeMap<&'static str, Calls>>,
    complaints: Mutex<Vec<String>>,
}

impl Tally {
    /// Notes a call of a whole chain.
    pub fn note(&self, command: &'static str, took: Duration, failure: Option<&str>, usage: Usage) {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all.entry(command).or_default();
        calls.cpu += usage.cpu;
        calls.memory_kib = calls.memory_kib.max(usage.memory_kib);
        match failure {
            None => calls.times.push(took),
            Some(text) => {
                calls.failed += 1;
                if calls.failures.len() < FAILURES_KEPT {
                    calls.failures.push(text.to_owned());
                }
            }
        }
    }

    /// Records a failed request of a kubelet, so that a waiting test can report the reason.
    pub fn complain(&self, what: &str, error: &impl std::fmt::Display) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < FAILURES_KEPT {
            complaints.push(format!("{what}: {error}"));
        }
    }

    /// The first requests of kubelets that failed since the last time.
    pub fn complaints(&self) -> Vec<String> {
        std::mem::take(&mut *self.complaints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts since the last call.
    pub fn take(&self) -> BTreeMap<&'static str, Calls> {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_apart_and_a_taken_tally_is_empty() {
        let tally = Tally::default();
        let usage = Usage { cpu: Duration::from_millis(3), memory_kib: 7 };
        tally.note("ADD", Duration::from_millis(5), None, usage);
        for _ in 0..9 {
            tally.note("ADD", Duration::ZERO, Some("full"), Usage::default());
        }
        let taken = tally.take();
        let calls = &taken["ADD"];
        assert_eq!((calls.times.len(), calls.failed, calls.failures.len()), (1, 9, FAILURES_KEPT));
        assert_eq!((calls.cpu, calls.memory_kib), (Duration::from_millis(3), 7));
        assert!(tally.take().is_empty());
    }
}
