//! `cargo xtask cluster up | down | status | power`: a Kubernetes cluster on this machine.
//!
//! This file prepares its needs (programs, plugins, binaries); the cluster is the crate `berth-cluster`,
//! which has the flags. It is built and run as a program, so that xtask itself needs no Kubernetes client,
//! and so that a cluster can stay up when the verb ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::{self, InstallArgs, Need};
use crate::{process, repo, tools};

/// Needs of a cluster in addition to its programs.
const NEEDS: [Need; 3] = [install::IPROUTE2, install::UTIL_LINUX, install::CNI_PLUGINS];

/// Build a Kubernetes cluster in namespaces, leave it running, take it down.
///
/// up [--nodes N] [--cni host-local|berth] builds one, down removes it, status shows the state, power takes a
/// node's power and gives it back. All flags: `cargo xtask cluster up --help`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// `up`, `down`, `status` or `power`, and its flags.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
    words: Vec<String>,
}

/// Runs it; its status is ours.
pub fn run(args: &Args) -> Result<()> {
    let words = &args.words;
    let verb = words.first().map_or("", String::as_str);
    let asks = words.iter().any(|word| word == "--help" || word == "-h");
    let mut command = if verb == "up" && !asks {
        prepared("cluster up", berth_is_wanted(words))?
    } else {
        Command::new(build::cluster_program()?)
    };
    let state = repo::output_folder(&repo::root()?, "cluster")?;
    command.args(words);
    if words.is_empty() {
        command.arg("--help");
    }
    if ["up", "down", "status", "power"].contains(&verb) && !asks {
        command.arg("--state").arg(state);
    }
    foreground(&mut command)
}

/// The program with all needs of a cluster, installed and built; with Berth's binaries if they are wanted.
pub fn prepared(what: &str, berth: bool) -> Result<Command> {
    install::ensure(what, &NEEDS, InstallArgs::default())?;
    let control = tools::kubernetes::ensure(InstallArgs::default())?;
    let plugins = tools::wanted(what);
    let binaries = if berth { Some(binaries()?) } else { None };
    let mut command = Command::new(build::cluster_program()?);
    let folders = [
        (berth_testbed::kubernetes::FOLDER_VARIABLE, Some(control)),
        ("BERTH_TOOLS_DIR", plugins),
        ("BERTH_BIN_DIR", binaries),
    ];
    command.envs(folders.into_iter().filter_map(|(name, folder)| Some((name, folder?))));
    command.current_dir(repo::root()?);
    Ok(command)
}

fn binaries() -> Result<PathBuf> {
    let object = build_ebpf::wanted(EbpfArgs::default(), InstallArgs::default())?;
    build::binaries(Variant::Trial, object.as_deref())
}

/// True if the flags ask for Berth: `--cni berth` or `--cni=berth`.
pub fn berth_is_wanted(words: &[String]) -> bool {
    words.iter().any(|word| word == "--cni=berth")
        || words.windows(2).any(|pair| pair[0] == "--cni" && pair[1] == "berth")
}

/// Runs the program at the terminal. It has printed its own messages.
pub fn foreground(command: &mut Command) -> Result<()> {
    let name = Path::new(command.get_program()).display().to_string();
    let status = command.status().with_context(|| format!("start {name}"))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(_) => Err(process::AlreadyTold.into()),
        None => bail!("{name}: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn berth_is_built_only_for_those_who_want_it() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(berth_is_wanted(&words("up --nodes 2 --cni berth")));
        assert!(berth_is_wanted(&words("up --cni=berth")));
        assert!(!berth_is_wanted(&words("up --name berth --cni host-local")));
    }
}
