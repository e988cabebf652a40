//! Leaked namespaces: everybody left, and a bind mount keeps the interface answering.
//!
//! A namespace counts as inhabited once two scans at least five seconds apart saw the same task in
//! it; visitors and namespaces that never had a process (cnitool, `ip netns`) are left alone. It
//! counts as left when complete scans over the network's `leakedAfter` saw nobody in it and nobody
//! holding a descriptor of it or a socket in it. What cannot be determined keeps it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Phase, Slot};
use super::io::{Action, Flush, JournalWrite, NoteKind, ScanReport};
use crate::evidence::{Epoch, Inhabitants};
use crate::time::Time;

/// How often tasks are scanned while a network declares `leakedAfter`.
const SCAN_EVERY: Duration = Duration::from_millis(2500);
/// For how long a task must have been seen before it makes its namespace inhabited.
const SETTLED_IN: Duration = Duration::from_secs(5);
/// The least time between the first and the last scan that saw nobody.
const EMPTY_AT_LEAST: Duration = Duration::from_secs(5);

impl Ledger {
    fn watched_for_leaks(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| {
            slot.entry.leaked_after.is_some()
                && slot.entry.phase == Phase::Done
                && slot.entry.at == slot.entry.netns.nsid
                && slot.epoch(&self.me.boot_id, &self.me.machine_id) == Epoch::Same
        })
    }

    pub(super) fn scan_if_due(&mut self, now: Time) {
        let inodes: BTreeSet<u64> = self.watched_for_leaks().map(|slot| slot.entry.netns.inode).collect();
        if inodes.is_empty() {
            self.next_scan = None;
            return;
        }
        let at = *self.next_scan.get_or_insert(now + SCAN_EVERY);
        if at > now || self.scanning {
            return;
        }
        self.scanning = true;
        self.next_scan = None;
        self.out.push(Action::Scan(inodes));
    }

    pub(super) fn scanned(&mut self, now: Time, report: &ScanReport) {
        self.scanning = false;
        let keys: Vec<_> = self.watched_for_leaks().map(|slot| slot.entry.key.clone()).collect();
        let mut next = now + SCAN_EVERY;
        for key in keys {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let inode = slot.entry.netns.inode;
            let tasks: BTreeSet<_> =
                report.tenants.iter().filter(|(of, _)| *of == inode).map(|(_, task)| *task).collect();
            if report.complete {
                slot.live.tenants.retain(|task, _| tasks.contains(task));
            }
            for task in &tasks {
                slot.live.tenants.entry(*task).or_insert(now);
            }
            let settled_in = slot.live.tenants.values().any(|since| now.since(*since) >= SETTLED_IN);
            if settled_in && !slot.entry.inhabited {
                slot.entry.inhabited = true;
                let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
                let addresses = slot.entry.addresses();
                let text = "the same task was seen in the namespace twice, five seconds apart".to_owned();
                self.note(NoteKind::Observation, "namespace-inhabited", addresses, Some(&key), text);
                self.commit(Pending::Nothing, super::io::Step::Other, journal, Flush::Lazy, Vec::new());
                continue;
            }
            let held = report.held.contains(&inode) || !report.holders_complete;
            if report.occupied.contains(&inode) || !report.complete || held || !slot.entry.inhabited {
                slot.live.empty_since = None;
                slot.live.inhabitants = Inhabitants::Assumed;
                continue;
            }
            let first = *slot.live.empty_since.get_or_insert(now);
            let wait = slot.entry.leaked_after.unwrap_or_default().max(EMPTY_AT_LEAST);
            let addresses = slot.entry.addresses();
            if now.since(first) >= wait {
                let text = "a second complete scan saw nobody in the namespace and nobody holding it";
                self.note(
                    NoteKind::Observation,
                    "namespace-empty-again",
                    addresses,
                    Some(&key),
                    text.to_owned(),
                );
                self.left(&key);
            } else {
                if first == now {
                    let text = "a complete scan saw nobody in the namespace and nobody holding it".to_owned();
                    self.note(NoteKind::Observation, "namespace-empty", addresses, Some(&key), text);
                }
                next = next.min(first + wait);
            }
        }
        self.next_scan = Some(next);
    }
}
