//! `cargo xtask bench pods`: a thousand pods on a thousand addresses. The bench is the crate `berth-cluster`,
//! whose flags these are; here is what it needs.

use std::process::Command;

use anyhow::Result;

use crate::{build, cluster};

/// Measure pods in a cluster.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flags of the bench.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    words: Vec<String>,
}

/// Runs it; it fails if a call failed, if two held one address, or if one had none.
pub fn run(args: &Args) -> Result<()> {
    let asks = args.words.iter().any(|word| word == "--help" || word == "-h");
    let mut command = if asks {
        Command::new(build::cluster_program()?)
    } else {
        cluster::prepared("bench pods", cluster::berth_is_wanted(&args.words))?
    };
    cluster::foreground(command.arg("bench").args(&args.words))
}
