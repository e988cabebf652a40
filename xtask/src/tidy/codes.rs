//! Codes that users meet, and the documents that explain them: the numbers of errors in docs/errors.md, the
//! codes of events in docs/verdicts.md.
//!
//! Numbers are checked in both directions: an undocumented one is useless, and a documented one that is never
//! returned misleads. The content of the rows is left to reviewers.

use std::collections::BTreeMap;

use super::{Finding, Source};

const ERRORS: &str = "docs/errors.md";
const EVENTS: &str = "docs/verdicts.md";

/// Checks that docs/errors.md has one row for each number that the code returns, and no other.
pub fn check_errors(sources: &[Source]) -> Vec<Finding> {
    let page = super::text_of(sources, ERRORS);
    let mut documented: Vec<u32> = Vec::new();
    for line in page.lines() {
        let cell = line.strip_prefix('|').and_then(|rest| rest.split('|').next());
        documented.extend(cell.and_then(|cell| cell.trim().trim_matches('`').parse::<u32>().ok()));
    }
    let mut returned: BTreeMap<u32, String> = BTreeMap::new();
    for source in product(sources) {
        for (number, line) in code_lines(source) {
            if let Some(code) = error_number(source, line) {
                returned.entry(code).or_insert(format!("{}:{number}", source.name()));
            }
        }
    }
    let mut findings = Vec::new();
    for (code, place) in &returned {
        if !documented.contains(code) {
            findings.push(Finding::new(place.as_str(), format!("error code {code} has no row in {ERRORS}")));
        }
    }
    for code in documented {
        if !returned.contains_key(&code) {
            findings.push(Finding::new(ERRORS, format!("has a row for code {code}, which nothing returns")));
        }
    }
    findings
}

/// Checks that docs/verdicts.md names each code of an event in backticks.
pub fn check_events(sources: &[Source]) -> Vec<Finding> {
    let page = super::text_of(sources, EVENTS);
    let mut codes: BTreeMap<String, String> = BTreeMap::new();
    for source in product(sources) {
        let code: String = code_lines(source).flat_map(|(_, line)| [line.trim(), " "]).collect();
        for word in event_codes(&code) {
            codes.entry(word.to_owned()).or_insert_with(|| source.name());
        }
    }
    codes
        .into_iter()
        .filter(|(code, _)| !page.contains(&format!("`{code}`")))
        .map(|(code, place)| Finding::new(place, format!("event code {code} is not in {EVENTS}")))
        .collect()
}

/// The files that operators run.
fn product(sources: &[Source]) -> impl Iterator<Item = &Source> {
    const CRATES: &[&str] = &["ipam", "protocol", "cni", "api", "store", "underlay", "meta-plugin", "agent"];
    sources.iter().filter(|source| {
        let path = source.path.to_string_lossy();
        let mut parts = path.split('/');
        let crates = parts.next().is_some_and(|folder| CRATES.contains(&folder));
        crates && parts.next() == Some("src") && source.has_extension("rs") && !path.contains("tests")
    })
}

/// Lines up to the tests of the file, comments left out, numbered from 1.
fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.text.lines().take_while(|line| !line.contains("#[cfg(test)]"));
    lines
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The code that a line declares: a constant for codes, or a literal passed to `code`.
fn error_number(source: &Source, line: &str) -> Option<u32> {
    let line = line.trim();
    if let Some(literal) = line.strip_prefix("code: ") {
        return literal.trim_end_matches(',').parse().ok();
    }
    let (name, value) = line.split_once("const ")?.1.split_once(": u32 = ")?;
    let is_code = ["cni/src/error.rs", "meta-plugin/src/errors.rs"].contains(&source.name().as_str());
    (is_code || name.starts_with("CODE_")).then(|| value.trim_end_matches(';').parse().ok())?
}

/// The words after a kind of note or the key of an observation, those passed to `code` or `reason` as
/// literals, and those that name the reason of an end.
fn event_codes(code: &str) -> impl Iterator<Item = &str> {
    const OUTRIGHT: &[&str] = &["code: \"", "live.reason = \"", "Live::new(now, \""];
    const FIRST_TEXT: &[&str] = &["NoteKind::", ".observe(", ".finalize("];
    let outright = OUTRIGHT.iter().flat_map(|start| code.split(start).skip(1));
    let noted = FIRST_TEXT.iter().flat_map(|start| code.split(start).skip(1)).filter_map(|rest| {
        // Only within the call: a literal of the next call does not belong to a call with a variable.
        let (before, text) = rest.split_once(", \"")?;
        (!before.contains([';', ')'])).then_some(text)
    });
    let words = outright.chain(noted).filter_map(|rest| rest.split('"').next());
    words.filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn numbers_and_rows_fit_both_ways() {
        let code = source(
            "cni/src/error.rs",
            "pub mod code {\n    pub const IO: u32 = 5;\n}\n#[cfg(test)]\nconst X: u32 = 9;",
        );
        let agent = source(
            "agent/src/server.rs",
            "const CODE_LATER: u32 = 11;\nconst LIMIT: u32 = 77;\n    code: 6,\n",
        );
        let page = |text: &str| source(ERRORS, text);
        let rows = "| code | meaning |\n|---|---|\n| 5 | io |\n| `6` | decode |\n| 11 | later |\n";
        let all = |text: &str| {
            vec![
                source("cni/src/error.rs", &code.text),
                source("agent/src/server.rs", &agent.text),
                page(text),
            ]
        };
        assert_eq!(check_errors(&all(rows)), []);
        assert_eq!(check_errors(&all(&rows.replace("| 5 |", "| 8 |"))).len(), 2);
        assert_eq!(check_errors(&all("")).len(), 3);
    }

    #[test]
    fn events_are_documented() {
        let text = "Row { code: \"repaired\" }\n// code: \"commented\"\nself.note(\n    NoteKind::Verdict,\n    \"late\",\n);\nself.observe(key, code, text);\nf(1, \"no\")";
        let code = || source("ipam/src/ledger/io.rs", text);
        assert_eq!(check_events(&[code(), source(EVENTS, "`repaired` and `late`")]), []);
        assert_eq!(check_events(&[code(), source(EVENTS, "`late`")]).len(), 1);
        assert_eq!(check_events(&[code()]).len(), 2);
    }
}
