//! The bounds that the design sets for a cluster (its section 8, right column), each measured on real kernel
//! objects, real agents and a real API server: how soon an address is free after its holder's end, how long
//! an agent takes for its part of an ADD, what an agent weighs.
//!
//! Times are taken from outside: the kernel's teardown from the parent's FDB, an address's freedom from a
//! watch of the records. Sandboxes are made and ended here as a runtime does it, without pods, so that no
//! kubelet's pace is in the numbers.

mod adds;
mod ends;
mod hand;
mod plugins;
mod reclaim;
mod table;
mod weight;

use std::path::PathBuf;

use clap::ValueEnum as _;
use serde_json::{Value, json};

use crate::bench::KINDS_ARE_NEW;
use crate::chain::Chains;
use crate::cluster::{Cluster, Options};
use crate::error::{Error, Result};
use crate::network::{PARENT, SUBNET};
use ends::Ends;
use table::Table;

/// A network with IPv4 alone, for what the design says of IPv4.
const SINGLE: &str = "single";
/// Its addresses: as many as are asked for in the bound of ADD.
const SINGLE_RANGE: &str = "10.50.64.0-10.50.67.231";

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// ADD beside upstream's plugins.
    Plugins,
    /// Namespaces deleted without a DEL.
    LostDel,
    /// Links deleted inside living namespaces.
    LinkGone,
    /// Namespaces that everybody left.
    Leaked,
    /// Agents that were away.
    AgentDown,
    /// Nodes that booted.
    Reboot,
    /// The agent's part of ADD; then memory and idle CPU.
    Adds,
}

/// What is measured.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// What is measured; everything if nothing is named.
    pub parts: Vec<Part>,
    /// The cluster; with Berth.
    pub options: Options,
    /// Each bound is multiplied by this, on a machine that is busy.
    pub slack: u32,
    /// Where the report goes, beside the terminal.
    pub json: Option<PathBuf>,
}

/// Measures everything; whether all bounds were kept.
pub fn run(bounds: &Bounds) -> Result<bool> {
    berth_testbed::cleanup::watch_signals()?;
    let mut told = |what: &str, took: std::time::Duration| println!("{:>8.2} s  {what}", took.as_secs_f64());
    let mut cluster = Cluster::start(&bounds.options, &mut told)?;
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
    if let Some(path) = &bounds.json {
        std::fs::write(path, format!("{:#}\n", table.json()))
            .map_err(Error::file(format!("write {}", path.display())))?;
        println!("written: {}", path.display());
    }
    Ok(table.is_kept())
}

/// The CNI configuration of a node for the second network.
fn single_lists(cluster: &Cluster, node: usize) -> Result<Chains> {
    let texts = cluster.nodes[node].conflists()?;
    let own = |text: &String| {
        let mut list: Value = serde_json::from_str(text).ok()?;
        list["name"] = Value::from(SINGLE);
        list["plugins"][0]["network"] = Value::from(SINGLE);
        Some(list.to_string())
    };
    Chains::parse(&texts.iter().filter_map(own).collect::<Vec<_>>())
}

/// The second network; and of the first that namespaces which everybody has left may be ended.
fn declare(cluster: &Cluster) -> Result<()> {
    let head = |kind: &str, spec: Value| json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "metadata": {"name": SINGLE}, "spec": spec});
    let link = json!({"type": "macvlan", "parent": PARENT, "mode": "bridge"});
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        head("IPPool", json!({"subnet": SUBNET, "ranges": [SINGLE_RANGE]})),
        head("UnderlayNetwork", json!({"link": link, "pools": [SINGLE]})),
    ]});
    let path = cluster.folder().join("bounds.json");
    std::fs::write(&path, objects.to_string()).map_err(Error::file("write bounds.json"))?;
    cluster.control.kubectl(&["apply", "--server-side", "-f", &path.display().to_string()])?;
    let leaked = r#"{"spec": {"leakedAfter": "5s"}}"#;
    cluster.control.kubectl(&["patch", "unet", "lan", "--type=merge", "-p", leaked])?;
    Ok(())
}
