//! Results with their bounds: lines for the terminal, JSON for comparison. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use berth_testbed::stats::{Times, millis};
use serde_json::{Value, json};

/// One result line.
#[derive(Debug)]
struct Row {
    what: String,
    /// The numbers, with their unit, and which of them counts.
    numbers: String,
    measured: f64,
    bound: Option<f64>,
    unit: &'static str,
    count: usize,
}

/// All of them.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Row>,
    slack: f64,
}

impl Table {
    /// An empty table; its bounds are multiplied by `slack`.
    pub fn new(slack: u32) -> Self {
        Self { rows: Vec::new(), slack: f64::from(slack) }
    }

    /// Times of which the p99 counts, or with fewer than a hundred of them the longest.
    pub fn times(&mut self, what: &str, times: &Times, bound: Option<Duration>) {
        let of = |percent| times.percentile(percent).map_or(f64::INFINITY, millis);
        let numbers = format!("p50 {:.1}, p99 {:.1}", of(50), of(99));
        self.add(what, numbers, of(99), bound.map(millis), "ms", times.len());
    }

    /// Adds one number.
    pub fn value(&mut self, what: &str, value: f64, bound: Option<f64>, unit: &'static str, count: usize) {
        self.add(what, format!("{value:.2}"), value, bound, unit, count);
    }

    fn add(
        &mut self,
        what: &str,
        numbers: String,
        measured: f64,
        bound: Option<f64>,
        unit: &'static str,
        count: usize,
    ) {
        self.rows.push(Row { what: what.to_owned(), numbers, measured, bound, unit, count });
        if let Some(row) = self.rows.last() {
            println!("{}", self.line(row));
        }
    }

    fn is_within(&self, row: &Row) -> bool {
        row.bound.is_none_or(|bound| row.measured <= bound * self.slack)
    }

    fn line(&self, row: &Row) -> String {
        let mut line = format!("{:<58} {:>5} x  {:<26} {:<4}", row.what, row.count, row.numbers, row.unit);
        if let Some(bound) = row.bound {
            let kept = if self.is_within(row) { "kept" } else { "MISSED" };
            let _ = write!(line, " {bound} wanted, {kept}");
        }
        line
    }

    /// For a person.
    pub fn lines(&self) -> String {
        let lines = self.rows.iter().map(|row| self.line(row) + "\n");
        format!("\nbounds times {}\n{}", self.slack, lines.collect::<String>())
    }

    /// Results as JSON, for comparison.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({"what": row.what, "count": row.count, "measured": row.measured, "bound": row.bound,
                   "unit": row.unit, "numbers": row.numbers, "kept": self.is_within(row)})
        });
        json!({"slack": self.slack, "rows": rows.collect::<Value>()})
    }

    /// True if all bounds were kept.
    pub fn is_kept(&self) -> bool {
        self.rows.iter().all(|row| self.is_within(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_missed_by_the_slowest_of_a_hundred_and_slack_forgives() {
        let mut times: Times = (0..99).map(|_| Duration::from_millis(5)).collect();
        let missed = |times: &Times, slack| {
            let mut table = Table::new(slack);
            table.times("x", times, Some(Duration::from_millis(20)));
            !table.is_kept()
        };
        assert!(!missed(&times, 1));
        times.extend([Duration::from_millis(30); 2]);
        assert!(missed(&times, 1) && !missed(&times, 2));
        assert!(missed(&Times::default(), 1000), "nothing measured is nothing kept");
        let mut table = Table::new(1);
        table.value("y", 2.0, None, "MB", 1);
        assert!(table.is_kept() && table.lines().contains("2.00"));
        assert_eq!(table.json()["rows"][0]["kept"], true);
    }
}
