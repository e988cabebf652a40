//! The wire's veto: an address that answers is never handed out. Silence proves nothing alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::attend::Attended;
use super::commit::Pending;
use super::entry::{Guard, Quarantined};
use super::hearing::Concluded;
use super::io::{
    Action, Flush, HeardOnWire, JournalWrite, NoteKind, Observation, ProbeResult, SearchOutcome, Step, Target,
};
use super::line::Stage;
use super::pools::{Pick, pool_giving};
use super::reason::Reason;
use super::sight::{Bound, Where};
use crate::attachment::AttachmentKey;
use crate::evidence::{Claim, FdbFact, Intent, WireFact};
use crate::identity::TxnId;
use crate::interval::Family;
use crate::limit::Limiter;
use crate::mac::Mac;
use crate::name::{IfName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// A quarantined address is asked for this often, and free again when silent for as long.
const QUARANTINE_CHECK: Duration = Duration::from_secs(2);
/// The stamp of reads about former holders: an attachment of the same key may be there again.
pub(super) const GUARD_STAMP: u64 = u64::MAX;
/// A link under the parent that claimed a quarantined address has given it up after so many rounds in a row
/// that it heard and did not answer. A busy macvlan may lose the broadcasts of one round without a report to
/// the sender.
const REACHED_ROUNDS: u8 = 3;
/// A second holder is reported again after this long.
const CONFLICT_AGAIN: Duration = Duration::from_secs(10);
/// An ADD asks again this long after probes that proved nothing.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Number of addresses that are quarantined unasked; a host may claim a whole IPv6 subnet.
const QUARANTINE_MAX: usize = 4096;
/// Number of MACs with claims to one quarantined address that are remembered, the first ones.
const SPEAKERS_MAX: usize = 8;
/// Number of MACs that are remembered as having answered.
const ANSWERERS_MAX: usize = 1024;
/// Number of addresses that are remembered with their former holders, and the least time for that: a round of
/// probes that began while the holder lived is over by then.
const FORMER_MAX: usize = 4096;
const FORMER_KEPT: Duration = Duration::from_mins(1);

/// Reason why the wire was asked.
#[derive(Debug, Clone)]
pub enum ProbePurpose {
    /// Candidates are made ready.
    Ahead(PoolName),
    /// An ADD waits.
    Add {
        /// Transaction of the ADD.
        txn: TxnId,
        /// Candidates that are probed.
        picks: Vec<Pick>,
    },
    /// Is a quarantined address silent by now?
    Quarantine(AddressKey),
    /// Does an address of a former boot answer?
    Former(AttachmentKey),
    /// Does a link that left the sight of every search answer for an address of its attachment?
    Hidden(AttachmentKey),
    /// Is the MAC that an ADD asks for another station's?
    Mac(TxnId),
    /// Search for another host with an address of an ADD, after its link is made.
    Bind(AttachmentKey),
    /// Does another host answer for addresses of attachments, after a gap of hearing?
    Attend(Attended),
}

/// MACs that answered, with their addresses.
#[derive(Debug, Clone)]
pub struct Answers {
    by_mac: BTreeMap<Mac, BTreeSet<AddressKey>>,
    proxies: BTreeSet<Mac>,
    /// Second holders that were reported.
    conflicts: Limiter<(AddressKey, Mac)>,
    former: BTreeMap<AddressKey, Former>,
}

impl Default for Answers {
    fn default() -> Self {
        let conflicts = Limiter::new(1, CONFLICT_AGAIN);
        Self { by_mac: BTreeMap::new(), proxies: BTreeSet::new(), conflicts, former: BTreeMap::new() }
    }
}

/// The last holder of an address, with a proven end.
#[derive(Debug, Clone)]
struct Former {
    /// A moment before the reads that proved the end.
    ended: Time,
    macs: Vec<Mac>,
}

impl Answers {
    pub(super) fn add(&mut self, mac: Mac, address: AddressKey) {
        if self.by_mac.len() >= ANSWERERS_MAX {
            self.by_mac.pop_first();
        }
        self.by_mac.entry(mac).or_default().insert(address);
    }

    /// MACs that answered for an address.
    pub fn of(&self, address: &AddressKey) -> Vec<Mac> {
        self.by_mac.iter().filter(|(_, set)| set.contains(address)).map(|(mac, _)| *mac).collect()
    }

    /// True if a MAC answers for an address that a live lease holds under another MAC.
    pub fn is_proxy(&self, mac: Mac) -> bool {
        self.proxies.contains(&mac)
    }

    /// Takes note that a MAC claims an address that another holds. True if that shall be reported (again). A
    /// host that sends frames chooses their MACs, so the memory of them is bounded.
    pub fn is_news(&mut self, now: Time, address: &AddressKey, mac: Mac) -> bool {
        self.add(mac, address.clone());
        if self.proxies.len() >= ANSWERERS_MAX {
            self.proxies.pop_first();
        }
        self.proxies.insert(mac);
        self.conflicts.admit(now, (address.clone(), mac), ()).is_some()
    }

    /// The holder of an address ended: reads that began at `ended` proved it.
    pub fn ended(&mut self, ended: Time, address: AddressKey, macs: Vec<Mac>) {
        if self.former.len() >= FORMER_MAX {
            self.former.retain(|_, former| ended.since(former.ended) < FORMER_KEPT);
        }
        // What is forgotten early costs a needless quarantine, never an address.
        if self.former.len() >= FORMER_MAX {
            self.former.pop_first();
        }
        self.former.insert(address, Former { ended, macs });
    }

    /// True if a claim is that of the former holder of this same address, from its lifetime: it says nothing
    /// of the present.
    pub(super) fn is_former(&self, address: &AddressKey, claim: Claim) -> bool {
        self.former
            .get(address)
            .is_some_and(|former| claim.at <= former.ended && former.macs.contains(&claim.mac))
    }
}

impl Quarantined {
    /// Time of the next question for it.
    pub fn wakes_at(&self) -> Option<Time> {
        Some(self.heard_at + QUARANTINE_CHECK)
    }
}

impl Ledger {
    /// Asks the wire on a device about addresses.
    pub(super) fn ask(
        &mut self,
        device: IfName,
        purpose: ProbePurpose,
        addresses: Vec<IpAddr>,
        urgent: bool,
    ) {
        let id = self.id();
        // A link under the device that hears a solicitation for its tentative IPv6 address takes that for a
        // duplicate, and one that detects conflicts does so with an ARP probe for an address that it is about to
        // use: so links hear only probes for addresses that no lease can have, or none but that of a link which is to be
        // found.
        let reach = matches!(&purpose, ProbePurpose::Hidden(_))
            || matches!(&purpose, ProbePurpose::Quarantine(key) if key.address.is_ipv4());
        self.hearings.asked(id, device.clone());
        self.probes.insert(id, purpose);
        self.out.push(Action::Probe { id, device, addresses, urgent, reach });
    }

    /// A round of probes is over.
    pub(super) fn probed(&mut self, now: Time, id: u64, result: ProbeResult) {
        let Some(purpose) = self.probes.remove(&id) else { return };
        let Some(Concluded { device, result, reached }) = self.hearings.concluded(id, result) else { return };
        match purpose {
            ProbePurpose::Ahead(pool) => self.probed_ahead(now, &device, &pool, result),
            ProbePurpose::Add { txn, picks } => self.probed_for_add(now, &device, &txn, picks, result),
            ProbePurpose::Quarantine(key) => self.probed_quarantine(now, &device, &key, result, reached),
            ProbePurpose::Former(key) => self.probed_former(now, &device, &key, result),
            ProbePurpose::Bind(key) => self.probed_bind(now, &device, &key, result),
            ProbePurpose::Attend(attended) => self.attended(now, &device, attended, result),
            ProbePurpose::Hidden(key) => self.probed_children(now, &device, &key, result, reached),
            ProbePurpose::Mac(txn) => self.probed_mac(now, &txn, result),
        }
    }

    fn is_veto(&self, mac: Mac) -> bool {
        !self.config.networks.values().any(|network| network.proxy_macs.contains(&mac))
    }

    /// The MACs with claims to an address that keep it from being given.
    pub(super) fn vetoes(&self, address: &AddressKey, claims: &[Claim]) -> Vec<Mac> {
        let counts = |claim: &&Claim| self.is_veto(claim.mac) && !self.answers.is_former(address, **claim);
        claims.iter().filter(counts).map(|claim| claim.mac).take(SPEAKERS_MAX).collect()
    }

    fn probed_ahead(&mut self, now: Time, device: &IfName, pool: &PoolName, result: ProbeResult) {
        let Some(state) = self.pools.get_mut(pool) else { return };
        let ProbeResult::Heard(answers) = result else {
            return state.probing.clear();
        };
        for (address, _) in &answers {
            state.probing.remove(address);
        }
        for (address, claims) in answers {
            let key =
                self.config.pools.get(pool).map(|pool| AddressKey { segment: pool.segment.clone(), address });
            let Some(key) = key else { continue };
            let macs = self.vetoes(&key, &claims);
            if macs.is_empty() {
                self.silence_of(now, device, pool, &key);
            } else if self.pools.get(pool).is_some_and(|state| state.free.is_free(address)) {
                self.take(&key);
                self.shut(now, pool.clone(), key, macs, None, Reason::Answers);
            }
        }
        self.serve_line(now);
    }

    fn probed_for_add(
        &mut self,
        now: Time,
        device: &IfName,
        txn: &TxnId,
        picks: Vec<Pick>,
        result: ProbeResult,
    ) {
        let index = self.line.iter().position(|waiter| waiter.request.txn == *txn);
        let answers = match result {
            ProbeResult::Heard(answers) => answers,
            ProbeResult::Failed(why) => {
                for pick in &picks {
                    self.return_unused(&pick.key);
                }
                if let Some(waiter) = index.and_then(|index| self.line.get_mut(index)) {
                    waiter.ask_later(now + ASK_AGAIN, why);
                }
                return self.serve_line(now);
            }
        };
        // An interface that has the address already may announce it just now: that is not a stranger.
        let own = index
            .and_then(|index| self.line.get(index))
            .and_then(|waiter| waiter.request.mac.filter(|_| waiter.request.adopt));
        let network = index.and_then(|index| self.config.networks.get(&self.line[index].request.key.network));
        let port = network.map(|network| self.port_of(network));
        let mut chosen: Vec<Pick> = Vec::new();
        for pick in picks {
            let claims = answers.iter().find(|(address, _)| *address == pick.key.address);
            let claims = claims.map(|(_, claims)| claims.as_slice()).unwrap_or_default();
            let mut macs = self.vetoes(&pick.key, claims);
            macs.retain(|mac| Some(*mac) != own);
            let family = Family::of(pick.key.address);
            if self.is_taken(&pick.key) {
                // Another node was faster.
            } else if port.as_ref().is_some_and(|port| self.is_shadowed(port, &pick.key)) {
                self.return_unused(&pick.key);
            } else if !macs.is_empty() {
                self.avoid(txn, pick.key.address);
                self.shut(now, pick.pool, pick.key, macs, None, Reason::Answers);
            } else if index.is_none() || chosen.iter().any(|other| Family::of(other.key.address) == family) {
                self.return_unused(&pick.key);
                self.silence_of(now, device, &pick.pool, &pick.key);
            } else {
                chosen.push(pick);
            }
        }
        let Some(index) = index else { return self.serve_line(now) };
        let request = self.line.get(index).map(|waiter| &waiter.request);
        let families = request.and_then(|request| {
            let network = self.network(request).ok()?;
            Some(self.families(network, request).len())
        });
        let families = families.unwrap_or(0);
        // A record of the same attachment may have come to light meanwhile: that is judged first.
        let known = self.line.get(index).is_some_and(|waiter| {
            self.slots.contains_key(&waiter.request.key) || self.is_mac_held(&waiter.request, None)
        });
        if chosen.len() == families && !known {
            self.reserve(now, index, &chosen);
        } else {
            for pick in chosen {
                self.return_unused(&pick.key);
                self.silence_of(now, device, &pick.pool, &pick.key);
            }
            if let Some(waiter) = self.line.get_mut(index) {
                waiter.stage = Stage::InLine;
            }
        }
        // Candidates that were asked for and not needed are free again, perhaps for others in line.
        self.serve_line(now);
    }

    /// `reached`: the links under the device heard the probes.
    fn probed_quarantine(
        &mut self,
        now: Time,
        device: &IfName,
        key: &AddressKey,
        result: ProbeResult,
        reached: bool,
    ) {
        let ProbeResult::Heard(answers) = result else {
            if let Some(shut) = self.quarantine.get_mut(key) {
                (shut.heard_at, shut.unanswered) = (now, 0);
            }
            return;
        };
        let claims: Vec<_> = answers.into_iter().flat_map(|(_, claims)| claims).collect();
        let mut macs = self.vetoes(key, &claims);
        let Some(shut) = self.quarantine.get(key) else { return };
        if !macs.is_empty() {
            // Links under the parent may not have heard the round: those that spoke before are not silent.
            let others: Vec<_> = shut.macs.iter().copied().filter(|mac| !macs.contains(mac)).collect();
            macs.extend(self.local_among(&shut.pool, others.into_iter()));
            macs.truncate(SPEAKERS_MAX);
        }
        let Some(shut) = self.quarantine.get_mut(key) else { return };
        if let Some(guard) = shut.guard.as_ref().filter(|_| macs.is_empty()) {
            self.guards.insert(guard.holder.clone());
            return;
        }
        if macs.is_empty() {
            shut.unanswered = if reached { shut.unanswered.saturating_add(1) } else { 0 };
            let shut = shut.clone();
            let given_up = shut.unanswered >= REACHED_ROUNDS;
            if !given_up && self.local_speaker(&shut).is_some() {
                if let Some(kept) = self.quarantine.get_mut(key) {
                    kept.heard_at = now;
                }
                return;
            }
            let pool = shut.pool;
            self.readmitted(now, key, "silent: it may be handed out again");
            self.silence_of(now, device, &pool, key);
            self.serve_line(now);
        } else {
            (shut.heard_at, shut.unanswered) = (now, 0);
            shut.macs = macs;
        }
    }

    /// A pool may be declared under another name than before.
    pub(super) fn name_pools_of_quarantine(&mut self) {
        for shut in self.quarantine.values_mut() {
            let now = pool_giving(&self.config, &shut.pool, &shut.key).cloned();
            shut.pool = now.unwrap_or_else(|| shut.pool.clone());
        }
    }

    /// Ends the quarantine of an address.
    fn readmitted(&mut self, now: Time, key: &AddressKey, why: &str) {
        self.quarantine.remove(key);
        for set in self.answers.by_mac.values_mut() {
            set.remove(key);
        }
        self.give_back(now, key);
        let journal = vec![JournalWrite::Unquarantine(key.clone())];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
        self.note_of(NoteKind::Action, "quarantine-ended", key, why.to_owned());
    }

    /// Targets of reads about former holders with addresses that are kept back.
    pub(super) fn guard_targets(&mut self) -> Vec<Target> {
        let wanted = std::mem::take(&mut self.guards);
        let guards = self.quarantine.values().filter_map(|shut| shut.guard.as_ref());
        let mut targets: Vec<Target> = Vec::new();
        for guard in guards.filter(|guard| wanted.contains(&guard.holder)) {
            if !targets.iter().any(|target| target.key == guard.holder) {
                targets.push(Target {
                    key: guard.holder.clone(),
                    stamp: GUARD_STAMP,
                    netns: Where::Nowhere,
                    ifindex: None,
                    macs: guard.macs.clone(),
                    fdb_parent: guard.fdb_parent.clone(),
                    addresses: Vec::new(),
                    made_by_us: false,
                    search: true,
                    intent: Intent::Live,
                    bound: Bound::default(),
                });
            }
        }
        targets
    }

    /// The kernel was asked about a former holder: if no list and no namespace shows its link, the
    /// wire alone decides from now on.
    pub(super) fn guarded(&mut self, now: Time, seen: &Observation) {
        let gone = matches!(seen.fdb, FdbFact::Absent | FdbFact::Blind)
            // The operator that forced the release answers for links that no search can reach.
            && matches!(seen.search, Some(SearchOutcome::NotFound | SearchOutcome::Unexplained(_)));
        let unsearched = match &seen.search {
            Some(SearchOutcome::Incomplete(why)) => Some(why),
            _ => None,
        };
        for shut in self.quarantine.values_mut() {
            let Some(guard) = shut.guard.as_mut().filter(|guard| guard.holder == seen.key) else { continue };
            guard.unsearched = unsearched.cloned();
            shut.heard_at = now;
            if gone {
                shut.guard = None;
            }
        }
    }

    fn probed_former(&mut self, now: Time, device: &IfName, key: &AttachmentKey, result: ProbeResult) {
        let span = self.hearings.span(device);
        let Some(slot) = self.slots.get_mut(key) else { return };
        match result {
            ProbeResult::Failed(why) => {
                slot.live.recheck_at = Some(now + Duration::from_secs(1));
                let addresses = slot.entry.addresses();
                self.note(NoteKind::Warning, "wire-unasked", addresses, Some(key), why);
            }
            ProbeResult::Heard(answers) => {
                let mut answered = false;
                for (address, claims) in answers {
                    let held = self.slots.get(key).and_then(|slot| slot.entry.held_key(address));
                    let Some(held) = held else { continue };
                    for mac in self.vetoes(&held, &claims) {
                        answered = true;
                        self.answers.add(mac, held.clone());
                    }
                }
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.live.wire = if answered { WireFact::Answered } else { WireFact::Silent };
                    slot.live.heard_alone = span.filter(|_| !answered);
                }
                self.gather(key.clone(), false);
            }
        }
    }

    /// Takes a free address out of circulation.
    pub(super) fn shut(
        &mut self,
        now: Time,
        pool: PoolName,
        key: AddressKey,
        macs: Vec<Mac>,
        guard: Option<Guard>,
        reason: Reason,
    ) {
        self.take(&key);
        for mac in &macs {
            self.note_speaker(&key, *mac);
            self.answers.add(*mac, key.clone());
        }
        let text = match &guard {
            Some(guard) => format!("not handed out until the interface of {} is gone", guard.holder),
            None => format!("not handed out: answered by {}", self.names_of(&macs)),
        };
        self.note_of(NoteKind::Action, "quarantined", &key, text);
        let shut = Quarantined {
            key: key.clone(),
            pool,
            macs,
            reason: reason.code().to_owned(),
            guard,
            heard_at: now,
            since: now,
            unanswered: 0,
        };
        let journal = vec![JournalWrite::Quarantine(Box::new(shut.clone()))];
        self.quarantine.insert(key, shut);
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
    }

    pub(super) fn recheck_quarantine(&mut self, now: Time) {
        let asked: BTreeSet<_> = self
            .probes
            .values()
            .filter_map(|purpose| match purpose {
                ProbePurpose::Quarantine(key) => Some(key.clone()),
                _ => None,
            })
            .collect();
        let due: Vec<_> = self
            .quarantine
            .values()
            .filter(|shut| shut.wakes_at().is_some_and(|at| at <= now) && !asked.contains(&shut.key))
            .map(|shut| (shut.key.clone(), shut.pool.clone()))
            .collect();
        for (key, pool) in due {
            let device = self.device_for(&pool, &key.segment);
            if let Some(shut) = self.quarantine.get_mut(&key) {
                shut.heard_at = now;
            }
            let Some(device) = device else {
                self.unasked(now, &key);
                continue;
            };
            if self.hearings.deaf(&device).is_none() {
                let addresses = vec![key.address];
                self.ask(device, ProbePurpose::Quarantine(key), addresses, false);
            }
        }
    }

    /// No port of this node gives a quarantined address by now, or its wire cannot be asked: what was heard
    /// says nothing of a port that gives it later, where it is asked for first. A former holder is still
    /// to be seen gone, and so is a link of this node that spoke for it, because no port hears that.
    fn unasked(&mut self, now: Time, key: &AddressKey) {
        let Some(shut) = self.quarantine.get(key) else { return };
        if let Some(guard) = &shut.guard {
            self.guards.insert(guard.holder.clone());
        } else if self.local_speaker(shut).is_none() {
            self.readmitted(now, key, "no wire of this node can be asked about it");
            self.serve_line(now);
        }
    }

    /// Takes a claim to an address.
    pub(super) fn heard(&mut self, now: Time, heard: &HeardOnWire) {
        let port = self.ports.port_of(&heard.wire);
        if let Some(key) = self.ports.named(&self.config, &port, heard.address) {
            self.note_speaker(&key, heard.mac);
        }
        if !self.is_veto(heard.mac) {
            return;
        }
        let holders = self.holders_on(&port, heard.address);
        for (key, holder) in &holders {
            self.children_spoke(holder, || format!("{} spoke for {}", heard.mac, heard.address));
            self.heard_holder(now, holder, key, heard);
        }
        let Some((pool, key)) = self.member_on(&port, heard.address) else { return };
        if !holders.is_empty() {
            // Its holder may have it in another segment.
            return self.hearings.spoken(&key);
        }
        if let Some(shut) = self.quarantine.get_mut(&key) {
            (shut.heard_at, shut.unanswered) = (now, 0);
            if shut.macs.len() < SPEAKERS_MAX && !shut.macs.contains(&heard.mac) {
                shut.macs.push(heard.mac);
            }
            return;
        }
        if !self.answers.is_former(&key, heard.claim())
            && self.pools.get(&pool).is_some_and(|state| state.free.is_free(key.address))
        {
            let local = self.local_link(heard.mac, Some(&BTreeSet::from([heard.wire.clone()]))).is_some();
            if self.shared.on && heard.mac.is_berth() && !local {
                // Another node's new pod, most likely, which the watch is about to report.
                self.look_again(now, key.clone());
            } else if self.quarantine.len() < QUARANTINE_MAX {
                return self.shut(now, pool, key, vec![heard.mac], None, Reason::Heard);
            }
            // It is asked for again before any ADD gets it.
            self.hearings.spoken(&key);
        }
    }

    /// MACs in words, each with the pod that is known to have it, here or on another node.
    pub(super) fn names_of(&self, macs: &[Mac]) -> String {
        let name = |mac: &Mac| match self.owner_of(*mac) {
            Some(owner) => format!("{mac} of {owner}"),
            None => mac.to_string(),
        };
        macs.iter().map(name).collect::<Vec<_>>().join(" and ")
    }

    fn owner_of(&self, mac: Mac) -> Option<String> {
        let slot = self.slots.values().find(|slot| slot.entry.macs().contains(&mac));
        slot.map(|slot| slot.entry.holder()).or_else(|| self.owner_abroad(mac))
    }
}
