//! Binaries that other verbs need, built and put where no other build replaces them.
//!
//! Binaries must not change during a run, so they are copied out of cargo's folder, each by a rename. The
//! path of that folder is read from cargo's own messages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{process, repo};

/// The packages that have a binary for operators, and its name.
pub const BINARIES: [(&str, &str); 3] =
    [("berth-meta-plugin", "berth"), ("berth-agent", "berth-agent"), ("berthctl", "berthctl")];

/// A way to build the binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// With fault points, optimised but without link-time optimisation: for tests and the demo.
    Trial,
    /// The form for operators: static, small, no fault points.
    Dist,
}

impl Variant {
    /// The folder below target/ that receives the binaries.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Trial => "demo/bin",
            Self::Dist => "dist",
        }
    }
}

/// Variable with the object that the agent's build embeds and the tests of the probes load.
pub const OBJECT_VARIABLE: &str = "BERTH_EBPF_OBJECT";

/// Builds `variant`, with the programs of `object` in the agent if there are any, and returns the
/// folder with its binaries.
pub fn binaries(variant: Variant, object: Option<&Path>) -> Result<PathBuf> {
    let root = repo::root()?;
    let executables = compile(&root, variant, object)?;
    let folder = repo::output_folder(&root, variant.folder())?;
    for (_, name) in BINARIES {
        let source = executables
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .with_context(|| format!("cargo built no executable {name}"))?;
        place(source, &folder.join(name))?;
    }
    Ok(folder)
}

/// Has `command` build with that object, and with no other that a variable may name by chance.
pub fn embed(command: &mut Command, object: Option<&Path>) {
    match object {
        Some(path) => command.env(OBJECT_VARIABLE, path),
        None => command.env_remove(OBJECT_VARIABLE),
    };
}

/// Builds the program that owns test clusters, and returns where it is. As tests are built, so that a
/// machine that runs tests builds it only once.
pub fn cluster_program() -> Result<PathBuf> {
    let root = repo::root()?;
    let mut command = process::cargo(&root);
    command.args(["build", "--locked", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", "berth-cluster", "--bin", "berth-cluster"]);
    let built = executables(&process::output(&mut command)?)?;
    let source = built.last().context("cargo built no executable berth-cluster")?;
    // A cluster that is up runs it.
    let target = repo::output_folder(&root, "cluster/bin")?.join("berth-cluster");
    place(source, &target)?;
    Ok(target)
}

fn compile(root: &Path, variant: Variant, object: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut command = process::cargo(root);
    embed(&mut command, object);
    command.args(["build", "--locked", "--message-format", "json-render-diagnostics"]);
    for (package, _) in BINARIES {
        command.args(["--package", package]);
    }
    match variant {
        Variant::Trial => {
            command.args(["--profile", "trial"]);
            command.args(["--features", "berth-meta-plugin/fault-points,berth-agent/fault-points"]);
        }
        Variant::Dist => {
            // Without an explicit target the flag reaches procedural macros too, which cannot be static.
            command.args(["--profile", "dist", "--target", &host_target()?]);
            command.env("RUSTFLAGS", "-C target-feature=+crt-static");
            command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        }
    }
    executables(&process::output(&mut command)?)
}

/// The target triple of the compiler in use, which must have a C library that can be linked statically.
pub fn host_target() -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let text = process::output(command.arg("-vV").stderr(Stdio::inherit()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    if !host.contains("-linux-") {
        bail!("Berth is for Linux; this compiler builds for {host}");
    }
    Ok(host.to_owned())
}

/// The executables that cargo's messages (one JSON object a line) name.
fn executables(messages: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("read cargo's message {line}"))?;
        if let Some(path) = message["executable"].as_str() {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

/// Copies by a rename: a running binary cannot be written to, and a half-written one must not be run.
fn place(source: &Path, target: &Path) -> Result<()> {
    let temporary = target.with_extension(format!("new-{}", std::process::id()));
    std::fs::copy(source, &temporary)
        .and_then(|_| std::fs::rename(&temporary, target))
        .with_context(|| format!("copy {} to {}", source.display(), target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_are_taken_from_cargos_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/berth\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n"
        );
        assert_eq!(executables(messages).unwrap(), [PathBuf::from("/t/release/berth")]);
        assert!(executables("{broken").is_err());
    }

    #[test]
    fn an_object_of_a_former_run_is_not_embedded_by_chance() {
        let value = |object| {
            let mut command = Command::new("cargo");
            embed(&mut command, object);
            let set = command.get_envs().find(|(name, _)| *name == OBJECT_VARIABLE);
            set.map(|(_, value)| value.map(PathBuf::from))
        };
        assert_eq!(value(Some(Path::new("a.o"))), Some(Some(PathBuf::from("a.o"))));
        assert_eq!(value(None), Some(None), "unset, even if the environment sets it");
    }

    #[test]
    fn placing_replaces_a_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("new"), folder.path().join("berth"));
        std::fs::write(&source, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        place(&source, &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
