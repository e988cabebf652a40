//! Needs of a verb in addition to Rust, and their installation from Debian after a message.
//!
//! Each verb names its own needs. A need is detected by the presence of its command or file, never by the
//! package database, so that a machine that has it from elsewhere is left alone. With `--no-install` the
//! exact commands are printed and nothing is changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// One program or file that must exist.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Detection of its presence.
    pub probe: Probe,
    /// The Debian package that brings it.
    pub package: &'static str,
}

/// Detection of the presence of a need.
#[derive(Debug, Clone, Copy)]
pub enum Probe {
    /// A command on the search path, the system folders included.
    Command(&'static str),
    /// A file or a folder.
    File(&'static str),
}

/// `ip`: makes namespaces and links for the worlds of tests and demo.
pub const IPROUTE2: Need = Need { probe: Probe::Command("ip"), package: "iproute2" };
/// `nsenter` and `unshare`.
pub const UTIL_LINUX: Need = Need { probe: Probe::Command("nsenter"), package: "util-linux" };
/// `sysctl` and `ps`.
pub const PROCPS: Need = Need { probe: Probe::Command("sysctl"), package: "procps" };
/// Debian's CNI plugins: other main plugins in tests, the reference in benchmarks.
pub const CNI_PLUGINS: Need =
    Need { probe: Probe::File("/usr/lib/cni/macvlan"), package: "containernetworking-plugins" };
/// `bpftool`: shows an operator, and a test, what the kernel holds.
pub const BPFTOOL: Need = Need { probe: Probe::Command("bpftool"), package: "bpftool" };
/// `valgrind`: counts instructions.
pub const VALGRIND: Need = Need { probe: Probe::Command("valgrind"), package: "valgrind" };

/// The flag that every verb with needs takes.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct InstallArgs {
    /// Install nothing: print the commands that would, and stop.
    #[arg(long)]
    pub no_install: bool,
}

/// Sees to it that every need is met, or fails with what to do.
pub fn ensure(verb: &str, needs: &[Need], args: InstallArgs) -> Result<()> {
    let missing = missing(needs, &search_path(), &|path| path.exists());
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let commands = format!("apt-get update\napt-get install --yes --no-install-recommends {list}");
    if args.no_install {
        println!("`cargo xtask {verb}` needs the Debian packages: {list}\n{commands}");
        bail!("packages are missing: run the commands above as root, or leave --no-install out");
    }
    println!("`cargo xtask {verb}` needs the Debian packages: {list}; installing them now");
    for line in commands.lines() {
        println!("+ {line}");
        let mut words = line.split(' ');
        let program = words.next().unwrap_or_default();
        process::run(Command::new(program).args(words).env("DEBIAN_FRONTEND", "noninteractive"))
            .with_context(|| format!("install {list}; as root on Debian 12 this works:\n{commands}"))?;
    }
    let still = self::missing(needs, &search_path(), &|path| path.exists());
    if !still.is_empty() {
        bail!("installed, and yet not found: {}", still.join(" "));
    }
    Ok(())
}

/// The packages of the needs that are not met, each once.
fn missing<'a>(needs: &[Need], path: &[PathBuf], exists: &dyn Fn(&Path) -> bool) -> Vec<&'a str> {
    let mut packages: Vec<&str> = Vec::new();
    for need in needs {
        let met = match need.probe {
            Probe::Command(name) => path.iter().any(|folder| exists(&folder.join(name))),
            Probe::File(file) => exists(Path::new(file)),
        };
        if !met && !packages.contains(&need.package) {
            packages.push(need.package);
        }
    }
    packages
}

fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    // Debian leaves the system folders out of an ordinary user's path.
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing_and_packages_come_once() {
        let exists = |path: &Path| path == Path::new("/usr/sbin/ip");
        let needs = [IPROUTE2, PROCPS, CNI_PLUGINS, PROCPS];
        let path = [PathBuf::from("/bin"), PathBuf::from("/usr/sbin")];
        assert_eq!(missing(&needs, &path, &exists), ["procps", "containernetworking-plugins"]);
    }

    #[test]
    fn without_install_the_verb_stops() {
        let absent = Need { probe: Probe::File("/nonexistent/berth"), package: "berth-none" };
        let outcome = ensure("test", &[absent], InstallArgs { no_install: true });
        assert!(outcome.unwrap_err().to_string().contains("as root"));
    }
}
