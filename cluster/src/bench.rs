//! A thousand pods on a thousand addresses: create, rebuild (all pods deleted by one command), recover (all
//! nodes powered off and on), delete; for any CNI configuration, under the same stand-ins.
//!
//! Measurements come from outside of the measured parts: the runtime's own clock, the API server's metrics,
//! the kernel's accounts of processes, and an outsider on the segment that probes every address.

pub mod meter;
pub mod metrics;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_testbed::census;

use crate::cluster::{Cluster, Options, print_step};
use crate::cni;
use crate::error::{Error, Result};
use crate::workload::{self, App};
use meter::Meter;
use report::{Phase, Report, Wire};

/// Time limit of a phase.
const PHASE_LIMIT: Duration = Duration::from_mins(15);
/// Number of probes of each address.
const CENSUS_ROUNDS: u32 = 3;
/// Number of further probes of addresses without an answer.
const CENSUS_MORE: u32 = 12;

/// Distribution of pods over Deployments, and for Berth over the same number of networks with their own
/// pools: `1x1000`, `100x10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of Deployments.
    pub apps: u32,
    /// Number of pods of each Deployment.
    pub replicas: u32,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not a shape; write it as 1x1000 or 100x10");
        let (apps, replicas) = text.split_once('x').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0).ok_or_else(wrong);
        Ok(Self { apps: number(apps)?, replicas: number(replicas)? })
    }
}

/// Age of a kind below which an API server delays its creates (2 s, in its handler of custom resources). An
/// operator does not install and create pods within this time.
pub const KINDS_ARE_NEW: Duration = Duration::from_secs(3);

/// Parameters of the bench.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Options of the cluster.
    pub options: Options,
    /// Distribution of the pods, in the number that the cluster is built for.
    pub shape: Shape,
    /// Path of the report, in addition to the terminal.
    pub json: Option<PathBuf>,
}

/// Runs all phases; true without failures: no failed ADD, no duplicate, no pod without an address.
pub fn run(bench: &Bench) -> Result<bool> {
    let Shape { apps, replicas } = bench.shape;
    let pods = apps.checked_mul(replicas).filter(|pods| *pods == bench.options.pods);
    if pods.is_none() {
        return Err(Error::Usage(format!("{apps}x{replicas} are not --pods {}", bench.options.pods)));
    }
    berth_testbed::cleanup::watch_signals()?;
    let mut cluster = Cluster::start(&bench.options, &mut print_step)?;
    std::thread::sleep(KINDS_ARE_NEW);
    let networks = bench.options.networks;
    let apps = workload::apps(apps, replicas).into_iter().zip(1..);
    let apps: Vec<App> = match networks {
        1 => apps.map(|(app, _)| app).collect(),
        // One for each Deployment.
        _ => apps.map(|(app, number)| app.on(&cni::network_name(number, networks))).collect(),
    };
    let mut report = Report::new(bench);
    for (name, phase) in PHASES {
        let measured = measure(&mut cluster, name, &apps, phase)?;
        print!("{}", measured.lines());
        report.phases.push(measured);
    }
    drop(cluster);
    write_report(bench.json.as_deref(), &report.json())?;
    Ok(report.phases.iter().all(Phase::is_clean))
}

/// Writes a report to a file, if a path is given.
pub fn write_report(path: Option<&Path>, report: &serde_json::Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, format!("{report:#}\n"))
        .map_err(Error::file(format!("write {}", path.display())))?;
    println!("written: {}", path.display());
    Ok(())
}

type Work = fn(&mut Cluster, &[App]) -> Result<()>;

/// The phases: each starts a change, waits until the kubelets have completed it, and returns.
const PHASES: [(&str, Work); 4] =
    [("create", create), ("rebuild", rebuild), ("recover", recover), ("delete", delete)];

fn measure(cluster: &mut Cluster, name: &'static str, apps: &[App], work: Work) -> Result<Phase> {
    let pods = cluster.options().pods as usize;
    drop((cluster.tally.take(), cluster.tally.complaints()));
    let meter = Meter::start(cluster)?;
    let began = Instant::now();
    let worked = work(cluster, apps);
    let wall = began.elapsed();
    if let Err(error) = worked {
        let (calls, complaints) = (cluster.tally.take(), cluster.tally.complaints());
        let seen = calls.values().flat_map(|calls| calls.failures.clone()).chain(complaints);
        let seen: Vec<String> = seen.collect();
        println!("{name}: failed calls and requests were: {seen:#?}");
        return Err(error);
    }
    let used = meter.finish(cluster)?;
    let calls = cluster.tally.take();
    let remaining = if name == "delete" { 0 } else { pods };
    workload::confirm(cluster, remaining, PHASE_LIMIT)?;
    let more = if remaining == 0 { 0 } else { CENSUS_MORE };
    let holders = cluster.census(CENSUS_ROUNDS, more)?;
    let (duplicates, absent) = census::judge(&holders);
    let asked = holders.len();
    let expected = if remaining == 0 { asked } else { 0 };
    let wire = Wire { asked, duplicates: duplicates.len(), absent: absent.len(), expected };
    Ok(Phase { name, wall, calls, used, wire })
}

/// Waits until every pod has a sandbox created since `reported`, and no other sandbox is left.
fn settled(cluster: &Cluster, what: &str, reported: u64) -> Result<()> {
    let pods = cluster.options().pods as usize;
    let wanted = reported + u64::from(cluster.options().pods);
    cluster.wait_until(what, PHASE_LIMIT, || {
        Ok(cluster.reported() >= wanted && cluster.running() == pods && cluster.sandboxes() == pods)
    })
}

fn create(cluster: &mut Cluster, apps: &[App]) -> Result<()> {
    let before = cluster.reported();
    workload::create(cluster, apps)?;
    settled(cluster, "all pods created", before)
}

fn rebuild(cluster: &mut Cluster, _: &[App]) -> Result<()> {
    let before = cluster.reported();
    workload::delete_pods(cluster)?;
    settled(cluster, "all pods rebuilt", before)
}

fn recover(cluster: &mut Cluster, _: &[App]) -> Result<()> {
    cluster.power_off_all();
    cluster.power_on_all()?;
    // The kubelets are new, and count from nothing.
    settled(cluster, "all pods recovered", 0)
}

fn delete(cluster: &mut Cluster, apps: &[App]) -> Result<()> {
    workload::delete(cluster, apps)?;
    let gone = || Ok(cluster.pods() == 0 && cluster.sandboxes() == 0);
    cluster.wait_until("all pods deleted", PHASE_LIMIT, gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_two_numbers() {
        assert_eq!("100x10".parse(), Ok(Shape { apps: 100, replicas: 10 }));
        for text in ["100", "x", "0x1", "1x", "ax1", "-1x2"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
