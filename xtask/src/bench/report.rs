//! Results, as a table for the terminal and as JSON for programs.

use std::fmt::Write as _;

use berth_testbed::stats::{Times, millis};
use serde_json::{Value, json};

/// All measurements of a run, in order.
#[derive(Debug, Default)]
pub struct Report {
    times: Vec<Timing>,
    ratios: Vec<Ratio>,
    values: Vec<Single>,
}

#[derive(Debug)]
struct Timing {
    what: String,
    who: &'static str,
    times: Times,
}

#[derive(Debug)]
struct Ratio {
    what: String,
    against: &'static str,
    median: f64,
    least: f64,
    /// By the 99th percentiles: what a busy machine disturbs most.
    p99: f64,
    wanted: Option<f64>,
}

#[derive(Debug)]
struct Single {
    what: String,
    value: f64,
    unit: String,
    wanted: Option<f64>,
}

impl Report {
    /// Adds times of one contestant.
    pub fn times(&mut self, what: &str, who: &'static str, times: Times) {
        self.times.push(Timing { what: what.to_owned(), who, times });
    }

    /// Adds the ratio of two contestants' times, the first by the second: of their medians, of their least
    /// times (which a busy machine disturbs less) and of their 99th percentiles. `wanted` is the bound of the
    /// median's ratio.
    pub fn ratio(&mut self, what: &str, ours: &Times, theirs: (&'static str, &Times), wanted: Option<f64>) {
        let by = |pick: &dyn Fn(&Times) -> Option<std::time::Duration>| -> Option<f64> {
            let (ours, theirs) = (pick(ours)?.as_secs_f64(), pick(theirs.1)?.as_secs_f64());
            (theirs > 0.0).then(|| ours / theirs)
        };
        let at = |percent| by(&|times: &Times| times.percentile(percent));
        if let (Some(median), Some(least), Some(p99)) = (at(50), by(&Times::min), at(99)) {
            let against = theirs.0;
            self.ratios.push(Ratio { what: what.to_owned(), against, median, least, p99, wanted });
        }
    }

    /// Adds times of two contestants and their ratio.
    pub fn duel(
        &mut self,
        what: &str,
        ours: (&'static str, Times),
        theirs: (&'static str, Times),
        wanted: Option<f64>,
    ) {
        self.ratio(what, &ours.1, (theirs.0, &theirs.1), wanted);
        self.times(what, ours.0, ours.1);
        self.times(what, theirs.0, theirs.1);
    }

    /// Adds one number.
    pub fn value(&mut self, what: &str, value: f64, unit: &str, wanted: Option<f64>) {
        self.values.push(Single { what: what.to_owned(), value, unit: unit.to_owned(), wanted });
    }

    /// Everything as aligned text.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if !self.times.is_empty() {
            let _ = writeln!(
                text,
                "\n{:<34} {:<28} {:>5} {:>9} {:>9} {:>9}",
                "times in ms", "of", "n", "least", "median", "p99"
            );
        }
        for row in &self.times {
            let cell = |time: Option<std::time::Duration>| {
                time.map_or("-".to_owned(), |time| format!("{:.3}", millis(time)))
            };
            let times = [row.times.min(), row.times.percentile(50), row.times.percentile(99)].map(cell);
            let (count, [least, median, p99]) = (row.times.len(), times);
            let _ =
                writeln!(text, "{:<34} {:<28} {count:>5} {least:>9} {median:>9} {p99:>9}", row.what, row.who);
        }
        for row in &self.ratios {
            let wanted = wanted(row.wanted, row.median);
            let _ = writeln!(
                text,
                "{:<34} {:.2} x {} by the median, {:.2} x by the least, {:.2} x by the p99{wanted}",
                row.what, row.median, row.against, row.least, row.p99
            );
        }
        for row in &self.values {
            let wanted = wanted(row.wanted, row.value);
            // Whole numbers without a fraction, the rest to a thousandth.
            let value = (row.value * 1e3).round() / 1e3;
            let _ = writeln!(text, "{:<38} {value} {}{wanted}", row.what, row.unit);
        }
        text
    }

    /// Everything as one document.
    pub fn json(&self) -> Value {
        let times: Vec<Value> = self
            .times
            .iter()
            .map(|row| {
                let ms = |time: Option<std::time::Duration>| time.map(millis);
                json!({
                    "what": row.what, "of": row.who, "n": row.times.len(), "least_ms": ms(row.times.min()),
                    "median_ms": ms(row.times.percentile(50)), "p99_ms": ms(row.times.percentile(99)),
                })
            })
            .collect();
        let ratios: Vec<Value> = self
            .ratios
            .iter()
            .map(|row| {
                json!({
                    "what": row.what, "against": row.against, "median": row.median, "least": row.least,
                    "p99": row.p99, "wanted": row.wanted,
                })
            })
            .collect();
        let values: Vec<Value> = self
            .values
            .iter()
            .map(|row| json!({"what": row.what, "value": row.value, "unit": row.unit, "wanted": row.wanted}))
            .collect();
        json!({"times": times, "ratios": ratios, "values": values})
    }
}

/// The limit, and whether it was kept.
fn wanted(limit: Option<f64>, measured: f64) -> String {
    limit.map_or(String::new(), |limit| {
        let verdict = if measured <= limit { "kept" } else { "MISSED" };
        format!("; wanted {limit}: {verdict}")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn times(millis: &[u64]) -> Times {
        millis.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    #[test]
    fn a_duel_is_told_by_median_and_least_and_against_its_limit() {
        let mut report = Report::default();
        report.duel("ADD", ("berth", times(&[4, 6, 8])), ("floor", times(&[8, 10, 99])), Some(0.5));
        let ratio = &report.json()["ratios"][0];
        assert_eq!(ratio["median"], 0.6);
        assert_eq!(ratio["least"], 0.5);
        assert_eq!(ratio["p99"].as_f64().map(|p99| (p99 * 1e3).round()), Some(81.0));
        assert!(report.table().contains("wanted 0.5: MISSED"));
        assert_eq!(report.json()["times"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_duel_without_times_has_no_ratio() {
        let mut report = Report::default();
        report.duel("ADD", ("berth", Times::default()), ("floor", times(&[1])), None);
        assert!(report.json()["ratios"].as_array().unwrap().is_empty());
    }
}
