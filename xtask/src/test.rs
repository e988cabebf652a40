//! `cargo xtask test`: all tests, those without needs first, and one line that counts them.
//!
//! libtest's result lines are added up. A test that skips itself reports the reason through
//! `berth_testbed::skip`, and counts as skipped, not as passed. A test process that ends without a result
//! line counts as one failure: a crash must not make the sum look better.

mod cni;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::build::{self, Variant};
use crate::build_ebpf::{self, EbpfArgs};
use crate::install::{self, InstallArgs, Need};
use crate::{process, repo, tools};

/// Needs of the tests with namespaces and with programs in the kernel.
const NEEDS: [Need; 5] =
    [install::IPROUTE2, install::UTIL_LINUX, install::PROCPS, install::CNI_PLUGINS, install::BPFTOOL];

/// Run all tests; the last line counts passed, failed and skipped.
#[derive(Debug, Default, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    suite: Option<Suite>,
    /// Only the tests of this package (may be repeated).
    #[arg(short, long, value_name = "NAME")]
    package: Vec<String>,
    /// Only the tests without root and without the built binaries.
    #[arg(long, conflicts_with = "package")]
    unit: bool,
    /// Only tests with this text in their name.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    #[command(flatten)]
    ebpf: EbpfArgs,
    #[command(flatten)]
    install: InstallArgs,
}

/// A suite with its own flags. Without them it is one of all tests.
#[derive(Debug, clap::Subcommand)]
enum Suite {
    /// A test for each rule of CNI, for Berth and for Debian's macvlan with host-local.
    Cni(cni::Args),
}

/// Numbers of tests by result.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    /// Count of tests that could not even be built: nothing ran, and that is a failure.
    pub const NOT_RUN: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// True if a test failed.
    pub fn has_failures(self) -> bool {
        self.failed > 0
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs them and prints the count; fails if a test failed.
pub fn run(args: &Args) -> Result<()> {
    if let Some(Suite::Cni(args)) = &args.suite {
        return cni::run(args);
    }
    let count = count(args)?;
    println!("{count}");
    if let (Some(filter), true) = (&args.filter, count == Count::default()) {
        bail!("no test's name contains {filter:?}");
    }
    if count.has_failures() { Err(process::AlreadyTold.into()) } else { Ok(()) }
}

/// Runs them and returns the count; an error is one that kept tests from running at all.
pub fn count(args: &Args) -> Result<Count> {
    let root = repo::root()?;
    let skips = repo::output_folder(&root, "test")?.join(format!("skips-{}", std::process::id()));
    let (mut object, mut bins, mut others, mut control) = (None, None, None, None);
    if needs(args, &["berth-testbed", "berth-probes", "berth-cluster"]) {
        install::ensure("test", &NEEDS, args.install)?;
        object = build_ebpf::wanted(args.ebpf, args.install)?;
    }
    if needs(args, &["berth-testbed", "berth-cluster"]) {
        bins = Some(build::binaries(Variant::Trial, object.as_deref())?);
        others = tools::wanted("test");
        control = tools::kubernetes::wanted("test");
    }

    let mut tally = Tally::default();
    for phase in phases(args) {
        let mut command = process::cargo(&root);
        command.args(["test", "--locked", "--no-fail-fast"]).args(phase).args(&args.filter);
        command.env("BERTH_SKIP_FILE", &skips);
        // In every phase: the agent embeds the object, and would be built again for each change of mind.
        build::embed(&mut command, object.as_deref());
        let folders = [
            ("BERTH_BIN_DIR", &bins),
            ("BERTH_TOOLS_DIR", &others),
            (berth_testbed::kubernetes::FOLDER_VARIABLE, &control),
        ];
        command.envs(folders.into_iter().filter_map(|(name, folder)| Some((name, folder.as_ref()?))));
        run_phase(&mut command, &mut tally)?;
    }
    let skipped = read_skips(&skips)?;
    for line in &skipped {
        println!("{line}");
    }
    Ok(tally.count(skipped.len()))
}

/// The targets of each run of cargo, least powerful first: a broken pure test is reported before minutes go
/// into namespaces.
fn phases(args: &Args) -> Vec<Vec<&str>> {
    if !args.package.is_empty() {
        return vec![args.package.iter().flat_map(|name| ["--package", name.as_str()]).collect()];
    }
    let mut phases = vec![vec!["--workspace", "--lib", "--bins"]];
    if !args.unit {
        phases.push(vec!["--workspace", "--doc"]);
        phases.push(vec!["--workspace", "--test", "*"]);
    }
    phases
}

/// True if tests of one of these packages run that need more than the compiler.
fn needs(args: &Args, packages: &[&str]) -> bool {
    let named = args.package.iter().any(|name| packages.contains(&name.as_str()));
    !args.unit && (args.package.is_empty() || named)
}

fn run_phase(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let line = process::shown(command);
    println!("+ {line}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {line}"))?;
    let before = tally.failed;
    if let Some(output) = child.stdout.take() {
        // Not lines(): the output of a test may not be UTF-8.
        for bytes in BufReader::new(output).split(b'\n') {
            let bytes = bytes.with_context(|| format!("read the output of {line}"))?;
            let text = String::from_utf8_lossy(&bytes);
            println!("{text}");
            tally.read(&text);
        }
    }
    let status = child.wait().with_context(|| format!("wait for {line}"))?;
    tally.end_of_process();
    if !status.success() && tally.failed == before {
        println!("{line}: {status}, without a failed test: counted as one failure");
        tally.failed += 1;
    }
    Ok(())
}

fn read_skips(path: &Path) -> Result<Vec<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    Ok(text.lines().filter(|line| line.starts_with("SKIP ")).map(str::to_owned).collect())
}

/// Adds up libtest's output, line by line.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// A test process has announced its number of tests, but not yet their results.
    open: bool,
}

impl Tally {
    fn read(&mut self, line: &str) {
        if is_announcement(line) {
            self.end_of_process();
            self.open = true;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.open = false;
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.ignored += number_before(result, " ignored");
        }
    }

    /// A process that announced tests and reported no result has crashed.
    fn end_of_process(&mut self) {
        if std::mem::take(&mut self.open) {
            println!("a test process ended without a result: counted as one failure");
            self.failed += 1;
        }
    }

    /// The sum; tests that skipped themselves returned, so libtest took them for passed.
    fn count(&self, skipped: usize) -> Count {
        Count {
            passed: self.passed.saturating_sub(skipped),
            failed: self.failed,
            skipped: self.ignored + skipped,
        }
    }
}

/// True for `running 3 tests` and `running 1 test`.
fn is_announcement(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("running ") else { return false };
    let rest = rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"));
    rest.is_some_and(|number| number.parse::<usize>().is_ok())
}

fn number_before(line: &str, unit: &str) -> usize {
    let Some(at) = line.find(unit) else { return 0 };
    let digits = line[..at].rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.read(line));
        tally.end_of_process();
        tally
    }

    #[test]
    fn result_lines_are_added_up_and_skips_are_no_passes() {
        let output = "running 3 tests\n\
            test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
            running 12 tests\n\
            test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 1s\n";
        let count = tally(output).count(2);
        assert_eq!(count, Count { passed: 11, failed: 1, skipped: 3 });
        assert_eq!(count.to_string(), "11 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn a_process_that_dies_is_a_failure() {
        assert_eq!(tally("running 3 tests\ntest a ... ok\n").failed, 1);
        let died_first = "running 1 test\nrunning 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(tally(died_first).failed, 1);
    }

    #[test]
    fn prose_is_no_announcement() {
        assert!(!is_announcement("running late tests"));
        assert!(is_announcement("running 1 test"));
    }

    #[test]
    fn skips_are_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("skips");
        std::fs::write(&path, "SKIP a: no root\nnoise\nSKIP b: no vlan\n").unwrap();
        assert_eq!(read_skips(&path).unwrap().len(), 2);
        assert!(read_skips(&path).unwrap().is_empty());
    }

    #[test]
    fn pure_tests_come_before_those_with_namespaces() {
        let args = Args::default();
        let all = phases(&args);
        assert!(all[0].contains(&"--lib") && all.last().unwrap().contains(&"*"));
        assert_eq!(phases(&Args { unit: true, ..Args::default() }).len(), 1);
    }

    #[test]
    fn only_what_needs_the_object_builds_it() {
        let of = |name: &str| Args { package: vec![name.to_owned()], ..Args::default() };
        assert!(needs(&Args::default(), &["berth-probes"]) && needs(&of("berth-probes"), &["berth-probes"]));
        assert!(!needs(&of("berth-ipam"), &["berth-probes"]));
        assert!(!needs(&Args { unit: true, ..Args::default() }, &["berth-probes"]));
    }
}
