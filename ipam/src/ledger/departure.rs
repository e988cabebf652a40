//! Departure of a link: the kernel's report of its end or its move, and the part of it that outlives a
//! restart.
//!
//! A reported end counts only for the very link of an attachment: its index in the namespace where it was
//! last read as there. A MAC proves no identity, because every pod's root can give it to a link of its own;
//! an event about a MAC elsewhere causes reads and a search, and nothing else.

use super::Ledger;
use super::commit::Pending;
use super::entry::{Phase, Slot};
use super::hidden::Listening;
use super::io::{Flush, JournalWrite, Observation, Source, Step};
use crate::attachment::AttachmentKey;
use crate::evidence::{Departure, LinkFact, SearchFact};
use crate::identity::Nsid;
use crate::mac::Mac;
use crate::time::Time;

/// A link as an event of netlink's names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub at: Option<Nsid>,
    pub ifindex: u32,
    pub mac: Option<Mac>,
}

impl Named {
    /// True if it is the very link of the attachment.
    fn is_of(&self, slot: &Slot) -> bool {
        let entry = &slot.entry;
        if self.at != Some(entry.at) {
            return false;
        }
        let same_mac = self.mac.is_none() || entry.mac.is_none() || entry.mac == self.mac;
        // An index stays with its link until an end or a move of it is reported.
        let unbroken = slot.live.departure == Departure::Unheard && !slot.live.gap;
        match entry.ifindex {
            Some(ifindex) => ifindex == self.ifindex && (same_mac || unbroken),
            None => self.mac.is_some() && entry.mac == self.mac,
        }
    }

    /// True if it has the MAC of the attachment's link, which every link can have.
    fn resembles(&self, slot: &Slot) -> bool {
        self.mac.is_some() && slot.entry.mac == self.mac
    }
}

impl Slot {
    /// A read that was under way when an event was reported. If it shows the link, the end that was reported
    /// is that of this very link: it was there after the events that were lost.
    pub(super) fn outdated(&mut self, seen: &Observation) {
        if seen.link == LinkFact::Present
            && self.live.gone_in_gap
            && self.live.departure == Departure::EventsLost
        {
            self.live.departure = Departure::Destroyed;
        }
    }
}

impl Ledger {
    /// The attachments of which `test` holds.
    pub(super) fn keys_of(&self, test: impl Fn(&Slot) -> bool) -> Vec<AttachmentKey> {
        self.slots.iter().filter(|(_, slot)| test(slot)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes netlink's report that a link was deleted.
    pub(super) fn link_gone(&mut self, now: Time, by: Source, link: Named) {
        for key in self.keys_of(|slot| link.is_of(slot)) {
            let Some(how) = self.deleted_as(&key, by) else { continue };
            let text = format!("{by}: link {} was deleted", link.ifindex);
            self.departed(now, by, &key, how, ("link-deleted", text));
        }
        self.look_for_likes(now, link);
    }

    /// Takes netlink's report that a link went to another namespace.
    pub(super) fn link_moved(&mut self, now: Time, by: Source, link: Named) {
        for key in self.keys_of(|slot| link.is_of(slot)) {
            let text = format!("{by}: link {} went to another namespace", link.ifindex);
            // With the addresses that its pod added.
            self.surveys.want_search();
            self.departed(now, by, &key, Departure::Moved, ("link-moved", text));
            self.remember_departure(&key, Flush::Durable);
            self.gather_for_hint(now, &key, true);
        }
        self.look_for_likes(now, link);
    }

    /// A link with the MAC of a missing one went or moved elsewhere: where that one is may be seen now.
    fn look_for_likes(&mut self, now: Time, link: Named) {
        let missing = |slot: &Slot| slot.live.departure != Departure::Unheard;
        for key in self.keys_of(|slot| !link.is_of(slot) && link.resembles(slot)) {
            let search = self.slots.get(&key).is_some_and(missing);
            self.gather_for_hint(now, &key, search);
        }
    }

    /// The meaning of netlink's word that the link of an attachment was deleted; `None`: the old namespace repeats
    /// a move, or another link has its index since it left.
    fn deleted_as(&self, key: &AttachmentKey, by: Source) -> Option<Departure> {
        let slot = self.slots.get(key)?;
        match slot.live.departure {
            // While netlink was deaf the link may have moved, and left its index to another: a search
            // decides.
            Departure::EventsLost => return Some(Departure::EventsLost),
            Departure::Destroyed | Departure::Unheard => return Some(Departure::Destroyed),
            Departure::Moved => {}
        }
        // A program alone reported that it left, and may have meant a queueing discipline. Netlink reports a
        // move before it reports a later link with that index, so its first report is about this link.
        let first = !slot.live.gap && !slot.live.told.contains(&by);
        first.then_some(Departure::Destroyed)
    }

    /// The kernel reported that a link was deleted or went away.
    pub(super) fn departed(
        &mut self,
        now: Time,
        by: Source,
        key: &AttachmentKey,
        how: Departure,
        observed: (&'static str, String),
    ) {
        if self.depart(now, by, key, how, observed) {
            self.gather_for_hint(now, key, false);
        }
    }

    /// Takes note of it; whether there is such an attachment.
    pub(super) fn depart(
        &mut self,
        now: Time,
        by: Source,
        key: &AttachmentKey,
        how: Departure,
        observed: (&'static str, String),
    ) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let was_moved = slot.live.departure == Departure::Moved;
        slot.live.departure = if slot.live.device_ended { Departure::Destroyed } else { how };
        // Only an end is reported like that: a move is known as one.
        slot.live.gone_in_gap |= how == Departure::EventsLost;
        slot.live.search = SearchFact::NotMade;
        slot.live.listening = Listening::Unasked;
        slot.live.stamp += 1;
        if was_moved && slot.live.departure != Departure::Moved {
            // It was elsewhere until now.
            slot.live.missing_since = None;
        }
        slot.live.missing_since.get_or_insert(now);
        self.told(by, key);
        self.observe(key, observed.0, observed.1);
        true
    }

    /// Netlink lost events: a link that was read as there may have gone either way since. Earlier reports
    /// stay true.
    pub(super) fn departures_unheard(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| !slot.live.device_ended) {
            slot.live.gap = true;
            if slot.live.departure == Departure::Unheard {
                slot.live.departure = Departure::EventsLost;
            }
        }
    }

    /// The link was read as there: no earlier report is about it.
    pub(super) fn arrived(&mut self, key: &AttachmentKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.link_is_there();
        self.remember_departure(key, Flush::Lazy);
    }

    /// Journals how the link went, if the journal does not say so yet. An entry with a write under way is left for
    /// the next judgement: a write after its removal would bring it back.
    pub(super) fn remember_departure(&mut self, key: &AttachmentKey, flush: Flush) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let how = match slot.live.departure {
            Departure::Unheard => None,
            Departure::EventsLost => return,
            told => Some(told),
        };
        if slot.entry.departure == how || slot.live.committing || slot.entry.phase == Phase::Releasing {
            return;
        }
        slot.entry.departure = how;
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        self.commit(Pending::Nothing, Step::Other, journal, flush, Vec::new());
    }
}
