//! `cargo xtask bench pods` and `bench bounds`: a thousand pods on a thousand addresses, and the bounds for a
//! cluster. Both are in the crate `berth-cluster`, which has their flags; this file prepares their needs.

use std::process::Command;

use anyhow::Result;

use crate::{build, cluster};

/// Measure in a cluster.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flags of the bench.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    words: Vec<String>,
}

/// Measures pods; it fails if a call failed, if two held one address, or if one had none.
pub fn run(args: &Args) -> Result<()> {
    verb("bench", args, cluster::berth_is_wanted(&args.words))
}

/// Measures the bounds; it fails if one was missed.
pub fn bounds(args: &Args) -> Result<()> {
    verb("bounds", args, true)
}

fn verb(verb: &str, args: &Args, berth: bool) -> Result<()> {
    let asks = args.words.iter().any(|word| word == "--help" || word == "-h");
    let mut command = if asks {
        Command::new(build::cluster_program()?)
    } else {
        cluster::prepared(&format!("bench in a cluster ({verb})"), berth)?
    };
    cluster::foreground(command.arg(verb).args(&args.words))
}
