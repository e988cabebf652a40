//! The ledger: the holder of each address, the facts that are known of it, and the conclusions from them.
//!
//! A state machine without I/O: [`Ledger::step`] takes one input and the time, and returns actions.
//! The same code runs in the agent, in property tests and in a simulator. It never acts on a hint;
//! a hint makes it ask for reads, and the reads go through the verdict table.
//!
//! The flow of an ADD is in `add.rs` from top to bottom, that of a DEL in `del.rs`, that of a
//! verdict in `judgement.rs`. Invariants: an address has at most one holder; every address with a
//! holder has a journaled entry before its record is written; a record is deleted only after the
//! table said so.

mod access;
mod add;
mod admin;
mod attend;
mod commit;
mod config;
pub mod confirm;
pub mod conflict;
mod del;
mod departure;
pub mod entry;
mod error;
mod gc;
pub mod hearing;
pub mod hidden;
mod hold;
pub mod io;
mod judgement;
pub mod leak;
mod line;
pub mod occupied;
mod pace;
mod pools;
mod ports;
pub mod reason;
mod repair;
pub mod repeat;
mod requested_mac;
pub mod shared;
pub mod sight;
mod strays;
mod survey;
pub mod unsettled;
pub mod view;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::attachment::AttachmentKey;
use crate::config::Config;
use crate::identity::{BootId, MachineId, NetnsCookie};
use crate::name::{NodeName, PoolName};
use crate::ports::{Interfaces, Ports};
use crate::record::AddressKey;
use crate::time::Time;

use commit::Pending;
use entry::{Entry, Quarantined, Slot};
use io::{Action, Input, Note, NoteKind};
use line::Waiter;
use pools::PoolState;
use reason::Reason;
use wire::ProbePurpose;

/// Identity of this agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub node: NodeName,
    /// Boot of the machine.
    pub boot_id: BootId,
    /// Identity of the machine.
    pub machine_id: MachineId,
}

/// See the module's head.
#[derive(Debug, Clone)]
pub struct Ledger {
    me: Identity,
    config: Config,
    ports: Ports,
    pools: BTreeMap<PoolName, PoolState>,
    slots: BTreeMap<AttachmentKey, Slot>,
    holders: BTreeMap<AddressKey, AttachmentKey>,
    generations: BTreeMap<AddressKey, u64>,
    quarantine: BTreeMap<AddressKey, Quarantined>,
    line: VecDeque<Waiter>,
    pending: BTreeMap<u64, Pending>,
    probes: BTreeMap<u64, ProbePurpose>,
    last_id: u64,
    to_gather: BTreeMap<AttachmentKey, bool>,
    /// The reads of everything for lost events.
    full_reads: pace::Pace,
    /// Former holders to be read about before their addresses leave the quarantine.
    guards: BTreeSet<AttachmentKey>,
    /// Time at which the reads under way were asked for.
    gathering: Option<Time>,
    scanning: bool,
    next_scan: Option<Time>,
    scans: leak::Scans,
    next_refill: Option<Time>,
    hearings: hearing::Hearings,
    strays: strays::Strays,
    homes: line::Homes,
    collections: Vec<gc::Collection>,
    answers: wire::Answers,
    speakers: requested_mac::Speakers,
    occupied: occupied::Occupied,
    surveys: survey::Surveys,
    shared: shared::Shared,
    pods: hold::Pods,
    /// Causes that keep ADDs waiting in addition to the ledger's own reasons, by code.
    bars: BTreeMap<&'static str, String>,
    /// The agent's own namespace.
    place: Option<NetnsCookie>,
    /// The place of numbers in records that do not say theirs.
    former_place: Option<NetnsCookie>,
    hears_all: bool,
    serving: bool,
    out: Vec<Action>,
}

impl Ledger {
    /// An empty ledger; it serves nothing until it got [`Input::Loaded`].
    pub fn new(me: Identity, config: Config) -> Self {
        let pools = config.pools.iter().map(|(name, pool)| (name.clone(), PoolState::new(pool))).collect();
        let ports = Ports::new(&config, Interfaces::new());
        Self {
            me,
            config,
            ports,
            pools,
            slots: BTreeMap::new(),
            holders: BTreeMap::new(),
            generations: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            line: VecDeque::new(),
            pending: BTreeMap::new(),
            probes: BTreeMap::new(),
            last_id: 0,
            to_gather: BTreeMap::new(),
            full_reads: pace::Pace::new(pace::FULL_READS),
            guards: BTreeSet::new(),
            gathering: None,
            scanning: false,
            next_scan: None,
            scans: leak::Scans::default(),
            next_refill: None,
            hearings: hearing::Hearings::default(),
            strays: strays::Strays::default(),
            homes: line::Homes::default(),
            collections: Vec::new(),
            answers: wire::Answers::default(),
            speakers: requested_mac::Speakers::default(),
            occupied: occupied::Occupied::default(),
            surveys: survey::Surveys::default(),
            shared: shared::Shared::default(),
            pods: hold::Pods::default(),
            bars: BTreeMap::new(),
            place: None,
            former_place: None,
            hears_all: true,
            serving: false,
            out: Vec::new(),
        }
    }

    /// Takes one input and returns what is to be done, in order.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Action> {
        match input {
            Input::Loaded(loaded) => self.load(now, *loaded),
            Input::Lease(caller, request) => self.lease(now, caller, *request),
            Input::Bind(caller, txn, key, ifindex, mac, seen) => {
                self.bind(now, caller, &txn, &key, (ifindex, mac), seen);
            }
            Input::Done(caller, txn, key) => self.done(now, caller, &txn, &key),
            Input::Release(caller, key, link, txn) => self.release(now, caller, &key, link, txn.as_ref()),
            Input::Check(caller, key) => self.check(caller, &key),
            Input::Gc(caller, network, valid) => self.collect_garbage(now, caller, network, &valid),
            Input::Hangup(conn) => self.hangup(now, conn),
            Input::AdminRelease(caller, what, force) => self.admin_release(now, caller, what, force),
            Input::Kernel(by, hint) => self.hint(now, by, hint),
            Input::Gathered(observations) => self.gathered(now, observations),
            Input::Scanned(report) => self.scanned(now, &report),
            Input::Reached(id, addresses) => self.hearings.reached(id, addresses),
            Input::Probed(id, result) => self.probed(now, id, result),
            Input::Heard(heard) => self.heard(now, &heard),
            Input::Hearing(device, hearing) => self.hearing(now, &device, &hearing),
            Input::Committed(op, result) => self.committed(now, op, &result),
            Input::LinkRemoved(key, result) => self.link_removed(now, &key, result),
            Input::Surveyed(survey) => self.surveyed(now, survey),
            Input::Strays(strays) => self.found_strays(now, strays),
            Input::Declared(config) => self.declared(now, *config),
            Input::Interfaces(interfaces) => self.interfaces_read(now, interfaces),
            Input::Store(news) => self.store_news(now, news),
            Input::Pods(news) => self.pod_news(now, news),
            Input::Bar(code, why) => self.bar(now, code, why),
            Input::Tick => {}
        }
        self.due(now);
        self.emit_gather(now);
        std::mem::take(&mut self.out)
    }

    /// Latest time at which [`Input::Tick`] is wanted, if nothing else comes before.
    pub fn deadline(&self) -> Option<Time> {
        let slots = self.slots.values().flat_map(|slot| {
            let dels = slot.live.del_waiters.iter().map(|&(_, until)| until).min();
            let hints = [slot.live.reads.due(), slot.live.searches.due()];
            let binding = slot.live.binding.as_ref().and_then(confirm::Binding::wakes_at);
            let own = [binding, slot.live.recheck_at, slot.live.orphaned_at, slot.live.held_until, dels];
            hints.into_iter().chain(own).flatten()
        });
        let line = self.line.iter().filter_map(Waiter::wakes_at);
        let quarantine = self.quarantine.values().filter_map(Quarantined::wakes_at);
        let own = [
            self.next_scan,
            self.next_refill,
            self.strays.wakes_at(),
            self.shared.wakes_at(),
            self.full_reads.due(),
            self.hearings.attend_at(),
        ];
        let own = own.into_iter().flatten();
        let collections = self.collections.iter().map(gc::Collection::wakes_at);
        let survey = self.surveys.wakes_at().filter(|_| !self.config.networks.is_empty());
        slots.chain(line).chain(quarantine).chain(own).chain(collections).chain(survey).min()
    }

    /// The attachment of that key, if there is one.
    pub fn entry(&self, key: &AttachmentKey) -> Option<&Entry> {
        self.slots.get(key).map(|slot| &slot.entry)
    }

    /// The declared configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Asks for a full reconcile: every attachment is read again.
    pub fn reconcile(&mut self) {
        self.to_gather.extend(self.slots.keys().map(|key| (key.clone(), false)));
    }

    /// Carries out the work that became due by `now`.
    fn due(&mut self, now: Time) {
        let due: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.live.recheck_at.is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.live.recheck_at = None;
                if slot.live.vain {
                    self.finalize(now, &key, Reason::Undone);
                    continue;
                }
                let search = std::mem::take(&mut slot.live.search_again);
                self.gather(key, search);
            }
        }
        self.hints_due(now);
        self.give_up_orphans(now);
        self.end_overdue_holds(now);
        self.shared_due(now);
        self.answer_late_dels(now);
        self.expire_line(now);
        self.recheck_quarantine(now);
        self.find_strays_if_due(now);
        self.survey_if_due(now);
        self.scan_if_due(now);
        self.attend_due(now);
        self.confirm_due(now);
        self.refill_if_due(now);
        self.answer_collections(now);
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Wants an attachment read; `search`: every nameable namespace is searched for it.
    fn gather(&mut self, key: AttachmentKey, search: bool) {
        let wanted = self.to_gather.entry(key).or_insert(false);
        *wanted |= search;
    }

    /// One gather is under way at a time; what is wanted meanwhile goes together into the next.
    fn emit_gather(&mut self, now: Time) {
        if self.gathering.is_some() || (self.to_gather.is_empty() && self.guards.is_empty()) {
            return;
        }
        let wanted = std::mem::take(&mut self.to_gather);
        let mut targets: Vec<_> =
            wanted.into_iter().filter_map(|(key, search)| self.target(&key, search)).collect();
        targets.extend(self.guard_targets());
        if targets.iter().any(|target| target.search) {
            let bound = self.bound();
            for target in &mut targets {
                target.bound = bound.clone();
            }
        }
        if !targets.is_empty() {
            self.gathering = Some(now);
            self.out.push(Action::Gather(targets));
        }
    }

    fn note(
        &mut self,
        kind: NoteKind,
        code: &'static str,
        addresses: Vec<IpAddr>,
        key: Option<&AttachmentKey>,
        text: String,
    ) {
        let held = key.and_then(|key| self.slots.get(key)?.entry.held.first());
        let segment = held.map(|held| held.segment.clone()).filter(|_| !addresses.is_empty());
        self.out.push(Action::Note(Note { kind, code, addresses, segment, key: key.cloned(), text }));
    }

    /// The same of an address that no attachment has.
    fn note_of(&mut self, kind: NoteKind, code: &'static str, key: &AddressKey, text: String) {
        let (addresses, segment) = (vec![key.address], Some(key.segment.clone()));
        self.out.push(Action::Note(Note { kind, code, addresses, segment, key: None, text }));
    }
}
