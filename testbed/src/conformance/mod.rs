//! The conformance suite: one named test for each row of the CNI checklist, each trap, and each observed
//! behaviour of kubelet and containerd; for Berth, and for any other plugin.
//!
//! A plugin is driven as a runtime drives it: its binary, with environment and standard input, in real
//! namespaces, with a real agent if it has one. Assertions cover its output, its exit, and the content of
//! kernel and store, read by the testbed's own means.
//!
//! docs/conformance.md is generated from the findings, and a run of the suite compares it. Known failures of
//! Berth are listed in `known`; any other failure is red, and so is a row of that list which passes. The
//! reference breaks several rows, which proves that the tests can fail.
//!
//! Left out: real runtimes. A row about callers simulates one, and proves nothing about a real one.

mod answer;
mod document;
mod known;
mod recorder;
mod rows;
mod stage;
mod subject;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use answer::Stop;
pub use rows::{ALL, Kind, Part, Row};
use stage::Stage;
use subject::Subject;

use crate::error::{Error, Result};
use crate::outside::Outside;
use crate::skip;

/// Path of the reference plugin in Debian's package.
pub const REFERENCE: &str = "/usr/lib/cni/macvlan";
/// Minimum number of rows that the reference must break, or the tests prove nothing.
const BROKEN_BY_REFERENCE: usize = 5;

/// Parameters of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with `berth` and `berth-agent`, built with fault points.
    pub binaries: PathBuf,
    /// Another plugin instead of Berth, and its IPAM.
    pub other: Option<(PathBuf, String)>,
    /// Only tests with this text in their name.
    pub filter: Option<String>,
    /// Path of the document with the findings.
    pub document: PathBuf,
    /// True if to write it instead of comparing it.
    pub write: bool,
    /// The cluster in which Berth is tested alone, without document and reference; `None`: on a machine alone.
    pub outside: Option<Arc<dyn Outside>>,
}

/// Result of a row's test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin obeys.
    Pass,
    /// It does not.
    No {
        /// Text that is the same in every run.
        short: String,
        /// Text of the observation.
        seen: String,
    },
    /// The row does not apply to this plugin, for this reason.
    Senseless(&'static str),
    /// It could not be played.
    Unplayed(String),
}

/// Results of a plugin's rows, in their order.
pub type Findings = Vec<(Row, Verdict)>;

/// Number of tests by result.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
    known: usize,
}

impl Count {
    fn told(&mut self, name: &str, failure: Option<&str>) {
        println!(
            "test cni::{name} ... {}",
            failure.map_or("ok".to_owned(), |why| format!("FAILED\n    {why}"))
        );
        if failure.is_some() { self.failed += 1 } else { self.passed += 1 }
    }
}

/// Runs the suite and prints it as libtest prints tests; whether nothing failed. With another plugin,
/// nothing that it breaks is a failure: it is listed.
pub fn run(settings: &Settings) -> Result<bool> {
    let began = Instant::now();
    if let Some((plugin, ipam)) = &settings.other {
        return list(&Subject::other(&settings.binaries, plugin, ipam), settings);
    }
    let mut count = Count::default();
    let chosen = chosen(settings);
    let whole = settings.filter.is_none() && settings.outside.is_none();
    // The document, and the proof that tests can fail.
    let extra = if whole { 2 } else { 0 };
    println!("running {} tests", chosen.len() + extra);
    let berth = Subject { outside: settings.outside.clone(), ..Subject::berth(&settings.binaries) };
    let own = play(&berth, &chosen, &mut |row, verdict| {
        judge(row, verdict, &mut count);
    })?;
    if whole && Path::new(REFERENCE).exists() {
        let subject = Subject::other(&settings.binaries, Path::new(REFERENCE), "host-local");
        let theirs = play(&subject, &chosen, &mut |_, _| {})?;
        compare(settings, &own, &theirs, &mut count)?;
    } else if whole {
        skip::because("the reference is not here: apt-get install containernetworking-plugins");
        // A test that skips counts as passed in libtest's line, and xtask takes it off again.
        count.passed += 1;
    }
    let outcome = if count.failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {outcome}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        count.passed,
        count.failed,
        count.known,
        ALL.iter().map(|part| part.rows.len()).sum::<usize>() - chosen.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(count.failed == 0)
}

fn chosen(settings: &Settings) -> Vec<Row> {
    let rows = ALL.iter().flat_map(|part| part.rows).copied();
    let wanted = |row: &Row| settings.filter.as_ref().is_none_or(|part| named(row).contains(part.as_str()));
    rows.filter(wanted).collect()
}

fn named(row: &Row) -> String {
    format!("cni::{}", row.test)
}

/// Runs rows for a plugin, reporting each result immediately.
fn play(subject: &Subject, rows: &[Row], tell: &mut dyn FnMut(&Row, &Verdict)) -> Result<Findings> {
    let mut stage = None;
    let mut findings = Findings::new();
    for row in rows {
        if stage.is_none() {
            stage = Some(Stage::build(subject)?);
        }
        let Some(ready) = &mut stage else { continue };
        let verdict = match (row.play)(ready) {
            Ok(()) => Verdict::Pass,
            Err(Stop::Broken { short, seen }) => Verdict::No { short, seen },
            Err(Stop::Senseless(why)) => Verdict::Senseless(why),
            Err(Stop::Could(Error::Interrupted)) => return Err(Error::Interrupted),
            Err(Stop::Could(error)) => Verdict::Unplayed(error.chain()),
        };
        tell(row, &verdict);
        findings.push((*row, verdict));
        if !ready.clear()? {
            stage = None;
        }
    }
    Ok(findings)
}

/// Judges Berth's row: red unless it passes, or fails as listed.
fn judge(row: &Row, verdict: &Verdict, count: &mut Count) {
    let known = known::reason(row.id);
    match (verdict, known) {
        (Verdict::Pass, None) => count.told(row.test, None),
        (Verdict::No { short, .. }, Some(reason)) if short == reason => {
            println!("test cni::{} ... ignored, known: {short}", row.test);
            count.known += 1;
        }
        (Verdict::Pass, Some(reason)) => {
            let why = format!("passes, though known as failing ({reason}): take {} out of known.rs", row.id);
            count.told(row.test, Some(&why));
        }
        (Verdict::No { short, seen }, _) => count.told(row.test, Some(&format!("{short}\n    {seen}"))),
        (Verdict::Senseless(why), _) => {
            count.told(row.test, Some(&format!("does not apply to Berth: {why}")));
        }
        (Verdict::Unplayed(why), _) => count.told(row.test, Some(&format!("could not be played: {why}"))),
    }
}

/// Compares the document with the findings; the reference must break some rows.
fn compare(settings: &Settings, own: &Findings, theirs: &Findings, count: &mut Count) -> Result<()> {
    let broken = theirs.iter().filter(|(_, verdict)| matches!(verdict, Verdict::No { .. })).count();
    let proof = (broken < BROKEN_BY_REFERENCE).then(|| format!("the reference breaks {broken} rows only"));
    count.told("the_tests_can_fail_as_the_reference_shows", proof.as_deref());
    let text = document::page(own, theirs);
    let path = &settings.document;
    if settings.write {
        std::fs::write(path, &text).map_err(Error::system(format!("write {}", path.display())))?;
        println!("wrote {}", path.display());
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let differs = document::difference(&found, &text);
    let advice =
        differs.map(|lines| format!("`cargo xtask test cni --write-docs` writes it again:\n{lines}"));
    count.told("the_document_says_what_was_found", advice.as_deref());
    Ok(())
}

/// Lists what another plugin obeys and what it breaks; whether all could be played.
fn list(subject: &Subject, settings: &Settings) -> Result<bool> {
    let rows = chosen(settings);
    println!("{}: {} rows", subject.title(), rows.len());
    let findings = play(subject, &rows, &mut |row, verdict| {
        println!("{:<4} {:<58} {}", row.id, row.test, document::cell(row, verdict));
        if let Verdict::No { seen, .. } = verdict {
            println!("     {seen}");
        }
    })?;
    let of = |kind: fn(&Verdict) -> bool| findings.iter().filter(|(_, verdict)| kind(verdict)).count();
    let unplayed = of(|verdict| matches!(verdict, Verdict::Unplayed(_)));
    println!(
        "{}: {} obeyed, {} broken, {} n/a, {unplayed} not played",
        subject.title(),
        of(|verdict| *verdict == Verdict::Pass),
        of(|verdict| matches!(verdict, Verdict::No { .. })),
        of(|verdict| matches!(verdict, Verdict::Senseless(_))),
    );
    Ok(unplayed == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_have_numbers_and_names_of_their_own() {
        let rows: Vec<&Row> = ALL.iter().flat_map(|part| part.rows).collect();
        for column in [|row: &Row| row.id, |row: &Row| row.test] {
            let unique: BTreeSet<_> = rows.iter().map(|row| column(row)).collect();
            assert_eq!(unique.len(), rows.len());
        }
        for row in &rows {
            let start = format!("{}_", row.id.to_lowercase());
            assert!(row.test.starts_with(&start), "{} is named {}", row.id, row.test);
        }
    }

    #[test]
    fn no_row_of_the_checklist_is_missing() {
        let rows: BTreeSet<&str> = ALL.iter().flat_map(|part| part.rows).map(|row| row.id).collect();
        let counts = [
            ('E', 12),
            ('V', 6),
            ('A', 11),
            ('D', 9),
            ('C', 4),
            ('S', 4),
            ('G', 8),
            ('R', 6),
            ('T', 16),
            ('F', 19),
            ('W', 4),
            ('B', 5),
        ];
        for (letter, count) in counts {
            for number in 1..=count {
                assert!(rows.contains(format!("{letter}{number}").as_str()), "{letter}{number}");
            }
        }
    }

    #[test]
    fn a_row_that_is_known_to_fail_must_fail_so() {
        let row = ALL[0].rows[0];
        let mut count = Count::default();
        judge(&row, &Verdict::Pass, &mut count);
        judge(&row, &Verdict::No { short: "x".to_owned(), seen: String::new() }, &mut count);
        assert_eq!((count.passed, count.failed, count.known), (1, 1, 0));
        let known = ALL.iter().flat_map(|part| part.rows).find(|row| known::reason(row.id).is_some());
        if let Some((row, reason)) = known.and_then(|row| Some((row, known::reason(row.id)?))) {
            let mut count = Count::default();
            judge(row, &Verdict::No { short: reason.to_owned(), seen: String::new() }, &mut count);
            judge(row, &Verdict::No { short: "other".to_owned(), seen: String::new() }, &mut count);
            judge(row, &Verdict::Pass, &mut count);
            assert_eq!((count.passed, count.failed, count.known), (0, 2, 1));
        }
    }
}
