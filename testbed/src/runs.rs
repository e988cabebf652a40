//! Cost of the programs that one process holds in the kernel, by the kernel's own count: number of runs and
//! their time.
//!
//! Programs are found through the descriptors of the process, never by their names, which another agent's
//! programs share. The times include the cost of counting, some tens of nanoseconds per run.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::sys;

/// Guard: while it exists, the kernel counts.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what happens when it is dropped")]
pub struct Counting(OwnedFd);

impl Counting {
    /// Starts to count.
    pub fn start() -> Result<Self> {
        let counting = sys::bpf::count_runs();
        Ok(Self(counting.map_err(Error::system("let the kernel count the runs of programs"))?))
    }
}

/// A program in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Program {
    id: u32,
    /// Name of the program.
    pub name: String,
    /// Number of runs while runs were counted.
    #[serde(default, rename = "run_cnt")]
    pub runs: u64,
    #[serde(default)]
    run_time_ns: u64,
    #[serde(default)]
    bytes_memlock: u64,
    #[serde(default)]
    map_ids: BTreeSet<u32>,
}

/// The used part of a map.
#[derive(Debug, Deserialize)]
struct Map {
    id: u32,
    #[serde(default)]
    bytes_memlock: u64,
}

impl Program {
    /// For how long it ran in all.
    pub fn time(&self) -> Duration {
        Duration::from_nanos(self.run_time_ns)
    }
}

/// The programs that a process holds, with their counts until now.
pub fn of(pid: u32) -> Result<Vec<Program>> {
    let ids = held_by(pid)?;
    let mut programs: Vec<Program> = bpftool("prog")?;
    programs.retain(|program| ids.contains(&program.id));
    Ok(programs)
}

/// Those of them that the kernel still has: a program goes with the last link, pin and descriptor.
pub fn left(former: &[Program]) -> Result<Vec<Program>> {
    let mut programs: Vec<Program> = bpftool("prog")?;
    programs.retain(|program| former.iter().any(|former| former.id == program.id));
    Ok(programs)
}

/// Runs of each program since an earlier reading of the same ones.
pub fn since(before: &[Program], now: &[Program]) -> Vec<Program> {
    let new = now.iter().map(|program| {
        let earlier = before.iter().find(|earlier| earlier.id == program.id);
        let (runs, time) = earlier.map_or((0, 0), |earlier| (earlier.runs, earlier.run_time_ns));
        Program {
            runs: program.runs.saturating_sub(runs),
            run_time_ns: program.run_time_ns.saturating_sub(time),
            ..program.clone()
        }
    });
    new.collect()
}

/// The kernel's memory for programs and all their maps, in bytes.
pub fn memory(programs: &[Program]) -> Result<u64> {
    let maps: BTreeSet<u32> = programs.iter().flat_map(|program| program.map_ids.iter().copied()).collect();
    let listed: Vec<Map> = bpftool("map")?;
    let in_maps = listed.iter().filter(|map| maps.contains(&map.id)).map(|map| map.bytes_memlock);
    Ok(in_maps.chain(programs.iter().map(|program| program.bytes_memlock)).sum())
}

/// IDs of the programs behind a process's descriptors. Descriptors that close meanwhile are ignored.
fn held_by(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let entries = std::fs::read_dir(&folder).map_err(Error::system(format!("list {}", folder.display())))?;
    let texts = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    Ok(texts.filter_map(|text| program_id(&text)).collect())
}

fn program_id(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
}

fn bpftool<T: for<'a> Deserialize<'a>>(kind: &str) -> Result<Vec<T>> {
    let command = format!("bpftool {kind} show --json");
    let output = Command::new("bpftool")
        .args([kind, "show", "--json"])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system(format!("start `{command}`")))?;
    let failed = |text: &[u8]| Error::Command {
        command: command.clone(),
        output: String::from_utf8_lossy(text).trim().to_owned(),
    };
    if !output.status.success() {
        return Err(failed(&[output.stdout, output.stderr].concat()));
    }
    serde_json::from_slice(&output.stdout).map_err(|_| failed(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_names_its_program_or_none() {
        assert_eq!(program_id("pos:\t0\nflags:\t02000002\nprog_type:\t26\nprog_id:\t947\n"), Some(947));
        assert_eq!(program_id("pos:\t0\nmap_id:\t3\n"), None);
    }

    #[test]
    fn only_what_ran_since_counts() {
        let read = |text: &str| serde_json::from_str::<Vec<Program>>(text).unwrap();
        let before = read(r#"[{"id":1,"name":"a","run_time_ns":100,"run_cnt":2}]"#);
        let now = read(
            r#"[{"id":1,"name":"a","run_time_ns":400,"run_cnt":5,"map_ids":[7]},{"id":2,"name":"b","type":"x"}]"#,
        );
        let new = since(&before, &now);
        assert_eq!((new[0].runs, new[0].time()), (3, Duration::from_nanos(300)));
        assert_eq!((new[1].runs, new[1].time()), (0, Duration::ZERO));
    }

    #[test]
    fn a_process_without_programs_holds_none() {
        assert!(held_by(std::process::id()).unwrap().is_empty());
    }
}
