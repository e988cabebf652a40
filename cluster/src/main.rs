//! `berth-cluster`: what `cargo xtask cluster` and `cargo xtask bench pods` run. Here is only the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_cluster::args::ClusterArgs;
use berth_cluster::session::{self, Place};
use berth_cluster::{Error, Result};
use clap::{Parser, Subcommand};

/// A Kubernetes cluster in namespaces.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// Which cluster.
#[derive(Debug, Clone, clap::Args)]
struct Which {
    /// Its name; several can be up at once.
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
    /// Where it is written down.
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
    /// Say what is up.
    Status {
        #[command(flatten)]
        which: Which,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
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
            // Refused here, not in the log of a process that ends at once.
            cluster.options()?;
            session::up(&place(&which)?, &own_arguments()?)?;
        }
        Verb::Serve { which, cluster } => session::serve(&place(&which)?, &cluster.options()?)?,
        Verb::Down { which } => session::down(&place(&which)?)?,
        Verb::Status { which } => return session::status(&place(&which)?),
    }
    Ok(true)
}

/// What this program was given behind its verb: the owner gets the same.
fn own_arguments() -> Result<Vec<String>> {
    let words = std::env::args_os().skip(2).map(|word| {
        word.into_string().map_err(|word| Error::Usage(format!("{} is not UTF-8", word.display())))
    });
    words.collect()
}
