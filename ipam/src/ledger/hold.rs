//! Hold: a wanted pod keeps the address of its dead sandbox for its next one.
//!
//! What the API says of a pod is a hint about intent; it never proves life or death. Here it only decides the
//! use of an address with a holder that is proven dead already: it waits a minute for the same pod, and goes
//! to another on demand. Right after a start the pods are not known yet; then it waits a few seconds for the
//! hint first, or a node that reboots would give all its pods' addresses away.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Entry, Phase};
use super::io::{Action, Flush, JournalWrite, NoteKind, PodNews, Reply, Step};
use super::line::{Stage, is_same_pod};
use super::reason::Reason;
use crate::attachment::AttachmentKey;
use crate::time::Time;

/// Time that an address waits for its pod's next sandbox (DESIGN section 6).
const HOLD: Duration = Duration::from_mins(1);
/// Time that it waits for the first word about the pods of this node.
const UNTIL_KNOWN: Duration = Duration::from_secs(5);

/// Time after which a pod is read once more, if its read failed or reported that it lives.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// For how long a live read counts that said that a pod is over: longer than any scan takes. A uid that is gone or
/// being deleted does not come back.
const OVER_COUNTS: Duration = Duration::from_mins(1);

/// The wanted pods of this node: neither terminal nor being deleted.
#[derive(Debug, Clone, Default)]
pub(super) struct Pods {
    /// True if they were ever listed.
    known: bool,
    wanted: BTreeSet<String>,
}

impl Ledger {
    /// News of this node's pods.
    pub(super) fn pod_news(&mut self, now: Time, news: PodNews) {
        match news {
            PodNews::Listed(wanted) => {
                self.pods.known = true;
                self.pods.wanted = wanted;
            }
            PodNews::Wanted(uid) => drop(self.pods.wanted.insert(uid)),
            PodNews::Unwanted(uid) => drop(self.pods.wanted.remove(&uid)),
            PodNews::Looked(key, wanted) => return self.pod_looked(now, &key, wanted),
        }
        let held: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.entry.phase == Phase::Held && self.pods.known)
            .map(|slot| (slot.entry.key.clone(), self.is_wanted(&slot.entry)))
            .collect();
        for (key, wanted) in held {
            if !wanted {
                self.end_hold(now, &key, Reason::PodGone);
            } else if let Some(slot) = self.slots.get_mut(&key) {
                slot.live.held_until = Some(slot.live.since + HOLD);
            }
        }
    }

    /// True if the pod of an attachment is wanted, as far as is known.
    pub fn is_wanted(&self, entry: &Entry) -> bool {
        let uid = entry.pod.as_ref().and_then(|pod| pod.uid.as_ref());
        uid.is_some_and(|uid| self.pods.wanted.contains(uid))
    }

    /// True if nothing shows the use of a namespace that all tasks left. Alone on a store the scans are
    /// enough. In a cluster the pod must be no longer wanted, or have another sandbox that asks for an
    /// address. The watch may be late, so before it counts the pod is read live.
    pub(super) fn is_forsaken(&mut self, now: Time, key: &AttachmentKey) -> bool {
        let Some(slot) = self.slots.get(key).filter(|_| self.shared.on) else { return true };
        let next = |waiter: &super::line::Waiter| {
            waiter.request.key != *key && is_same_pod(&slot.entry, &waiter.request)
        };
        if !self.pods.known || self.line.iter().any(next) {
            return self.pods.known;
        }
        // Where the runtime named no pod, there is none to be asked for.
        if slot.entry.pod.is_none() {
            return true;
        }
        let counts = slot.live.pod_over.is_some_and(|at| now.since(at) < OVER_COUNTS);
        if !counts {
            self.ask_for_pod(now, key);
        }
        counts && self.slots.get(key).is_some_and(|slot| !self.is_wanted(&slot.entry))
    }

    /// Has the pod of a namespace that all tasks left read live, if by the watch it is not wanted.
    pub(super) fn ask_for_pod(&mut self, now: Time, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key).filter(|slot| self.shared.on && !self.is_wanted(&slot.entry))
        else {
            return;
        };
        let within = |at: Option<Time>, time| at.is_some_and(|at| now.since(at) < time);
        let known = within(slot.live.pod_asked, READ_AGAIN) || within(slot.live.pod_over, OVER_COUNTS);
        let (Some(pod), false) = (slot.entry.pod.clone(), known) else { return };
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live.pod_asked = Some(now);
        }
        self.out.push(Action::LookUpPod(key.clone(), pod));
    }

    /// Takes the live read of the pod of a namespace that all tasks left.
    fn pod_looked(&mut self, now: Time, key: &AttachmentKey, wanted: Option<bool>) {
        if let Some(slot) = self.slots.get_mut(key)
            && wanted == Some(false)
        {
            slot.live.pod_over = Some(now);
            self.scan_at(now);
        }
    }

    /// True if an attachment that is proven dead waits for its pod's next sandbox.
    pub(super) fn may_hold(&self, key: &AttachmentKey) -> bool {
        self.shared.on
            && self.slots.get(key).is_some_and(|slot| {
                let settled = slot.entry.phase == Phase::Done && slot.live.operators.is_empty();
                // What another node may have given away meanwhile is nobody's to keep.
                let hinted = self.is_wanted(&slot.entry) || (!self.pods.known && slot.entry.pod.is_some());
                settled && !slot.entry.exposed && slot.live.rivals.is_empty() && hinted
            })
    }

    /// Its records stay; from here on evidence is no longer needed.
    pub(super) fn hold(&mut self, now: Time, key: &AttachmentKey, reason: Reason) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.entry.phase = Phase::Held;
        slot.live.stamp += 1;
        slot.live.since = now;
        slot.live.recheck_at = None;
        slot.live.suspect = false;
        slot.live.unsettled_since = None;
        slot.live.reason = Reason::Held;
        slot.live.held_until = Some(now + if self.pods.known { HOLD } else { UNTIL_KNOWN });
        let waiters = std::mem::take(&mut slot.live.del_waiters);
        let entry = slot.entry.clone();
        for (caller, _) in waiters {
            self.reply(caller, Step::Release, Ok(Reply::Done));
        }
        self.to_gather.remove(key);
        let text = format!("over ({reason}), and kept for the next sandbox of its pod, or for who needs it");
        self.note(NoteKind::Action, "held", entry.addresses(), Some(key), text);
        let journal = vec![JournalWrite::Put(Box::new(entry))];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
    }

    /// Gives a waiter the held address of its own pod, or with `any` whichever has been held longest.
    /// Whether that ended its waiting.
    pub(super) fn take_from_hold(&mut self, now: Time, index: usize, any: bool) -> bool {
        let Some(waiter) = self.line.get(index).filter(|waiter| waiter.stage == Stage::InLine) else {
            return false;
        };
        let request = waiter.request.clone();
        let mut held: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.entry.phase == Phase::Held && !slot.live.committing)
            .filter(|slot| any || is_same_pod(&slot.entry, &request))
            .map(|slot| (slot.live.since, slot.entry.key.clone()))
            .collect();
        held.sort();
        for (_, giver) in held {
            let exposed = self.slots.get(&giver).is_some_and(|slot| slot.entry.exposed);
            if giver == request.key || exposed {
                self.end_hold(now, &giver, Reason::Held);
                continue;
            }
            if let Some((heir, picks)) = self.heir(now, &giver)
                && heir == index
            {
                self.reserve(now, heir, &picks);
                return true;
            }
        }
        false
    }

    pub(super) fn end_hold(&mut self, now: Time, key: &AttachmentKey, reason: Reason) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live.held_until = None;
        }
        self.finalize(now, key, reason);
    }

    pub(super) fn end_overdue_holds(&mut self, now: Time) {
        let due: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.entry.phase == Phase::Held && slot.live.held_until.is_none_or(|at| at <= now))
            .filter(|slot| !slot.live.committing)
            .map(|slot| slot.entry.key.clone())
            .collect();
        for key in due {
            self.end_hold(now, &key, Reason::HoldEnded);
        }
    }

    /// Held addresses of former times: their pods are asked for again.
    pub(super) fn hold_again(&mut self, now: Time) {
        for slot in self.slots.values_mut().filter(|slot| slot.entry.phase == Phase::Held) {
            slot.live.held_until = Some(now + HOLD);
            slot.live.reason = Reason::Held;
        }
    }
}
