//! Resources that processes used in a phase, by the kernel's account: processor time and memory of the
//! control plane's parts, of the agents, and of the bed itself.
//!
//! A process that was restarted in between (an agent after a loss of power) counts from its start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::metrics::{self, Requests};
use crate::cluster::Cluster;
use crate::control::Part;
use crate::error::Result;
use crate::node::Node;

/// Clock ticks a second in /proc, the same on every Linux.
const TICKS: u64 = 100;

/// A process's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Processor time used.
    pub cpu: Duration,
    /// Memory in use, in KiB.
    pub memory_kib: u64,
}

/// Resources that were used.
#[derive(Debug, Clone, Default)]
pub struct Used {
    /// By name: `etcd`, `kube-apiserver`, `agents`, `bed`.
    pub accounts: BTreeMap<&'static str, Account>,
    /// The most memory of one agent, in KiB.
    pub agent_memory_max_kib: u64,
    /// The API server's requests.
    pub requests: Requests,
}

/// A running measurement.
#[derive(Debug)]
pub struct Meter {
    processes: BTreeMap<u32, Account>,
    requests: Requests,
}

impl Meter {
    /// Starts an account.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let requests = metrics::read(&cluster.control.api()?.text("/metrics")?);
        let read = processes(cluster).into_iter().map(|(_, pid)| (pid, account(pid)));
        Ok(Self { processes: read.collect(), requests })
    }

    /// Ends the account.
    pub fn finish(self, cluster: &Cluster) -> Result<Used> {
        let mut used = Used::default();
        for (name, pid) in processes(cluster) {
            let now = account(pid);
            let before = self.processes.get(&pid).copied().unwrap_or_default();
            let sum = used.accounts.entry(name).or_default();
            sum.cpu += now.cpu.saturating_sub(before.cpu);
            sum.memory_kib += now.memory_kib;
            if name == AGENTS {
                used.agent_memory_max_kib = used.agent_memory_max_kib.max(now.memory_kib);
            }
        }
        used.requests = metrics::read(&cluster.control.api()?.text("/metrics")?).since(&self.requests);
        Ok(used)
    }
}

const AGENTS: &str = "agents";

/// Every process that is measured, with the name under which it is added up.
fn processes(cluster: &Cluster) -> Vec<(&'static str, u32)> {
    let parts = Part::ALL.into_iter().filter_map(|part| Some((part.name(), cluster.control.pid(part)?)));
    let agents = cluster.nodes.iter().filter_map(Node::agent_pid).map(|pid| (AGENTS, pid));
    parts.chain(agents).chain([("bed", std::process::id())]).collect()
}

/// A process's account; nothing of one that is gone.
pub fn account(pid: u32) -> Account {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Account { cpu: cpu(&read("stat")), memory_kib: resident(&read("status")) }
}

/// Fields 14 and 15 of /proc/PID/stat, counted after the name, which may contain any character.
fn cpu(stat: &str) -> Duration {
    let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

fn resident(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_read_behind_a_name_with_spaces() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 5 6 7";
        assert_eq!(cpu(stat), Duration::from_secs(2));
        assert_eq!(cpu(""), Duration::ZERO);
        assert_eq!(resident("Name:\tx\nVmHWM:\t9 kB\nVmRSS:\t  1234 kB\n"), 1234);
    }
}
