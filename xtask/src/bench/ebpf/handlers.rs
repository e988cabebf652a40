//! Run time of the programs that observe teardowns, by the kernel's count, in each attach mode.
//!
//! They are called for the whole machine: for every device, work item and task that ends or runs meanwhile,
//! Berth's or not. Foreign ones are filtered, and count in the mean. An event wakes the agent, which may take
//! the processor from the program that sent it while that program's clock runs; with the agent stopped
//! meanwhile the programs are measured alone.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use berth_testbed::cleanup;
use berth_testbed::runs::{self, Counting};

use super::{all_free, attach, switch};
use crate::bench::report::Report;
use crate::bench::stand::Stand;

/// Pods that are torn down on each rung.
const TEARDOWNS: usize = 200;
/// Between two of them.
const PACE: Duration = Duration::from_millis(20);
/// After the last one.
const SETTLED: Duration = Duration::from_secs(1);
const RUNGS: [&str; 3] = ["fentry", "tp_btf", "kprobe"];

/// Measures the attach modes one after the other; one that this kernel refuses is reported and left out.
pub fn measure(binaries: &Path, report: &mut Report) -> Result<()> {
    let mut stand = Stand::build(binaries)?;
    for rung in RUNGS {
        match switch(&mut stand, Some(rung)) {
            Ok(()) => {
                for stopped in [false, true] {
                    one_rung(&stand, binaries, (rung, stopped), report)?;
                }
            }
            Err(error) => {
                cleanup::interrupted()?;
                println!("{rung} is not measured: {error:#}");
            }
        }
    }
    Ok(())
}

fn one_rung(
    stand: &Stand,
    binaries: &Path,
    (rung, stopped): (&str, bool),
    report: &mut Report,
) -> Result<()> {
    let agent = if stopped { "agent stopped" } else { "agent awake" };
    println!("{TEARDOWNS} teardowns seen by {rung}, {agent} ...");
    let berth = stand.berth(binaries);
    let mut pods = Vec::new();
    for _ in 0..TEARDOWNS {
        cleanup::interrupted()?;
        let pod = attach(stand, &berth)?.pod;
        pods.push((stand.world.inhabit(&pod)?, pod));
    }
    let _counting = Counting::start()?;
    let before = runs::of(stand.pid()?)?;
    if stopped {
        stand.agent()?.pause();
    }
    for (process, pod) in pods {
        // As a runtime does it: the last task first.
        drop(process);
        stand.world.remove(&pod);
        cleanup::pause(PACE)?;
    }
    // The last one's end is the kernel's work, a moment later.
    cleanup::pause(SETTLED)?;
    let after = runs::of(stand.pid()?)?;
    if stopped {
        stand.agent()?.resume();
    }
    all_free(stand)?;
    for ran in runs::since(&before, &after) {
        // The watcher sees frames, not teardowns.
        if ran.name.starts_with("arp_") {
            continue;
        }
        let what = format!("{}: {rung}, {agent}", ran.name);
        report.value(&what, super::mean_ns(&ran), &format!("ns a run, of {} runs", ran.runs), None);
    }
    Ok(())
}
