//! `cargo xtask test cni`: the conformance suite with its flags: another plugin instead of Berth, and writing
//! the document of the findings.
//!
//! This file has only the command line; the suite is `berth_testbed::conformance`, and `cargo xtask test`
//! runs it with all other tests.

use std::path::PathBuf;

use anyhow::Result;
use berth_testbed::cleanup;
use berth_testbed::conformance::{self, Settings};

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::{self, InstallArgs, Need};
use crate::{cluster, process, repo};

/// Needs of its worlds and its reference.
const NEEDS: [Need; 3] = [install::IPROUTE2, install::UTIL_LINUX, install::CNI_PLUGINS];

/// A test for each rule of CNI, for Berth and for Debian's macvlan with host-local.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// List what this plugin obeys and what it breaks, instead of Berth.
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,
    /// The IPAM of that plugin: `host-local`, `berth`, or another's type.
    #[arg(long, value_name = "TYPE", default_value = "host-local", requires = "plugin")]
    ipam: String,
    /// Write docs/conformance.md from what is found.
    #[arg(long, conflicts_with_all = ["plugin", "filter"])]
    write_docs: bool,
    /// Test Berth in a cluster of one node, with a real API server as the store; docs and reference are left out.
    #[arg(long, default_value = "embedded", value_name = "STORE", value_parser = ["embedded", "kubernetes"],
          conflicts_with_all = ["plugin", "write_docs"])]
    store: String,
    /// Only tests with this text in their name.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    ebpf: EbpfArgs,
    #[command(flatten)]
    install: InstallArgs,
}

/// Runs it; fails if a test failed.
pub fn run(args: &Args) -> Result<()> {
    if args.store == "kubernetes" {
        let mut command = cluster::prepared("test cni", true)?;
        command.args(["conformance", "--cni", "berth"]);
        command.args(args.filter.iter().flat_map(|filter| ["--filter", filter]));
        return cluster::foreground(&mut command);
    }
    let root = repo::root()?;
    install::ensure("test cni", &NEEDS, args.install)?;
    let object = build_ebpf::wanted(args.ebpf, args.install)?;
    let binaries = build::binaries(Variant::Trial, object.as_deref())?;
    cleanup::watch_signals()?;
    let settings = Settings {
        binaries,
        other: args.plugin.clone().map(|plugin| (plugin, args.ipam.clone())),
        filter: args.filter.clone(),
        document: root.join("docs/conformance.md"),
        write: args.write_docs,
        outside: None,
    };
    if conformance::run(&settings)? { Ok(()) } else { Err(process::AlreadyTold.into()) }
}
