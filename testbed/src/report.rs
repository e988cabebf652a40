//! Findings of a run: `report.json`, and the table at its end.
//!
//! The keys are a contract (docs/testing.md); absent times are null; bounds are as applied, after `--slack`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::stats::{Times, millis};

/// All cases of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Report {
    /// In the order in which they ran.
    pub cases: Vec<Case>,
}

/// Result of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// 1 to 13.
    pub id: u32,
    /// Title of the fault.
    pub title: String,
    /// True if every bound and every check held.
    pub ok: bool,
    /// Number of attachments behind the times.
    pub n: usize,
    /// Median, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Greatest, in milliseconds.
    pub max_ms: Option<f64>,
    /// 99th percentile of the kernel's part, from the request to the teardown, in milliseconds.
    pub kernel_p99_ms: Option<f64>,
    /// Bound of `p99_ms` in milliseconds.
    pub bound_ms: Option<f64>,
    /// All further conditions.
    pub checks: Vec<Check>,
}

/// One condition of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Text of the check, with the unit.
    pub what: String,
    /// True if it held.
    pub ok: bool,
    /// Value that was measured.
    pub measured: Value,
    /// Value that was allowed or required.
    pub bound: Value,
}

/// Collects what a case finds.
#[derive(Debug)]
pub struct Builder {
    id: u32,
    title: &'static str,
    slack: f64,
    /// Prefix of each further check; empty in the main part.
    chapter: String,
    n: usize,
    times: Times,
    kernel: Times,
    bound: Option<Duration>,
    checks: Vec<Check>,
}

impl Builder {
    /// An empty one; `slack` multiplies every bound in time.
    pub fn new(id: u32, title: &'static str, slack: f64) -> Self {
        let (times, kernel) = Default::default();
        let (chapter, checks) = (String::new(), Vec::new());
        Self { id, title, slack, chapter, n: 0, times, kernel, bound: None, checks }
    }

    /// Starts a part under other conditions, which become the prefix of all further checks; empty: the main
    /// part again.
    pub fn chapter(&mut self, conditions: &str) {
        conditions.clone_into(&mut self.chapter);
    }

    /// The times that the case is about, of `n` attachments, and what their p99 may not exceed. In a
    /// chapter that is one check more: the report's times are the main part's.
    pub fn times(&mut self, n: usize, times: Times, bound: Option<Duration>) {
        if times.len() != n {
            self.equal("attachments with a measured time", times.len(), n);
        }
        if self.chapter.is_empty() {
            (self.n, self.times, self.bound) = (n, times, bound);
        } else if let Some(bound) = bound {
            self.within(&format!("p99 of {n} times"), times.percentile(99), bound);
        }
    }

    fn push(&mut self, what: String, ok: bool, measured: Value, bound: Value) {
        let what = if self.chapter.is_empty() { what } else { format!("{}: {what}", self.chapter) };
        self.checks.push(Check { what, ok, measured, bound });
    }

    /// Sets the number of attachments, if no single time counts it.
    pub fn count(&mut self, n: usize) {
        self.n = n;
    }

    /// The kernel's part.
    pub fn kernel(&mut self, times: Times) {
        if self.chapter.is_empty() {
            self.kernel = times;
        }
    }

    /// A time and its limit before slack; no time is a failure.
    pub fn within(&mut self, what: &str, measured: Option<Duration>, bound: Duration) {
        let bound = bound.mul_f64(self.slack);
        let ok = measured.is_some_and(|time| time <= bound);
        let measured = measured.map_or(Value::Null, |time| millis(time).into());
        self.push(format!("{what}, ms"), ok, measured, millis(bound).into());
    }

    /// A time that may not be shorter than its limit, which slack does not touch.
    pub fn not_before(&mut self, what: &str, measured: Option<Duration>, bound: Duration) {
        let ok = measured.is_some_and(|time| time >= bound);
        let measured = measured.map_or(Value::Null, |time| millis(time).into());
        self.push(format!("{what}, ms at least"), ok, measured, millis(bound).into());
    }

    /// A count that must be exactly so.
    pub fn equal(&mut self, what: &str, measured: usize, bound: usize) {
        let ok = measured == bound;
        self.push(what.to_owned(), ok, measured.into(), bound.into());
    }

    /// A list of offences that must be empty; the first ones are shown.
    pub fn none(&mut self, what: &str, offences: &[String]) {
        let shown: Vec<&String> = offences.iter().take(5).collect();
        let measured = if shown.is_empty() { Value::from(0) } else { Value::from(format!("{shown:?}")) };
        self.push(what.to_owned(), offences.is_empty(), measured, 0.into());
    }

    /// Something that must be so.
    pub fn holds(&mut self, what: &str, measured: bool) {
        self.push(what.to_owned(), measured, measured.into(), true.into());
    }

    /// A case that could not be run to its end.
    pub fn failed(mut self, error: &Error) -> Case {
        self.none("ran to its end", &[error.chain()]);
        self.finish()
    }

    /// Returns the case as it is.
    pub fn finish(self) -> Case {
        let bound = self.bound.map(|bound| bound.mul_f64(self.slack));
        let p99 = self.times.percentile(99);
        let in_time = bound.is_none_or(|bound| p99.is_some_and(|p99| p99 <= bound));
        Case {
            id: self.id,
            title: self.title.to_owned(),
            // Without any condition nothing was shown.
            ok: in_time && self.checks.iter().all(|check| check.ok) && !self.checks.is_empty(),
            n: self.n,
            p50_ms: self.times.percentile(50).map(millis),
            p99_ms: p99.map(millis),
            max_ms: self.times.max().map(millis),
            kernel_p99_ms: self.kernel.percentile(99).map(millis),
            bound_ms: bound.map(millis),
            checks: self.checks,
        }
    }
}

impl Report {
    /// True if every case held; an empty report shows nothing.
    pub fn ok(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|case| case.ok)
    }

    /// Writes `report.json`, replacing an older one atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        let doing = || Error::system(format!("write {}", path.display()));
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::other).map_err(doing())?;
        text.push('\n');
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(doing())?;
        }
        let temporary = path.with_extension("json.new");
        std::fs::write(&temporary, text).map_err(doing())?;
        std::fs::rename(&temporary, path).map_err(doing())
    }

    /// The table for people, ending with what did not hold.
    pub fn table(&self) -> String {
        let head =
            ["#", "case", "n", "p50 ms", "p99 ms", "max ms", "kernel p99 ms", "bound ms", "checks", ""];
        let mut rows = vec![head.map(str::to_owned)];
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        for case in &self.cases {
            let passed = case.checks.iter().filter(|check| check.ok).count();
            rows.push([
                case.id.to_string(),
                case.title.clone(),
                case.n.to_string(),
                number(case.p50_ms),
                number(case.p99_ms),
                number(case.max_ms),
                number(case.kernel_p99_ms),
                number(case.bound_ms),
                format!("{passed}/{}", case.checks.len()),
                if case.ok { "ok".to_owned() } else { "FAILED".to_owned() },
            ]);
        }
        let mut text = columns(&rows);
        for case in self.cases.iter().filter(|case| !case.ok) {
            if case.bound_ms.is_some_and(|bound| case.p99_ms.is_none_or(|p99| p99 > bound)) {
                let (p99, bound) = (number(case.p99_ms), number(case.bound_ms));
                let _ = writeln!(text, "case {}: p99 {p99} ms, bound {bound} ms", case.id);
            }
            for check in case.checks.iter().filter(|check| !check.ok) {
                let Check { what, measured, bound, .. } = check;
                let _ = writeln!(text, "case {}: {what}: {measured}, bound {bound}", case.id);
            }
        }
        text
    }
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            // Texts to the left, numbers to the right.
            1 | 9 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(slack: f64, millis: u64) -> Case {
        let mut builder = Builder::new(1, "netns deleted", slack);
        let times = [Duration::from_millis(millis)].into_iter().collect();
        builder.times(1, times, Some(Duration::from_millis(100)));
        builder.equal("addresses given again", 1, 1);
        builder.finish()
    }

    #[test]
    fn the_report_has_the_keys_of_the_contract() {
        let report = serde_json::to_value(Report { cases: vec![built(2.0, 150)] }).unwrap();
        let case = &report["cases"][0];
        let keys: Vec<&str> = case.as_object().unwrap().keys().map(String::as_str).collect();
        let contract =
            ["id", "title", "ok", "n", "p50_ms", "p99_ms", "max_ms", "kernel_p99_ms", "bound_ms", "checks"];
        assert_eq!(keys, contract);
        assert!(case["kernel_p99_ms"].is_null());
        assert_eq!((case["bound_ms"].as_f64(), case["ok"].as_bool()), (Some(200.0), Some(true)));
        let check = &case["checks"][0];
        assert_eq!(check["what"], "addresses given again");
        assert_eq!((check["measured"].as_u64(), check["bound"].as_u64()), (Some(1), Some(1)));
    }

    #[test]
    fn a_missed_bound_a_failed_check_and_no_check_fail_a_case() {
        assert!(built(1.0, 100).ok && !built(1.0, 101).ok);
        let mut builder = Builder::new(2, "t", 1.0);
        builder.within("x", None, Duration::from_secs(1));
        assert!(!builder.finish().ok);
        assert!(!Builder::new(3, "t", 1.0).finish().ok);
        assert!(!Report::default().ok());
    }

    #[test]
    fn a_chapter_names_its_checks_and_leaves_the_cases_times_alone() {
        let mut builder = Builder::new(1, "t", 1.0);
        let times = |millis| [Duration::from_millis(millis)].into_iter().collect::<Times>();
        builder.times(1, times(5), Some(Duration::from_millis(10)));
        builder.chapter("again");
        builder.times(1, times(50), Some(Duration::from_millis(10)));
        builder.kernel(times(1));
        builder.chapter("");
        builder.holds("x", true);
        let case = builder.finish();
        assert_eq!((case.p99_ms, case.kernel_p99_ms, case.ok), (Some(5.0), None, false));
        let names: Vec<_> = case.checks.iter().map(|check| (check.what.as_str(), check.ok)).collect();
        assert_eq!(names, [("again: p99 of 1 times, ms", false), ("x", true)]);
    }

    #[test]
    fn the_table_names_what_failed() {
        let table = Report { cases: vec![built(1.0, 150)] }.table();
        assert!(
            table.contains("FAILED") && table.contains("case 1: p99 150.0 ms, bound 100.0 ms"),
            "{table}"
        );
    }
}
