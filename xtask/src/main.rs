//! `cargo xtask VERB`: every developer command, one module per verb.
//!
//! This file has only the command line. A newcomer's machine has root, a Rust toolchain with its C linker and
//! this repository; every other need of a verb is installed after a message (`install`). Nothing here is part
//! of an operator's installation.

mod bench;
mod build;
mod build_ebpf;
mod ci;
mod cluster;
mod crds;
mod demo;
mod dist;
mod fuzz;
mod install;
mod process;
mod repo;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Berth's developer commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Play all cases on this machine; ends with a table and target/demo/report.json.
    Demo(demo::Args),
    /// Run all tests; the last line counts passed, failed and skipped.
    Test(test::Args),
    /// Compare Berth with Debian's and upstream's newest macvlan and host-local.
    Bench(bench::Args),
    /// Build the programs for the kernel, with type information, into target/ebpf/berth.o.
    BuildEbpf(build_ebpf::Args),
    /// Build the static binaries that operators install, into target/dist/.
    Dist(dist::Args),
    /// Write deploy/crds.yaml, the custom resource definitions, from the types.
    Crds(crds::Args),
    /// Check the rules of the repository that no compiler checks.
    Tidy(tidy::Args),
    /// Run the parsers with random inputs; a crash or a time-out is a failure.
    Fuzz(fuzz::Args),
    /// Build by Go what others wrote, for tests and bench: upstream's plugins and callers, Kubernetes.
    Tools(tools::Args),
    /// Build a Kubernetes cluster in namespaces, leave it running, take it down.
    Cluster(cluster::Args),
    /// Do what continuous integration does: fmt, the eBPF object, clippy, tidy, crds, tools, test, fuzz, demo, pods.
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Demo(args) => demo::run(args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::BuildEbpf(args) => build_ebpf::run(args),
        Verb::Dist(args) => dist::run(&args),
        Verb::Crds(args) => crds::run(&args),
        Verb::Tidy(args) => tidy::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Tools(args) => tools::run(args),
        Verb::Cluster(args) => cluster::run(&args),
        Verb::Ci(args) => ci::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A failure that is already reported in full (tests, tidy) carries no text.
            if !error.is::<process::AlreadyTold>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
