//! ADD, from top to bottom: lease, bind, done; and what happens when the plugin goes away between.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::commit::Pending;
use super::entry::{Entry, Held, Live, Phase, Slot, fdb_parent};
use super::hearing::Span;
use super::io::{
    Action, Caller, Flush, Grant, JournalWrite, LeaseRequest, LedgerError, LinkSeen, NoteKind, Reply, Step,
    StoreWrite,
};
use super::line::{Stage, Waiter};
use super::pools::{Choice, Pick};
use super::reason::Reason;
use super::wire::{ASK_AGAIN, ProbePurpose};
use crate::attachment::AttachmentKey;
use crate::config::Network;
use crate::evidence::Departure;
use crate::identity::TxnId;
use crate::interval::Family;
use crate::mac::Mac;
use crate::time::Time;

/// Time that an open transaction without a connection is left alone: its plugin retries every 50 ms.
pub const ORPHAN_GRACE: Duration = Duration::from_millis(500);

/// Time that an ADD waits for an address that its interface has already, if nothing else is asked for. A
/// former holder's proof takes the settle time, and a living one is a mistake that time does not correct.
const ADOPTION: Duration = Duration::from_secs(5);

/// Time that an ADD waits for a network that the API server has not reported yet.
const UNDECLARED: Duration = Duration::from_secs(110);

impl Ledger {
    /// First step: an address for the attachment, recorded before the answer.
    pub(super) fn lease(&mut self, now: Time, caller: Caller, request: LeaseRequest) {
        if self.holds_already(&request) {
            return self.lease_again(now, caller, request);
        }
        // What is barred may be declared by the time it is served.
        if self.bars.is_empty()
            && let Err(error) = self.network(&request)
        {
            return self.reply(caller, Step::Lease, Err(error));
        }
        let timeout = self.patience(&request);
        if let Some(waiter) = self.line.iter_mut().find(|waiter| waiter.request.txn == request.txn) {
            // It is being served already; only the answer goes elsewhere.
            waiter.caller = caller;
            return;
        }
        self.line.push_back(Waiter::new(now, caller, request, timeout));
        // Those before it were tried when something last changed.
        self.try_serve(now, self.line.len() - 1);
    }

    /// True if the request's own transaction holds its attachment already.
    fn holds_already(&self, request: &LeaseRequest) -> bool {
        self.slots.get(&request.key).is_some_and(|slot| {
            let over = matches!(slot.entry.phase, Phase::Releasing | Phase::Held) || slot.entry.del_seen;
            slot.entry.txn == request.txn && !over
        })
    }

    /// Time that an ADD waits for an address.
    fn patience(&self, request: &LeaseRequest) -> Duration {
        let network = self.config.networks.get(&request.key.network);
        let usual = || network.map_or(UNDECLARED, |network| network.add_timeout);
        request.add_timeout.unwrap_or_else(|| if request.adopt { ADOPTION } else { usual() })
    }

    /// An interface that announced its address before its lease was asked for had it quarantined, by its own
    /// MAC. That MAC is not a stranger's.
    fn readmit(&mut self, now: Time, request: &LeaseRequest) {
        let Some(mac) = request.mac else { return };
        let network = self.config.networks.get(&request.key.network);
        let segment = network.and_then(|network| self.ports.segment(&self.port_of(network)));
        let own: Vec<_> = self
            .quarantine
            .values()
            .filter(|shut| {
                shut.guard.is_none() && shut.macs == [mac] && request.ips.contains(&shut.key.address)
            })
            .filter(|shut| Some(&shut.key.segment) == segment)
            .map(|shut| shut.key.clone())
            .collect();
        for key in own {
            self.quarantine.remove(&key);
            self.give_back(now, &key);
            let journal = vec![JournalWrite::Unquarantine(key.clone())];
            self.commit(Pending::Nothing, Step::Lease, journal, Flush::Lazy, Vec::new());
            let text = format!("it was {mac}, whose address it is to be");
            self.note(NoteKind::Action, "quarantine-ended", vec![key.address], Some(&request.key), text);
        }
    }

    /// The plugin repeats itself, perhaps to a new agent.
    fn lease_again(&mut self, now: Time, caller: Caller, request: LeaseRequest) {
        let timeout = self.patience(&request);
        let again = self.must_choose_again(&request.key);
        let Some(slot) = self.slots.get_mut(&request.key) else { return };
        slot.live.owner = Some(caller.conn);
        slot.live.orphaned_at = None;
        for waiter in self.line.iter_mut().filter(|waiter| waiter.request.txn == request.txn) {
            waiter.caller = caller;
        }
        if slot.entry.phase != Phase::Intent && !self.bars.is_empty() && self.grant(&request.key).is_err() {
            // What was granted cannot be said again before the declarations were read.
            self.line.retain(|waiter| waiter.request.txn != request.txn);
            return self.line.push_back(Waiter::new(now, caller, request, timeout));
        }
        let Some(slot) = self.slots.get_mut(&request.key) else { return };
        match slot.entry.phase {
            Phase::Intent if slot.live.committing => {
                for pending in self.pending.values_mut() {
                    pending.take_over(&request.key, caller);
                }
            }
            // Others may have taken the address since the wire was asked.
            Phase::Intent | Phase::Reserved if again && !slot.live.committing => {
                slot.annul();
                self.finalize(now, &request.key, Reason::Undone);
                self.line.push_back(Waiter::new(now, caller, request, timeout));
            }
            Phase::Intent => {
                let entry = slot.entry.clone();
                let mut waiter = Waiter::new(now, caller, request, timeout);
                waiter.stage = Stage::Committing;
                self.line.push_back(waiter);
                self.write_intent(now, &entry, &[]);
            }
            // Its record is being written again, and is given up after that.
            Phase::Reserved if again => {
                let mut waiter = Waiter::new(now, caller, request, timeout);
                waiter.ask_later(now + ASK_AGAIN, "its record is being written again".to_owned());
                self.line.push_back(waiter);
            }
            _ => {
                let grant = self.grant(&request.key);
                self.reply(caller, Step::Lease, grant);
            }
        }
    }

    /// Tries to serve one waiter: an address at once, or after asking the wire, or not yet.
    pub(super) fn try_serve(&mut self, now: Time, index: usize) {
        let Some(waiter) = self.line.get(index) else { return };
        let (caller, request, avoid) = (waiter.caller, waiter.request.clone(), waiter.avoid.clone());
        if self.is_repeated(&request) {
            return self.gather(request.key, false);
        }
        if self.holds_already(&request) && self.grant(&request.key).is_ok() {
            self.line.remove(index);
            return self.lease_again(now, caller, request);
        }
        if self.is_barred(now, index, &request) {
            return;
        }
        if !self.is_mac_clear(now, index, &request) || self.take_from_hold(now, index, false) {
            return;
        }
        if self.must_wait(now, &request) {
            return;
        }
        if request.adopt {
            self.admit_own(now, &request);
            self.readmit(now, &request);
        }
        match self.choose(now, &request, &avoid) {
            Err(error) => {
                self.line.remove(index);
                self.reply(caller, Step::Lease, Err(error));
            }
            Ok(Choice::Wait) => {
                // What it waits for now is an address, whatever the store said before.
                self.line[index].forgive();
                if !self.take_from_hold(now, index, true) {
                    self.press(now, &request);
                }
            }
            Ok(Choice::Take(picks)) => self.reserve(now, index, &picks),
            Ok(Choice::Probe(_)) if self.line[index].asks_later(now) => {}
            Ok(Choice::Probe(picks)) => self.ask_wire(index, &request, picks),
        }
    }

    /// True if something keeps every ADD waiting, or this one, before any address is looked at: repair, a bar
    /// from outside, a store that did not answer, strays on its device, interfaces of the node that were not
    /// read yet.
    fn is_barred(&self, now: Time, index: usize, request: &LeaseRequest) -> bool {
        let put_off = self.line.get(index).is_some_and(|waiter| waiter.is_put_off(now));
        !self.serving
            || !self.bars.is_empty()
            || put_off
            || self.is_blocked_by_strays(&request.key.network)
            || self.is_unsurveyed(request)
    }

    /// A bar from outside comes or goes.
    pub(super) fn bar(&mut self, now: Time, code: &'static str, why: Option<String>) {
        let was = self.bars.remove(code);
        match why {
            Some(why) => {
                if was.as_ref() != Some(&why) {
                    self.note(NoteKind::Warning, code, Vec::new(), None, why.clone());
                }
                self.bars.insert(code, why);
            }
            None if was.is_some() => self.serve_line(now),
            None => {}
        }
    }

    /// True if an ADD must wait although addresses may be free: for an old attachment of the same key or pod,
    /// until the evidence of its end is read.
    fn must_wait(&mut self, now: Time, request: &LeaseRequest) -> bool {
        let same_key = self.slots.contains_key(&request.key).then(|| request.key.clone());
        if let Some(key) = same_key {
            self.gather(key, false);
            return true;
        }
        self.wait_for_former_sandbox(now, request)
    }

    fn ask_wire(&mut self, index: usize, request: &LeaseRequest, picks: Vec<Pick>) {
        let Some(device) =
            self.config.networks.get(&request.key.network).and_then(|network| network.link.wire_device())
        else {
            return;
        };
        for pick in &picks {
            self.take(&pick.key);
        }
        let addresses = picks.iter().map(|pick| pick.key.address).collect();
        if let Some(waiter) = self.line.get_mut(index) {
            waiter.stage = Stage::Probing;
        }
        self.ask(device, ProbePurpose::Add { txn: request.txn.clone(), picks }, addresses, true);
    }

    /// Journals the intent and writes the records. The picks are the waiter's from here on.
    pub(super) fn reserve(&mut self, now: Time, index: usize, picks: &[Pick]) {
        let Some(waiter) = self.line.get_mut(index) else { return };
        waiter.stage = Stage::Committing;
        let request = waiter.request.clone();
        let conn = waiter.caller.conn;
        let Some(network) = self.config.networks.get(&request.key.network).cloned() else { return };
        let mut held = Vec::new();
        for pick in picks {
            self.take(&pick.key);
            let generation = self.generations.entry(pick.key.clone()).or_insert(0);
            *generation += 1;
            held.push(Held {
                pool: pick.pool.clone(),
                segment: pick.key.segment.clone(),
                address: pick.key.address,
                generation: *generation,
            });
            self.holders.insert(pick.key.clone(), request.key.clone());
        }
        // The first address of a result counts as the primary one: the order is the network's.
        let order = self.families(&network, &request);
        held.sort_by_key(|held| order.iter().position(|family| *family == Family::of(held.address)));
        let entry = Entry {
            key: request.key.clone(),
            cni_network: request.cni_network,
            role: request.role,
            txn: request.txn,
            phase: Phase::Intent,
            at: request.netns.nsid,
            moved: None,
            place: self.place,
            netns: request.netns,
            ifindex: None,
            mac: request.mac,
            pod: request.pod,
            held,
            fdb_parent: fdb_parent(&network.link, request.role),
            settle: network.settle,
            leaked_after: network.leaked_after,
            del_seen: false,
            inhabited: false,
            exposed: false,
            departure: None,
            boot_id: self.me.boot_id.clone(),
            machine_id: self.me.machine_id.clone(),
        };
        let mut live = Live::new(now, Reason::Reserved, Departure::Unheard);
        live.owner = Some(conn);
        live.heard_alone = self.heard_alone(&network, picks);
        live.silence = self.silence_behind(&network, picks);
        self.slots.insert(request.key, Slot { entry: entry.clone(), live });
        self.write_intent(now, &entry, picks);
    }

    /// The span in which no other host was heard for any of these addresses: they were silent on the port,
    /// or those that hand them over were alone with them.
    fn heard_alone(&self, network: &Network, picks: &[Pick]) -> Option<Span> {
        let span = network.link.wire_device().and_then(|port| self.hearings.span(&port));
        let givers = picks.iter().filter_map(|pick| self.slots.get(pick.from.as_ref()?));
        span.filter(|_| givers.into_iter().all(|giver| giver.live.heard_alone == span))
    }

    /// One journal write for the new entry and for those that hand over; one store write an address.
    fn write_intent(&mut self, now: Time, entry: &Entry, picks: &[Pick]) {
        self.shared.begun(&entry.txn);
        let givers: BTreeSet<_> = picks.iter().filter_map(|pick| pick.from.clone()).collect();
        let mut journal = vec![JournalWrite::Put(Box::new(entry.clone()))];
        let mut store = Vec::new();
        for record in entry.records(&self.me.node) {
            let from = picks
                .iter()
                .find(|pick| pick.key == record.address_key())
                .and_then(|pick| pick.from.as_ref());
            let record = Box::new(record);
            match from.and_then(|key| self.slots.get(key)) {
                Some(giver) => store.push(StoreWrite::HandOver { record, of: giver.entry.txn.clone() }),
                None => store.push(StoreWrite::Create(record)),
            }
        }
        for giver in &givers {
            store.extend(self.take_from(now, giver, entry));
            journal.push(JournalWrite::Remove(giver.clone()));
        }
        if let Some(slot) = self.slots.get_mut(&entry.key) {
            slot.live.committing = true;
        }
        let then = Pending::Reserve { key: entry.key.clone(), givers };
        self.commit(then, Step::Lease, journal, Flush::Durable, store);
    }

    /// The answer to a lease, made from the entry and the declaration of its network.
    pub(super) fn grant(&self, key: &AttachmentKey) -> Result<Reply, LedgerError> {
        let entry = &self.slots.get(key).ok_or_else(|| LedgerError::NotRecorded(key.clone()))?.entry;
        let network = self
            .config
            .networks
            .get(&key.network)
            .ok_or_else(|| LedgerError::UnknownNetwork(key.network.clone()))?;
        let device = fdb_parent(&network.link, entry.role);
        if let Some(made_on) = entry.fdb_parent.as_ref().filter(|made_on| device.as_ref() != Some(made_on)) {
            return Err(LedgerError::Moved { key: key.clone(), made_on: made_on.clone() });
        }
        let (mut addresses, mut routes) = (Vec::new(), Vec::new());
        for held in &entry.held {
            let pool = self.config.pools.get(self.pool_now(&held.pool, &held.key())).ok_or_else(|| {
                LedgerError::NotGivable {
                    address: held.address,
                    why: format!("its pool {} is no longer declared", held.pool),
                }
            })?;
            if let Ok(address) = ipnetwork::IpNetwork::new(held.address, pool.subnet.prefix()) {
                addresses.push((address, pool.gateway));
            }
            routes.extend(pool.routes.iter().cloned());
        }
        Ok(Reply::Grant(Box::new(Grant {
            link: network.link.clone(),
            addresses,
            routes,
            accept_ra: network.accept_ra,
            bound: entry.ifindex.zip(entry.mac).filter(|_| entry.phase == Phase::Done),
        })))
    }

    /// Second step: which link it is. Refused unless the transaction is open and the agent's own
    /// read shows that link.
    pub(super) fn bind(
        &mut self,
        now: Time,
        caller: Caller,
        txn: &TxnId,
        key: &AttachmentKey,
        (ifindex, mac): (u32, Mac),
        seen: LinkSeen,
    ) {
        let refuse = |why: &str| LedgerError::NotTheLink { key: key.clone(), ifindex, why: why.to_owned() };
        let Some(slot) = self.open(txn, key) else {
            let repeat = self.bind_repeat(caller, txn, key, (ifindex, mac), seen);
            let answer = repeat.unwrap_or_else(|| Err(LedgerError::NotOpen(txn.clone(), key.clone())));
            return self.reply(caller, Step::Bind, answer);
        };
        let refusal = match seen {
            LinkSeen::NotThere => Some(refuse("no link has that index in the pod's namespace")),
            LinkSeen::Unreadable => Some(refuse("it could not be read back")),
            LinkSeen::There(other) if other != mac => {
                Some(refuse(&format!("it has the MAC {other} instead of {mac}")))
            }
            LinkSeen::There(_) => None,
        };
        if let Some(error) = refusal {
            return self.reply(caller, Step::Bind, Err(error));
        }
        slot.live.owner = Some(caller.conn);
        slot.live.orphaned_at = None;
        if self.is_confirmed(now, caller, key, (ifindex, mac)) {
            self.record_bind(now, caller, key, (ifindex, mac));
        }
    }

    /// The plugin may put the addresses on the link once that is on the disk.
    pub(super) fn record_bind(
        &mut self,
        now: Time,
        caller: Caller,
        key: &AttachmentKey,
        (ifindex, mac): (u32, Mac),
    ) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.stamp += 1;
        slot.live.link_is_there();
        slot.entry.ifindex = Some(ifindex);
        slot.entry.mac = Some(mac);
        let unwritten = slot.entry.phase == Phase::Intent;
        slot.entry.phase = Phase::Bound;
        slot.live.since = now;
        // A MAC of Berth's own can be derived again after a crash; any other is known from here only.
        let flush = if mac.belongs_to(key) && !unwritten { Flush::Lazy } else { Flush::Durable };
        let entry = slot.entry.clone();
        let store = if unwritten { self.creates(&entry) } else { Vec::new() };
        let journal = vec![JournalWrite::Put(Box::new(entry))];
        self.commit(Pending::Answer { key: key.clone(), caller }, Step::Bind, journal, flush, store);
    }

    /// Last step: the transaction is closed; from now on only evidence ends it.
    pub(super) fn done(&mut self, now: Time, caller: Caller, txn: &TxnId, key: &AttachmentKey) {
        if self.slots.get(key).is_some_and(|slot| {
            slot.entry.txn == *txn && slot.entry.phase == Phase::Done && !slot.entry.del_seen
        }) {
            return self.answer_done(caller, key);
        }
        if self.done_repeat(caller, txn, key) {
            return;
        }
        let Some(slot) = self.open(txn, key) else {
            let error = LedgerError::NotOpen(txn.clone(), key.clone());
            return self.reply(caller, Step::Done, Err(error));
        };
        slot.live.owner = None;
        slot.live.orphaned_at = None;
        let unwritten = slot.entry.phase == Phase::Intent;
        slot.entry.phase = Phase::Done;
        slot.live.reason = Reason::Bound;
        slot.live.since = now;
        slot.live.unsettled_since = None;
        let entry = slot.entry.clone();
        let text = match (entry.ifindex, entry.mac) {
            (Some(ifindex), Some(mac)) => {
                format!("bound to link {ifindex} ({mac}) in namespace {}", entry.netns.cookie)
            }
            _ => format!("bound to namespace {}; its link is another plugin's", entry.netns.cookie),
        };
        self.note(NoteKind::Action, "bound", entry.addresses(), Some(key), text);
        self.attend_if_unconfirmed(now, key);
        self.homes.forget(&entry);
        let store = if unwritten { self.creates(&entry) } else { Vec::new() };
        let journal = vec![JournalWrite::Put(Box::new(entry))];
        self.commit(Pending::Answer { key: key.clone(), caller }, Step::Done, journal, Flush::Durable, store);
        if self.line.iter().any(|waiter| waiter.request.key == *key) {
            self.gather(key.clone(), false);
        }
    }

    /// Writes that make the records of an attachment where the store may have lost them.
    pub(super) fn creates(&self, entry: &Entry) -> Vec<StoreWrite> {
        let records = entry.records(&self.me.node).into_iter();
        records.map(|record| StoreWrite::Create(Box::new(record))).collect()
    }

    /// The attachment if `txn` is its open transaction and its records exist. Where only the intent was on
    /// the disk when the agent started, and the store that others write too was not read yet, the plugin
    /// itself is the witness: it has the grant.
    fn open(&mut self, txn: &TxnId, key: &AttachmentKey) -> Option<&mut Slot> {
        let shared = self.shared.on;
        self.slots.get_mut(key).filter(|slot| {
            let granted = match slot.entry.phase {
                Phase::Intent => shared && !slot.live.committing && !slot.live.vain,
                phase => matches!(phase, Phase::Reserved | Phase::Bound),
            };
            slot.entry.txn == *txn && granted && !slot.entry.del_seen
        })
    }

    /// CHECK: is the reservation still the attachment's?
    pub(super) fn check(&mut self, caller: Caller, key: &AttachmentKey) {
        let reply = match self.slots.get(key) {
            Some(slot) if !slot.entry.del_seen && slot.entry.phase != Phase::Held => Ok(Reply::Done),
            _ => Err(LedgerError::NotRecorded(key.clone())),
        };
        self.reply(caller, Step::Other, reply);
    }

    /// The plugin is gone. What it left open is undone at once.
    pub(super) fn hangup(&mut self, now: Time, conn: u64) {
        self.line.retain(|waiter| waiter.caller.conn != conn || waiter.stage == Stage::Committing);
        self.forget_collections(conn);
        self.end_repeats(conn);
        for slot in self.slots.values_mut() {
            slot.live.del_waiters.retain(|(caller, _)| caller.conn != conn);
        }
        let orphans: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.live.owner == Some(conn) && slot.entry.phase.is_open())
            .map(|(key, _)| key.clone())
            .collect();
        for key in orphans {
            self.undo(now, &key, "the plugin ended before its ADD did");
        }
    }

    /// Ends the transactions that no plugin took up again after a restart.
    pub(super) fn give_up_orphans(&mut self, now: Time) {
        let due: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.live.orphaned_at.is_some_and(|at| at <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.undo(now, &key, "its plugin did not come back after the agent's restart");
        }
    }

    /// Ends an open ADD: the link is removed, seen gone, and then the address released.
    pub(super) fn undo(&mut self, now: Time, key: &AttachmentKey, why: &str) {
        self.end_binding(key);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.live.owner = None;
        slot.live.orphaned_at = None;
        slot.live.reason = Reason::Undone;
        slot.live.since = now;
        slot.end();
        slot.live.stamp += 1;
        let (addresses, committing) = (slot.entry.addresses(), slot.live.committing);
        self.note(NoteKind::Observation, "undone", addresses, Some(key), why.to_owned());
        if committing {
            return; // `committed` goes on from here
        }
        self.save_undo(key);
    }

    pub(super) fn reply(&mut self, caller: Caller, step: Step, reply: Result<Reply, LedgerError>) {
        self.out.push(Action::Reply(caller, step, reply));
    }

    /// Puts an address that did not work out back, and notes it for the next try.
    pub(super) fn avoid(&mut self, txn: &TxnId, address: IpAddr) {
        if let Some(waiter) = self.line.iter_mut().find(|waiter| waiter.request.txn == *txn) {
            waiter.avoid.insert(address);
        }
    }
}
