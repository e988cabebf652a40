//! Cost of the eBPF programs: packets on the watched parent, teardowns, ADD and the agent.
//!
//! Two kinds of numbers. Nanoseconds per run are the kernel's own count, and include the cost of counting.
//! Ratios compare the same agent with its programs and with `--rung none`, in turns and without counting.
//! Invariant: a side without programs has none, pinned ones of the other side included.

mod handlers;
mod sides;
mod teardowns;
mod watcher;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_ipam::mac::Mac;
use berth_testbed::cleanup;
use berth_testbed::client::Client;
use berth_testbed::runs::{self, Program};
use berth_testbed::world::{PARENT, Pod};

use super::report::Report;
use super::stand::{Contestant, Stand};

/// Name of the attach mode without programs.
const NONE: &str = "none";
/// Names of the two sides in the report.
const SIDES: [(&str, Option<&str>); 2] = [("with programs", None), ("--rung none", Some(NONE))];
/// Time limit for loading, attaching and proving the programs.
const SETTLE: Duration = Duration::from_secs(15);
/// From one look at the agent's state to the next.
const POLL: Duration = Duration::from_millis(20);
/// Time limit from the last teardown until all addresses are free.
const FREE: Duration = Duration::from_mins(1);

/// Measures all parts.
pub fn measure(binaries: &Path, rounds: u32, leases: u32, report: &mut Report) -> Result<()> {
    watcher::measure(binaries, report)?;
    handlers::measure(binaries, report)?;
    sides::measure(binaries, rounds, report)?;
    teardowns::measure(binaries, leases, report)
}

/// Waits until the agent's programs are all attached, or until it is certain that it has none if none are
/// wanted. An error contains the agent's finding.
fn settled(stand: &Stand) -> Result<Vec<Program>> {
    let mut client = Client::new(&stand.setup.socket());
    let none = stand.setup.rung.as_deref() == Some(NONE);
    let deadline = Instant::now() + SETTLE;
    loop {
        let checks = client.doctor()?;
        let find = |what: &str| checks.iter().find(|check| check.what == what);
        let rung = find("rung.ebpf").context("the agent's doctor names no rung")?;
        let seated = find(&format!("watch.{PARENT}")).is_some_and(|watch| watch.ok);
        if none || (rung.ok && seated) {
            let programs = runs::of(stand.pid()?)?;
            if programs.is_empty() != none {
                bail!("the agent reports \"{}\", and holds {} programs", rung.text, programs.len());
            }
            return Ok(programs);
        }
        if Instant::now() > deadline {
            bail!(
                "the programs do not run: {}; the watcher: {:?}",
                rung.text,
                find(&format!("watch.{PARENT}"))
            );
        }
        cleanup::pause(POLL)?;
    }
}

/// Replaces the agent by one with this attach mode, and waits for its programs and for the end of the
/// previous agent's.
fn switch(stand: &mut Stand, rung: Option<&str>) -> Result<()> {
    let former = runs::of(stand.pid()?)?;
    stand.restart(rung)?;
    settled(stand)?;
    let deadline = Instant::now() + SETTLE;
    loop {
        let left = runs::left(&former)?;
        let Some(program) = left.first() else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("{} programs of the previous agent still run, {} for one", left.len(), program.name);
        }
        cleanup::pause(POLL)?;
    }
}

/// A program's mean time, in nanoseconds a run.
fn mean_ns(program: &Program) -> f64 {
    // Fewer runs than fit, as long as a bench takes.
    let runs = u32::try_from(program.runs.max(1)).unwrap_or(u32::MAX);
    program.time().as_secs_f64() * 1e9 / f64::from(runs)
}

/// A pod with an address.
struct Attached {
    pod: Pod,
    address: Ipv4Addr,
    mac: Mac,
}

fn attach(stand: &Stand, berth: &Contestant) -> Result<Attached> {
    let pod = stand.world.pod()?;
    let added = berth.call("ADD", &pod)?.added()?;
    let mac = added.mac.context("the result of ADD names no MAC")?;
    match added.addresses[..] {
        [IpAddr::V4(address)] => Ok(Attached { pod, address, mac }),
        _ => bail!("ADD gave {:?}, not one IPv4 address", added.addresses),
    }
}

/// Waits until the agent holds no address, with few requests: each response is work for it.
fn all_free(stand: &Stand) -> Result<()> {
    let mut client = Client::new(&stand.setup.socket());
    let deadline = Instant::now() + FREE;
    loop {
        let left = client.leases()?.len();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{left} addresses were not freed within {FREE:?}");
        }
        cleanup::pause(Duration::from_millis(200))?;
    }
}
