//! `cargo xtask ci`: all checks that must pass before a change is merged, each step timed.
//!
//! All steps run even after one failed, so that one run shows all failures; the exit status covers all of
//! them. The count of the tests is the last line.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build_ebpf::{self, EbpfArgs};
use crate::install::InstallArgs;
use crate::{build, crds, process, repo, test, tidy, tools};

/// Do what continuous integration does: fmt, the eBPF object, clippy, tidy, crds, tools, test, fuzz, demo, pods.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Multiply the demo's bounds by this; machines of CI are shared.
    #[arg(long, default_value_t = 10, value_name = "N")]
    slack: u32,
    /// The checks that take long, too: the static binaries, the benchmarks, the demo and the bounds in a
    /// cluster.
    #[arg(long)]
    full: bool,
}

/// Manifests of crates outside the workspace.
const OUTSIDE: [&str; 2] = ["ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// One step and its result.
struct Step {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

/// Runs all steps; fails if one did.
pub fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    let mut steps = Vec::new();
    let mut count = None;

    step(&mut steps, "fmt", || {
        let cargo = |arguments: &[&str]| process::run(process::cargo(&root).args(arguments));
        cargo(&["fmt", "--all", "--check"])?;
        // These are not members of the workspace.
        OUTSIDE.into_iter().try_for_each(|manifest| cargo(&["fmt", "--manifest-path", manifest, "--check"]))
    });
    let mut object = None;
    step(&mut steps, "ebpf", || {
        object = build_ebpf::wanted(EbpfArgs::default(), InstallArgs::default())?;
        Ok(())
    });
    step(&mut steps, "clippy", || {
        let mut command = process::cargo(&root);
        // With the object that the tests build with: otherwise each of the two would rebuild the other's
        // work.
        build::embed(&mut command, object.as_deref());
        process::run(command.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--keep-going",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]))
    });
    step(&mut steps, "tidy", || tidy::run(&tidy::Args::default()));
    step(&mut steps, "crds", || crds::run(&crds::Args { check: true }));
    // Here a machine without Go fails: elsewhere the tests that need these skip.
    step(&mut steps, "tools", || tools::build().map(drop));
    step(&mut steps, "cluster", || tools::kubernetes::ensure(InstallArgs::default()).map(drop));
    step(&mut steps, "test", || {
        let counted = test::count(&test::Args::default())?;
        count = Some(counted);
        if counted.has_failures() { Err(process::AlreadyTold.into()) } else { Ok(()) }
    });
    step(&mut steps, "fuzz", || own_verb(&["fuzz"]));
    step(&mut steps, "demo", || own_verb(&["demo", "--slack", &args.slack.to_string()]));
    step(&mut steps, "pods", || {
        own_verb(&["bench", "pods", "--cni", "berth", "--nodes", "2", "--pods", "20", "--shape", "2x10"])
    });
    if args.full {
        step(&mut steps, "dist", || own_verb(&["dist"]));
        step(&mut steps, "bench", || own_verb(&["bench"]));
        let slack = args.slack.to_string();
        step(&mut steps, "demo, k8s", || own_verb(&["demo", "--store", "kubernetes", "--slack", &slack]));
        step(&mut steps, "cni, k8s", || own_verb(&["test", "cni", "--store", "kubernetes"]));
        step(&mut steps, "bounds", || own_verb(&["bench", "bounds", "--slack", &slack]));
        step(&mut steps, "1x1000", || own_verb(&["bench", "pods", "--cni", "berth"]));
        step(&mut steps, "100x10", || own_verb(&["bench", "pods", "--cni", "berth", "--shape", "100x10"]));
    }

    let failed = report(&steps);
    println!("{}", count.unwrap_or(test::Count::NOT_RUN));
    if failed { Err(process::AlreadyTold.into()) } else { Ok(()) }
}

/// Another verb of this program in a separate process: it sets up signal handling for its worlds.
fn own_verb(arguments: &[&str]) -> Result<()> {
    let own = std::env::current_exe().context("find this program's own path")?;
    process::run(std::process::Command::new(own).args(arguments))
}

fn step(steps: &mut Vec<Step>, name: &'static str, work: impl FnOnce() -> Result<()>) {
    println!("\n=== {name}");
    let start = Instant::now();
    let failure = work().err().map(|error| format!("{error:#}"));
    if let Some(text) = &failure {
        println!("=== {name} failed: {text}");
    }
    steps.push(Step { name, took: start.elapsed(), failure });
}

/// Prints what each step took; whether one failed.
fn report(steps: &[Step]) -> bool {
    println!();
    for step in steps {
        let outcome = step.failure.as_deref().map_or("ok".to_owned(), |text| format!("FAILED: {text}"));
        println!("{:>7.1} s  {:<9} {outcome}", step.took.as_secs_f64(), step.name);
    }
    let total: Duration = steps.iter().map(|step| step.took).sum();
    println!("{:>7.1} s  in all", total.as_secs_f64());
    steps.iter().any(|step| step.failure.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_keep_the_next_from_running_and_is_not_forgotten() {
        let mut steps = Vec::new();
        step(&mut steps, "first", || anyhow::bail!("broken"));
        step(&mut steps, "second", || Ok(()));
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].failure.as_deref(), Some("broken"));
        assert!(report(&steps));
        assert!(!report(&steps[1..]));
    }
}
