//! Cost of the agent while idle: resident memory and CPU with many leases held.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_testbed::cleanup;
use berth_testbed::client::Client;
use berth_testbed::world::Pod;

use super::report::Report;
use super::stand::{Contestant, Stand};

/// The bound for resident memory with 1,000 leases, in MB.
pub const MEMORY_MAX: f64 = 30.0;
/// The bound for idle CPU with 1,000 leases, in percent of a core.
pub const IDLE_MAX: f64 = 0.5;
/// Wait before the measurement: the time right after the last ADD is not idle.
const QUIET: Duration = Duration::from_secs(5);
/// For how long CPU is counted; longer than one periodic reconcile.
const WINDOW: Duration = Duration::from_secs(40);

/// Attaches `leases` pods and measures the idle agent.
pub fn measure(binaries: &Path, leases: u32, report: &mut Report) -> Result<()> {
    let stand = Stand::build(binaries)?;
    let berth = stand.berth(binaries);
    crowd(&stand, &berth, leases)?;
    let process = format!("/proc/{}", stand.pid()?);
    let idle = idle(&process)?;
    report.value(&format!("agent: memory at {leases} leases"), resident(&process)?, "MB", Some(MEMORY_MAX));
    report.value(&format!("agent: idle CPU at {leases} leases"), idle, "% of a core", Some(IDLE_MAX));
    Ok(())
}

/// Attaches this number of pods, which must be all that the agent has.
pub fn crowd(stand: &Stand, berth: &Contestant, leases: u32) -> Result<Vec<Pod>> {
    println!("attaching {leases} pods ...");
    let mut pods = Vec::new();
    for _ in 0..leases {
        cleanup::interrupted()?;
        let pod = stand.world.pod()?;
        berth.call("ADD", &pod)?;
        pods.push(pod);
    }
    let held = Client::new(&stand.setup.socket()).leases()?.len();
    if held != pods.len() {
        bail!("the agent lists {held} leases after {leases} ADDs");
    }
    Ok(pods)
}

/// CPU of a process without requests, in percent of a core.
pub fn idle(process: &str) -> Result<f64> {
    cleanup::pause(QUIET)?;
    let (began, before) = (Instant::now(), cpu(process)?);
    cleanup::pause(WINDOW)?;
    let spent = cpu(process)?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64();
    Ok(spent * 100.0)
}

/// CPU time of all living threads, to the nanosecond: the ticks of `stat` are too coarse for an idle process.
fn cpu(process: &str) -> Result<Duration> {
    let tasks = format!("{process}/task");
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let path = task.with_context(|| format!("list {tasks}"))?.path().join("schedstat");
        // A thread that ended since has no file; its time is lost, which a window hardly notices.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let spent = text.split(' ').next().and_then(|number| number.parse().ok());
        sum += Duration::from_nanos(spent.with_context(|| format!("read {}", path.display()))?);
    }
    Ok(sum)
}

/// Resident memory in MB.
pub fn resident(process: &str) -> Result<f64> {
    let path = format!("{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u32>().ok());
    Ok(f64::from(kilobytes.with_context(|| format!("no VmRSS in {path}"))?) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_spends_time() {
        assert!(resident("/proc/self").unwrap() > 0.5);
        let before = cpu("/proc/self").unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(start.elapsed());
        }
        assert!(cpu("/proc/self").unwrap() > before);
        assert!(resident("/proc/self/none").is_err());
    }
}
