//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Each check is a function from text to findings, with a test that shows that it can fail; this file only
//! reads the files and passes them on. Clippy checks function length and the ban on panics; tidy only checks
//! that clippy is configured so.

mod codes;
mod docs;
mod graph;
mod language;
mod licence;
mod lines;
mod tables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{process, repo};

/// Check the rules of the repository that no compiler checks.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Rewrite what can be generated: the tables between markers in docs/.
    #[arg(long)]
    fix: bool,
}

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Place: a path, with a line number if there is one.
    pub place: String,
    /// Description of the fault, and the correction.
    pub text: String,
}

impl Finding {
    /// A finding on a whole file, or on a line of it.
    pub fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }
}

/// One file of the repository as text.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root.
    pub path: PathBuf,
    /// Content of the file.
    pub text: String,
}

impl Source {
    /// The path as text, for places.
    pub fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// True if the path ends in `.extension`.
    pub fn has_extension(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|found| found == extension)
    }
}

/// Reads all files, runs all checks, prints all findings.
pub fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    if args.fix {
        for name in tables::rewrite(&root)? {
            println!("rewrote {name}");
        }
    }
    let sources = read(&root)?;
    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(lines::check(source));
        findings.extend(language::check(source));
    }
    findings.extend(lines::check_lints(&sources));
    let metadata = process::output(process::cargo(&root).args([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--locked",
    ]))?;
    let packages = graph::packages(&metadata)?;
    findings.extend(graph::check_directions(&packages));
    findings.extend(graph::check_lock(text_of(&sources, "Cargo.lock")));
    let exists = |path: &Path| root.join(path).exists();
    findings.extend(docs::check_links(&sources, &exists));
    let crates: Vec<&str> = packages.iter().map(|package| package.folder.as_str()).collect();
    findings.extend(docs::check_code_map(text_of(&sources, "ARCHITECTURE.md"), &crates, &exists));
    findings.extend(licence::check(&sources));
    findings.extend(tables::check(&sources));
    findings.extend(tables::check_conformance(&sources));
    findings.extend(codes::check_errors(&sources));
    findings.extend(codes::check_events(&sources));

    for source in &sources {
        if let Some(hint) = lines::long(source) {
            println!("hint: {}: {}", hint.place, hint.text);
        }
    }
    for finding in &findings {
        println!("{}: {}", finding.place, finding.text);
    }
    println!("tidy: {} files, {} findings", sources.len(), findings.len());
    if findings.is_empty() { Ok(()) } else { Err(process::AlreadyTold.into()) }
}

/// All text files; a file that is not UTF-8 (an image) has no rules.
fn read(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in repo::files(root)? {
        let bytes = std::fs::read(root.join(&path)).with_context(|| format!("read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

/// Text of one file; empty if the file is missing, which the checks report themselves.
fn text_of<'a>(sources: &'a [Source], name: &str) -> &'a str {
    let found = sources.iter().find(|source| source.path == Path::new(name));
    found.map_or("", |source| source.text.as_str())
}
