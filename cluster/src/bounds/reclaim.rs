//! Time until an address is free: after a lost DEL, a link's end, the end of all tasks, an agent's absence, a
//! reboot.

use std::time::{Duration, Instant};

use berth_testbed::fdb::FdbWatch;
use berth_testbed::stats::Times;

use super::ends::Ends;
use super::hand::{self, Hand};
use super::table::Table;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::network::PARENT;
use crate::runtime::Sandbox;

/// Number of lost DELs.
const LOST: usize = 200;
/// Number of sandboxes of a node when its agent or its power fails.
const AT_ONCE: usize = 20;
/// Time limit of any step.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bound after a lost DEL.
const LOST_DEL: Duration = Duration::from_millis(200);
const LINK_GONE: Duration = Duration::from_millis(2_300);
/// Between two scans 5 s; 0.1 s from the last exit to the first; 0.3 s for the rest.
const LEAKED: Duration = Duration::from_millis(5_400);
const AGENT_DOWN: Duration = Duration::from_secs(3);
const REBOOT: Duration = Duration::from_secs(5);
/// From an ADD to the second sight of its inhabitant, with some more.
const INHABITED_AFTER: Duration = Duration::from_secs(12);

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::Usage(format!("{text:?} is not a MAC")))
}

/// Namespaces deleted one after the other, each without a DEL.
pub fn lost_dels(cluster: &Cluster, ends: &Ends, table: &mut Table) -> Result<()> {
    let (mut kernel, mut ours) = (Times::default(), Times::default());
    let each = LOST.div_ceil(cluster.nodes.len());
    for node in 0..cluster.nodes.len() {
        let hand = Hand::of(cluster, node, false)?;
        let fdb = FdbWatch::start(&hand.netns, PARENT)?;
        for mut sandbox in hand.attached(each, ends)? {
            let mac = parsed(&hand::mac(&sandbox)?)?;
            fdb.watch(mac)?;
            let asked = Instant::now();
            sandbox.end();
            let torn_down = fdb.wait_gone(mac, PATIENCE)?;
            let free = ends.wait(&sandbox.id, PATIENCE)?;
            kernel.push(torn_down - asked);
            ours.push(free.saturating_duration_since(torn_down));
        }
    }
    table.times("lost DEL: namespace deleted, to the kernel's teardown", &kernel, None);
    table.times("lost DEL: teardown, to the record's end", &ours, Some(LOST_DEL));
    Ok(())
}

/// Links deleted inside living namespaces, two on each node at the same time.
pub fn links_gone(cluster: &Cluster, ends: &Ends, table: &mut Table) -> Result<()> {
    let mut times = Times::default();
    for node in 0..cluster.nodes.len() {
        let hand = Hand::of(cluster, node, false)?;
        let fdb = FdbWatch::start(&hand.netns, PARENT)?;
        let sandboxes = hand.attached(2, ends)?;
        for sandbox in &sandboxes {
            fdb.watch(parsed(&hand::mac(sandbox)?)?)?;
            hand::delete_link(sandbox)?;
        }
        for sandbox in &sandboxes {
            let gone = fdb.wait_gone(parsed(&hand::mac(sandbox)?)?, PATIENCE)?;
            let free = ends.wait(&sandbox.id, PATIENCE)?;
            times.push(free.saturating_duration_since(gone));
        }
    }
    table.times("link gone, namespace alive: to the record's end", &times, Some(LINK_GONE));
    Ok(())
}

/// The last process leaves a namespace that stays, one on each node at the same time.
pub fn namespaces_left(cluster: &Cluster, ends: &Ends, table: &mut Table) -> Result<()> {
    let mut all = Vec::new();
    for node in 0..cluster.nodes.len() {
        all.extend(Hand::of(cluster, node, true)?.attached(1, ends)?);
    }
    berth_testbed::cleanup::pause(INHABITED_AFTER)?;
    let left: Vec<Instant> = all
        .iter_mut()
        .map(|sandbox| {
            sandbox.inhabitant = None;
            Instant::now()
        })
        .collect();
    let mut times = Times::default();
    for (sandbox, left) in all.iter().zip(left) {
        times.push(ends.wait(&sandbox.id, PATIENCE)?.saturating_duration_since(left));
    }
    table.times("namespace without tasks: to the record's end", &times, Some(LEAKED));
    Ok(())
}

/// Namespaces deleted while the agent is away, on one node after the other.
pub fn agents_down(cluster: &mut Cluster, ends: &Ends, table: &mut Table) -> Result<()> {
    let down = |cluster: &mut Cluster, node: usize| cluster.nodes[node].kill_agent();
    let up = |cluster: &mut Cluster, node: usize| cluster.nodes[node].start_agent().map(drop);
    let times = ended_meanwhile(cluster, ends, down, up)?;
    table.times("agent was down: from its start to the record's end", &times, Some(AGENT_DOWN));
    Ok(())
}

/// Nodes that lose their power and boot, one after the other; their pods do not come back.
pub fn reboots(cluster: &mut Cluster, ends: &Ends, table: &mut Table) -> Result<()> {
    let times = ended_meanwhile(cluster, ends, Cluster::power_off, Cluster::power_on)?;
    table.times("node booted: from power on to the record's end", &times, Some(REBOOT));
    Ok(())
}

/// Sandboxes that end between `down` and `up`, on one node after the other: from `up` to their records' ends.
fn ended_meanwhile(
    cluster: &mut Cluster,
    ends: &Ends,
    down: impl Fn(&mut Cluster, usize),
    up: impl Fn(&mut Cluster, usize) -> Result<()>,
) -> Result<Times> {
    let mut times = Times::default();
    for node in 0..cluster.nodes.len() {
        let mut sandboxes = Hand::of(cluster, node, false)?.attached(AT_ONCE, ends)?;
        down(cluster, node);
        sandboxes.iter_mut().for_each(Sandbox::end);
        let began = Instant::now();
        up(cluster, node)?;
        for sandbox in &sandboxes {
            times.push(ends.wait(&sandbox.id, PATIENCE)?.saturating_duration_since(began));
        }
    }
    Ok(times)
}
