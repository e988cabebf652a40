//! DEL, from top to bottom. The plugin removed the link before it asked; the ledger looks for
//! itself before it lets the address go, because a link that was moved is missing from where the
//! plugin looked and yet answers.

use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Phase, Slot};
use super::io::{
    Action, Caller, Flush, JournalWrite, LedgerError, LinkRemoval, NoteKind, RemoveResult, Reply, Step,
};
use super::line::{Stage, Waiter};
use crate::attachment::{AttachmentKey, Role};
use crate::evidence::Departure;
use crate::identity::TxnId;
use crate::time::Time;

/// Time that a DEL waits for its release to be carried out. If its intent is on the disk by then, the answer
/// is success.
const ANSWER_AFTER: Duration = Duration::from_millis(300);
/// Time after which a link that could not be removed is tried again.
const RETRY: Duration = Duration::from_millis(500);

impl Ledger {
    /// A DEL, or with a transaction the end of an ADD that its plugin undoes. Nothing recorded is
    /// success: DEL is idempotent (cni.md D1).
    pub(super) fn release(
        &mut self,
        now: Time,
        caller: Option<Caller>,
        key: &AttachmentKey,
        link: LinkRemoval,
        txn: Option<&TxnId>,
    ) {
        self.leave_line(key, txn);
        let ends = |slot: &Slot| txn.is_none_or(|txn| slot.entry.txn == *txn);
        if self.slots.get(key).is_some_and(ends) {
            self.end_binding(key);
        }
        let slot = self
            .slots
            .get_mut(key)
            .filter(|slot| txn.is_none_or(|txn| slot.entry.txn == *txn) && slot.entry.phase != Phase::Held);
        let Some(slot) = slot else {
            self.leave_repeats(key, txn);
            if let Some(caller) = caller {
                self.reply(caller, Step::Release, Ok(Reply::Done));
            }
            return;
        };
        if let Some(caller) = caller {
            slot.live.del_waiters.push((caller, now + ANSWER_AFTER));
        }
        if txn.is_some() || slot.entry.role != Role::Chained {
            slot.live.owner = None;
            slot.live.orphaned_at = None;
        }
        slot.live.stamp += 1;
        slot.end();
        let saved = slot.live.end_saved;
        let entry = slot.entry.clone();
        let (committing, releasing) = (slot.live.committing, entry.phase == Phase::Releasing);
        let text = match link {
            LinkRemoval::Gone => "DEL; the plugin saw the link go",
            LinkRemoval::Unreachable => "DEL without a namespace to look into",
            LinkRemoval::NotMine => "DEL as a delegate; another plugin removes the link",
        };
        self.note(NoteKind::Observation, "del-seen", entry.addresses(), Some(key), text.to_owned());
        // What is being released already may have left the journal with a hand-over: writing it
        // again would bring it back.
        // A delegate's link goes after its DEL returned: the DEL must not wait for it. Nor for a store that
        // is across a network: what it asks for is on the disk.
        let at_once = link == LinkRemoval::NotMine || self.shared.on;
        if !saved && !releasing {
            let journal = vec![JournalWrite::Put(Box::new(entry))];
            let then = Pending::Del { key: key.clone(), caller, at_once };
            self.commit(then, Step::Release, journal, Flush::Durable, Vec::new());
        } else if at_once {
            self.del_journaled(key, caller, None, true);
        }
        if !committing && !releasing {
            self.gather(key.clone(), false);
        }
    }

    /// A DEL is on the disk, or could not be put there: then its plugin must keep it.
    pub(super) fn del_journaled(
        &mut self,
        key: &AttachmentKey,
        caller: Option<Caller>,
        refusal: Option<String>,
        at_once: bool,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.end_saved |= refusal.is_none() && slot.entry.del_seen;
        let Some(caller) = caller.filter(|_| at_once || refusal.is_some()) else { return };
        let before = slot.live.del_waiters.len();
        slot.live.del_waiters.retain(|(waiter, _)| *waiter != caller);
        if slot.live.del_waiters.len() < before {
            let reply = refusal.map_or(Ok(Reply::Done), |text| Err(LedgerError::Storage(text)));
            self.reply(caller, Step::Release, reply);
        }
    }

    /// ADDs in line that this DEL ends: all of the attachment, or the one that is undone. Another
    /// ADD of the same attachment goes on waiting.
    fn leave_line(&mut self, key: &AttachmentKey, txn: Option<&TxnId>) {
        let ended = |waiter: &Waiter| {
            waiter.request.key == *key
                && txn.is_none_or(|txn| waiter.request.txn == *txn)
                && waiter.stage != Stage::Committing
        };
        let gone: Vec<_> =
            self.line.iter().filter(|waiter| ended(waiter)).map(|waiter| waiter.caller).collect();
        self.line.retain(|waiter| !ended(waiter));
        for caller in gone {
            let error = match txn {
                Some(txn) => LedgerError::NotOpen(txn.clone(), key.clone()),
                None => LedgerError::Deleted(key.clone()),
            };
            self.reply(caller, Step::Lease, Err(error));
        }
    }

    /// A repeated ADD is undone: what it repeated stays, and if that is over, it waits for it no more.
    fn leave_repeats(&mut self, key: &AttachmentKey, txn: Option<&TxnId>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if txn.is_some_and(|txn| slot.live.end_repeat(txn)) && slot.entry.del_seen {
            self.gather(key.clone(), false);
        }
    }

    /// Answers DELs with a release that takes its time, once it is on the disk.
    pub(super) fn answer_late_dels(&mut self, now: Time) {
        let mut late = Vec::new();
        for slot in self.slots.values_mut() {
            // What proof ends is proved again after a crash.
            let safe = slot.live.end_saved || slot.entry.phase == Phase::Releasing;
            slot.live.del_waiters.retain_mut(|(caller, until)| {
                let due = *until <= now;
                match (due, safe) {
                    (true, true) => late.push(*caller),
                    (true, false) => *until = now + ANSWER_AFTER,
                    (false, _) => {}
                }
                !(due && safe)
            });
        }
        for caller in late {
            self.reply(caller, Step::Release, Ok(Reply::Done));
        }
    }

    /// Puts the end of an open ADD on the disk. Its link is removed after that: a crash in between must not leave
    /// an ADD that its plugin can end well, and no link.
    pub(super) fn save_undo(&mut self, key: &AttachmentKey) {
        let under_way = |pending: &Pending| matches!(pending, Pending::Undo { key: other } if other == key);
        let Some(slot) = self.slots.get(key).filter(|_| !self.pending.values().any(under_way)) else {
            return;
        };
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        let then = Pending::Undo { key: key.clone() };
        self.commit(then, Step::Other, journal, Flush::Durable, Vec::new());
    }

    /// The end of an open ADD is on the disk, or could not be put there: then it is tried again after a read.
    pub(super) fn undo_saved(&mut self, now: Time, key: &AttachmentKey, refusal: Option<String>) {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.entry.del_seen) else { return };
        slot.live.end_saved |= refusal.is_none();
        if let Some(why) = refusal {
            slot.live.recheck_at = Some(now + RETRY);
            return self.note(NoteKind::Warning, "storage-refused", Vec::new(), Some(key), why);
        }
        // Also where only the intent is on the disk: what followed it may have been lost in a crash.
        if slot.entry.role == Role::Main && slot.entry.phase.is_open() && !slot.live.committing {
            self.remove_link(key);
        } else {
            self.gather(key.clone(), false);
        }
    }

    /// Has the link of an attachment removed that is over.
    pub(super) fn remove_link(&mut self, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key).filter(|slot| !slot.live.removing) else { return };
        let netns = self.location(slot);
        if netns.nsid().is_none() {
            // The number of its namespace means nothing now, or another namespace.
            return self.gather(key.clone(), true);
        }
        if slot.entry.phase.is_open() && !slot.live.end_saved {
            return self.save_undo(key);
        }
        let (ifindex, macs) = (slot.entry.ifindex, slot.entry.macs());
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live.removing = true;
        }
        self.out.push(Action::RemoveLink { key: key.clone(), netns, ifindex, macs });
    }

    /// The link was removed, or not: read again either way.
    pub(super) fn link_removed(&mut self, now: Time, key: &AttachmentKey, result: RemoveResult) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.removing = false;
        slot.live.stamp += 1;
        let addresses = slot.entry.addresses();
        match result {
            RemoveResult::Removed => {
                slot.live.departure = Departure::Destroyed;
                let text = "the agent removed the link".to_owned();
                self.note(NoteKind::Action, "link-removed", addresses, Some(key), text);
                self.gather(key.clone(), false);
            }
            // At the pace of hints: read and removal may go on to disagree.
            RemoveResult::NotThere => self.gather_for_hint(now, key, false),
            RemoveResult::Failed(why) => {
                slot.live.recheck_at = Some(now + RETRY);
                self.note(NoteKind::Warning, "link-not-removed", addresses, Some(key), why);
            }
        }
    }
}
