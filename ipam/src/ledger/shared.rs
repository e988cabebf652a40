//! A store that other nodes write too: what they hold is not free here, and what happens to this
//! node's records behind its back is noticed.
//!
//! The store's news come late and may be out of date when they arrive, so they decide little: they
//! take an address out of circulation or bring it back (the store's create-if-absent has the last
//! word either way), and whatever looks odd is read live before anything follows from it. A release
//! is never decided here.
//!
//! Invariant: a record of this node's own writing, however late its echo, is never taken for news.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Phase, Slot};
use super::io::{Action, Flush, JournalWrite, NoteKind, Step, StoreNews, StoreWrite, Stray};
use super::pools::{PoolState, is_member};
use crate::alloc::score;
use crate::attachment::{AttachmentKey, PodRef};
use crate::identity::TxnId;
use crate::mac::Mac;
use crate::name::PoolName;
use crate::record::{AddressKey, LeaseRecord};
use crate::time::Time;

/// The echo of a write may come this late; a relist is older at most.
const ECHO: Duration = Duration::from_mins(5);
/// An echo of a record's creation is followed by that of its end within this time; else a request of an
/// agent that died meanwhile was carried out late.
const ECHO_ENDS: Duration = Duration::from_secs(10);
/// Longest time in which an address that another node gave back goes to this node's line, sooner the longer
/// an ADD there waits, so that the nodes do not all ask for it at once. It grows with the time that the store
/// takes for a write: before the winner's is done, no other node hears of it.
const SPREAD: Duration = Duration::from_millis(200);
const SPREAD_MAX: Duration = Duration::from_secs(2);
/// The spread is so many times a write's time.
const WRITES: u32 = 4;
/// After so long a waiter has half of the spread.
const HALF: Duration = Duration::from_secs(5);
/// Interval at which a record that looked odd is read live, if the read failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// An address that another node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abroad {
    /// The ADD that made the record; `None`: the record cannot be read.
    pub txn: Option<TxnId>,
    /// Its pool, as the record says.
    pub pool: Option<PoolName>,
    /// The pod, or the container where none was named, and its node.
    pub who: String,
    /// Its attachment and the MAC in the record, from which its MAC follows; `None`: the record cannot be read.
    link: Option<(AttachmentKey, Option<Mac>)>,
    /// The pod, if the record names one.
    pub pod: Option<PodRef>,
    /// True if an answer of the store alone names it, which may come after the watch reported its end.
    answered: bool,
}

impl Abroad {
    fn unreadable() -> Self {
        Self {
            txn: None,
            pool: None,
            who: "in a record that this version cannot read".to_owned(),
            link: None,
            pod: None,
            answered: false,
        }
    }

    /// The MAC in the record, if it names one.
    pub(super) fn recorded_mac(&self) -> Option<Mac> {
        self.link.as_ref().and_then(|(_, mac)| *mac)
    }

    fn of(record: &LeaseRecord) -> Self {
        let pod = record.pod.as_ref();
        Self {
            txn: Some(record.txn.clone()),
            pool: Some(record.pool.clone()),
            who: match pod {
                Some(pod) => format!("{}/{} on node {}", pod.namespace, pod.name, record.node),
                None => format!("{} on node {}", record.key.container_id, record.node),
            },
            link: Some((record.key.clone(), record.mac)),
            pod: record.pod.clone(),
            answered: false,
        }
    }
}

/// A transaction with a record that this node itself removed.
#[derive(Debug, Clone)]
struct Ended {
    at: Time,
    /// A report of its record since, for this address: an echo, if its end is reported soon.
    echo: Option<(AddressKey, Time)>,
}

/// Knowledge about a store that others write too.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    /// True if others write it at all.
    pub on: bool,
    /// True if it was read since the agent's start.
    pub read: bool,
    /// The addresses of other nodes.
    pub abroad: BTreeMap<AddressKey, Abroad>,
    /// Transactions with records that this node deleted or replaced: their echoes say nothing.
    ended: BTreeMap<TxnId, Ended>,
    /// Addresses that other nodes gave back, and when this node's line may have them.
    returning: BTreeMap<AddressKey, Time>,
    /// Addresses to be read live, and when.
    looks: BTreeMap<AddressKey, Option<Time>>,
    /// Time that the store takes for a write of an ADD, of late.
    pace: Duration,
    /// Strays that were found on the node at start, until the store was read.
    pub strays: Vec<Stray>,
}

impl Shared {
    /// Time at which something is due.
    pub(super) fn wakes_at(&self) -> Option<Time> {
        let echoes = self.ended.values().filter_map(|ended| Some(ended.echo.as_ref()?.1 + ECHO_ENDS));
        let looks = self.looks.values().flatten().copied();
        self.returning.values().copied().chain(looks).chain(echoes).min()
    }

    /// A write of an ADD took that long.
    pub(super) fn took(&mut self, time: Duration) {
        self.pace = (self.pace * 7 + time) / 8;
    }

    /// A transaction begins, perhaps once more after its first try was taken back.
    pub(super) fn begun(&mut self, txn: &TxnId) {
        self.ended.remove(txn);
    }

    /// A record is gone by this node's own hand.
    pub(super) fn ended(&mut self, now: Time, txn: &TxnId) {
        if self.on {
            self.ended.retain(|_, ended| ended.echo.is_some() || now.since(ended.at) < ECHO);
            self.ended.insert(txn.clone(), Ended { at: now, echo: None });
        }
    }
}

impl Ledger {
    /// The store is one that other nodes write too: it is read through [`StoreNews`], and nothing is
    /// given before it was.
    pub fn shared(mut self) -> Self {
        self.shared.on = true;
        for (name, pool) in &self.config.pools {
            self.pools.insert(name.clone(), PoolState::new(pool).keep_apart());
        }
        self
    }

    /// News of the store.
    pub(super) fn store_news(&mut self, now: Time, news: StoreNews) {
        match news {
            StoreNews::Listed { records, unreadable } => self.store_listed(now, records, unreadable),
            StoreNews::Unreadable(key) => self.take_unreadable(key),
            StoreNews::UnreadableErased(key) => self.back_from_abroad(now, &key),
            StoreNews::Recorded(record) => {
                if record.node == self.me.node || self.is_mine(&record) {
                    self.own_recorded(now, &record);
                } else {
                    self.recorded_abroad(now, &record);
                }
            }
            StoreNews::Erased(record) => self.erased(now, &record),
            StoreNews::Looked(key, found) => self.looked(now, &key, found.map(|found| *found)),
            StoreNews::LookFailed(key) => {
                if let Some(look) = self.shared.looks.get_mut(&key) {
                    *look = Some(now + LOOK_AGAIN);
                }
            }
        }
    }

    fn is_mine(&self, record: &LeaseRecord) -> bool {
        let holder = self.holders.get(&record.address_key()).and_then(|key| self.slots.get(key));
        holder.is_some_and(|slot| slot.entry.txn == record.txn)
    }

    /// The whole store, at start or because events were missed.
    fn store_listed(&mut self, now: Time, records: Vec<LeaseRecord>, unreadable: Vec<AddressKey>) {
        let (mine, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| record.node == self.me.node || self.is_mine(record));
        let there: BTreeSet<_> =
            others.iter().map(LeaseRecord::address_key).chain(unreadable.iter().cloned()).collect();
        let gone: Vec<_> = self.shared.abroad.keys().filter(|key| !there.contains(*key)).cloned().collect();
        for key in gone {
            self.back_from_abroad(now, &key);
        }
        for record in &others {
            self.recorded_abroad(now, record);
        }
        for key in unreadable {
            self.take_unreadable(key);
        }
        if !std::mem::replace(&mut self.shared.read, true) {
            let strays = std::mem::take(&mut self.shared.strays);
            return self.load_records(now, &mine, strays);
        }
        for record in &mine {
            self.own_recorded(now, record);
        }
        let listed: BTreeSet<_> = mine.iter().map(|record| (record.address_key(), &record.txn)).collect();
        let missing: Vec<_> = self
            .slots
            .values()
            .filter(|slot| {
                let named = |held: &super::entry::Held| listed.contains(&(held.key(), &slot.entry.txn));
                !slot.entry.held.iter().all(named)
            })
            .map(|slot| slot.entry.key.clone())
            .collect();
        for key in missing {
            self.write_again(now, &key);
        }
    }

    /// Another node's record: the address is not free here.
    pub(super) fn recorded_abroad(&mut self, now: Time, record: &LeaseRecord) {
        let key = record.address_key();
        let generation = self.generations.entry(key.clone()).or_insert(0);
        *generation = (*generation).max(record.generation);
        self.shared.returning.remove(&key);
        self.take(&key);
        self.shared.abroad.insert(key.clone(), Abroad::of(record));
        if self.quarantine.get(&key).is_some_and(|shut| shut.guard.is_none()) {
            // What answered has a name now.
            self.quarantine.remove(&key);
            let journal = vec![JournalWrite::Unquarantine(key.clone())];
            self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
        }
        let settled = |slot: &Slot| slot.entry.phase == Phase::Done && !slot.live.committing;
        let holder = self.holders.get(&key).and_then(|holder| self.slots.get(holder));
        if holder.is_some_and(settled) {
            self.look(now, key);
        }
    }

    /// Takes the address of an unreadable record: it counts as held, by an unknown holder.
    fn take_unreadable(&mut self, key: AddressKey) {
        self.shared.returning.remove(&key);
        self.take(&key);
        self.shared.abroad.insert(key, Abroad::unreadable());
    }

    /// A record that could not be read was read now, by another definition or after another edit: what it
    /// says counts from here on.
    fn readable(&mut self, now: Time, key: &AddressKey) {
        if self.shared.abroad.get(key).is_some_and(|abroad| abroad.txn.is_none()) {
            self.back_from_abroad(now, key);
        }
    }

    /// A record of this node's: known, an echo, or odd.
    fn own_recorded(&mut self, now: Time, record: &LeaseRecord) {
        let address = record.address_key();
        // The answer to a write may name another node's record that is deleted since.
        self.back_from_abroad(now, &address);
        if let Some(ended) = self.shared.ended.get_mut(&record.txn) {
            ended.echo.get_or_insert((address, now));
            return;
        }
        let Some(slot) = self.slots.get(&record.key) else { return self.look(now, address) };
        if slot.entry.txn != record.txn {
            // A former ADD of the same attachment, with a record that was or is being replaced.
            return;
        }
        let told = slot.entry.records(&self.me.node).into_iter().find(|own| own.address_key() == address);
        let steady = slot.entry.phase == Phase::Done && !slot.live.committing;
        if steady && !told.is_some_and(|own| own.is_kept_in(record)) {
            self.look(now, address);
        }
    }

    /// A record was deleted: by its node, or by somebody's hand.
    fn erased(&mut self, now: Time, record: &LeaseRecord) {
        let key = record.address_key();
        self.readable(now, &key);
        let abroad = self.shared.abroad.get(&key);
        if abroad.is_some_and(|abroad| abroad.txn.as_ref() == Some(&record.txn)) {
            self.back_from_abroad(now, &key);
        }
        // An operator may have copied this node's record to another node's name: that is not an echo.
        if record.node == self.me.node && self.shared.ended.remove(&record.txn).is_some() {
            return;
        }
        let Some(holder) = self.holders.get(&key).cloned() else { return };
        let Some(slot) = self.slots.get(&holder) else { return };
        if slot.entry.txn == record.txn {
            self.write_again(now, &holder);
        } else if slot.entry.phase == Phase::Done && !slot.live.committing {
            // Another's record stood in the place of this one, as after the store went back.
            self.look(now, key);
        }
    }

    /// The store lost records of a living lease: a create-if-absent, so a wrong alarm does no harm.
    fn write_again(&mut self, now: Time, key: &AttachmentKey) {
        // The watch may report an own deletion before its answer comes.
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.entry.phase != Phase::Releasing) else {
            return;
        };
        let known = std::mem::replace(&mut slot.entry.exposed, true);
        let (busy, journal) = (slot.live.committing, JournalWrite::Put(Box::new(slot.entry.clone())));
        if !known {
            // At once: what is written again may wait for something.
            self.commit(Pending::Nothing, Step::Other, vec![journal], Flush::Lazy, Vec::new());
        }
        if busy {
            return self.look_later(now, key);
        }
        let phase = self.slots.get(key).map(|slot| slot.entry.phase);
        if matches!(phase, Some(Phase::Reserved | Phase::Bound | Phase::Done)) {
            self.rewrite(|record| record.key == *key);
        }
    }

    /// Looks again later at the records of an attachment that could not be put right now.
    pub(super) fn look_later(&mut self, now: Time, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let held: Vec<_> = slot.entry.held.iter().map(super::entry::Held::key).collect();
        for key in held {
            self.look_again(now, key);
        }
    }

    /// The record of an address is read live a little later.
    pub(super) fn look_again(&mut self, now: Time, key: AddressKey) {
        self.look(now + LOOK_AGAIN, key);
    }

    /// An address is free in the store again. Every node hears that at one moment.
    fn back_from_abroad(&mut self, now: Time, key: &AddressKey) {
        if self.shared.abroad.remove(key).is_none() {
            return;
        }
        let oldest = self
            .line
            .iter()
            .filter(|waiter| waiter.may_use(key, &self.config))
            .map(super::line::Waiter::since);
        let at = oldest.min().map(|since| {
            let spread = (self.shared.pace * WRITES).clamp(SPREAD, SPREAD_MAX);
            let age = now.since(since).as_secs_f64() / HALF.as_secs_f64();
            let patience = spread.div_f64(1.0 + age);
            let generation = self.generations.get(key).copied().unwrap_or(0);
            // Another share of the spread for every node and every life of the address.
            let chance = score(&self.me.node, key.address).wrapping_mul(generation | 1) >> 48;
            now + patience.mul_f64(f64::from(u16::try_from(chance).unwrap_or(u16::MAX)) / f64::from(u16::MAX))
        });
        match at {
            Some(at) => drop(self.shared.returning.insert(key.clone(), at)),
            None => self.give_back(now, key),
        }
    }

    /// Wants a record read live at that time, unless that is wanted already or under way. Alone on its
    /// store a node reads nothing twice.
    fn look(&mut self, at: Time, key: AddressKey) {
        if self.shared.on {
            self.shared.looks.entry(key).or_insert(Some(at));
        }
    }

    /// Has a record that was not there to be deleted read live once its creation can no longer be under way.
    pub(super) fn look_after_echo(&mut self, now: Time, key: AddressKey) {
        self.look(now + ECHO_ENDS, key);
    }

    pub(super) fn shared_due(&mut self, now: Time) {
        if !self.shared.on {
            return;
        }
        let late: Vec<_> = self
            .shared
            .ended
            .values_mut()
            .filter_map(|ended| ended.echo.take_if(|(_, at)| *at + ECHO_ENDS <= now))
            .collect();
        for (key, _) in late {
            self.look(now, key);
        }
        let due: Vec<_> =
            self.shared.returning.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &due {
            self.shared.returning.remove(key);
            self.give_back(now, key);
        }
        // Records that the watch explained meanwhile are no longer odd.
        let (abroad, holders) = (&self.shared.abroad, &self.holders);
        self.shared.looks.retain(|key, at| {
            let explained = abroad.get(key).is_some_and(|abroad| !abroad.answered);
            at.is_none_or(|at| at > now) || !explained || holders.contains_key(key)
        });
        let looks: Vec<_> = self
            .shared
            .looks
            .iter_mut()
            .filter(|(_, at)| at.is_some_and(|at| at <= now))
            .map(|(key, at)| {
                *at = None;
                key.clone()
            })
            .collect();
        self.out.extend(looks.into_iter().map(Action::LookUp));
        if !due.is_empty() {
            self.serve_line(now);
        }
    }

    /// Takes the live read of a record that looked odd.
    fn looked(&mut self, now: Time, key: &AddressKey, found: Option<LeaseRecord>) {
        self.shared.looks.remove(key);
        let holder = self.holders.get(key).cloned();
        let slot = holder.as_ref().and_then(|holder| self.slots.get(holder));
        let (Some(record), Some(slot)) = (&found, slot) else {
            match (found, holder) {
                (Some(record), None) => self.met(now, &record),
                (None, Some(holder)) => self.write_again(now, &holder),
                (None, None) => self.back_from_abroad(now, key),
                (Some(_), Some(_)) => {}
            }
            return;
        };
        if slot.live.committing || slot.entry.phase != Phase::Done {
            // Perhaps its other address is being put right just now.
            if slot.entry.txn != record.txn {
                self.look_again(now, key.clone());
            }
            return;
        }
        // Also a record of an attachment of this node that is not there: a request of a former life was
        // carried out after the living record had been lost.
        let nobodys = record.node == self.me.node && !self.slots.contains_key(&record.key);
        if slot.entry.txn == record.txn || nobodys || self.is_of_former(slot, record) {
            return self.restore(&slot.entry.key.clone(), record);
        }
        let text = format!(
            "the store says that {} on node {} has it, but it is in use here by {}; nothing is freed. Compare the \
             two pods, and delete the one that is wrong",
            record.key, record.node, slot.entry.key
        );
        let of = slot.entry.key.clone();
        self.note(NoteKind::Warning, "two-holders", vec![record.address], Some(&of), text);
    }

    /// A record of this node's that no entry knows, or another node's that the watch did not show yet.
    pub(super) fn met(&mut self, now: Time, record: &LeaseRecord) {
        if self.shared.on && record.node != self.me.node {
            let address = record.address_key();
            let before = self.shared.abroad.get(&address).map(|abroad| &abroad.txn);
            let known = before == Some(&Some(record.txn.clone()));
            self.recorded_abroad(now, record);
            if let Some(abroad) = self.shared.abroad.get_mut(&address).filter(|_| !known) {
                abroad.answered = true;
                self.look_after_echo(now, address);
            }
        } else {
            // Read live: also a record that this node had deleted, if a late request made it again.
            self.shared.ended.remove(&record.txn);
            self.adopt_record(now, record);
        }
    }

    /// True if a record is that of a former holder on this very node: the store went back to a time before
    /// the address was given again, which this node did when it had seen the former holder's end.
    fn is_of_former(&self, slot: &Slot, record: &LeaseRecord) -> bool {
        let address = record.address_key();
        let held = slot.entry.held.iter().find(|held| held.key() == address);
        record.node == self.me.node
            && record.machine_id == self.me.machine_id
            && held.is_some_and(|held| record.generation < held.generation)
    }

    /// Restores the edited record of a living lease: it has the true values again.
    fn restore(&mut self, key: &AttachmentKey, found: &LeaseRecord) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let own = slot.entry.records(&self.me.node);
        let Some(own) = own.into_iter().find(|own| own.address_key() == found.address_key()) else { return };
        if own.is_kept_in(found) {
            return;
        }
        slot.live.committing = true;
        let (entry, of) = (slot.entry.clone(), found.txn.clone());
        let text = "its record was edited by another hand and is put right".to_owned();
        self.note(NoteKind::Warning, "record-edited", vec![own.address], Some(key), text);
        let store = vec![StoreWrite::Replace { record: Box::new(own), of }];
        let journal = vec![JournalWrite::Put(Box::new(entry))];
        self.commit(Pending::Repair { key: key.clone() }, Step::Other, journal, Flush::Durable, store);
    }

    /// Holders of addresses of these pools on other nodes, in words.
    pub(super) fn holders_abroad(&self, pools: &[PoolName]) -> Vec<String> {
        let concerns = |key: &AddressKey, abroad: &Abroad| {
            abroad.pool.as_ref().is_some_and(|pool| pools.contains(pool))
                || pools
                    .iter()
                    .filter_map(|name| self.config.pools.get(name))
                    .any(|pool| is_member(pool, key))
        };
        let abroad = self.shared.abroad.iter().filter(|(key, abroad)| concerns(key, abroad));
        abroad.map(|(key, abroad)| format!("{} {}", key.address, abroad.who)).collect()
    }

    /// The pod on another node that has a MAC, in words.
    pub(super) fn owner_abroad(&self, mac: Mac) -> Option<String> {
        let has = |abroad: &&Abroad| {
            let (key, known) = abroad.link.as_ref()?;
            known.map_or_else(|| mac.belongs_to(key), |known| known == mac).then_some(())
        };
        self.shared.abroad.values().find(|abroad| has(abroad).is_some()).map(|abroad| abroad.who.clone())
    }

    /// The addresses that other nodes hold.
    pub fn abroad(&self) -> &BTreeMap<AddressKey, Abroad> {
        &self.shared.abroad
    }
}
