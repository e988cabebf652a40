//! `cargo xtask crds`: `deploy/crds.yaml`, the definitions that an API server is given.
//!
//! They are generated from the types in `api/`, so that types and rules have one source; the file is
//! in the repository because operators apply it. The invariant: what is there is what the types say,
//! which `--check` (a step of `ci`) compares.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{process, repo};

/// Write deploy/crds.yaml, the custom resource definitions, from the types.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Write nothing; fail if the file differs.
    #[arg(long)]
    pub check: bool,
}

const FILE: &str = "deploy/crds.yaml";

/// Writes or compares the file.
pub fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    let wanted = definitions(&root)?;
    let path = root.join(FILE);
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {FILE}")),
    };
    if let Some(difference) = difference(found.as_deref(), &wanted) {
        if args.check {
            bail!("{difference}; `cargo xtask crds` writes it");
        }
        std::fs::create_dir_all(root.join("deploy")).context("create deploy")?;
        std::fs::write(&path, wanted).with_context(|| format!("write {FILE}"))?;
        println!("wrote {FILE}");
    } else {
        println!("{FILE} is what the types say");
    }
    Ok(())
}

/// The definitions as one text, from the program that knows the types.
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
fn difference(found: Option<&str>, wanted: &str) -> Option<String> {
    let Some(found) = found else { return Some(format!("{FILE} is missing")) };
    if found == wanted {
        return None;
    }
    let same = found.lines().zip(wanted.lines()).take_while(|(left, right)| left == right).count();
    let line = wanted.lines().nth(same).unwrap_or("(nothing more)");
    Some(format!("{FILE}:{}: the types say {:?}", same + 1, line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_changed_and_a_longer_file_are_told() {
        assert_eq!(difference(Some("a\nb\n"), "a\nb\n"), None);
        assert!(difference(None, "a\n").unwrap().contains("missing"));
        let changed = difference(Some("a\nb\n"), "a\nc\n").unwrap();
        assert!(changed.contains("crds.yaml:2") && changed.contains("\"c\""), "{changed}");
        assert!(difference(Some("a\nb\n"), "a\n").unwrap().contains("nothing more"));
    }
}
