//! The report: lines for the terminal, JSON for comparison. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use berth_testbed::stats::millis;
use serde_json::{Value, json};

use super::Bench;
use super::meter::Used;
use crate::tally::Calls;

/// Answers that the outsider received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Number of probed addresses.
    pub asked: usize,
    /// Those for which two answered.
    pub duplicates: usize,
    /// Number of addresses without an answer.
    pub absent: usize,
    /// Expected number of addresses without an answer.
    pub expected: usize,
}

/// Results of one phase.
#[derive(Debug)]
pub struct Phase {
    /// Name of the phase.
    pub name: &'static str,
    /// Duration of the phase.
    pub wall: Duration,
    /// The runtime's calls.
    pub calls: BTreeMap<&'static str, Calls>,
    /// Resources that were used.
    pub used: Used,
    /// Answers that the outsider received afterwards.
    pub wire: Wire,
}

impl Phase {
    /// True without a failed call and without a duplicate, if exactly the assigned addresses have an answer.
    pub fn is_clean(&self) -> bool {
        let failed: usize = self.calls.values().map(|calls| calls.failed).sum();
        failed == 0 && self.wire.duplicates == 0 && self.wire.absent == self.wire.expected
    }

    /// For a person.
    pub fn lines(&self) -> String {
        let mut text = format!("{:<8} {:>7.2} s", self.name, self.wall.as_secs_f64());
        for (command, calls) in &self.calls {
            let of = |percent| calls.times.percentile(percent).map_or(0.0, millis);
            let max = calls.times.max().map_or(0.0, millis);
            let _ = write!(
                text,
                "\n  {command:<9} {} ok, {} failed; p50 {:.0} ms, p90 {:.0}, p99 {:.0}, max {max:.0}; CPU of plugins {:.1} s",
                calls.times.len(),
                calls.failed,
                of(50),
                of(90),
                of(99),
                calls.cpu.as_secs_f64(),
            );
            for failure in &calls.failures {
                let _ = write!(text, "\n            {failure}");
            }
        }
        let requests = &self.used.requests;
        let _ = write!(
            text,
            "\n  API       {} requests, {} KiB watched",
            requests.total(),
            requests.watch_bytes / 1024
        );
        for (kind, count) in &requests.by_code {
            let _ = write!(text, "; {kind}: {count}");
        }
        let _ = write!(text, "\n  CPU s/MiB");
        for (name, account) in &self.used.accounts {
            let _ = write!(text, " {name} {:.1}/{};", account.cpu.as_secs_f64(), account.memory_kib / 1024);
        }
        let Wire { asked, duplicates, absent, expected } = self.wire;
        let _ = writeln!(
            text,
            "\n  wire      {asked} asked for: {duplicates} duplicates, {absent} without an answer ({expected} should be)"
        );
        text
    }

    fn json(&self) -> Value {
        let calls = self.calls.iter().map(|(command, calls)| {
            let of = |percent| calls.times.percentile(percent).map(millis);
            let value = json!({
                "ok": calls.times.len(), "failed": calls.failed, "failures": calls.failures,
                "p50_ms": of(50), "p90_ms": of(90), "p99_ms": of(99), "max_ms": calls.times.max().map(millis),
                "plugin_cpu_s": calls.cpu.as_secs_f64(), "plugin_memory_max_kib": calls.memory_kib,
            });
            ((*command).to_owned(), value)
        });
        let accounts = self.used.accounts.iter().map(|(name, account)| {
            let value = json!({"cpu_s": account.cpu.as_secs_f64(), "memory_kib": account.memory_kib});
            ((*name).to_owned(), value)
        });
        let Wire { asked, duplicates, absent, expected } = self.wire;
        json!({
            "name": self.name, "wall_s": self.wall.as_secs_f64(), "clean": self.is_clean(),
            "calls": calls.collect::<Value>(), "processes": accounts.collect::<Value>(),
            "agent_memory_max_kib": self.used.agent_memory_max_kib,
            "api": {
                "requests": self.used.requests.total(), "by_code": self.used.requests.by_code,
                "writes": self.used.requests.writes, "watch_bytes": self.used.requests.watch_bytes,
            },
            "wire": {"asked": asked, "duplicates": duplicates, "absent": absent, "absent_expected": expected},
        })
    }
}

/// Results of all phases.
#[derive(Debug)]
pub struct Report {
    head: Value,
    /// In their order.
    pub phases: Vec<Phase>,
}

impl Report {
    /// An empty one.
    pub fn new(bench: &Bench) -> Self {
        let options = &bench.options;
        let head = json!({
            "cni": options.cni.name(), "cni_version": options.version, "dual": options.dual,
            "nodes": options.nodes, "pods": options.pods,
            "shape": format!("{}x{}", bench.shape.apps, bench.shape.replicas),
            "in_flight": options.habits.in_flight, "inhabited": options.habits.inhabited,
            "etcd_durable": options.settings.durable,
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
        });
        Self { head, phases: Vec::new() }
    }

    /// Results as JSON, for comparison.
    pub fn json(&self) -> Value {
        let mut report = self.head.clone();
        report["phases"] = self.phases.iter().map(Phase::json).collect();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase() -> Phase {
        let mut calls = Calls::default();
        calls.times.push(Duration::from_millis(5));
        let wire = Wire { asked: 20, duplicates: 0, absent: 0, expected: 0 };
        let calls = BTreeMap::from([("ADD", calls)]);
        Phase { name: "create", wall: Duration::from_secs(2), calls, used: Used::default(), wire }
    }

    #[test]
    fn a_phase_is_clean_until_something_failed_or_somebody_answers_twice_or_not() {
        assert!(phase().is_clean());
        let spoilt: [fn(&mut Phase); 4] = [
            |phase| phase.calls.get_mut("ADD").unwrap().failed = 1,
            |phase| phase.wire.duplicates = 1,
            |phase| phase.wire.absent = 1,
            |phase| phase.wire.expected = 20,
        ];
        for spoil in spoilt {
            let mut phase = phase();
            spoil(&mut phase);
            assert!(!phase.is_clean());
        }
    }

    #[test]
    fn lines_and_json_tell_the_same() {
        let phase = phase();
        assert!(phase.lines().contains("1 ok, 0 failed; p50 5 ms"), "{}", phase.lines());
        assert_eq!(phase.json()["calls"]["ADD"]["p50_ms"], 5.0);
        assert_eq!(phase.json()["wall_s"], 2.0);
    }
}
