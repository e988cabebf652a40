//! docs/conformance.md: a table for each part of the checklist, one line a row.

use std::fmt::Write as _;

use super::{ALL, Findings, Kind, Row, Verdict};

/// Text above the tables.
const HEAD: &str = "\
# Conformance

Conformance of Berth, and for comparison of Debian's `macvlan` with `host-local`, with the rules of CNI 1.0 and 1.1, and their
tolerance of the behaviour of runtimes. Each row is one test; `cargo xtask test cni` runs them all, and
`--plugin PATH [--ipam TYPE]` runs them against another plugin.

`cargo xtask test cni --write-docs` writes this page from the findings of the tests, and the suite fails if the page differs.
*no* is followed by the observation of the test, *caller* (a row about callers of plugins) by the test that simulates that
caller, *n/a* by the reason why the row does not apply to that plugin.
";

/// The whole page.
pub fn page(own: &Findings, theirs: &Findings) -> String {
    let mut text = String::from(HEAD);
    for part in &ALL {
        let _ = write!(
            text,
            "\n## {}\n\n| ID | meaning | Berth | macvlan + host-local |\n|---|---|---|---|\n",
            part.title
        );
        for row in part.rows {
            let cells = [own, theirs].map(|findings| {
                let found = findings.iter().find(|(other, _)| other.id == row.id);
                found.map_or_else(|| "not run".to_owned(), |(_, verdict)| cell(row, verdict))
            });
            let [own, theirs] = cells;
            let _ = writeln!(text, "| {} | {} | {own} | {theirs} |", row.id, row.meaning);
        }
    }
    text
}

/// Text of a row for a plugin.
pub fn cell(row: &Row, verdict: &Verdict) -> String {
    let text = match (verdict, row.kind) {
        (Verdict::Pass, Kind::Plugin) => "pass".to_owned(),
        (Verdict::Pass, Kind::Caller) => format!("caller: `{}`", row.test),
        (Verdict::No { short, .. }, _) => format!("no: {short}"),
        (Verdict::Senseless(why), _) => format!("n/a: {why}"),
        (Verdict::Unplayed(_), _) => "not played".to_owned(),
    };
    // A bar would end the cell.
    text.replace('|', "\\|")
}

/// The lines that differ, `-` for those found and `+` for those wanted; `None` without a difference.
pub fn difference(found: &str, wanted: &str) -> Option<String> {
    if found == wanted {
        return None;
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (found.lines().collect(), wanted.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("    -{line}"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("    +{line}"));
    let lines: Vec<String> = gone.chain(come).collect();
    Some(if lines.is_empty() { "    the order of its lines".to_owned() } else { lines.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_line_for_each_row_and_says_what_differs() {
        let rows = || ALL.iter().flat_map(|part| part.rows).copied();
        let passing: Findings = rows().map(|row| (row, Verdict::Pass)).collect();
        let page = page(&passing, &Findings::new());
        for row in rows() {
            assert_eq!(page.matches(&format!("\n| {} |", row.id)).count(), 1, "{}", row.id);
        }
        assert_eq!(difference(&page, &page), None);
        let other = page.replacen("| pass |", "| no: x |", 1);
        let told = difference(&page, &other).unwrap();
        assert!(told.lines().count() == 2 && told.contains('+') && told.contains("no: x"), "{told}");
    }

    #[test]
    fn a_cell_stays_a_cell() {
        let broken = Verdict::No { short: "a|b".to_owned(), seen: String::new() };
        assert_eq!(cell(&ALL[0].rows[0], &broken), "no: a\\|b");
    }
}
