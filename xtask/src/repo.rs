//! Paths: the repository's root and the documented output folders below it.
//!
//! Caches follow `CARGO_TARGET_DIR`; outputs for the developer (`target/dist`, `target/demo`, `target/tools`)
//! are always below the root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process;

/// The root of the repository.
pub fn root() -> Result<PathBuf> {
    // At run time, not at compile time: one target folder may serve several clones.
    if let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&manifest).parent()
        && is_root(parent)
    {
        return Ok(parent.to_owned());
    }
    let here = std::env::current_dir().context("read the working directory")?;
    here.ancestors()
        .find(|folder| is_root(folder))
        .map(Path::to_owned)
        .context("this is not inside Berth's repository; start it there as `cargo xtask VERB`")
}

fn is_root(folder: &Path) -> bool {
    folder.join("xtask/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file()
}

/// `target/NAME` below the root, made if it is missing.
pub fn output_folder(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join("target").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Every file that is or would be in a commit, relative to the root, sorted.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut listed = match from_git(root) {
        Some(paths) => paths,
        // A source archive has no history; then everything outside the output folder counts.
        None => walk(root, Path::new(""))?,
    };
    listed.sort();
    listed.dedup();
    // A file may be deleted and the deletion not yet committed.
    listed.retain(|path| root.join(path).is_file());
    Ok(listed)
}

fn from_git(root: &Path) -> Option<Vec<PathBuf>> {
    let mut command = std::process::Command::new("git");
    command
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .stderr(std::process::Stdio::null());
    let text = process::output(&mut command).ok()?;
    Some(text.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect())
}

fn walk(root: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join(below);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
        if kind.is_dir() {
            if path != Path::new("target") && path != Path::new(".git") {
                found.extend(walk(root, &path)?);
            }
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_without_history_is_walked_without_its_output() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("target/debug")).unwrap();
        std::fs::create_dir_all(folder.path().join("docs")).unwrap();
        std::fs::write(folder.path().join("target/debug/x"), "").unwrap();
        std::fs::write(folder.path().join("docs/a.md"), "").unwrap();
        assert_eq!(walk(folder.path(), Path::new("")).unwrap(), [PathBuf::from("docs/a.md")]);
    }

    #[test]
    fn the_root_is_found_from_inside() {
        assert!(is_root(&root().unwrap()));
    }
}
