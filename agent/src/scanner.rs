//! The scan of all tasks for leaked namespaces, on a separate thread for each scan.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use berth_ipam::ledger::io::{Input, ScanReport};
use berth_underlay::tasks::{Holders, TaskScan, own_process_tree};
use tokio::sync::mpsc::UnboundedSender;

/// Scans and sends [`Input::Scanned`].
#[expect(clippy::implicit_hasher, reason = "the scan takes the standard set")]
pub fn start(inodes: BTreeSet<u64>, trusted: HashSet<i32>, inputs: UnboundedSender<Input>) {
    let scan = move || {
        let report = scan(&inodes, &trusted);
        // Without a listener the agent is ending.
        let _ = inputs.send(Input::Scanned(report));
    };
    if let Err(error) = std::thread::Builder::new().name("scanner".to_owned()).spawn(scan) {
        tracing::error!(%error, "start the scanner's thread");
    }
}

fn scan(inodes: &BTreeSet<u64>, trusted: &HashSet<i32>) -> ScanReport {
    let proc_root = Path::new("/proc");
    let scan = TaskScan::run(proc_root);
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let visitors = own_process_tree(&scan, own);
    let mut report = ScanReport { complete: scan.complete, ..ScanReport::default() };
    let mut empty = HashSet::new();
    for &inode in inodes {
        let tenants = scan.inhabitants(inode, &visitors).map(|task| (inode, (task.pid, task.start_time)));
        report.tenants.extend(tenants);
        if scan.tasks_in(inode).next().is_some() {
            report.occupied.insert(inode);
        } else {
            empty.insert(inode);
        }
    }
    report.holders_complete = true;
    if !empty.is_empty() && report.complete {
        let held = Holders::run(proc_root, &empty, trusted);
        report.holders_complete = held.complete;
        report.held = held.holders.iter().map(|holder| holder.netns_inode).collect();
        report.unread.extend(held.incomplete_because);
    }
    report.unread.extend(scan.incomplete_because);
    if !report.unread.is_empty() {
        tracing::debug!(reasons = ?report.unread, "not every task and descriptor could be read");
    }
    report
}
