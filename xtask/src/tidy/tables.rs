//! Tables in documents that must match the code.
//!
//! A table is between `<!-- table: NAME -->` and `<!-- end -->`; it is generated from the code and compared,
//! and `--fix` writes it. So no list is maintained twice.

use std::path::Path;

use anyhow::{Context, Result};
use berth_ipam::ledger::unsettled::{GUARDED, OCCUPIED, QUARANTINED, RELEASING, UNJUDGED};
use berth_ipam::verdict::{Row, TABLE};
use berth_testbed::conformance;

use super::{Finding, Source};

/// A generated table: its file, its name, and its text.
struct Table {
    file: &'static str,
    name: &'static str,
    text: String,
}

fn tables() -> Vec<Table> {
    let file = "docs/verdicts.md";
    vec![
        Table { file, name: "verdicts", text: verdicts(TABLE) },
        Table { file, name: "endings", text: endings(TABLE) },
    ]
}

/// The end of each row that leaves an address taken, and of the states that no row decides.
fn endings(rows: &[Row]) -> String {
    let beside = [
        ("restarted, adopted", UNJUDGED),
        ("being released", RELEASING),
        ("quarantine after `forced`", GUARDED),
        ("quarantine", QUARANTINED),
        ("an address of an interface of the node", OCCUPIED),
    ];
    let rows = rows.iter().filter_map(|row| Some((format!("`{}`", row.id), row.ending?)));
    let beside = beside.into_iter().map(|(name, ending)| (name.to_owned(), ending));
    let mut text = String::from("| reason | ended by | what to do where it lasts |\n|---|---|---|\n");
    for (name, ending) in rows.chain(beside) {
        let cells = [name.as_str(), ending.by, ending.hand.text().unwrap_or_default()];
        line(&mut text, &cells);
    }
    text
}

fn line(text: &mut String, cells: &[&str]) {
    // A bar would end the cell.
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    text.extend(["| ", &cells.join(" | "), " |\n"]);
}

/// The verdict table, as the core reads it: from the top, the first row that fits.
fn verdicts(rows: &[Row]) -> String {
    let mut text =
        String::from("| reason | when | verdict | next | silent | why |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let silent = if row.proves_silence { "yes" } else { "" };
        let cells = [
            &format!("`{}`", row.id),
            &row.when.describe(),
            row.verdict.word(),
            row.next.word(),
            silent,
            row.why,
        ];
        line(&mut text, &cells);
    }
    text
}

/// Checks that every generated table in its document matches the code.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in tables() {
        let page = super::text_of(sources, table.file);
        match splice(page, table.name, &table.text) {
            None => {
                let text = format!("has no `<!-- table: {} -->` with its `<!-- end -->`", table.name);
                findings.push(Finding::new(table.file, text));
            }
            Some(new) if new != page => {
                let text = format!("table {} differs from the code: `cargo xtask tidy --fix`", table.name);
                findings.push(Finding::new(table.file, text));
            }
            Some(_) => {}
        }
    }
    findings
}

/// Checks that docs/conformance.md has each row of the suite once, with its text. Only a run of the suite can
/// check the findings, and it compares the whole page.
pub fn check_conformance(sources: &[Source]) -> Vec<Finding> {
    const PAGE: &str = "docs/conformance.md";
    let page = super::text_of(sources, PAGE);
    let lines = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ID |")).count();
    let rows: Vec<_> = conformance::ALL.iter().flat_map(|part| part.rows).collect();
    let missing = rows.iter().filter(|row| !page.contains(&format!("\n| {} | {} | ", row.id, row.meaning)));
    let mut findings: Vec<_> = missing
        .map(|row| Finding::new(PAGE, format!("lacks row {}: `cargo xtask test cni --write-docs`", row.id)))
        .collect();
    if findings.is_empty() && lines != rows.len() {
        findings.push(Finding::new(PAGE, format!("has {lines} rows, and the suite {}", rows.len())));
    }
    findings
}

/// Writes every generated table; returns the files that changed.
pub fn rewrite(root: &Path) -> Result<Vec<&'static str>> {
    let mut changed = Vec::new();
    for table in tables() {
        let path = root.join(table.file);
        let page = std::fs::read_to_string(&path).with_context(|| format!("read {}", table.file))?;
        if let Some(new) = splice(&page, table.name, &table.text)
            && new != page
        {
            std::fs::write(&path, new).with_context(|| format!("write {}", table.file))?;
            changed.push(table.file);
        }
    }
    Ok(changed)
}

/// The page with `text` between the markers of `name`; `None` if they are not there.
fn splice(page: &str, name: &str, text: &str) -> Option<String> {
    let start = format!("<!-- table: {name} -->\n");
    let from = page.find(&start)? + start.len();
    let to = from + page[from..].find("<!-- end -->")?;
    Some(format!("{}\n{}\n\n{}", &page[..from], text.trim_end(), &page[to..]))
}

#[cfg(test)]
mod tests {
    use berth_ipam::verdict::Verdict;

    use super::*;

    #[test]
    fn every_row_of_the_verdict_table_is_in_the_document() {
        let text = verdicts(TABLE);
        assert_eq!(text.lines().count(), TABLE.len() + 2);
        let ends = endings(TABLE);
        for row in TABLE {
            assert_eq!(ends.contains(&format!("| `{}` |", row.id)), row.verdict != Verdict::Release);
        }
        let page = format!(
            "<!-- table: verdicts -->\n\n{text}\n<!-- end -->\n<!-- table: endings -->\n\n{ends}\n<!-- end -->\n"
        );
        let source = |text: &str| Source { path: "docs/verdicts.md".into(), text: text.into() };
        assert_eq!(check(&[source(&page)]), []);
        assert_eq!(check(&[source(&page.replace("| keep |", "| release |"))]).len(), 1);
        assert_eq!(check(&[source(&page.replace("The search.", "Nothing."))]).len(), 1);
        assert_eq!(check(&[source("no markers")]).len(), 2);
    }

    #[test]
    fn every_row_of_the_conformance_suite_is_on_its_page() {
        let rows = conformance::ALL.iter().flat_map(|part| part.rows);
        let line = |row: &conformance::Row| format!("\n| {} | {} | pass | pass |", row.id, row.meaning);
        let text = rows.map(line).collect::<Vec<_>>().concat();
        let findings = |text: &str| {
            check_conformance(&[Source { path: "docs/conformance.md".into(), text: text.into() }]).len()
        };
        assert_eq!(findings(&text), 0);
        assert_eq!(findings(&text.replacen("\n| E1 |", "\n| E99 |", 1)), 1);
        assert_eq!(findings(&format!("{text}\n| Z1 | gone | pass | pass |")), 1);
    }

    #[test]
    fn a_table_is_replaced_between_its_markers_and_nothing_else() {
        let page = "a\n<!-- table: t -->\nold\n<!-- end -->\nb\n";
        let new = splice(page, "t", "| x |\n").unwrap();
        assert_eq!(new, "a\n<!-- table: t -->\n\n| x |\n\n<!-- end -->\nb\n");
        assert_eq!(splice(&new, "t", "| x |\n").unwrap(), new);
        assert_eq!(splice(page, "other", ""), None);
    }
}
