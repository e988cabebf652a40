//! `cargo xtask crds`: `deploy/crds.yaml`, the definitions for an API server, and `deploy/berth.yaml`, these
//! and the other objects that agents need (`deploy/agent.yaml`, not generated).
//!
//! Definitions are generated from the types in `api/`, so that types and rules have one source; the files are
//! in the repository because operators apply them. Invariant: the files equal the output of the types, which
//! `--check` (a step of `ci`) compares.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{process, repo};

/// Write deploy/crds.yaml and deploy/berth.yaml: the custom resource definitions, from the types.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Write nothing; fail if the file differs.
    #[arg(long)]
    pub check: bool,
}

const CRDS: &str = "deploy/crds.yaml";
const AGENT: &str = "deploy/agent.yaml";
const ALL: &str = "deploy/berth.yaml";

/// Writes or compares the files.
pub fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    let crds = definitions(&root)?;
    let agent = std::fs::read_to_string(root.join(AGENT)).with_context(|| format!("read {AGENT}"))?;
    // Its head is for its editors.
    let agent = agent.split_once("---\n").map_or(agent.as_str(), |(_, documents)| documents);
    let all = format!("{crds}---\n{agent}");
    keep(args, &root, CRDS, &crds)?;
    keep(args, &root, ALL, &all)
}

/// Writes or compares one file.
fn keep(args: &Args, root: &Path, file: &str, wanted: &str) -> Result<()> {
    let path = root.join(file);
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {file}")),
    };
    if let Some(difference) = difference(file, found.as_deref(), wanted) {
        if args.check {
            bail!("{difference}; `cargo xtask crds` writes it");
        }
        std::fs::write(&path, wanted).with_context(|| format!("write {file}"))?;
        println!("wrote {file}");
    } else {
        println!("{file} matches the types");
    }
    Ok(())
}

/// The definitions as one text, from the program with the types.
pub fn definitions(root: &Path) -> Result<String> {
    process::output(process::cargo(root).args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "berth-api",
        "--example",
        "crds",
    ]))
}

/// The first line that differs.
fn difference(file: &str, found: Option<&str>, wanted: &str) -> Option<String> {
    let Some(found) = found else { return Some(format!("{file} is missing")) };
    if found == wanted {
        return None;
    }
    let same = found.lines().zip(wanted.lines()).take_while(|(left, right)| left == right).count();
    let line = wanted.lines().nth(same).unwrap_or("(nothing more)");
    Some(format!("{file}:{}: the types generate {:?}", same + 1, line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_changed_and_a_longer_file_are_told() {
        assert_eq!(difference("crds.yaml", Some("a\nb\n"), "a\nb\n"), None);
        assert!(difference("crds.yaml", None, "a\n").unwrap().contains("missing"));
        let changed = difference("crds.yaml", Some("a\nb\n"), "a\nc\n").unwrap();
        assert!(changed.contains("crds.yaml:2") && changed.contains("\"c\""), "{changed}");
        assert!(difference("crds.yaml", Some("a\nb\n"), "a\n").unwrap().contains("nothing more"));
    }
}
