//! `cargo xtask demo`: builds Berth with fault points and runs all of its cases in a small network.
//!
//! This file has only the command line; the world and the cases are the crate `berth-testbed`.

use anyhow::Result;
use berth_testbed::demo::{self, Settings};

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::{self, InstallArgs};
use crate::{cluster, process, repo};

/// Play all cases on this machine; ends with a table and target/demo/report.json.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Multiply every bound in time, for slow or busy machines.
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = positive)]
    slack: f64,
    /// Run only this case (1 to 13); may be repeated.
    #[arg(long = "case", value_name = "ID", value_parser = clap::value_parser!(u32).range(1..=13))]
    cases: Vec<u32>,
    /// Attach mode of the agents for teardowns, unless a case sets it; its bounds depend on it.
    #[arg(long, default_value = "any", value_name = "RUNG",
          value_parser = ["any", "fentry", "tp_btf", "kprobe", "none"])]
    rung: String,
    /// Play all cases but 9 and 13 in a cluster of one node, with a real API server as the store; the bounds stay
    /// those of a machine alone.
    #[arg(long, default_value = "embedded", value_name = "STORE", value_parser = ["embedded", "kubernetes"])]
    store: String,
    /// Multiply the number of attachments; the bounds are promised for 1.
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = positive)]
    scale: f64,
    #[command(flatten)]
    ebpf: EbpfArgs,
    #[command(flatten)]
    install: InstallArgs,
}

/// Plays them; fails if one did not hold.
pub fn run(args: Args) -> Result<()> {
    if args.store == "kubernetes" {
        return in_a_cluster(&args);
    }
    install::ensure("demo", &[install::IPROUTE2], args.install)?;
    let report = repo::output_folder(&repo::root()?, "demo")?.join("report.json");
    let object = build_ebpf::wanted(args.ebpf, args.install)?;
    let binaries = build::binaries(Variant::Trial, object.as_deref())?;
    let Args { slack, cases, scale, .. } = args;
    let rung = Some(args.rung).filter(|rung| rung != "any");
    // What failed is in the table.
    if demo::run(&Settings { binaries, report, slack, scale, cases, rung, outside: None })? {
        Ok(())
    } else {
        Err(process::AlreadyTold.into())
    }
}

/// The same by the program that can build a control plane.
fn in_a_cluster(args: &Args) -> Result<()> {
    if args.rung != "any" || args.scale.to_bits() != 1_f64.to_bits() {
        anyhow::bail!("--rung and --scale are for --store embedded");
    }
    let report = repo::output_folder(&repo::root()?, "demo")?.join("report-kubernetes.json");
    let mut command = cluster::prepared("demo", true)?;
    command.args(["demo", "--cni", "berth", "--slack", &args.slack.to_string()]).arg("--report").arg(report);
    command.args(args.cases.iter().flat_map(|case| ["--case".to_owned(), case.to_string()]));
    cluster::foreground(&mut command)
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be greater than 0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_finite_and_positive() {
        assert_eq!(positive("10"), Ok(10.0));
        for bad in ["0", "-1", "inf", "NaN", "x", ""] {
            assert!(positive(bad).is_err(), "{bad}");
        }
    }
}
