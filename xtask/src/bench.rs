//! `cargo xtask bench`: the cost of Berth, compared with the plugins that Debian ships and upstream's newest,
//! in one run.
//!
//! Contestants take turns within one world on one machine, so a busy machine slows both; the ratio counts.
//! The binaries are those of `dist`. All results are printed, and written as JSON to
//! target/bench/report.json; docs/benchmarks.md keeps the ratios.

mod agent;
mod core;
mod ebpf;
mod plugin;
mod pods;
mod reclaim;
mod report;
mod stand;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::ValueEnum as _;

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::{self, InstallArgs};
use crate::repo;
use report::Report;

/// Compare Berth with Debian's and upstream's newest macvlan and host-local.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    suite: Option<Suite>,
    /// Parts to measure; all if empty.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Rounds in which the contestants take turns.
    #[arg(long, default_value_t = 40, value_name = "N")]
    rounds: u32,
    /// Leases that the agent holds when its memory and idle CPU are read, and pods torn down at once.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    leases: u32,
    /// Measure the binaries of this folder instead of building those of `dist`.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    #[command(flatten)]
    ebpf: EbpfArgs,
    #[command(flatten)]
    install: InstallArgs,
}

/// Measurements in separate programs, with their own flags.
#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// Pods in a cluster: create, rebuild, recover, delete. All flags: `cargo xtask bench pods --help`.
    #[command(disable_help_flag = true)]
    Pods(pods::Args),
    /// Measure the bounds for a cluster: time until addresses are free, the agent's part of ADD, its memory
    /// and CPU. All flags: `cargo xtask bench bounds --help`.
    #[command(disable_help_flag = true)]
    Bounds(pods::Args),
}

/// Parts of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// VERSION, STATUS, ADD and DEL of the whole plugin, 1 and 8 at a time, and of both families.
    Plugin,
    /// From a namespace's deletion to the address being free.
    Reclaim,
    /// Allocator and verdicts, in instructions.
    Core,
    /// The agent's memory and idle CPU.
    Agent,
    /// The programs in the kernel: what they cost packets, teardowns, ADD and the agent.
    Ebpf,
}

/// Measures and reports.
pub fn run(args: &Args) -> Result<()> {
    match &args.suite {
        Some(Suite::Pods(args)) => return pods::run(args),
        Some(Suite::Bounds(args)) => return pods::bounds(args),
        None => {}
    }
    let parts = if args.parts.is_empty() {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| *part != Part::Ebpf || !args.ebpf.without_ebpf).collect()
    } else {
        args.parts.clone()
    };
    let mut needs = vec![install::IPROUTE2, install::UTIL_LINUX, install::CNI_PLUGINS];
    if parts.contains(&Part::Core) {
        needs.push(install::VALGRIND);
    }
    if parts.contains(&Part::Ebpf) {
        needs.push(install::BPFTOOL);
    }
    install::ensure("bench", &needs, args.install)?;
    let root = repo::root()?;
    let mut report = Report::default();
    if parts.contains(&Part::Core) {
        core::measure(&root, args.install, &mut report)?;
    }
    if parts.iter().any(|part| *part != Part::Core) {
        berth_testbed::cleanup::watch_signals().context("catch Ctrl-C")?;
        let binaries = if let Some(folder) = &args.binaries {
            folder.clone()
        } else {
            let object = build_ebpf::wanted(args.ebpf, args.install)?;
            build::binaries(Variant::Dist, object.as_deref())?
        };
        for part in parts {
            match part {
                Part::Plugin => plugin::measure(&binaries, args.rounds, &mut report)?,
                Part::Reclaim => reclaim::measure(&binaries, args.rounds, &mut report)?,
                Part::Agent => agent::measure(&binaries, args.leases, &mut report)?,
                Part::Ebpf => ebpf::measure(&binaries, args.rounds, args.leases, &mut report)?,
                Part::Core => {}
            }
        }
    }
    print!("{}", report.table());
    let path = repo::output_folder(&root, "bench")?.join("report.json");
    std::fs::write(&path, format!("{:#}\n", report.json()))
        .with_context(|| format!("write {}", path.display()))?;
    println!("written: target/bench/report.json");
    Ok(())
}
