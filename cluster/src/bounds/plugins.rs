//! ADD (IPv4) of Berth in a cluster, compared with upstream's macvlan with host-local on the same node: in
//! turns, one at a time.

use std::time::{Duration, Instant};

use berth_testbed::stats::{Times, millis};

use super::hand::Hand;
use super::table::Table;
use super::{SINGLE, single_plan};
use crate::chain::Chains;
use crate::cluster::Cluster;
use crate::cni::{self, Cni, Place};
use crate::error::Result;

const ROUNDS: usize = 40;
/// Bound of the ratio.
const RATIO: f64 = 0.9;
/// Index of the reference's share of the addresses: after all of Berth's pools.
const SHARE: u32 = 60;
/// From one round to the next: removals of links are over, and candidates are probed ahead, as on a node
/// that is not flooded.
const PAUSE: Duration = Duration::from_millis(200);

/// Measures on the first node.
pub fn measure(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let (plan, node) = (single_plan(cluster), &cluster.nodes[0]);
    let (name, index, folder) = (node.name(), node.index(), node.folder());
    let berth = Chains::parse(&[cni::berth_list(&plan, SINGLE, Place { name, index, folder })])?;
    let floor = Chains::parse(&Cni::Floor.conflists(&plan, Place { name: "floor", index: SHARE, folder })?)?;
    let mut contestants = [
        (SINGLE, Hand::with(cluster, 0, berth, false)?, Times::default()),
        ("macvlan, host-local", Hand::with(cluster, 0, floor, false)?, Times::default()),
    ];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let (_, hand, times) = &mut contestants[(round + turn) % 2];
            let mut sandbox = hand.empty()?;
            let began = Instant::now();
            hand.add(&mut sandbox)?;
            times.push(began.elapsed());
            hand.del(sandbox)?;
            berth_testbed::cleanup::pause(PAUSE)?;
        }
    }
    let median = |times: &Times| times.percentile(50).map_or(f64::INFINITY, millis);
    let [(_, _, ours), (_, _, theirs)] = &contestants;
    table.times("ADD of IPv4, one at a time", ours, None);
    table.times("the same: upstream's macvlan and host-local", theirs, None);
    table.value("their ratio, by medians", median(ours) / median(theirs), Some(RATIO), "", ROUNDS);
    Ok(())
}
