//! Memory and CPU of an agent while a thousand leases are held and no requests arrive.

use std::time::{Duration, Instant};

use super::table::Table;
use crate::bench::meter::{self, Account};
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::node::Node;

/// Bounds of each agent: MB, and percent of a core.
const MEMORY: f64 = 60.0;
const IDLE: f64 = 1.0;
/// Wait before the measurement: the time right after the last ADD is not idle.
const QUIET: Duration = Duration::from_secs(10);
/// For how long processor time is counted.
const WINDOW: Duration = Duration::from_secs(40);

/// Measures all agents; the heaviest counts.
pub fn measure(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let records = cluster.records()?.len();
    let pids: Vec<u32> = cluster.nodes.iter().filter_map(Node::agent_pid).collect();
    let read = || -> Vec<Account> { pids.iter().copied().map(meter::account).collect() };
    berth_testbed::cleanup::pause(QUIET)?;
    let (began, before) = (Instant::now(), read());
    berth_testbed::cleanup::pause(WINDOW)?;
    let (window, after) = (began.elapsed().as_secs_f64(), read());
    if cluster.nodes.iter().filter_map(Node::agent_pid).collect::<Vec<_>>() != pids
        || after.iter().any(|account| account.memory_kib == 0)
        || after.len() != cluster.nodes.len()
    {
        return Err(Error::Usage("not every node's agent ran all the time".to_owned()));
    }
    let spent = after.iter().zip(&before).map(|(now, then)| now.cpu.saturating_sub(then.cpu).as_secs_f64());
    let busiest = spent.fold(0.0, f64::max) / window * 100.0;
    let heaviest = after.iter().map(|account| account.memory_kib).max().unwrap_or(0);
    let heaviest = f64::from(u32::try_from(heaviest).unwrap_or(u32::MAX)) / 1024.0;
    let at = format!("at {records} leases, {} agents", after.len());
    table.value(&format!("memory of the heaviest agent, {at}"), heaviest, Some(MEMORY), "MB", after.len());
    table.value(&format!("idle CPU of the busiest agent, {at}"), busiest, Some(IDLE), "%", after.len());
    Ok(())
}
