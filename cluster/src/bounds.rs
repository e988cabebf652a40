//! The bounds for a cluster, each measured on real kernel objects, real agents and a real API server: the
//! time until an address is free after its holder's end, the agent's time for its part of an ADD, the agent's
//! memory and CPU.
//!
//! Times are measured from outside: the kernel's teardown from the parent's FDB, the end of a lease from a
//! watch of the records. Sandboxes are created and ended here as a runtime does it, without pods, so that no
//! kubelet's rate is in the numbers.

mod adds;
mod ends;
mod hand;
mod plugins;
mod reclaim;
mod table;
mod weight;

use std::path::PathBuf;

use clap::ValueEnum as _;

use crate::bench::{KINDS_ARE_NEW, write_report};
use crate::cluster::{Cluster, Options, print_step};
use crate::cni::{self, Plan};
use crate::error::{Error, Result};
use ends::Ends;
use table::Table;

/// A network with IPv4 alone, for the bounds about IPv4.
const SINGLE: &str = "single";
/// Index of its first address, 10.50.64.0, and its number of addresses, which the bound of ADD needs.
const SINGLE_FIRST: u32 = 12_288;
const SINGLE_COUNT: u32 = 1000;

/// Parts of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// ADD in comparison with upstream's plugins.
    Plugins,
    /// Namespaces deleted without a DEL.
    LostDel,
    /// Links deleted inside living namespaces.
    LinkGone,
    /// Namespaces without tasks.
    Leaked,
    /// Agents that were away.
    AgentDown,
    /// Nodes that booted.
    Reboot,
    /// The agent's part of ADD; then memory and idle CPU.
    Adds,
}

/// Parameters of the measurement.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Parts to measure; all if empty.
    pub parts: Vec<Part>,
    /// The cluster; with Berth.
    pub options: Options,
    /// Each bound is multiplied by this, on a machine that is busy.
    pub slack: u32,
    /// Path of the report, in addition to the terminal.
    pub json: Option<PathBuf>,
}

/// Measures everything; whether all bounds were kept.
pub fn run(bounds: &Bounds) -> Result<bool> {
    berth_testbed::cleanup::watch_signals()?;
    let mut cluster = Cluster::start(&bounds.options, &mut print_step)?;
    std::thread::sleep(KINDS_ARE_NEW);
    declare(&cluster)?;
    let ends = Ends::watch(&cluster)?;
    let mut table = Table::new(bounds.slack);
    let all = Part::value_variants();
    for part in all.iter().filter(|part| bounds.parts.is_empty() || bounds.parts.contains(part)) {
        match part {
            Part::Plugins => plugins::measure(&cluster, &mut table)?,
            Part::LostDel => reclaim::lost_dels(&cluster, &ends, &mut table)?,
            Part::LinkGone => reclaim::links_gone(&cluster, &ends, &mut table)?,
            Part::Leaked => reclaim::namespaces_left(&cluster, &ends, &mut table)?,
            Part::AgentDown => reclaim::agents_down(&mut cluster, &ends, &mut table)?,
            Part::Reboot => reclaim::reboots(&mut cluster, &ends, &mut table)?,
            Part::Adds => {
                let attached = adds::measure(&cluster, &mut table)?;
                weight::measure(&cluster, &mut table)?;
                drop(attached);
            }
        }
    }
    drop(cluster);
    print!("{}", table.lines());
    write_report(bounds.json.as_deref(), &table.json())?;
    Ok(table.is_kept())
}

/// IPv4 alone, in the version of the cluster.
fn single_plan(cluster: &Cluster) -> Plan {
    Plan { dual: false, version: cluster.options().version.clone(), share: 100, networks: 1 }
}

/// Declares the second network, and allows the first to end leaked namespaces.
fn declare(cluster: &Cluster) -> Result<()> {
    let objects = cni::network(&single_plan(cluster), SINGLE, SINGLE_FIRST, SINGLE_FIRST + SINGLE_COUNT - 1);
    let path = cluster.folder().join("bounds.yaml");
    std::fs::write(&path, objects).map_err(Error::file("write bounds.yaml"))?;
    cluster.control.kubectl(&["apply", "--server-side", "-f", &path.display().to_string()])?;
    let leaked = r#"{"spec": {"leakedAfter": "5s"}}"#;
    cluster.control.kubectl(&["patch", "unet", "lan", "--type=merge", "-p", leaked])?;
    Ok(())
}
