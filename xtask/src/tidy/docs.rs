//! Documents that point somewhere: links between them, and the code map of ARCHITECTURE.md.
//!
//! Addresses on the network are not followed; they are nothing that a check on one machine can prove.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{Finding, Source};

/// Checks that every relative link of every Markdown file leads to a file, and to a heading of it if it names
/// one.
pub fn check_links(sources: &[Source], exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.has_extension("md")) {
        for (number, target) in links(&source.text) {
            if let Some(text) = broken(source, target, sources, exists) {
                findings.push(Finding::new(format!("{}:{number}", source.name()), text));
            }
        }
    }
    findings
}

fn broken(
    source: &Source,
    target: &str,
    sources: &[Source],
    exists: &dyn Fn(&Path) -> bool,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        source.path.clone()
    } else {
        resolve(source.path.parent().unwrap_or(Path::new("")), file)
    };
    if !exists(&path) {
        return Some(format!("the link {target} leads to {}, which does not exist", path.display()));
    }
    let page = sources.iter().find(|page| page.path == path && page.has_extension("md"))?;
    let missing = !heading.is_empty() && !anchors(&page.text).contains(heading);
    missing.then(|| format!("the link {target} names a heading that {} does not have", path.display()))
}

/// `file` as seen from `folder`, with `..` taken literally: nothing is followed.
fn resolve(folder: &Path, file: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for component in Path::new(file).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

/// The lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// Every `[words](target)`, with its line.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push((number, rest[..end].split(' ').next().unwrap_or_default()));
            rest = &rest[end..];
        }
    }
    found
}

/// The names under which headings can be linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Checks that ARCHITECTURE.md names every crate, and that every path in it exists.
pub fn check_code_map(text: &str, crates: &[&str], exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    const PAGE: &str = "ARCHITECTURE.md";
    if text.is_empty() {
        return vec![Finding::new(PAGE, "is missing: it is the map that a newcomer opens first")];
    }
    let mut findings = Vec::new();
    for folder in crates {
        if !text.contains(&format!("`{folder}/")) {
            findings.push(Finding::new(PAGE, format!("does not name the crate `{folder}/`")));
        }
    }
    for (number, line) in prose(text) {
        // Every second piece between backticks is code; one that starts with a crate's folder is a path.
        for code in line.split('`').skip(1).step_by(2) {
            let folder = code.split('/').next().unwrap_or_default();
            let is_path = code.contains('/') && crates.contains(&folder) && !code.contains([' ', '*', '{']);
            if is_path && !exists(Path::new(code)) {
                findings.push(Finding::new(format!("{PAGE}:{number}"), format!("`{code}` does not exist")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let pages = [
            page(
                "docs/a.md",
                "[b](b.md) [up](../README.md#two-commands) [net](https://x/y) [self](#here)\n# Here",
            ),
            page("docs/b.md", "```\n[not](a-link.md)\n```"),
            page("README.md", "## Two commands!"),
        ];
        let exists = |path: &Path| pages.iter().any(|page| page.path == path);
        assert_eq!(check_links(&pages, &exists), []);

        let bad = [page("docs/a.md", "x\n[b](c.md) and [h](#none)")];
        let findings = check_links(&bad, &|path| path == Path::new("docs/a.md"));
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(findings[0].place, "docs/a.md:2");
    }

    #[test]
    fn the_code_map_is_whole_and_true() {
        let exists = |path: &Path| path == Path::new("ipam/src/lib.rs");
        assert_eq!(check_code_map("`ipam/` is `ipam/src/lib.rs`", &["ipam"], &|_| true), []);
        assert_eq!(check_code_map("`ipam/src/gone.rs`", &["ipam"], &exists).len(), 1);
        assert_eq!(check_code_map("nothing", &["ipam", "cni"], &exists).len(), 2);
        assert_eq!(check_code_map("", &["ipam"], &exists).len(), 1);
    }
}
