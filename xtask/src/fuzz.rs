//! `cargo xtask fuzz`: random inputs for the parsers of outside input.
//!
//! Built with the stable compiler: the coverage that libFuzzer needs is a pass of LLVM. No address sanitizer:
//! the fuzzed code has no unsafe code. The corpus is kept in target/fuzz/ and reused; an input that fails a
//! target becomes a unit test with its bytes in the source. Invariant: a crash, a time-out, or a run without
//! executions fails the verb.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum as _;

use crate::install::{self, InstallArgs, Need, Probe};
use crate::{build, process, repo};

/// Run the parsers with random inputs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Targets to fuzz; all if empty.
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// Duration of each run in seconds.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    #[command(flatten)]
    install: InstallArgs,
}

/// A fuzz target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// The kernel's description of its types.
    Btf,
    /// ARP and neighbour discovery, as the programs in the kernel read them.
    Frame,
    /// The network configuration on the plugin's standard input, and `CNI_ARGS`.
    Conf,
    /// Results of other plugins, in all versions.
    #[value(name = "prev_result")]
    PrevResult,
    /// The lines between plugin and agent, the spool, aliases of links.
    Message,
    /// The kernel's replies and events.
    Netlink,
    /// Rows of journal and store, and a ledger that finds them.
    Record,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Btf => "btf",
            Self::Frame => "frame",
            Self::Conf => "conf",
            Self::PrevResult => "prev_result",
            Self::Message => "message",
            Self::Netlink => "netlink",
            Self::Record => "record",
        }
    }
}

/// libFuzzer is C++.
const NEEDS: [Need; 1] = [Need { probe: Probe::Command("c++"), package: "g++" }];

/// Flags of cargo-fuzz, except for the address sanitizer, which the stable compiler does not have.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
];

/// A single input may take this many seconds: all take microseconds.
const INPUT_SECONDS: u32 = 10;
const MEMORY_MB: u32 = 1024;
/// Number of concurrent targets; CI has two processors.
const AT_ONCE: usize = 2;
/// Number of lines of a failed run that are shown.
const LINES_SHOWN: usize = 60;

/// Builds the targets, runs each, and prints the results.
pub fn run(args: &Args) -> Result<()> {
    install::ensure("fuzz", &NEEDS, args.install)?;
    let root = repo::root()?;
    let folder = repo::output_folder(&root, "fuzz")?;
    let binaries = compile(&root, &folder)?;
    let targets = if args.targets.is_empty() { Target::value_variants() } else { &args.targets };
    let outcomes = side_by_side(targets, |target| fuzz(target, &binaries, &folder, args.seconds))?;
    println!();
    for (name, outcome) in &outcomes {
        println!("{name:<8} {outcome}");
    }
    if outcomes.iter().all(|(_, outcome)| outcome.failure().is_none()) {
        return Ok(());
    }
    println!("\nan input that failed: fix it, and keep its bytes as a unit test next to the parser");
    Err(process::AlreadyTold.into())
}

/// Runs all targets, [`AT_ONCE`] of them at a time, and returns their outcomes in order. An error of one ends
/// the verb, but only when the others have ended: no process is left running.
fn side_by_side(
    targets: &[Target],
    run: impl Fn(Target) -> Result<Outcome> + Sync,
) -> Result<Vec<(&'static str, Outcome)>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = targets.get(place) else { return done };
            done.push((place, run(*target)));
        }
    };
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            done.extend(thread.join().map_err(|_| anyhow!("a thread of the fuzzer panicked"))?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(place, outcome)| Ok((targets[place].name(), outcome?))).collect()
}

/// Builds everything instrumented; the folder of the executables.
fn compile(root: &Path, folder: &Path) -> Result<PathBuf> {
    let target = build::host_target()?;
    // The cache, if there is one: instrumenting takes minutes.
    let cache = std::env::var_os("CARGO_TARGET_DIR").map(|cache| root.join(cache).join("fuzz"));
    let output = cache.unwrap_or_else(|| folder.join("build"));
    let mut command = process::cargo(root);
    command.args(["build", "--locked", "--release", "--bins", "--manifest-path"]);
    // An explicit target keeps the flags away from build scripts and procedural macros.
    command.arg(root.join("fuzz/Cargo.toml")).args(["--target", &target, "--target-dir"]).arg(&output);
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")).env_remove("RUSTFLAGS");
    command.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    process::run(&mut command)?;
    Ok(output.join(target).join("release"))
}

fn fuzz(target: Target, binaries: &Path, folder: &Path, seconds: u32) -> Result<Outcome> {
    let name = target.name();
    let place = |kind: &str| -> Result<PathBuf> {
        let path = folder.join(kind).join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    };
    let (corpus, seeds, crashes) = (place("corpus")?, place("seeds")?, place("crashes")?);
    let mut command = Command::new(binaries.join(name));
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECONDS}"),
        format!("-rss_limit_mb={MEMORY_MB}"),
        format!("-artifact_prefix={}/", crashes.display()),
        "-print_final_stats=1".to_owned(),
        // Progress towards a constant counts as new coverage, too: without it a planted panic on one VLAN ID
        // was not found in 30 s, with it in 4.
        "-use_value_profile=1".to_owned(),
    ]);
    command.args([&corpus, &seeds]).env("BERTH_FUZZ_SEEDS", &seeds);
    println!("+ {}", process::shown(&command));
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start the target {name}"))?;
    let mut report = Report::default();
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("read the output of the target {name}"))?;
            report.read(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait().with_context(|| format!("wait for the target {name}"))?;
    if !status.success() {
        // In one piece: another target may be running.
        println!("{}", report.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n"));
    }
    Ok(report.end(status.success()))
}

/// Output of libFuzzer, line by line.
#[derive(Debug, Default)]
struct Report {
    executions: u64,
    coverage: u64,
    /// Path of the input that failed.
    artifact: Option<String>,
    last: VecDeque<String>,
}

impl Report {
    fn read(&mut self, line: &str) {
        let number = |key: &str| line.split(key).nth(1)?.split_whitespace().next()?.parse().ok();
        if let Some(executions) = number("stat::number_of_executed_units:") {
            self.executions = executions;
        }
        if let Some(coverage) = number(" cov: ") {
            self.coverage = coverage;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.artifact = Some(path.trim().to_owned());
        }
        if self.last.len() == LINES_SHOWN {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
    }

    fn end(self, success: bool) -> Outcome {
        let Self { executions, coverage, artifact, .. } = self;
        Outcome { executions, coverage, artifact, success }
    }
}

/// Result of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    coverage: u64,
    artifact: Option<String>,
    success: bool,
}

impl Outcome {
    fn failure(&self) -> Option<String> {
        match (&self.artifact, self.success) {
            (Some(path), _) => Some(format!("an input failed: {path}")),
            (None, false) => Some("it ended with an error, see above".to_owned()),
            (None, true) if self.executions == 0 || self.coverage == 0 => {
                Some("it executed nothing, or without coverage".to_owned())
            }
            (None, true) => None,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = self.failure().map_or("ok".to_owned(), |text| format!("FAILED: {text}"));
        write!(f, "{} executions, {} places covered: {outcome}", self.executions, self.coverage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str, success: bool) -> Outcome {
        let mut report = Report::default();
        text.lines().for_each(|line| report.read(line));
        report.end(success)
    }

    const GOOD: &str = "INFO: seed corpus: files: 9\n\
        #10\tINITED cov: 80 ft: 90 corp: 5/200b exec/s: 0 rss: 40Mb\n\
        #131072\tpulse  cov: 120 ft: 300 corp: 9/1Kb lim: 100 exec/s: 9000 rss: 50Mb\n\
        Done 150000 runs in 21 second(s)\n\
        stat::number_of_executed_units: 150000\n";

    #[test]
    fn executions_and_coverage_are_read() {
        let good = outcome(GOOD, true);
        assert_eq!((good.executions, good.coverage, good.failure()), (150_000, 120, None));
        assert_eq!(good.to_string(), "150000 executions, 120 places covered: ok");
    }

    #[test]
    fn a_crash_a_bad_end_and_an_idle_run_are_failures() {
        let crash = "==9== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='t/'; Test unit written to t/crash-1\n\
            stat::number_of_executed_units: 7\n";
        assert!(outcome(&format!("{GOOD}{crash}"), false).failure().unwrap().contains("t/crash-1"));
        assert!(outcome(GOOD, false).failure().is_some());
        assert!(outcome("", true).failure().unwrap().contains("nothing"));
        assert!(outcome("stat::number_of_executed_units: 5\n", true).failure().is_some());
    }

    #[test]
    fn every_target_runs_once_and_outcomes_stay_in_order() {
        let runs = AtomicUsize::new(0);
        let good = || Outcome { executions: 1, coverage: 1, artifact: None, success: true };
        let targets = Target::value_variants();
        let outcomes = side_by_side(targets, |target| {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome { executions: u64::try_from(target.name().len())?, ..good() })
        });
        let outcomes = outcomes.unwrap();
        assert_eq!((runs.into_inner(), outcomes.len()), (targets.len(), targets.len()));
        for (target, (name, outcome)) in targets.iter().zip(&outcomes) {
            assert_eq!((target.name(), target.name().len() as u64), (*name, outcome.executions));
        }
        assert!(side_by_side(targets, |_| anyhow::bail!("broken")).is_err());
    }

    #[test]
    fn each_target_has_a_program() {
        let manifest = std::fs::read_to_string(repo::root().unwrap().join("fuzz/Cargo.toml")).unwrap();
        for target in Target::value_variants() {
            let (name, bin) = (target.name(), format!("name = \"{}\"", target.name()));
            assert!(manifest.contains(&format!("[[bin]]\n{bin}\npath = \"targets/{name}.rs\"")), "{name}");
        }
    }

    #[test]
    fn only_the_end_of_what_it_said_is_kept() {
        let mut report = Report::default();
        (0..500).for_each(|number| report.read(&format!("line {number}")));
        assert_eq!((report.last.len(), report.last[0].as_str()), (LINES_SHOWN, "line 440"));
    }
}
