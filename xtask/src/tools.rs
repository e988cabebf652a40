//! `cargo xtask tools`: third-party software with which Berth is tested and compared, in target/tools/bin.
//!
//! Built from Go modules by the ordinary Go client: `cnitool`, upstream's newest plugins, and a small program
//! of this repository that drives the reference runtime library (tools/libcni). tools/go.mod and tools/go.sum
//! alone define the modules and their versions; Go's caches stay in Go's own place, so that nothing is built
//! twice. `cargo xtask tools kubernetes` builds a control plane in the same way (a separate module,
//! tools/kubernetes, and a separate cache). Go itself is not installed: Debian's is too old. Invariant:
//! everything else works without Go, and the omissions are reported.

pub mod kubernetes;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::install::InstallArgs;
use crate::{process, repo};

/// Build the programs that Berth is shown against.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// The tools to build.
    #[arg(value_enum, default_value_t = What::Plugins)]
    what: What,
    #[command(flatten)]
    install: InstallArgs,
}

/// Sets of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Upstream's plugins and callers, into target/tools/bin.
    Plugins,
    /// etcd, the API server, the controller manager, the scheduler and kubectl, into a cache.
    Kubernetes,
}

/// Folder of the official archives of Go, often not on the search path.
const USUAL: &str = "/usr/local/go/bin/go";
/// The folder of the module.
const MODULE: &str = "tools";
/// Our own program, and `tool`: all that go.mod lists as tools.
const PACKAGES: [&str; 2] = ["./libcni", "tool"];
/// The two modules with versions of interest to the reader.
const UPSTREAM: [&str; 2] = ["github.com/containernetworking/cni", "github.com/containernetworking/plugins"];

/// Builds the tools and prints their versions.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Plugins => build().map(drop),
        What::Kubernetes => kubernetes::ensure(args.install).map(drop),
    }
}

/// Folder with the programs, built; an error if Go is missing.
pub fn build() -> Result<PathBuf> {
    let root = repo::root()?;
    let text = manifest(&root)?;
    let go = go(&text)?;
    let folder = repo::output_folder(&root, "tools/bin")?;
    let mut command = compile(&go, &root, &folder);
    process::run(&mut command).context("build the programs of tools/go.mod")?;
    let versions = UPSTREAM.map(|module| {
        let name = module.rsplit('/').next().unwrap_or(module);
        format!("{name} {}", directive(&text, module).unwrap_or_else(|| "of no version".to_owned()))
    });
    println!("target/tools/bin: {}", versions.join(", "));
    Ok(folder)
}

/// Folder with the programs for a verb that can continue without them: then it prints the reason.
pub fn wanted(what: &str) -> Option<PathBuf> {
    match build() {
        Ok(folder) => Some(folder),
        Err(error) => {
            println!("{what} without the programs of `cargo xtask tools`: {error:#}");
            None
        }
    }
}

/// Path of Go; an error names the version that a module with this go.mod requires.
fn go(manifest: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("go"))
        .chain([PathBuf::from(USUAL)])
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            let wanted = directive(manifest, "go").unwrap_or_default();
            format!(
                "there is no Go on the search path nor at {USUAL}; install Go {wanted} or newer. \
                 Only the tests with real callers, those in a cluster, and a part of the benchmark need it"
            )
        })
}

fn compile(go: &Path, root: &Path, folder: &Path) -> Command {
    let mut command = Command::new(go);
    command.current_dir(root.join(MODULE));
    // Static, and the same wherever the repository is.
    command.env("CGO_ENABLED", "0").args(["build", "-trimpath", "-mod=readonly", "-o"]);
    // A folder only if it ends like one.
    command.arg(folder.join("")).args(PACKAGES);
    command
}

fn manifest(root: &Path) -> Result<String> {
    let path = root.join(MODULE).join("go.mod");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    if text.contains("replace ") {
        bail!("{} replaces modules: what is built would not be upstream's", path.display());
    }
    Ok(text)
}

/// The word after `key` in a go.mod.
fn directive(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().filter(|word| *word != "require");
        (words.next() == Some(key)).then(|| words.next().map(str::to_owned)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_manifest() {
        let text = "module x\n\ngo 1.26.8\n\nrequire a.example/one v1.2.3\n\nrequire (\n\ta.example/two v4.5.6 // indirect\n)\n\
            tool (\n\ta.example/one/cmd\n)\n";
        assert_eq!(directive(text, "go").as_deref(), Some("1.26.8"));
        assert_eq!(directive(text, "a.example/one").as_deref(), Some("v1.2.3"));
        assert_eq!(directive(text, "a.example/two").as_deref(), Some("v4.5.6"));
        assert_eq!(directive(text, "a.example/one/cmd"), None);
    }

    #[test]
    fn our_manifest_pins_both_of_upstreams_modules() {
        let text = manifest(&repo::root().unwrap()).unwrap();
        for module in UPSTREAM {
            assert!(directive(&text, module).is_some_and(|version| version.starts_with('v')), "{module}");
        }
        for plugin in ["main/macvlan", "main/bridge", "main/ptp", "ipam/host-local", "meta/tuning"] {
            assert!(text.contains(&format!("{}/plugins/{plugin}\n", UPSTREAM[1])), "{plugin}");
        }
    }

    #[test]
    fn a_replaced_module_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(MODULE)).unwrap();
        std::fs::write(root.path().join(MODULE).join("go.mod"), "module x\nreplace a => ../a\n").unwrap();
        assert!(manifest(root.path()).unwrap_err().to_string().contains("replaces"));
    }

    #[test]
    fn the_output_is_a_folder_for_go_even_before_it_exists() {
        let command = compile(Path::new("go"), Path::new("."), Path::new("target/tools/bin"));
        assert!(process::shown(&command).contains("-o target/tools/bin/ ./libcni tool"));
    }
}
