//! From a hint to a verdict, from top to bottom: a hint makes the ledger ask for reads, the reads
//! become facts, the table makes a verdict of the facts, and the verdict is carried out.

use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::departure::Named;
use super::entry::{Phase, Slot};
use super::io::{
    Action, Flush, JournalWrite, KernelHint, LedgerError, NoteKind, Observation, SearchOutcome, Source, Step,
    Target,
};
use super::occupied::Place;
use super::reason::Reason;
use super::sight::{Bound, Where};
use super::wire::{GUARD_STAMP, ProbePurpose};
use crate::attachment::{AttachmentKey, Role};
use crate::evidence::{Departure, Epoch, Facts, Inhabitants, LinkFact, NetnsFact, SearchFact};
use crate::identity::{NetnsIdentity, Nsid};
use crate::time::Time;
use crate::verdict::{Next, Row, Verdict, judge};

/// While the kernel is at work, reads are repeated this soon at first, later less often.
const RECHECK_FIRST: Duration = Duration::from_millis(2);
const RECHECK_SOON: u32 = 50;
const RECHECK_LATER: Duration = Duration::from_millis(10);
const RECHECK_LATER_TIMES: u32 = 500;
const RECHECK_LAST: Duration = Duration::from_secs(1);
/// A link's teardown in a living namespace is read about this much later.
const AFTER_TEARDOWN: Duration = Duration::from_millis(50);
/// An incomplete search is repeated after this long, doubled up to the last.
const SEARCH_AGAIN: Duration = Duration::from_secs(1);

impl Ledger {
    /// A hint: something to look at.
    pub(super) fn hint(&mut self, now: Time, by: Source, hint: KernelHint) {
        match hint {
            KernelHint::LinkTornDown(key, with_namespace) => self.torn_down(now, by, &key, with_namespace),
            KernelHint::LinkLeaving(key) => {
                let text = format!("{by}: the link leaves its namespace");
                self.departed(now, by, &key, Departure::Moved, ("link-leaves", text));
            }
            KernelHint::DepartedTornDown(key) => {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.live.device_ended = true;
                }
                let text = format!("{by}: the link, which had left its namespace, is being torn down");
                self.departed(now, by, &key, Departure::Destroyed, ("link-torn-down", text));
            }
            KernelHint::LinkGone(at, ifindex, mac) => {
                self.link_disappears(Place { at, ifindex });
                self.link_gone(now, by, Named { at: at.or_else(|| self.own_number()), ifindex, mac });
            }
            KernelHint::LinkMoved(at, ifindex, mac) => {
                self.link_disappears(Place { at, ifindex });
                self.link_moved(now, by, Named { at: at.or_else(|| self.own_number()), ifindex, mac });
            }
            KernelHint::NamespaceGone(nsid) => {
                self.namespace_disappears(nsid);
                for key in self.keys_where(|_, at| at == nsid) {
                    self.namespace_ended(now, by, &key, format!("{by}: namespace {nsid} ended"));
                }
            }
            KernelHint::NamespaceEnded(keys) => {
                for key in keys {
                    self.namespace_ended(now, by, &key, format!("{by}: the namespace ended"));
                }
            }
            KernelHint::NamespacesEnding => self.unlearnt_soon(now),
            KernelHint::TaskExits(keys, pid) => self.task_exits(now, by, &keys, pid),
            KernelHint::AddressSeen(at, ifindex, address) => {
                if let Some(at) = at {
                    self.address_seen(now, at, ifindex, address);
                }
                self.address_appears(now, Place { at, ifindex }, address);
            }
            KernelHint::AddressGone(at, ifindex, address) => {
                let has = |entry: &super::entry::Entry| entry.addresses().contains(&address);
                for key in self.keys_where(|entry, place| Some(place) == at && has(entry)) {
                    self.gather_for_hint(now, &key, false);
                }
                self.address_disappears(Place { at, ifindex }, address);
            }
            KernelHint::Overrun => self.events_lost(now, by),
        }
    }

    /// The number of the agent's own namespace in itself, if the link of an attachment was followed there. Events of it
    /// carry none.
    fn own_number(&self) -> Option<Nsid> {
        let own = |slot: &&Slot| {
            self.is_of_this_boot(&slot.entry) && Some(slot.entry.identity().cookie) == self.place
        };
        self.slots.values().find(own).map(|slot| slot.entry.at)
    }

    fn keys_where(&self, test: impl Fn(&super::entry::Entry, Nsid) -> bool) -> Vec<AttachmentKey> {
        self.slots
            .iter()
            .filter(|(_, slot)| test(&slot.entry, slot.entry.at))
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(super) fn observe(&mut self, key: &AttachmentKey, code: &'static str, text: String) {
        let addresses = self.slots.get(key).map(|slot| slot.entry.addresses()).unwrap_or_default();
        self.note(NoteKind::Observation, code, addresses, Some(key), text);
    }

    /// Remembers the sources that reported an end, each source once.
    pub(super) fn told(&mut self, by: Source, key: &AttachmentKey) {
        if let Some(slot) = self.slots.get_mut(key)
            && !slot.live.told.contains(&by)
        {
            slot.live.told.push(by);
        }
    }

    /// A program saw the end of exactly this attachment's link, unless the link had left before: then another
    /// one was given its index.
    ///
    /// In a living namespace it is most often the DEL under way. Reads would hold up its teardown, and the
    /// address has to settle anyhow: they are made a little later.
    fn torn_down(&mut self, now: Time, by: Source, key: &AttachmentKey, with_namespace: bool) {
        let Some(slot) = self.slots.get(key) else { return };
        if slot.live.departure == Departure::Moved || !slot.entry.is_at_home() {
            return self.gather_for_hint(now, key, false);
        }
        // While netlink was deaf it may have moved unseen, and left its index to another: a search decides.
        let how = match slot.live.departure {
            Departure::EventsLost => Departure::EventsLost,
            Departure::Destroyed | Departure::Moved | Departure::Unheard => Departure::Destroyed,
        };
        let index = slot.entry.ifindex.map_or_else(String::new, |index| format!(" {index}"));
        let text = format!("{by}: link{index} is being torn down");
        let observed = ("link-torn-down", text);
        if with_namespace {
            return self.departed(now, by, key, how, observed);
        }
        self.depart(now, by, key, how, observed);
        if let Some(slot) = self.slots.get_mut(key) {
            let later = now + AFTER_TEARDOWN;
            slot.live.recheck_at = Some(slot.live.recheck_at.map_or(later, |at| at.min(later)));
        }
    }

    /// Wants an attachment read, and searched for, because of a hint, or when its share allows it.
    pub(super) fn gather_for_hint(&mut self, now: Time, key: &AttachmentKey, search: bool) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let pace = if search { &mut slot.live.searches } else { &mut slot.live.reads };
        if pace.take(now) {
            self.gather(key.clone(), search);
        }
    }

    /// The reads and searches that hints asked for and that were put off.
    pub(super) fn hints_due(&mut self, now: Time) {
        if self.full_reads.take_due(now) {
            self.reconcile();
        }
        let mut due = Vec::new();
        for (key, slot) in &mut self.slots {
            let (read, search) = (slot.live.reads.take_due(now), slot.live.searches.take_due(now));
            if read || search {
                due.push((key.clone(), search));
            }
        }
        for (key, search) in due {
            self.gather(key, search);
        }
    }

    fn namespace_ended(&mut self, now: Time, by: Source, key: &AttachmentKey, text: String) {
        if !self.slots.contains_key(key) {
            return;
        }
        self.told(by, key);
        self.observe(key, "netns-hint", text);
        self.gather_for_hint(now, key, false);
    }

    /// Some namespaces are about to end. Links that are known are reported one by one; those that were never
    /// learnt can only be looked after.
    fn unlearnt_soon(&mut self, now: Time) {
        for slot in self.slots.values_mut().filter(|slot| slot.entry.ifindex.is_none()) {
            slot.live.recheck_at.get_or_insert(now + RECHECK_LATER);
        }
    }

    /// Everything is read again. Only netlink reports moves by name: without its messages a link that is
    /// missing may have gone either way.
    fn events_lost(&mut self, now: Time, by: Source) {
        if by == Source::Netlink {
            self.departures_unheard();
            self.surveys.want_search();
        }
        // Another host may claim an address by now: each candidate is asked for again.
        self.hearings.missed(now, &format!("{by}: events were lost"));
        let text = format!("{by}: events were lost: everything is read again");
        self.note(NoteKind::Warning, "events-lost", Vec::new(), None, text);
        if self.full_reads.take(now) {
            self.reconcile();
        }
    }

    /// The link of a delegate's lease shows itself by its address.
    fn address_seen(&mut self, now: Time, at: Nsid, ifindex: u32, address: std::net::IpAddr) {
        let keys = self.keys_where(|entry, place| {
            place == at && entry.ifindex.is_none() && entry.addresses().contains(&address)
        });
        for key in keys {
            self.observe(&key, "link-learnt", format!("netlink: link {ifindex} got {address}"));
            self.gather_for_hint(now, &key, false);
        }
    }

    /// The namespace in which an attachment is read.
    pub(super) fn location(&self, slot: &Slot) -> Where {
        match slot.epoch(&self.me.boot_id, &self.me.machine_id) {
            Epoch::Same => slot.entry.location(self.place),
            Epoch::Rebooted | Epoch::OtherMachine => Where::Nowhere,
        }
    }

    /// The links of all attachments that are not known to have gone.
    pub(super) fn bound(&self) -> Bound {
        let links = self.slots.values().filter_map(|slot| {
            let (at, ifindex) = (self.location(slot).nsid()?, slot.entry.ifindex?);
            let certain = slot.live.departure == Departure::Unheard && at.is_drawn();
            let here = matches!(slot.live.departure, Departure::Unheard | Departure::EventsLost);
            here.then_some(((at, ifindex), certain))
        });
        Bound::new(links.collect())
    }

    /// Target of the reads about an attachment.
    pub(super) fn target(&self, key: &AttachmentKey, search: bool) -> Option<Target> {
        let slot = self.slots.get(key)?;
        let entry = &slot.entry;
        let netns = self.location(slot);
        let here = netns.nsid().is_some();
        let judged = match entry.phase {
            Phase::Held => false,
            _ if slot.live.vain => false,
            Phase::Releasing => !slot.live.committing,
            _ => true,
        };
        judged.then(|| Target {
            key: key.clone(),
            stamp: slot.live.stamp,
            netns,
            ifindex: entry.ifindex,
            macs: entry.macs(),
            fdb_parent: entry.fdb_parent.clone(),
            addresses: entry.addresses(),
            made_by_us: entry.role == Role::Main,
            search: search || !here,
            intent: slot.intent(),
            bound: Bound::default(),
        })
    }

    /// The reads are in.
    pub(super) fn gathered(&mut self, now: Time, observations: Vec<Observation>) {
        let asked = self.gathering.take().unwrap_or(now);
        for observation in observations {
            if observation.stamp == GUARD_STAMP {
                self.guarded(now, &observation);
                continue;
            }
            let Some(slot) = self.slots.get_mut(&observation.key) else { continue };
            if slot.live.stamp != observation.stamp {
                slot.outdated(&observation);
                self.gather_for_hint(now, &observation.key, observation.search.is_some());
                continue;
            }
            // What follows a removal is read after it: it may take a link that another ADD makes meanwhile.
            if slot.live.committing || slot.live.removing || slot.entry.phase == Phase::Held {
                continue;
            }
            if self.awaits_plugin(now, &observation.key) {
                continue;
            }
            self.compare_macs(now, &observation);
            let facts = self.facts((now, asked), &observation);
            let row = judge(&facts);
            self.carry_out((now, asked), &observation, &facts, row);
        }
    }

    /// The reads and what is remembered, as facts.
    fn facts(&mut self, (now, asked): (Time, Time), seen: &Observation) -> Facts {
        let Some(slot) = self.slots.get_mut(&seen.key) else { return Facts::UNKNOWN };
        if let Some((ifindex, mac)) = seen.learnt.filter(|_| seen.link == LinkFact::Present)
            && (slot.entry.ifindex, slot.entry.mac) != (Some(ifindex), Some(mac))
        {
            // A restart must know which link to look for, wherever it went.
            slot.entry.ifindex = Some(ifindex);
            slot.entry.mac = Some(mac);
            let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
            self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
        }
        self.compare_sources(seen);
        // What happened in a namespace before its number was known here was not heard.
        if seen.link == LinkFact::Present && seen.number.is_none() {
            self.arrived(&seen.key);
        }
        self.relearn(seen);
        let is_anothers = self.is_anothers(seen);
        let wire = self.wire_fact(asked, seen);
        let Some(slot) = self.slots.get_mut(&seen.key) else { return Facts::UNKNOWN };
        // A search of before the namespace's end did not see where the link was then.
        let stale = slot.live.search == SearchFact::NotFound && slot.live.departure == Departure::EventsLost;
        if seen.netns == NetnsFact::Dead && stale {
            slot.live.search = SearchFact::NotMade;
        }
        // The plugin of an open ADD has not made its link yet: that it is missing proves nothing.
        let unmade = slot.entry.phase.is_open() && slot.entry.ifindex.is_none() && !slot.entry.del_seen;
        match seen.link {
            LinkFact::OtherMac => slot.live.missing_since = None,
            LinkFact::Gone if matches!(seen.netns, NetnsFact::Alive | NetnsFact::Dead) && !unmade => {
                slot.live.missing_since.get_or_insert(now);
            }
            LinkFact::Present | LinkFact::Gone | LinkFact::NeverSeen | LinkFact::Unknown => {}
        }
        let link = if unmade && seen.link == LinkFact::Gone { LinkFact::NeverSeen } else { seen.link };
        if let Some(outcome) = &seen.search {
            slot.live.searched(outcome);
            if is_anothers {
                slot.live.search = SearchFact::Incomplete;
                slot.live.unsearched = Some("the link that was found is another attachment's".to_owned());
            }
        }
        let departure = match slot.live.departure {
            Departure::Unheard if !self.hears_all => Departure::EventsLost,
            // It was judged over before a restart, with the reports that were in by then.
            Departure::EventsLost
                if slot.entry.phase == Phase::Releasing && slot.live.search == SearchFact::NotFound =>
            {
                Departure::Destroyed
            }
            known => known,
        };
        let ended = departure == Departure::Destroyed
            || (departure == Departure::Unheard && seen.netns == NetnsFact::Dead);
        if ended && matches!(seen.search, Some(SearchOutcome::Found { marked: false, .. })) {
            // A MAC alone makes no link of a later one that of an attachment that has ended.
            slot.live.search = SearchFact::NotFound;
        }
        let settled = slot.live.missing_since.is_some_and(|since| now.since(since) >= slot.entry.settle);
        Facts {
            epoch: slot.epoch(&self.me.boot_id, &self.me.machine_id),
            netns: seen.netns,
            link,
            fdb: seen.fdb,
            departure,
            search: slot.live.search,
            address: seen.address,
            intent: slot.intent(),
            inhabitants: slot.live.inhabitants,
            wire,
            settled,
        }
    }

    /// True if the link that a search found may be that of another attachment, with a copied alias: by cookie
    /// and index, because its number may not be learnt yet, or, as it may have been moved, by its MAC.
    fn is_anothers(&self, seen: &Observation) -> bool {
        let Some(SearchOutcome::Found { netns, ifindex, mac, .. }) = &seen.search else { return false };
        let own = self.slots.get(&seen.key).is_some_and(|slot| slot.entry.macs().contains(mac));
        self.slots.values().filter(|slot| slot.entry.key != seen.key).any(|slot| {
            let gone = matches!(slot.live.departure, Departure::Moved | Departure::Destroyed);
            let entry = &slot.entry;
            let here = entry.ifindex == Some(*ifindex) && entry.identity().cookie == netns.cookie;
            self.is_of_this_boot(entry) && ((here && !gone) || (!own && entry.mac == Some(*mac)))
        })
    }

    /// The number of its namespace was learnt in another place of the agent's, and is learnt here.
    fn relearn(&mut self, seen: &Observation) {
        let (place, Some(nsid)) = (self.place, seen.number) else { return };
        let Some(slot) = self.slots.get_mut(&seen.key) else { return };
        let Where::Sought(netns) = slot.entry.location(place) else { return };
        slot.entry.is_in(NetnsIdentity { nsid, nsid_is_random: nsid.is_drawn(), ..netns }, place);
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
        self.gather(seen.key.clone(), false);
    }

    /// Two sources that disagree are an event, and the one that is wrong is asked to prove itself.
    fn compare_sources(&mut self, seen: &Observation) {
        let Some(slot) = self.slots.get(&seen.key) else { return };
        let live = &slot.live;
        let program = live.told.iter().find(|by| matches!(by, Source::Program(_)));
        let Some(by) = program.filter(|_| live.departure == Departure::Destroyed) else { return };
        let text = if seen.link == LinkFact::Present {
            format!("{by} told that the link is torn down, and a read shows it; nothing is freed")
        } else if live.suspect
            && self.hears_all
            && seen.netns == NetnsFact::Alive
            && !live.told.contains(&Source::Netlink)
        {
            // A suspect is read again after the settle time: by then netlink had its chance.
            format!("{by} told that the link is torn down, and netlink said nothing of it")
        } else {
            return;
        };
        let addresses = slot.entry.addresses();
        self.note(NoteKind::Warning, "sources-disagree", addresses, Some(&seen.key), text);
        self.out.push(Action::ProvePrograms);
    }

    /// Does what the row says. `asked`: when the reads behind the observation were asked for.
    fn carry_out(
        &mut self,
        (now, asked): (Time, Time),
        seen: &Observation,
        facts: &Facts,
        row: &'static Row,
    ) {
        let key = &seen.key;
        self.tell(now, key, facts, row);
        self.answer_repeats(key, facts);
        if facts.departure == Departure::Moved {
            self.remember_departure(key, Flush::Durable);
        }
        self.judged_for_gc(key, facts, row);
        if self.answer_operator(now, key, row) {
            return;
        }
        if matches!(row.verdict, Verdict::Keep | Verdict::Unknown) {
            self.revive(key);
        }
        match (row.verdict, row.next) {
            (Verdict::Release, _) => {
                self.ended(asked, key);
                self.forget_links_of(now, seen);
                self.release_proven(now, key, Reason::Row(row));
            }
            (Verdict::Quarantine, _) => {
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.live.quarantine = Some(Reason::Row(row));
                }
                self.finalize(now, key, Reason::Row(row));
            }
            (_, Next::RemoveLink) => {
                self.follow(now, seen);
                self.remove_link(key);
            }
            (_, Next::Follow) => self.follow(now, seen),
            (_, Next::Probe) => self.ask_about(now, key),
            (_, Next::ProbeChildren) => self.probe_children(now, key),
            (_, Next::Search) => self.search_later(now, key, facts.search),
            (_, Next::Settle) => {
                self.remember_departure(key, Flush::Lazy);
                if let Some(slot) = self.slots.get_mut(key) {
                    let since = slot.live.missing_since.unwrap_or(now);
                    slot.live.recheck_at = Some(since + slot.entry.settle);
                }
            }
            (_, Next::Recheck) => self.recheck(now, key),
            (_, Next::Wait) => {
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.live.rechecks = 0;
                    slot.live.recheck_at = None;
                }
            }
        }
    }

    /// Records the row and reports it, once for each change.
    fn tell(&mut self, now: Time, key: &AttachmentKey, facts: &Facts, row: &'static Row) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let steady = matches!(row.id, "link-present" | "link-never-seen");
        let reason = if steady && slot.entry.phase == Phase::Done { Reason::Bound } else { Reason::Row(row) };
        slot.live.suspect = row.verdict == Verdict::Suspect;
        slot.live.judged(now, row, facts.intent);
        if slot.live.reason == reason || (steady && slot.entry.phase.is_open()) {
            return;
        }
        slot.live.reason = reason;
        slot.live.since = now;
        let addresses = slot.entry.addresses();
        let first = match slot.live.told.first() {
            Some(by) => format!("; first told by {by}"),
            None if row.verdict == Verdict::Keep => String::new(),
            None => "; first told by reads".to_owned(),
        };
        let text = format!(
            "{}: {} (netns {:?}, link {:?}, fdb {:?}, departure {:?}, search {:?}, address {:?}){first}",
            row.verdict.word(),
            row.why,
            facts.netns,
            facts.link,
            facts.fdb,
            facts.departure,
            facts.search,
            facts.address
        );
        self.note(NoteKind::Verdict, row.id, addresses, Some(key), text);
    }

    /// An operator asked for this judgement. True if that ends it here.
    fn answer_operator(&mut self, now: Time, key: &AttachmentKey, row: &'static Row) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return true };
        if slot.live.operators.is_empty() {
            return false;
        }
        if matches!(row.verdict, Verdict::Keep | Verdict::Unknown) {
            let address = slot.entry.held.first().map(|held| held.address);
            for operator in std::mem::take(&mut slot.live.operators) {
                let evidence = format!("{} ({})", row.why, row.id);
                let error = match address {
                    Some(address) => LedgerError::Alive { address, key: key.clone(), evidence },
                    None => LedgerError::NotRecorded(key.clone()),
                };
                self.reply(operator, Step::Other, Err(error));
            }
            return false;
        }
        if row.next != Next::Settle {
            return false; // The judgement goes on; its end answers.
        }
        self.finalize(now, key, Reason::Operator);
        true
    }

    /// Reads that were asked for at `asked` proved the end of an attachment.
    fn ended(&mut self, asked: Time, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let macs: Vec<_> =
            slot.entry.macs().into_iter().chain(slot.live.mac_read.map(|read| read.mac)).collect();
        for held in &slot.entry.held {
            self.answers.ended(asked, held.key(), macs.clone());
        }
    }

    /// Proven over: handed over to an ADD in line, or deleted.
    fn release_proven(&mut self, now: Time, key: &AttachmentKey, reason: Reason) {
        if let Some((index, picks)) = self.heir(now, key) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.live.reason = reason;
            }
            self.reserve(now, index, &picks);
        } else if self.may_hold(key) {
            self.hold(now, key, reason);
        } else {
            self.finalize(now, key, reason);
        }
    }

    /// Takes note of where a moved link is now.
    fn follow(&mut self, now: Time, seen: &Observation) {
        let Some(SearchOutcome::Found { netns, ifindex, mac, .. }) = &seen.search else { return };
        let (ifindex, mac, at) = (*ifindex, *mac, netns.nsid);
        let (boot, place) = (self.me.boot_id.clone(), self.place);
        let Some(slot) = self.slots.get_mut(&seen.key) else { return };
        slot.entry.is_in(netns.clone(), place);
        slot.entry.ifindex = Some(ifindex);
        slot.entry.mac = Some(mac);
        slot.entry.boot_id = boot;
        slot.entry.departure = None;
        // Its events passed no filter while its place was not known: it is read once more.
        slot.live.departure = Departure::EventsLost;
        slot.live.device_ended = false;
        slot.live.gap = true;
        slot.live.search = SearchFact::NotMade;
        slot.live.missing_since = None;
        slot.live.recheck_at = Some(now + RECHECK_FIRST);
        slot.live.stamp += 1;
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        self.survey_at(at);
        self.observe(
            &seen.key,
            "link-found",
            format!("found as link {ifindex} in the namespace of number {at}"),
        );
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
    }

    fn recheck(&mut self, now: Time, key: &AttachmentKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.rechecks = slot.live.rechecks.saturating_add(1);
        let delay = match slot.live.rechecks {
            0..RECHECK_SOON => RECHECK_FIRST,
            RECHECK_SOON..RECHECK_LATER_TIMES => RECHECK_LATER,
            _ => RECHECK_LAST,
        };
        slot.live.recheck_at = Some(now + delay);
    }

    /// A first search at once; another one after an incomplete or fruitless one only later.
    fn search_later(&mut self, now: Time, key: &AttachmentKey, last: SearchFact) {
        if last == SearchFact::NotMade {
            return self.gather_for_hint(now, key, true);
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.search_again = true;
        if slot.live.recheck_at.is_some_and(|at| at > now) {
            // Reads without a search, which the reconcile makes, must not put it off.
            return;
        }
        slot.live.rechecks = slot.live.rechecks.saturating_add(1);
        slot.live.recheck_at = Some(now + SEARCH_AGAIN * 2_u32.pow(slot.live.rechecks.min(5)));
    }

    /// Asks the wire about the addresses of an attachment of a former boot.
    fn ask_about(&mut self, now: Time, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let device = self.config.networks.get(&key.network).map(|network| network.link.device());
        let Some(device) = device.or_else(|| slot.entry.fdb_parent.clone()) else { return };
        if self.probes.values().any(|purpose| matches!(purpose, ProbePurpose::Former(other) if other == key))
        {
            return;
        }
        let addresses = slot.entry.addresses();
        if self.hearings.is_known_deaf(&device) {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.live.recheck_at = Some(now + RECHECK_LAST);
            }
            return;
        }
        self.ask(device, ProbePurpose::Former(key.clone()), addresses, true);
    }

    /// A scan found a namespace left: its attachment is judged at once.
    pub(super) fn left(&mut self, key: &AttachmentKey) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live.inhabitants = Inhabitants::Left;
        }
        self.gather(key.clone(), false);
    }
}
