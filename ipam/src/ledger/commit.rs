//! Commits under way, and what follows when one is over.
//!
//! The journal is written before the store, and closed after. A store write of unknown outcome
//! leaves its entry open; since each write is conditional on the transaction that the record
//! names, repeating it is safe.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Ledger;
use super::entry::{Guard, Held, Live, Phase};
use super::io::{
    Action, Caller, CommitResult, Flush, JournalWrite, LedgerError, NoteKind, Reply, Step, StoreResult,
    StoreWrite,
};
use super::line::Stage;
use super::reason::Reason;
use crate::attachment::{AttachmentKey, Role};
use crate::record::{AddressKey, LeaseRecord};
use crate::time::Time;

/// Time after which a refused write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Purpose of a commit.
#[derive(Debug, Clone)]
pub enum Pending {
    /// Nothing follows it.
    Nothing,
    /// The records of a new attachment, some taken from the dead.
    Reserve {
        /// Attachment of the records.
        key: AttachmentKey,
        /// Attachments that handed over.
        givers: BTreeSet<AttachmentKey>,
    },
    /// A journal write after which the caller is answered.
    Answer {
        /// Attachment of the write.
        key: AttachmentKey,
        /// Caller of the answer.
        caller: Caller,
    },
    /// A DEL is put on the disk.
    Del {
        /// Attachment of the DEL.
        key: AttachmentKey,
        /// Caller of the DEL.
        caller: Option<Caller>,
        /// True if that is all that the caller waits for.
        at_once: bool,
    },
    /// The end of an open ADD is put on the disk, and its link is removed after that.
    Undo {
        /// Attachment of the ADD.
        key: AttachmentKey,
    },
    /// The records of a dead attachment are deleted.
    Free {
        /// Attachment of the records.
        key: AttachmentKey,
    },
    /// Missing records of a living attachment are made again.
    Repair {
        /// Attachment of the records.
        key: AttachmentKey,
    },
}

impl Pending {
    /// The caller repeated itself on another connection.
    pub fn take_over(&mut self, of: &AttachmentKey, by: Caller) {
        if let Self::Answer { key, caller } = self
            && key == of
        {
            *caller = by;
        }
    }
}

impl Ledger {
    pub(super) fn commit(
        &mut self,
        then: Pending,
        step: Step,
        journal: Vec<JournalWrite>,
        flush: Flush,
        store: Vec<StoreWrite>,
    ) {
        let op = self.id();
        self.pending.insert(op, then);
        self.out.push(Action::Commit { op, step, journal, flush, store });
    }

    /// A commit is over.
    pub(super) fn committed(&mut self, now: Time, op: u64, result: &CommitResult) {
        let Some(pending) = self.pending.remove(&op) else { return };
        let refusal = result.refusal();
        match pending {
            Pending::Nothing => self.warn_storage(refusal),
            Pending::Reserve { key, givers } => self.reserved(now, &key, givers, result),
            Pending::Answer { key, caller } => self.answer(&key, caller, refusal),
            Pending::Del { key, caller, at_once } => self.del_journaled(&key, caller, refusal, at_once),
            Pending::Undo { key } => self.undo_saved(now, &key, refusal),
            Pending::Free { key } => self.freed(now, &key, result),
            Pending::Repair { key } => self.repaired(now, &key, result),
        }
    }

    fn warn_storage(&mut self, refusal: Option<String>) {
        if let Some(text) = refusal {
            self.note(NoteKind::Warning, "storage-refused", Vec::new(), None, text);
        }
    }

    fn answer(&mut self, key: &AttachmentKey, caller: Caller, refusal: Option<String>) {
        let step = match self.slots.get(key).map(|slot| slot.entry.phase) {
            Some(Phase::Done) => Step::Done,
            _ => Step::Bind,
        };
        let reply = refusal.map_or(Ok(Reply::Done), |text| Err(LedgerError::Storage(text)));
        self.reply(caller, step, reply);
    }

    /// The records of a new attachment were written, or not.
    fn reserved(
        &mut self,
        now: Time,
        key: &AttachmentKey,
        givers: BTreeSet<AttachmentKey>,
        result: &CommitResult,
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.committing = false;
        self.shared.took(now.since(slot.live.since));
        let (txn, undone) = (slot.entry.txn.clone(), slot.entry.del_seen);
        let position = self.line.iter().position(|waiter| waiter.request.txn == txn);
        let caller = position.and_then(|index| self.line.get(index)).map(|waiter| waiter.caller);
        let failure = result.refusal();
        let Some(text) = failure else {
            for giver in givers {
                self.gone_to_heir(now, &giver);
            }
            if self.is_disputed(now, key, position) {
                return;
            }
            let waiter = position.and_then(|index| self.line.remove(index));
            let patience = waiter.map_or(Duration::ZERO, |waiter| now.since(waiter.since()));
            return self.intent_written(now, key, caller, patience);
        };
        for giver in givers {
            match result {
                CommitResult::Failed(_) => self.take_back(now, &giver),
                CommitResult::Journaled(_) => self.inherit(now, key, &giver),
            }
        }
        let other = other_record(result);
        if let Some(record) = &other {
            self.disown(key, &record.address_key());
        }
        self.abandon_intent(now, key, result);
        let Some(index) = position else { return };
        if undone {
            // Another try would be left open for ever.
            if let Some(waiter) = self.line.remove(index) {
                self.refuse_deleted(key, waiter.caller);
            }
            if let Some(record) = &other {
                self.met(now, record);
            }
            return self.serve_line(now);
        }
        self.try_again(now, index, other, (result, text));
    }

    /// Next step of an ADD with records that were not written.
    fn try_again(
        &mut self,
        now: Time,
        index: usize,
        other: Option<LeaseRecord>,
        (result, text): (&CommitResult, String),
    ) {
        match other {
            Some(record) => {
                // The store knows a holder that the ledger did not: it is adopted and judged, and
                // this ADD tries the next address.
                self.met(now, &record);
                if let Some(waiter) = self.line.get_mut(index) {
                    waiter.avoid.insert(record.address);
                    waiter.stage = Stage::InLine;
                }
                self.serve_line(now);
            }
            None if is_lost(result) => {
                // It may be had all the same, once the wire was asked.
                if let Some(waiter) = self.line.get_mut(index) {
                    waiter.stage = Stage::InLine;
                }
                self.serve_line(now);
            }
            None if self.shared.on && matches!(result, CommitResult::Journaled(_)) => {
                if let Some(waiter) = self.line.get_mut(index) {
                    waiter.put_off(now + RETRY, text);
                }
            }
            None => {
                if let Some(waiter) = self.line.remove(index) {
                    self.reply(waiter.caller, Step::Lease, Err(LedgerError::Storage(text)));
                }
            }
        }
    }

    /// Another host spoke for an address while its record was written, or another interface of the node came to have
    /// it: the address is kept back, and the ADD tries another one.
    fn is_disputed(&mut self, now: Time, key: &AttachmentKey, position: Option<usize>) -> bool {
        let occupied = self.slots.get(key).and_then(|slot| self.occupied_beside(&slot.entry));
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let heard = slot.live.disputed.take();
        let Some(address) = heard.or(occupied.map(|(address, _)| address)) else { return false };
        slot.live.quarantine = heard.map(|_| Reason::Heard);
        let is_deleted = slot.entry.del_seen;
        slot.annul();
        if is_deleted {
            if let Some(waiter) = position.and_then(|index| self.line.remove(index)) {
                self.refuse_deleted(key, waiter.caller);
            }
        } else if let Some(waiter) = position.and_then(|index| self.line.get_mut(index)) {
            waiter.stage = Stage::InLine;
            waiter.avoid.insert(address);
        }
        self.finalize(now, key, if heard.is_some() { Reason::Heard } else { Reason::Occupied });
        true
    }

    /// Nothing was written of a hand-over.
    fn take_back(&mut self, now: Time, giver: &AttachmentKey) {
        let Some(slot) = self.slots.get_mut(giver) else { return };
        slot.entry.phase = Phase::Done;
        slot.live.committing = false;
        slot.live.recheck_at = Some(now + RETRY);
        for held in &slot.entry.held {
            self.holders.insert(held.key(), giver.clone());
        }
    }

    /// A hand-over of unknown outcome: the giver is out of the journal and proven dead, and the owner of its
    /// records by now is not known. The heir does not get them either, and has them all deleted.
    fn inherit(&mut self, now: Time, heir: &AttachmentKey, giver: &AttachmentKey) {
        let Some(dead) = self.slots.get(giver).map(|slot| slot.entry.clone()) else { return };
        let mine: Vec<_> =
            dead.held.iter().filter(|held| self.holders.get(&held.key()) == Some(giver)).cloned().collect();
        for held in &mine {
            self.holders.insert(held.key(), heir.clone());
        }
        let exposed = self.slots.get(giver).is_some_and(|slot| slot.entry.exposed);
        if let Some(slot) = self.slots.get_mut(heir) {
            slot.entry.exposed |= exposed;
            slot.live.givers.push(dead.txn);
            slot.entry.held.extend(mine);
        }
        self.gone_to_heir(now, giver);
    }

    /// The address turned out to be another's.
    fn disown(&mut self, key: &AttachmentKey, address: &AddressKey) {
        if self.holders.get(address) == Some(key) {
            self.holders.remove(address);
        }
        if let Some(slot) = self.slots.get_mut(key) {
            slot.entry.held.retain(|held| held.key() != *address);
        }
    }

    fn intent_written(&mut self, now: Time, key: &AttachmentKey, caller: Option<Caller>, waited: Duration) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.entry.phase = Phase::Reserved;
        slot.live.since = now;
        let entry = slot.entry.clone();
        self.note(
            NoteKind::Action,
            "reserved",
            entry.addresses(),
            Some(key),
            format!(
                "recorded for namespace {} by transaction {}, {} ms after it was asked for",
                entry.netns.cookie,
                entry.txn,
                waited.as_millis()
            ),
        );
        let journal = vec![JournalWrite::Put(Box::new(entry.clone()))];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
        if entry.del_seen {
            // A DEL came meanwhile, or the plugin went away. It cannot have made a link under this
            // transaction's grant, because it never got the answer, unless it repeated the request: look.
            if let Some(caller) = caller {
                self.refuse_deleted(key, caller);
            }
            if entry.role == Role::Main {
                self.remove_link(key);
            } else {
                self.gather(key.clone(), false);
            }
        } else if let Some(caller) = caller {
            let grant = self.grant(key);
            self.reply(caller, Step::Lease, grant);
        }
    }

    /// The answer to an ADD that a DEL ended while its record was written.
    fn refuse_deleted(&mut self, key: &AttachmentKey, caller: Caller) {
        self.reply(caller, Step::Lease, Err(LedgerError::Deleted(key.clone())));
    }

    /// Takes back what a failed intent wrote. A record of unknown outcome is deleted if it names
    /// the transaction; until that is settled the attachment stays in the journal.
    fn abandon_intent(&mut self, now: Time, key: &AttachmentKey, result: &CommitResult) {
        let journaled = matches!(result, CommitResult::Journaled(_));
        if journaled {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.annul();
            }
            self.finalize(now, key, Reason::Undone);
            return;
        }
        if let Some(slot) = self.slots.remove(key) {
            for held in &slot.entry.held {
                if self.holders.get(&held.key()) == Some(key) {
                    self.holders.remove(&held.key());
                }
                self.give_back(now, &held.key());
            }
            self.answer_ended(slot.live, "its record was not written");
        }
    }

    /// Deletes the records of an attachment that is over.
    pub(super) fn finalize(&mut self, now: Time, key: &AttachmentKey, reason: Reason) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.live.committing {
            return;
        }
        self.end_binding(key);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.entry.phase = Phase::Releasing;
        slot.live.committing = true;
        slot.live.reason = reason;
        slot.live.stamp += 1;
        slot.live.since = now;
        slot.live.unsettled_since.get_or_insert(now);
        slot.live.recheck_at = None;
        let entry = slot.entry.clone();
        let journal = vec![JournalWrite::Put(Box::new(entry.clone()))];
        let mine: Vec<_> = entry.held.iter().map(Held::key).collect();
        let names: BTreeMap<_, _> = slot.live.of.clone();
        let store = mine
            .into_iter()
            .filter(|address| self.holders.get(address) == Some(key))
            .map(|address| {
                let of = names.get(&address).unwrap_or(&entry.txn).clone();
                StoreWrite::Delete { address, of }
            })
            .collect();
        self.commit(Pending::Free { key: key.clone() }, Step::Release, journal, Flush::Durable, store);
    }

    /// Another's record keeps the others of the attachment from being deleted: it is looked at, and the
    /// rest goes on. Whether there was one.
    fn freed_but(&mut self, now: Time, key: &AttachmentKey, result: &CommitResult) -> bool {
        let Some(record) = other_record(result) else { return false };
        let Some(slot) = self.slots.get_mut(key) else { return true };
        slot.live.committing = false;
        let reason = slot.live.reason;
        let address = record.address_key();
        let own = record.key == *key || slot.live.givers.contains(&record.txn);
        if own && slot.live.of.get(&address) != Some(&record.txn) {
            slot.live.of.insert(address, record.txn);
        } else {
            self.disown(key, &address);
            if !own {
                self.met(now, &record);
            }
        }
        self.finalize(now, key, reason);
        true
    }

    fn freed(&mut self, now: Time, key: &AttachmentKey, result: &CommitResult) {
        if self.freed_but(now, key, result) {
            return;
        }
        if let Some(text) = result.trouble() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.live.committing = false;
                slot.live.recheck_at = Some(now + RETRY);
            }
            return self.note(NoteKind::Warning, "storage-refused", Vec::new(), Some(key), text);
        }
        let Some(slot) = self.slots.remove(key) else { return };
        let port = self.config.networks.get(&key.network).and_then(|network| network.link.wire_device());
        // In a gap of hearing another host may have taken what this one had.
        let alone = port
            .filter(|port| slot.live.heard_alone.is_some_and(|span| self.hearings.span(port) == Some(span)));
        let all_there =
            !matches!(result, CommitResult::Journaled(all) if all.contains(&StoreResult::NoneThere));
        self.to_gather.remove(key);
        self.shared.ended(now, &slot.entry.txn);
        let journal = vec![JournalWrite::Remove(key.clone())];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
        self.homes.remember(&slot.entry);
        self.survey_again(&slot.entry);
        if slot.live.quarantine == Some(Reason::Forced) {
            self.follow_forced(&slot);
        }
        for held in &slot.entry.held {
            if self.holders.get(&held.key()) == Some(key) {
                self.holders.remove(&held.key());
            }
            if !all_there {
                // A request of a former life may be carried out late.
                self.look_after_echo(now, held.key());
            }
            let pool = self.pool_now(&held.pool, &held.key()).clone();
            if let Some(reason) = slot.live.quarantine {
                let macs = self.answers.of(&held.key());
                let guard = (reason == Reason::Forced).then(|| Guard {
                    holder: key.clone(),
                    macs: slot.entry.macs(),
                    fdb_parent: slot.entry.fdb_parent.clone(),
                    unsearched: None,
                });
                self.shut(now, pool, held.key(), macs, guard, reason);
            } else if let rivals = self.local_rivals(&slot, held)
                && !rivals.is_empty()
            {
                self.shut(now, pool, held.key(), rivals, None, Reason::Heard);
            } else {
                self.give_back(now, &held.key());
                // No other host can have had it meanwhile: its next holder needs no probe.
                let silent = slot.live.reason.proves_silence()
                    && !slot.entry.exposed
                    && slot.live.disputed.is_none()
                    && all_there;
                if let Some(port) = alone.as_ref().filter(|_| silent) {
                    self.silence_of(now, port, &pool, &held.key());
                }
            }
        }
        let text = format!("free: {}", slot.live.reason);
        self.note(NoteKind::Action, "released", slot.entry.addresses(), Some(key), text);
        let text = format!("released: {}", slot.live.reason);
        self.answer_ended(slot.live, &text);
        self.serve_line(now);
    }

    fn gone_to_heir(&mut self, now: Time, giver: &AttachmentKey) {
        let Some(slot) = self.slots.remove(giver) else { return };
        self.to_gather.remove(giver);
        self.shared.ended(now, &slot.entry.txn);
        for held in &slot.entry.held {
            if self.holders.get(&held.key()) == Some(giver) {
                self.holders.remove(&held.key());
                self.give_back(now, &held.key());
            }
        }
        self.answer_ended(slot.live, "released, and handed over to an ADD in line");
    }

    /// Answers all that wait for the end of an attachment that is forgotten now.
    fn answer_ended(&mut self, live: Live, text: &str) {
        for (caller, _) in live.del_waiters {
            self.reply(caller, Step::Release, Ok(Reply::Done));
        }
        for operator in live.operators {
            self.reply(operator, Step::Other, Ok(Reply::Released(text.to_owned())));
        }
    }

    /// The address, if a record's holder is not the ledger's.
    pub(super) fn is_foreign(&self, address: &AddressKey, record: &LeaseRecord) -> bool {
        self.holders.get(address).is_none_or(|key| *key != record.key)
    }
}

fn is_lost(result: &CommitResult) -> bool {
    matches!(result, CommitResult::Journaled(results) if results.last() == Some(&StoreResult::Lost))
}

fn other_record(result: &CommitResult) -> Option<LeaseRecord> {
    let CommitResult::Journaled(results) = result else { return None };
    results.iter().find_map(|result| match result {
        StoreResult::Others(record) => Some((**record).clone()),
        _ => None,
    })
}
