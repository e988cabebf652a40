//! Permitted dependencies between crates, and permitted crates in the tree.
//!
//! Read from cargo's own output and from the lock file, not from manifests: these describe the actual build.
//! Dependencies of tests alone are free; they are not part of a product.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::Finding;

/// One crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Its folder below the root.
    pub folder: String,
    /// The names of the crates that it is built from, those of its tests left out.
    pub dependencies: BTreeSet<String>,
}

/// For each crate, the permitted crates of this workspace. An unlisted crate may depend on all.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("berth-ipam", &[]),
    ("berth-protocol", &["berth-ipam"]),
    ("berth-cni", &["berth-ipam"]),
    ("berth-api", &["berth-ipam"]),
    ("berth-underlay", &["berth-ipam"]),
    ("berth-store", &["berth-ipam", "berth-api"]),
    ("berth-ebpf-common", &[]),
    ("berth-probes", &["berth-ipam", "berth-underlay", "berth-ebpf-common"]),
    ("berth-meta-plugin", &["berth-ipam", "berth-protocol", "berth-cni", "berth-underlay"]),
    ("berthctl", &["berth-ipam", "berth-protocol"]),
    // Its measurements share no code with what is measured.
    ("berth-testbed", &["berth-ipam", "berth-protocol"]),
    ("berth-cluster", &["berth-testbed"]),
    (
        "berth-agent",
        &[
            "berth-ipam",
            "berth-protocol",
            "berth-cni",
            "berth-api",
            "berth-underlay",
            "berth-store",
            "berth-probes",
        ],
    ),
];

/// Crates that must not be built into a crate of ours, through whichever other crate of ours.
const MUST_NOT_REACH: &[(&str, &[&str])] = &[
    (
        "berth-ipam",
        &["tokio", "kube", "k8s-openapi", "redb", "rtnetlink", "netlink-sys", "rustix", "nix", "libc"],
    ),
    ("berth-meta-plugin", &["redb", "kube", "k8s-openapi", "clap", "anyhow"]),
    ("berth-testbed", &["redb", "kube"]),
    ("berth-cluster", &["redb"]),
    // Every developer builds it first, for any verb.
    ("xtask", &["redb", "kube"]),
];

/// Two generations of one of these do not unify, and the compiler's message does not explain it.
const ONE_VERSION: &[&str] = &[
    "netlink-sys",
    "netlink-packet-core",
    "netlink-packet-route",
    "netlink-proto",
    "rtnetlink",
    "k8s-openapi",
    "schemars",
    "rustls",
];

/// Never in the tree: the first spends 40 ms of a process's start on entropy, the rest need a C library.
const BANNED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"];

/// The workspace's crates from `cargo metadata --no-deps`.
pub fn packages(metadata: &str) -> Result<Vec<Package>> {
    let value: serde_json::Value = serde_json::from_str(metadata).context("read cargo's metadata")?;
    let root = value["workspace_root"].as_str().context("metadata without workspace_root")?;
    let list = value["packages"].as_array().context("metadata without packages")?;
    list.iter().map(|package| read(package, root)).collect()
}

fn read(package: &serde_json::Value, root: &str) -> Result<Package> {
    let name = package["name"].as_str().context("a package without a name")?;
    let manifest = package["manifest_path"].as_str().context("a package without a manifest")?;
    let folder = manifest.trim_start_matches(root).trim_end_matches("Cargo.toml").trim_matches('/');
    let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
    let dependencies = dependencies
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
    Ok(Package { name: name.to_owned(), folder: folder.to_owned(), dependencies: dependencies.collect() })
}

/// Checks that dependencies point in one direction, as the table above allows.
pub fn check_directions(packages: &[Package]) -> Vec<Finding> {
    let by_name: BTreeMap<&str, &Package> =
        packages.iter().map(|package| (package.name.as_str(), package)).collect();
    let mut findings = Vec::new();
    for (name, allowed) in MAY_KNOW {
        let Some(package) = by_name.get(name) else { continue };
        for dependency in &package.dependencies {
            if by_name.contains_key(dependency.as_str()) && !allowed.contains(&dependency.as_str()) {
                let text = format!("{name} must not depend on {dependency}; it may depend on {allowed:?}");
                findings.push(Finding::new(format!("{}/Cargo.toml", package.folder), text));
            }
        }
    }
    for (name, forbidden) in MUST_NOT_REACH {
        let Some(package) = by_name.get(name) else { continue };
        for (through, dependency) in reach(package, &by_name) {
            if forbidden.contains(&dependency) {
                let text = format!("{name} must not be built from {dependency} (it comes through {through})");
                findings.push(Finding::new(format!("{}/Cargo.toml", package.folder), text));
            }
        }
    }
    findings
}

/// Every (crate of ours, what it names) that is built into `package`.
fn reach<'a>(package: &'a Package, by_name: &BTreeMap<&str, &'a Package>) -> BTreeSet<(&'a str, &'a str)> {
    let mut found = BTreeSet::new();
    let mut open = vec![package];
    let mut seen = BTreeSet::new();
    while let Some(next) = open.pop() {
        if !seen.insert(&next.name) {
            continue;
        }
        for dependency in &next.dependencies {
            found.insert((next.name.as_str(), dependency.as_str()));
            open.extend(by_name.get(dependency.as_str()).copied());
        }
    }
    found
}

/// Checks that the lock file holds certain packages exactly once, and others not at all.
pub fn check_lock(lock: &str) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = entry.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|quoted| quoted.trim_matches('"'))
        };
        if let (Some(name), Some(version)) = (value("name"), value("version")) {
            versions.entry(name).or_default().push(version);
        }
    }
    let mut findings = Vec::new();
    if versions.is_empty() {
        findings.push(Finding::new("Cargo.lock", "names no package: builds would not be reproducible"));
    }
    for name in ONE_VERSION {
        if let Some(found) = versions.get(name).filter(|found| found.len() > 1) {
            findings.push(Finding::new("Cargo.lock", format!("{name} in several versions: {found:?}")));
        }
    }
    for name in BANNED.iter().filter(|name| versions.contains_key(*name)) {
        let text = format!("{name} must not be in the tree; `cargo tree -i {name}` shows its dependents");
        findings.push(Finding::new("Cargo.lock", text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        Package { name: name.into(), folder: name.into(), dependencies }
    }

    #[test]
    fn the_core_knows_nobody() {
        let bad = [package("berth-ipam", &["berth-cni", "serde"]), package("berth-cni", &[])];
        assert_eq!(check_directions(&bad).len(), 1);
        let good = [package("berth-ipam", &["serde"]), package("berth-cni", &["berth-ipam"])];
        assert!(check_directions(&good).is_empty());
    }

    #[test]
    fn what_comes_through_another_crate_counts() {
        let packages =
            [package("berth-meta-plugin", &["berth-underlay"]), package("berth-underlay", &["redb"])];
        let findings = check_directions(&packages);
        assert!(findings.len() == 1 && findings[0].text.contains("through berth-underlay"), "{findings:?}");
    }

    #[test]
    fn dependencies_of_tests_are_free() {
        let metadata = r#"{"workspace_root": "/r", "packages": [{"name": "berth-ipam",
            "manifest_path": "/r/ipam/Cargo.toml", "dependencies":
            [{"name": "serde", "kind": null}, {"name": "tokio", "kind": "dev"}]}]}"#;
        let read = packages(metadata).unwrap();
        assert_eq!(read, [Package { folder: "ipam".into(), ..package("berth-ipam", &["serde"]) }]);
    }

    #[test]
    fn doubles_and_banned_crates_are_found_in_the_lock() {
        let entry =
            |name: &str, version: &str| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let twice = entry("rtnetlink", "0.24.0")
            + &entry("rtnetlink", "0.23.0")
            + &entry("syn", "1")
            + &entry("syn", "2");
        assert_eq!(check_lock(&twice).len(), 1);
        assert_eq!(check_lock(&entry("aws-lc-sys", "0.47.0")).len(), 1);
        assert!(check_lock(&entry("rtnetlink", "0.24.0")).is_empty());
        assert_eq!(check_lock("").len(), 1);
    }
}
