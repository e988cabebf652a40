//! Allocator and verdicts in instructions: runs the gungraun benches of `ipam`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::report::Report;
use crate::install::InstallArgs;
use crate::{process, repo};

/// The runner works only with the library of its own version.
const LIBRARY: &str = "gungraun";

/// Counts instructions; needs valgrind.
pub fn measure(root: &Path, install: InstallArgs, report: &mut Report) -> Result<()> {
    let runner = runner(root, install)?;
    let mut command = process::cargo(root);
    command.args(["bench", "--locked", "--package", "berth-ipam", "--bench", "core"]);
    let text = process::output(command.env("GUNGRAUN_RUNNER", &runner).env("GUNGRAUN_COLOR", "never"))?;
    let counted = instructions(&text);
    if counted.is_empty() {
        bail!("the benches of ipam counted nothing; they printed:\n{text}");
    }
    for (name, count) in counted {
        report.value(&name, count, "instructions", None);
    }
    Ok(())
}

/// The runner that fits the library, installed below target/tools if it is not there.
fn runner(root: &Path, install: InstallArgs) -> Result<PathBuf> {
    let path = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let version = locked_version(&lock, LIBRARY).context("Cargo.lock does not hold gungraun")?;
    let folder = repo::output_folder(root, "tools")?.join(format!("gungraun-{version}"));
    let runner = folder.join("bin/gungraun-runner");
    if runner.is_file() {
        return Ok(runner);
    }
    let mut command = process::cargo(root);
    command.args(["install", "--locked", "--version", version, "--root"]).arg(&folder).arg("gungraun-runner");
    let line = process::shown(&command);
    if install.no_install {
        println!("`cargo xtask bench` needs gungraun-runner {version}:\n{line}");
        bail!("a tool is missing: run the command above, or leave --no-install out");
    }
    println!("`cargo xtask bench` needs gungraun-runner {version}; installing it now (one or two minutes)");
    println!("+ {line}");
    process::run(&mut command)?;
    Ok(runner)
}

fn locked_version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")))?;
    entry.lines().find_map(|line| line.strip_prefix("version = "))?.trim_matches('"').into()
}

/// The instruction count of each benchmark: a line with its path, then indented lines of numbers.
fn instructions(text: &str) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("Instructions:") {
            let count = rest.split('|').next().and_then(|number| number.trim().parse::<f64>().ok());
            found.extend(name.take().zip(count));
        } else if line.contains("::") && !line.starts_with(' ') {
            // `core::allocator::candidates all_free:(set(0))` is printed as `candidates all_free`.
            let path = line.split(":(").next().unwrap_or(line);
            name = path.rsplit("::").next().map(str::to_owned);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_benchmark_gives_its_instructions() {
        let text = "core::allocator::candidates all_free:(set(0))\n  Instructions:      121941|N/A   (*****)\n  \
                    L1 Hits:     155602|N/A\ncore::verdicts::judge dead:(dead())\n  Instructions:   528|270  (+9%)\n";
        assert_eq!(
            instructions(text),
            [("candidates all_free".into(), 121_941.0), ("judge dead".into(), 528.0)]
        );
        assert!(instructions("nothing").is_empty());
    }

    #[test]
    fn the_version_is_the_locked_one() {
        let lock = "[[package]]\nname = \"gungraun-common\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"gungraun\"\nversion = \"0.20.0\"\n";
        assert_eq!(locked_version(lock, "gungraun"), Some("0.20.0"));
        assert_eq!(locked_version(lock, "absent"), None);
    }
}
