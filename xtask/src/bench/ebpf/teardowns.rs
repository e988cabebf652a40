//! The agent's own cost with the programs and without: CPU while many namespaces end, and memory.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_testbed::cleanup;
use berth_testbed::runs;
use berth_testbed::stats::Times;

use super::{SIDES, all_free, settled};
use crate::bench::agent::{IDLE_MAX, MEMORY_MAX, crowd, idle, resident};
use crate::bench::report::Report;
use crate::bench::stand::Stand;

/// Number of measurements of each side, the other side first every other time.
const ROUNDS: u32 = 2;
/// Between two namespaces.
const PACE: Duration = Duration::from_millis(5);
/// Wait before the first reading of memory, because of the agent's start.
const QUIET: Duration = Duration::from_secs(2);
/// The unit of CPU times in /proc (`USER_HZ`), the same on every machine that Berth runs on.
const TICK: Duration = Duration::from_millis(10);

/// Measures both sides.
pub fn measure(binaries: &Path, leases: u32, report: &mut Report) -> Result<()> {
    let mut spent = [Times::default(), Times::default()];
    for round in 0..ROUNDS {
        let mut order = [0, 1];
        order.rotate_left(usize::from(round % 2 == 1));
        for side in order {
            let first = (round == 0).then_some(&mut *report);
            spent[side].push(one_side(binaries, SIDES[side], leases, first)?);
        }
    }
    let [ours, theirs] = spent;
    let what = format!("agent's CPU, {leases} teardowns");
    report.duel(&what, (SIDES[0].0, ours), (SIDES[1].0, theirs), None);
    Ok(())
}

/// The agent's CPU time for the teardown of `leases` pods; memory and idleness go into the report.
fn one_side(
    binaries: &Path,
    (name, rung): (&'static str, Option<&str>),
    leases: u32,
    mut report: Option<&mut Report>,
) -> Result<Duration> {
    let stand = Stand::build_on(binaries, rung)?;
    settled(&stand)?;
    cleanup::pause(QUIET)?;
    let process = format!("/proc/{}", stand.pid()?);
    let fresh = resident(&process)?;
    let pods = crowd(&stand, &stand.berth(binaries), leases)?;
    if let Some(report) = &mut report {
        let idle = idle(&process)?;
        let at = |what: &str| format!("{what} at {leases} leases, {name}");
        report.value(&format!("agent's memory after start, {name}"), fresh, "MB", None);
        report.value(&at("agent's memory"), resident(&process)?, "MB", Some(MEMORY_MAX));
        report.value(&at("agent's idle CPU"), idle, "% of a core", Some(IDLE_MAX));
        let kernel = u32::try_from(runs::memory(&settled(&stand)?)?).context("too much memory")?;
        report.value(&at("kernel's memory"), f64::from(kernel) / f64::from(1 << 20), "MB", None);
    }
    println!("tearing {leases} pods down, {name} ...");
    let before = cpu(&process)?;
    for pod in &pods {
        stand.world.remove(pod);
        cleanup::pause(PACE)?;
    }
    all_free(&stand)?;
    Ok(cpu(&process)?.saturating_sub(before))
}

/// User and system time of a process, of threads that ended too.
fn cpu(process: &str) -> Result<Duration> {
    let path = format!("{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name of the command, in parentheses, may hold anything; utime and stime are fields 14 and 15.
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks: Option<u32> =
        rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().ok()).sum();
    Ok(TICK * ticks.with_context(|| format!("no times in {path}"))?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_busy_process_spends_ticks() {
        let (began, before) = (Instant::now(), cpu("/proc/self").unwrap());
        while cpu("/proc/self").unwrap() == before {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert!(cpu("/proc/self/none").is_err());
    }
}
