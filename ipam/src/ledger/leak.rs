//! Leaked namespaces: all tasks left, and a bind mount keeps the interface answering.
//!
//! In a cluster its pod must also be no longer wanted, by a live read, or have a newer sandbox in line.
//!
//! A namespace counts as inhabited once two scans at least five seconds apart saw the same task in it;
//! visitors and namespaces that never had a process (cnitool, `ip netns`) are left alone. It counts as left
//! when complete scans over the network's `leakedAfter` saw no task in it and none that holds a descriptor of
//! it or a socket in it. Anything that cannot be determined keeps it.
//!
//! Scans are made at a calm pace, and soon after a program in the kernel saw a task exit in an
//! inhabited namespace. A pod that ends processes all day long makes no storm of scans: each one
//! that finds it occupied doubles the distance to the next that an exit in it may ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Phase, Slot};
use super::io::{Action, Flush, JournalWrite, NoteKind, ScanReport, Source};
use crate::attachment::AttachmentKey;
use crate::evidence::{Epoch, Inhabitants};
use crate::time::Time;

/// Interval of the scans of tasks while a network declares `leakedAfter`.
const SCAN_EVERY: Duration = Duration::from_millis(2500);
/// An exit is followed by a scan this much later, so that exits at one moment share one.
const AFTER_EXIT: Duration = Duration::from_millis(20);
/// The least distance of scans that exits in one namespace ask for. Each scan that found a task in it doubles
/// the distance, up to [`SCAN_EVERY`]. It is back to this when it was found empty or no exit came for a
/// while.
const BETWEEN_EXITS: Duration = Duration::from_millis(50);
/// For how long a task must have been seen before it makes its namespace inhabited.
const SETTLED_IN: Duration = Duration::from_secs(5);
/// The least time between the first and the last scan that saw no task.
const EMPTY_AT_LEAST: Duration = Duration::from_secs(5);

/// The pace of the scans.
#[derive(Debug, Clone, Default)]
pub(super) struct Scans {
    /// Start of the last scan.
    last: Time,
    /// True if none is made by the clock alone.
    on_exit_only: bool,
    /// Tasks that the last one could not read.
    unread: Vec<String>,
}

/// Exits in one namespace, and the scans that they asked for.
#[derive(Debug, Clone)]
pub struct Exits {
    /// Time of the last request for a scan.
    asked_at: Time,
    /// Least distance between their requests.
    distance: Duration,
    /// Source of the last one since the last scan, and its task.
    last: Option<(Source, i32)>,
}

impl Default for Exits {
    fn default() -> Self {
        Self { asked_at: Time(0), distance: BETWEEN_EXITS, last: None }
    }
}

impl Ledger {
    fn watched_for_leaks(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| {
            slot.entry.leaked_after.is_some()
                && slot.entry.phase == Phase::Done
                && slot.entry.is_at_home()
                && slot.epoch(&self.me.boot_id, &self.me.machine_id) == Epoch::Same
        })
    }

    pub(super) fn scan_if_due(&mut self, now: Time) {
        let inodes: BTreeSet<u64> = self.watched_for_leaks().map(|slot| slot.entry.netns.inode).collect();
        if inodes.is_empty() {
            self.next_scan = None;
            self.scans.unread.clear();
            return;
        }
        let at = match self.next_scan {
            Some(at) => at,
            // Of inhabited namespaces exits are reported: a test build may want to hear of nothing else.
            None if self.scans.on_exit_only && self.watched_for_leaks().all(|slot| slot.entry.inhabited) => {
                return;
            }
            // What the scan under way sees decides when the next one is due.
            None if self.scanning => return,
            None => now + SCAN_EVERY,
        };
        self.next_scan = Some(at);
        if at > now || self.scanning {
            return;
        }
        self.scanning = true;
        self.next_scan = None;
        self.scans.last = now;
        self.out.push(Action::Scan(inodes));
    }

    /// Wants a scan at that time, or earlier.
    pub(super) fn scan_at(&mut self, at: Time) {
        self.next_scan = Some(self.next_scan.map_or(at, |next| next.min(at)));
    }

    /// A task exits where attachments are: perhaps it was the last one there.
    pub(super) fn task_exits(&mut self, now: Time, by: Source, keys: &[AttachmentKey], pid: i32) {
        let watched: Vec<_> = self
            .watched_for_leaks()
            .filter(|slot| slot.entry.inhabited && keys.contains(&slot.entry.key))
            .map(|slot| slot.entry.key.clone())
            .collect();
        for key in watched {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let exits = &mut slot.live.exits;
            if now.since(exits.asked_at) >= SCAN_EVERY {
                exits.distance = BETWEEN_EXITS;
            }
            exits.asked_at = now;
            exits.last = Some((by, pid));
            let soon = (now + AFTER_EXIT).max(self.scans.last + exits.distance);
            self.scan_at(soon);
        }
    }

    pub(super) fn scanned(&mut self, now: Time, report: &ScanReport) {
        self.scanning = false;
        self.scans.unread.clone_from(&report.unread);
        let keys: Vec<_> = self.watched_for_leaks().map(|slot| slot.entry.key.clone()).collect();
        let mut next = (!self.scans.on_exit_only).then_some(now + SCAN_EVERY);
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
            let exit = slot.live.exits.last.take();
            if exit.is_some() {
                slot.live.exits.distance = (slot.live.exits.distance * 2).min(SCAN_EVERY);
            }
            if report.occupied.contains(&inode) || !report.complete || held || !slot.entry.inhabited {
                slot.live.empty_since = None;
                slot.live.inhabitants = Inhabitants::Assumed;
                continue;
            }
            slot.live.exits.distance = BETWEEN_EXITS;
            let first = *slot.live.empty_since.get_or_insert(now);
            let wait = slot.entry.leaked_after.unwrap_or_default().max(EMPTY_AT_LEAST);
            let addresses = slot.entry.addresses();
            if now.since(first) >= wait && self.is_forsaken(now, &key) {
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
                if let Some((by, pid)) = exit {
                    self.observe(&key, "task-exit", format!("{by}: task {pid} left the namespace"));
                }
                if first == now {
                    let text = "a complete scan saw nobody in the namespace and nobody holding it".to_owned();
                    self.note(NoteKind::Observation, "namespace-empty", addresses, Some(&key), text);
                }
                let end = first + wait;
                if end > now {
                    next = Some(next.map_or(end, |at| at.min(end)));
                    // So that its answer is there by then.
                    if end.since(now) < SCAN_EVERY * 3 / 2 {
                        self.ask_for_pod(now, &key);
                    }
                }
            }
        }
        // An exit that was reported while the scan was under way may have asked for an earlier one.
        self.next_scan = [self.next_scan, next].into_iter().flatten().min();
    }

    /// Tasks that the last scan could not read, while there is anything to scan for. Until a scan is
    /// complete, no namespace is found to be leaked.
    pub fn unread_tasks(&self) -> &[String] {
        &self.scans.unread
    }

    /// Scans only after exits, once all watched namespaces are inhabited: for builds that test what
    /// programs in the kernel are worth.
    pub fn scan_on_exits_only(&mut self) {
        self.scans.on_exit_only = true;
    }
}
