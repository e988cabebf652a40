//! `berth-cluster`: what `cargo xtask cluster` and `cargo xtask bench pods` run. Here is only the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_cluster::args::ClusterArgs;
use berth_cluster::bench::{self, Bench, Shape};
use berth_cluster::bounds::{self, Bounds, Part};
use berth_cluster::cni::Cni;
use berth_cluster::demo::{self, Demo};
use berth_cluster::session::{self, Place};
use berth_cluster::{Error, Result};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// A Kubernetes cluster in namespaces.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// Selection of a cluster.
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// Name of the cluster; several can be up at the same time.
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
    /// Folder of its state file.
    #[arg(long, default_value = "target/cluster", value_name = "DIR", hide = true)]
    state: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a cluster and leave it running.
    Up {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Own a cluster until SIGTERM: what `up` starts.
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Take a cluster down, with everything in it.
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Show the running clusters.
    Status {
        #[command(flatten)]
        which: Which,
    },
    /// Power a node off or on.
    Power {
        /// The node: n1, n2, ...
        node: String,
        /// on or off.
        #[arg(action = clap::ArgAction::Set, value_parser = ["on", "off"])]
        power: String,
        #[command(flatten)]
        which: Which,
    },
    /// Play the demo's cases in a cluster of one node.
    #[command(hide = true)]
    Demo {
        /// Run only this case; may be repeated.
        #[arg(long = "case", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..=13))]
        cases: Vec<u32>,
        /// Multiply every bound in time.
        #[arg(long, default_value_t = 1.0, value_name = "N")]
        slack: f64,
        /// Path of the report.
        #[arg(long, value_name = "FILE")]
        report: PathBuf,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Play the rows of the conformance suite in a cluster of one node.
    #[command(hide = true)]
    Conformance {
        /// Only tests with this text in their name.
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Measure the bounds in a cluster: time until addresses are free, the agent's part of ADD, its memory and CPU.
    Bounds {
        /// Parts to measure; all if empty.
        #[arg(value_enum)]
        parts: Vec<Part>,
        /// Multiply the bounds by this.
        #[arg(long, default_value_t = 1, value_name = "N")]
        slack: u32,
        /// Path of the report.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
    /// Measure pods in a separate cluster: create, rebuild, recover, delete.
    Bench {
        /// Distribution of pods: Deployments x pods.
        #[arg(long, default_value = "1x1000", value_name = "NxM")]
        shape: Shape,
        /// Path of the report.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        #[command(flatten)]
        cluster: Box<ClusterArgs>,
    },
}

fn main() -> ExitCode {
    // The bench has more pods than a manual test.
    let many = |bench: clap::Command| {
        // As many networks as there are Deployments; of bounds there is one.
        let bench = bench.mut_arg("networks", |flag| flag.hide(true));
        let bench = bench.mut_arg("nodes", |flag| flag.default_value("10"));
        bench.mut_arg("pods", |flag| flag.default_value("1000"))
    };
    let command = Cli::command().mut_subcommand("bench", many);
    let command = command
        .mut_subcommand("bounds", |bounds| many(bounds).mut_arg("cni", |flag| flag.default_value("berth")));
    let parsed = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    match run(parsed.verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<bool> {
    let place = |which: &Which| Place::new(&which.state, &which.name);
    match verb {
        Verb::Up { which, cluster } => {
            // Refused here, not in the log of a process that ends immediately.
            cluster.options()?;
            session::up(&place(&which)?, &own_arguments()?)?;
        }
        Verb::Serve { which, cluster } => session::serve(&place(&which)?, &cluster.options()?)?,
        Verb::Down { which } => session::down(&place(&which)?)?,
        Verb::Power { node, power, which } => session::power(&place(&which)?, &node, power == "on")?,
        Verb::Bench { shape, json, cluster } => {
            let mut options = cluster.options()?;
            // The bench has no dead nodes, and Kubernetes' default patience costs fewer requests.
            options.settings.fast_failure = false;
            options.networks = if options.cni == Cni::Berth { shape.apps } else { 1 };
            return bench::run(&Bench { options, shape, json });
        }
        Verb::Demo { cases, slack, report, cluster } => {
            let (binaries, manifest) = of_berth(&cluster)?;
            return demo::run(&Demo { binaries, manifest, cases, slack, report });
        }
        Verb::Conformance { filter, cluster } => {
            let (binaries, manifest) = of_berth(&cluster)?;
            return demo::conform(&binaries, &manifest, filter.as_deref());
        }
        Verb::Bounds { parts, slack, json, cluster } => {
            let mut options = cluster.options()?;
            if options.cni != Cni::Berth {
                return Err(Error::Usage(
                    "these are Berth's bounds: leave --cni and --cni-config out".to_owned(),
                ));
            }
            options.settings.fast_failure = false;
            return bounds::run(&Bounds { parts, options, slack, json });
        }
        Verb::Status { which } => return session::status(&place(&which)?),
    }
    Ok(true)
}

/// Berth's binaries, and what declares its needs.
fn of_berth(cluster: &ClusterArgs) -> Result<(PathBuf, PathBuf)> {
    let options = cluster.options()?;
    match (options.agent.as_ref().and_then(|agent| agent.parent()), options.manifests.first()) {
        (Some(binaries), Some(manifest)) => Ok((binaries.to_owned(), manifest.clone())),
        _ => Err(Error::Usage("this is about Berth: --cni berth".to_owned())),
    }
}

/// Arguments of this program after its verb: the owner gets the same.
fn own_arguments() -> Result<Vec<String>> {
    let words = std::env::args_os().skip(2).map(|word| {
        word.into_string().map_err(|word| Error::Usage(format!("{} is not UTF-8", word.display())))
    });
    words.collect()
}
