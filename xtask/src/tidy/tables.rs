//! Tables in documents that must say what the code says.
//!
//! A table stands between `<!-- table: NAME -->` and `<!-- end -->`; it is generated from the code
//! and compared, and `--fix` writes it. So nobody has to keep two lists in step.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, Source};

/// A generated table: the file it stands in, its name, and its text.
struct Table {
    file: &'static str,
    name: &'static str,
    text: String,
}

fn tables(_sources: &[Source]) -> Result<Vec<Table>> {
    Ok(Vec::new())
}

/// Whether every generated table is in its document as the code has it.
pub fn check(sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for table in tables(sources)? {
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
    Ok(findings)
}

/// Writes every generated table; returns the files that changed.
pub fn rewrite(root: &Path) -> Result<Vec<&'static str>> {
    let sources = super::read(root)?;
    let mut changed = Vec::new();
    for table in tables(&sources)? {
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
    use super::*;

    #[test]
    fn a_table_is_replaced_between_its_markers_and_nothing_else() {
        let page = "a\n<!-- table: t -->\nold\n<!-- end -->\nb\n";
        let new = splice(page, "t", "| x |\n").unwrap();
        assert_eq!(new, "a\n<!-- table: t -->\n\n| x |\n\n<!-- end -->\nb\n");
        assert_eq!(splice(&new, "t", "| x |\n").unwrap(), new);
        assert_eq!(splice(page, "other", ""), None);
    }
}
