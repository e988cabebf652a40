//! `cargo xtask tools kubernetes`: a control plane for the test bed, built once per version.
//!
//! Four commands of one Go module (tools/kubernetes) take minutes to build, so they go into a cache of the
//! user's, outside of what cleaning target/ removes, named after their version. What the developer has
//! (`KUBEBUILDER_ASSETS`, the search path) comes first and is never built. etcd is Debian's where Debian's
//! package tools are: unpacked, not installed, because the package starts a server on the machine; elsewhere
//! it is built like the rest. The invariant: a program is in the cache whole or not at all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use berth_testbed::kubernetes::{self, Programs};

use super::{directive, go};
use crate::install::InstallArgs;
use crate::{process, repo};

/// The folder of the module.
const MODULE: &str = "tools/kubernetes";
/// The module that gives the cache its version.
const KUBERNETES: &str = "k8s.io/kubernetes";
/// etcd's main package in the same module's list.
const ETCD: &str = "go.etcd.io/etcd/server/v3";
/// Debian's package with etcd.
const PACKAGE: &str = "etcd-server";

/// Programs of a control plane, if they already exist; nothing is built. The folder is the value of
/// `BERTH_KUBERNETES_DIR` for the process that runs them.
pub fn present() -> Result<Option<PathBuf>> {
    let cache = cache(&version(&manifest(&repo::root()?)?)?)?;
    Ok(Programs::find(&kubernetes::places(Some(cache.clone()))).is_ok().then_some(cache))
}

/// The same, and what is missing is built.
pub fn ensure(install: InstallArgs) -> Result<PathBuf> {
    let root = repo::root()?;
    let text = manifest(&root)?;
    let version = version(&text)?;
    let folder = cache(&version)?;
    let places = kubernetes::places(Some(folder.clone()));
    let missing = match Programs::find(&places) {
        Ok(found) => {
            println!("a control plane of {KUBERNETES} {version} or your own: {}", found.apiserver.display());
            return Ok(folder);
        }
        Err(missing) => missing,
    };
    if install.no_install {
        bail!("missing: {}; `cargo xtask tools kubernetes` builds them with Go", missing.join(", "));
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    println!("building {} of {KUBERNETES} {version}: some minutes, once", missing.join(", "));
    for name in missing {
        let start = Instant::now();
        let how = match name {
            "etcd" => etcd(&root, &text, &folder)?,
            name => {
                let package = format!("{KUBERNETES}/cmd/{name}");
                place(&mut compile(&go(&text)?, &root, &version), &package, &folder, name)?;
                "built"
            }
        };
        println!("{:>7.1} s  {name}: {how}", start.elapsed().as_secs_f64());
    }
    match Programs::find(&places) {
        Ok(_) => Ok(folder),
        Err(missing) => bail!("built, and yet not found: {}", missing.join(", ")),
    }
}

/// For a verb that can continue without: the existing programs, or a message about how to get them.
pub fn wanted(what: &str) -> Option<PathBuf> {
    let found = present().unwrap_or_default();
    if found.is_none() {
        println!("{what} without a Kubernetes control plane: `cargo xtask tools kubernetes` builds one");
    }
    found
}

/// Debian's, if its package tools exist, otherwise the repository's own.
fn etcd(root: &Path, manifest: &str, folder: &Path) -> Result<&'static str> {
    match unpacked(folder) {
        Ok(()) => Ok("Debian's, unpacked"),
        Err(error) => {
            println!("no etcd from Debian: {error:#}");
            place(&mut plain(&go(manifest)?, root), ETCD, folder, "etcd")?;
            Ok("built")
        }
    }
}

/// Takes etcd out of Debian's package. Not installed: its scripts would start a server that listens on
/// this machine.
fn unpacked(folder: &Path) -> Result<()> {
    let scratch = folder.join(format!("debian-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let outcome = (|| {
        let mut download = Command::new("apt-get");
        download.current_dir(&scratch).args(["download", PACKAGE]);
        if process::run(&mut download).is_err() {
            process::run(Command::new("apt-get").arg("update"))?;
            process::run(&mut download)?;
        }
        let archive = entries(&scratch)?.find(|path| path.extension().is_some_and(|end| end == "deb"));
        let archive = archive.with_context(|| format!("no package came for {PACKAGE}"))?;
        process::run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&scratch))?;
        let program = scratch.join("usr/bin/etcd");
        // Another release of Debian may have what this machine's libraries cannot run.
        process::output(Command::new(&program).arg("--version"))?;
        std::fs::rename(&program, folder.join("etcd")).context("move etcd into the cache")
    })();
    // Only what was downloaded is left in it.
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn entries(folder: &Path) -> Result<impl Iterator<Item = PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    Ok(list.flatten().map(|entry| entry.path()))
}

/// `go build` of the module, as the same program wherever the repository is.
fn plain(go: &Path, root: &Path) -> Command {
    let mut command = Command::new(go);
    command.current_dir(root.join(MODULE)).env("CGO_ENABLED", "0");
    command.args(["build", "-trimpath", "-mod=readonly", "-buildvcs=false"]);
    command
}

fn compile(go: &Path, root: &Path, version: &str) -> Command {
    let mut command = plain(go, root);
    // Without its own version an API server reports v0.0.0, and refuses newer clients.
    let parts = ["gitMajor", "gitMinor"].into_iter().zip(version.trim_start_matches('v').split('.'));
    let set = std::iter::once(("gitVersion", version)).chain(parts);
    let flags = set.map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"));
    command.args(["-ldflags", &format!("-s -w {}", flags.collect::<Vec<_>>().join(" "))]);
    command
}

/// Builds one package to `folder/name`, by a rename.
fn place(build: &mut Command, package: &str, folder: &Path, name: &str) -> Result<()> {
    let temporary = folder.join(format!("{name}.new-{}", std::process::id()));
    process::run(build.arg("-o").arg(&temporary).arg(package)).with_context(|| format!("build {name}"))?;
    std::fs::rename(&temporary, folder.join(name)).with_context(|| format!("move {name} into the cache"))
}

/// Folder of the programs of a version, below the user's cache folder.
fn cache(version: &str) -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set; set one to locate the user's cache"),
    };
    Ok(base.join("berth").join(format!("kubernetes-{version}")))
}

fn manifest(root: &Path) -> Result<String> {
    let path = root.join(MODULE).join("go.mod");
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn version(manifest: &str) -> Result<String> {
    directive(manifest, KUBERNETES).with_context(|| format!("{MODULE}/go.mod does not require {KUBERNETES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_manifest_replaces_every_part_by_the_release_that_fits() {
        let text = manifest(&repo::root().unwrap()).unwrap();
        let version = version(&text).unwrap();
        let release = version.replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 30, "{replaced:?}");
        for line in replaced {
            let (part, by) = line.trim().split_once(" => ").unwrap();
            assert_eq!(by, format!("{part} {release}"), "only by its own release, never by a folder");
        }
        for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"] {
            assert!(text.contains(&format!("{KUBERNETES}/cmd/{name}\n")), "{name}");
        }
        assert!(text.contains(&format!("\t{ETCD}\n")));
    }

    #[test]
    fn the_programs_say_their_version() {
        let shown = process::shown(&compile(Path::new("go"), Path::new("."), "v1.36.3"));
        assert!(shown.contains("gitVersion=v1.36.3") && shown.contains("gitMajor=1 "), "{shown}");
        assert!(shown.contains("gitMinor=36") && !shown.contains("=3 "), "{shown}");
    }
}
