//! Repair before service: at start, and whenever the store has forgotten a living lease.
//!
//! Stores go back: a file is restored, deleted, or edited by hand. Then live addresses look free.
//! So before the first ADD is served every entry's record is seen to exist, every record is seen to
//! have an entry, and every Berth MAC on a parent is seen to be somebody's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::add::ORPHAN_GRACE;
use super::commit::Pending;
use super::entry::{Entry, Held, Live, Phase, Slot, fdb_parent};
use super::io::{
    Action, CommitResult, Flush, JournalWrite, Loaded, NoteKind, Step, StoreWrite, Stray, StrayLink,
};
use super::reason::Reason;
use crate::alloc::gives;
use crate::attachment::{AttachmentKey, Role};
use crate::config::{Network, Pool};
use crate::evidence::Departure;
use crate::identity::{NetnsIdentity, TxnId};
use crate::interval::Family;
use crate::mac::Mac;
use crate::name::{IfName, PoolName, SegmentName};
use crate::ports::Ports;
use crate::record::LeaseRecord;
use crate::time::Time;

/// The settle time of adopted leases with a network that is no longer declared.
const SETTLE_DEFAULT: Duration = Duration::from_secs(2);

/// State of the store for a record that should be there.
enum InStore {
    /// The record itself.
    There,
    /// The same attachment's, under the transaction of an ADD before: the store went back in time.
    Former(TxnId),
    /// Nothing, or another's.
    Missing,
}

impl Ledger {
    /// The journal and the store were read, and the node was searched.
    pub(super) fn load(&mut self, now: Time, loaded: Loaded) {
        let Loaded { entries, quarantine, records, strays, place, former_place, hears_all } = loaded;
        (self.place, self.former_place) = (place, former_place);
        self.hears_all = hears_all;
        let is_of_this_boot = |entry: &Entry| entry.boot_id == self.me.boot_id;
        if entries.iter().any(|entry| is_of_this_boot(entry) && entry.place != place) {
            let text = "the agent is in another network namespace than before: numbers of namespaces are learnt again";
            self.note(NoteKind::Warning, "namespace-changed", Vec::new(), None, text.to_owned());
        }
        self.tell_left_out(&Ports::default());
        for shut in quarantine {
            self.take(&shut.key);
            self.quarantine
                .insert(shut.key.clone(), super::Quarantined { heard_at: now, since: now, ..shut });
        }
        self.name_pools_of_quarantine();
        let mut entries = entries;
        entries.sort_by_key(|entry| entry.held.iter().map(|held| held.generation).max());
        for entry in entries {
            self.load_entry(now, entry);
        }
        self.drop_superseded();
        if self.shared.on {
            self.hold_again(now);
            self.shared.strays = strays;
            self.to_gather.extend(self.slots.keys().map(|key| (key.clone(), true)));
            return;
        }
        self.load_records(now, &records, strays);
    }

    /// The store was read for the first time: it and the journal are made to say the same.
    pub(super) fn load_records(&mut self, now: Time, records: &[LeaseRecord], strays: Vec<Stray>) {
        let mut vain = BTreeSet::new();
        for record in records {
            let generation = self.generations.entry(record.address_key()).or_insert(0);
            *generation = (*generation).max(record.generation);
            if self.is_foreign(&record.address_key(), record) {
                vain.extend(self.drop_vain_intent(now, record));
            }
        }
        // Only now: a record that a vain intent wrote is being deleted, and nobody's to adopt.
        for record in records.iter().filter(|record| !vain.contains(&record.txn)) {
            if self.is_foreign(&record.address_key(), record) {
                self.adopt_record(now, record);
            }
        }
        for stray in strays {
            self.adopt_stray(now, stray);
        }
        self.confirm_intents(records);
        let have: BTreeMap<_, _> =
            records.iter().map(|record| (record.address_key(), (&record.key, record.txn.clone()))).collect();
        self.rewrite_missing(|record| match have.get(&record.address_key()) {
            Some((_, txn)) if *txn == record.txn => InStore::There,
            Some((key, txn)) if **key == record.key => InStore::Former(txn.clone()),
            _ => InStore::Missing,
        });
        self.to_gather.extend(self.slots.keys().map(|key| (key.clone(), true)));
        self.serve_if_repaired(now);
    }

    /// Entries of which every address has a later holder are over.
    fn drop_superseded(&mut self) {
        let holders = &self.holders;
        for (key, slot) in &mut self.slots {
            slot.entry.held.retain(|held| holders.get(&held.key()) == Some(key));
        }
        let over: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.entry.held.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.slots.remove(&key);
            let journal = vec![JournalWrite::Remove(key)];
            self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
        }
    }

    /// An intent with records that all exist was carried out; only the note of it was lost.
    fn confirm_intents(&mut self, records: &[LeaseRecord]) {
        for slot in self.slots.values_mut().filter(|slot| slot.entry.phase == Phase::Intent) {
            let written = slot.entry.held.iter().all(|held| {
                records
                    .iter()
                    .any(|record| record.address_key() == held.key() && record.txn == slot.entry.txn)
            });
            if written {
                slot.entry.phase = Phase::Reserved;
            }
        }
    }

    /// An intent for an address that the store still has under another name never took effect: a hand-over
    /// that was journaled and not written. The former holder is adopted, and the heir asks again. What it did
    /// write is deleted; returns its transaction then.
    fn drop_vain_intent(&mut self, now: Time, record: &LeaseRecord) -> Option<TxnId> {
        let heir = self.holders.get(&record.address_key()).cloned()?;
        let slot = self.slots.remove(&heir)?;
        if slot.entry.phase != Phase::Intent {
            self.slots.insert(heir, slot);
            return None;
        }
        for held in &slot.entry.held {
            self.holders.remove(&held.key());
            self.give_back(now, &held.key());
        }
        let store = slot
            .entry
            .held
            .iter()
            .filter(|held| held.address != record.address)
            .map(|held| StoreWrite::Delete { address: held.key(), of: slot.entry.txn.clone() });
        let store = store.collect();
        let journal = vec![JournalWrite::Remove(heir)];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, store);
        Some(slot.entry.txn)
    }

    fn load_entry(&mut self, now: Time, entry: Entry) {
        let mut live = Live::unjudged(now, Reason::Restarted);
        live.departure = entry.departure.unwrap_or(Departure::EventsLost);
        live.gap = true;
        if entry.phase.is_open() {
            live.orphaned_at = Some(now + ORPHAN_GRACE);
        }
        for held in &entry.held {
            self.take(&held.key());
            self.holders.insert(held.key(), entry.key.clone());
            let generation = self.generations.entry(held.key()).or_insert(0);
            *generation = (*generation).max(held.generation);
        }
        self.slots.insert(entry.key.clone(), Slot { entry, live });
    }

    /// A record that no entry knows: adopted and judged, never simply deleted.
    pub(super) fn adopt_record(&mut self, now: Time, record: &LeaseRecord) {
        let address = record.address_key();
        if let Some(holder) = self.holders.get(&address).filter(|holder| **holder != record.key) {
            let text = format!("the store says {} and the agent's own file says {holder}", record.key);
            return self.note(
                NoteKind::Warning,
                "two-holders",
                vec![record.address],
                Some(&record.key),
                text,
            );
        }
        if self.is_superfluous(record) {
            return self.delete_superfluous(now, record);
        }
        let ending = |slot: &Slot| slot.live.committing || slot.entry.phase == Phase::Releasing;
        if self.shared.on && self.slots.get(&record.key).is_some_and(ending) {
            // Its end is under way without this address: that comes after it.
            return self.look_again(now, record.address_key());
        }
        let network = self.config.networks.get(&record.key.network);
        let settle = network.map_or(SETTLE_DEFAULT, |network| network.settle);
        let adopted = Entry::adopted(record, network.map(|network| &network.link), settle, self.former_place);
        let leaked_after = network.and_then(|network| network.leaked_after);
        let slot = self.slots.entry(record.key.clone()).or_insert_with(|| Slot {
            entry: Entry { held: Vec::new(), leaked_after, ..adopted.clone() },
            live: Live::unjudged(now, Reason::Adopted),
        });
        // The reason why this node does not know it is not known: perhaps the store went back, and the
        // address is another's now.
        slot.entry.exposed |= self.shared.on;
        for held in adopted.held {
            if slot.entry.held.iter().all(|known| known.key() != held.key()) {
                slot.entry.held.push(held);
            }
        }
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        self.holders.insert(address, record.key.clone());
        self.take(&record.address_key());
        let text = "a record that the agent did not know was adopted".to_owned();
        self.note(NoteKind::Action, "adopted", vec![record.address], Some(&record.key), text);
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
        self.gather(record.key.clone(), true);
    }

    /// True if the attachment has another address of that family: it was granted that one, and this record
    /// comes from a request of the same transaction that was given up and carried out late.
    fn is_superfluous(&self, record: &LeaseRecord) -> bool {
        self.slots.get(&record.key).is_some_and(|slot| {
            let mut held = slot.entry.held.iter();
            held.any(|held| {
                held.address != record.address
                    && Family::of(held.address) == Family::of(record.address)
                    && self.holders.get(&held.key()) == Some(&record.key)
            })
        })
    }

    fn delete_superfluous(&mut self, now: Time, record: &LeaseRecord) {
        let Some(slot) = self.slots.get(&record.key) else { return };
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        let store = vec![StoreWrite::Delete { address: record.address_key(), of: record.txn.clone() }];
        let text = "a record of an ADD that got another address is deleted".to_owned();
        self.note(NoteKind::Action, "record-superfluous", vec![record.address], Some(&record.key), text);
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, store);
        self.look_again(now, record.address_key());
    }

    pub(super) fn explains(&self, mac: Mac) -> bool {
        self.slots.values().any(|slot| slot.entry.mac == Some(mac) || slot.entry.macs().contains(&mac))
    }

    /// The pool of an address that a link of Berth's has: of the link's network, else of the port on which it is.
    /// A pool that was edited while the link lived goes on counting for it by its subnet.
    fn pool_of_link(
        &self,
        network: Option<&Network>,
        device: Option<&IfName>,
        address: IpAddr,
    ) -> Option<(PoolName, SegmentName)> {
        let own = |fits: &dyn Fn(&Pool) -> bool| {
            let mut pools = network.into_iter().flat_map(|network| &network.pools);
            pools.find_map(|name| {
                let pool = self.config.pools.get(name).filter(|pool| fits(pool))?;
                Some((name.clone(), pool.segment.clone()))
            })
        };
        let beside = || {
            let (pool, key) = self.member_on(&self.ports.of_device(device?)?, address)?;
            Some((pool, key.segment))
        };
        own(&|pool| gives(pool, address))
            .or_else(beside)
            .or_else(|| own(&|pool| pool.subnet.contains(address)))
    }

    /// The addresses that a stray link has of the pools, the first of each family: an attachment has no more, and a
    /// pod's root can add as many as it likes.
    fn held_by_stray(&mut self, network: Option<&Network>, stray: &Stray, found: &StrayLink) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        for &address in &found.addresses {
            let is_first = held.iter().all(|one| Family::of(one.address) != Family::of(address));
            let pool = self.pool_of_link(network, stray.parent.as_ref(), address);
            if let Some((pool, segment)) = pool.filter(|_| is_first) {
                let next = Held { pool, segment, address, generation: 0 };
                let generation = self.generations.entry(next.key()).or_insert(0);
                *generation += 1;
                held.push(Held { generation: *generation, ..next });
            }
        }
        held
    }

    /// False: an address of the link is another holder's in the books, or its addresses cannot be seen.
    /// Nothing may be handed out in addition to it before that is settled.
    pub(super) fn adopt_link(
        &mut self,
        now: Time,
        key: &AttachmentKey,
        stray: &Stray,
        found: &StrayLink,
    ) -> bool {
        if self.slots.contains_key(key) {
            return true; // Under another MAC, but in care already.
        }
        let (mac, network) = (stray.mac, self.config.networks.get(&key.network).cloned());
        let mut held = self.held_by_stray(network.as_ref(), stray, found);
        let ours = held.len();
        held.retain(|held| {
            !self.holders.contains_key(&held.key())
                && !self.quarantine.contains_key(&held.key())
                && !self.shared.abroad.contains_key(&held.key())
        });
        if held.is_empty() {
            return ours == 0 && !found.addresses.is_empty();
        }
        for held in &held {
            self.holders.insert(held.key(), key.clone());
            self.take(&held.key());
        }
        let cookie = found.cookie.unwrap_or(crate::identity::NetnsCookie(0));
        let entry = Entry {
            key: key.clone(),
            cni_network: key.network.clone(),
            role: Role::Main,
            txn: TxnId(format!("adopted-{mac}-{}", self.me.boot_id)),
            phase: Phase::Done,
            netns: NetnsIdentity {
                cookie,
                inode: found.inode,
                nsid: found.at,
                nsid_is_random: found.at_is_random,
            },
            at: found.at,
            moved: None,
            place: self.place,
            ifindex: Some(found.ifindex),
            mac: Some(mac),
            pod: None,
            held,
            fdb_parent: network.as_ref().and_then(|network| fdb_parent(&network.link, Role::Main)),
            settle: network.as_ref().map_or(SETTLE_DEFAULT, |network| network.settle),
            leaked_after: network.and_then(|network| network.leaked_after),
            del_seen: false,
            inhabited: false,
            exposed: false,
            departure: None,
            boot_id: self.me.boot_id.clone(),
            machine_id: self.me.machine_id.clone(),
        };
        let text = format!("link {} with {mac} was adopted by its alias", found.ifindex);
        self.note(NoteKind::Action, "adopted", entry.addresses(), Some(key), text);
        let live = Live::unjudged(now, Reason::Adopted);
        self.slots.insert(key.clone(), Slot { entry, live });
        true
    }

    /// Writes the records again that the store lost, for every attachment that is not about to end.
    fn rewrite_missing(&mut self, look: impl Fn(&LeaseRecord) -> InStore) {
        let mut repairs = Vec::new();
        for (key, slot) in &mut self.slots {
            let wanted =
                !matches!(slot.entry.phase, Phase::Releasing | Phase::Intent) && !slot.live.committing;
            let missing: Vec<_> = slot
                .entry
                .records(&self.me.node)
                .into_iter()
                .filter(|_| wanted)
                .filter_map(|record| match look(&record) {
                    InStore::There => None,
                    InStore::Former(of) => Some(StoreWrite::Replace { record: Box::new(record), of }),
                    InStore::Missing => Some(StoreWrite::Create(Box::new(record))),
                })
                .collect();
            if !missing.is_empty() {
                slot.entry.exposed |= missing.iter().any(|write| matches!(write, StoreWrite::Create(_)));
                slot.live.committing = true;
                repairs.push((key.clone(), slot.entry.clone(), missing));
            }
        }
        for (key, entry, store) in repairs {
            let addresses = entry.addresses();
            let text = "its record was missing from the store and is written again".to_owned();
            self.note(NoteKind::Action, "record-repaired", addresses, Some(&key), text);
            let journal = vec![JournalWrite::Put(Box::new(entry))];
            self.commit(Pending::Repair { key }, Step::Other, journal, Flush::Durable, store);
        }
    }

    /// Writes the records again that the store is said to have lost.
    pub(super) fn rewrite(&mut self, lost: impl Fn(&LeaseRecord) -> bool) {
        self.rewrite_missing(|record| if lost(record) { InStore::Missing } else { InStore::There });
    }

    /// A release that a crash cut short, of an attachment that shows life after all (an operator had
    /// forced it): its record may be gone, and is written again.
    pub(super) fn revive(&mut self, key: &AttachmentKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.entry.phase != Phase::Releasing || slot.live.committing {
            return;
        }
        slot.entry.phase = Phase::Done;
        slot.live.committing = true;
        let entry = slot.entry.clone();
        let text = "its release was cut short, and it shows life: it is kept".to_owned();
        self.note(NoteKind::Warning, "release-taken-back", entry.addresses(), Some(key), text);
        let store = self.creates(&entry);
        let ends = entry.del_seen;
        let journal = vec![JournalWrite::Put(Box::new(entry))];
        self.commit(
            Pending::Repair { key: key.clone() },
            Step::Other,
            journal.clone(),
            Flush::Durable,
            store,
        );
        if ends {
            // A DEL that came while it was being released is on the disk from now on.
            let then = Pending::Del { key: key.clone(), caller: None, at_once: false };
            self.commit(then, Step::Release, journal, Flush::Durable, Vec::new());
        }
    }

    pub(super) fn repaired(&mut self, now: Time, key: &AttachmentKey, result: &CommitResult) {
        let Some(slot) = self.slots.get_mut(key) else { return self.serve_if_repaired(now) };
        slot.live.committing = false;
        if let Some(text) = result.refusal() {
            let addresses = slot.entry.addresses();
            self.note(NoteKind::Warning, "not-repaired", addresses, Some(key), text);
            self.look_later(now, key);
        }
        self.gather(key.clone(), true);
        self.serve_if_repaired(now);
    }

    fn serve_if_repaired(&mut self, now: Time) {
        let repairing = self.pending.values().any(|pending| matches!(pending, Pending::Repair { .. }));
        if self.serving || repairing || (self.shared.on && !self.shared.read) {
            return;
        }
        self.serving = true;
        self.next_refill = Some(now);
        self.out.push(Action::Serve);
        self.serve_line(now);
    }
}
