//! The wait line: ADDs that found no free address yet, in the order in which they came.
//!
//! An ADD does not fail because an address is still being proven free. While it waits, everything
//! suspect in its pools is judged at once, and an address that is released for certain is handed
//! over to it in the one write that would have deleted its record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::entry::{Entry, Held, Phase, Slot};
use super::io::{Caller, LeaseRequest, LedgerError, NoteKind, Step, StoreWrite};
use super::pools::{Choice, Pick, is_member};
use crate::attachment::AttachmentKey;
use crate::config::Network;
use crate::evidence::Epoch;
use crate::interval::Family;
use crate::name::{IfName, NetworkName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// Time that an ADD waits for the former sandbox of its pod to be proven dead before it takes another
/// address.
const FORMER_SANDBOX: Duration = Duration::from_millis(300);
/// The same after a reboot, which ended all of them: only the wire has still to be asked.
const REBOOTED_SANDBOX: Duration = Duration::from_secs(2);
/// Number of former addresses that are remembered for pods that may come back.
const HOMES_MAX: usize = 4096;
/// Number of holders that an error names.
pub(super) const HOLDERS_NAMED: usize = 12;

/// Thing that a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// An address, in line.
    InLine,
    /// The wire's silence.
    Probing,
    /// The disk's confirmation.
    Committing,
}

/// One ADD in line.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Receiver of the answer.
    pub caller: Caller,
    /// Request of the ADD.
    pub request: LeaseRequest,
    /// Stage of the wait.
    pub stage: Stage,
    /// Addresses that turned out to be taken.
    pub avoid: BTreeSet<IpAddr>,
    since: Time,
    until: Time,
    /// Until when it waits for the former sandbox of its pod.
    former_until: Option<Time>,
    /// The store did not take its record: when to try again, and why it did not.
    put_off: Option<Retry>,
    /// Time at which the wire last had nothing against the MAC that it asks for.
    mac_clear_at: Option<Time>,
    /// Its probes proved nothing: when to ask again, and why they did not.
    unasked: Option<Retry>,
}

/// A try that failed.
#[derive(Debug, Clone)]
struct Retry {
    /// Time of the next try.
    at: Time,
    /// Cause of the failure.
    why: String,
}

impl Retry {
    fn is_later(retry: Option<&Self>, now: Time) -> bool {
        retry.is_some_and(|retry| retry.at > now)
    }
}

impl Waiter {
    /// An ADD that just came.
    pub fn new(now: Time, caller: Caller, request: LeaseRequest, timeout: Duration) -> Self {
        Self {
            caller,
            request,
            stage: Stage::InLine,
            avoid: BTreeSet::new(),
            since: now,
            until: now + timeout,
            former_until: None,
            put_off: None,
            mac_clear_at: None,
            unasked: None,
        }
    }

    /// The wire has nothing against the MAC that it asks for.
    pub fn clear_mac(&mut self, now: Time) {
        self.mac_clear_at = Some(now);
    }

    /// Time at which the wire last had nothing against its MAC.
    pub fn mac_clear_at(&self) -> Option<Time> {
        self.mac_clear_at
    }

    /// Time at which it has waited long enough.
    pub fn wakes_at(&self) -> Option<Time> {
        let tries = [&self.put_off, &self.unasked].into_iter().flatten().map(|retry| retry.at);
        let next = self.former_until.into_iter().chain(tries).filter(|at| *at > self.since);
        next.chain([self.until]).min().filter(|_| self.stage == Stage::InLine)
    }

    /// Since when it waits.
    pub fn since(&self) -> Time {
        self.since
    }

    /// The store did not take its record: it tries again at that time.
    pub fn put_off(&mut self, at: Time, why: String) {
        self.stage = Stage::InLine;
        self.put_off = Some(Retry { at, why });
    }

    /// It waits for an address, whatever store and wire said before.
    pub fn forgive(&mut self) {
        self.put_off = None;
        self.unasked = None;
    }

    /// Reason why the store did not take its record the last time.
    pub fn refusal(&self) -> Option<&str> {
        self.put_off.as_ref().map(|retry| retry.why.as_str())
    }

    /// True if it is not its time to try again.
    pub fn is_put_off(&self, now: Time) -> bool {
        Retry::is_later(self.put_off.as_ref(), now)
    }

    /// Its probes proved nothing: it asks again at that time.
    pub fn ask_later(&mut self, at: Time, why: String) {
        self.stage = Stage::InLine;
        self.unasked = Some(Retry { at, why });
    }

    /// True if it is not its time to ask again.
    pub fn asks_later(&self, now: Time) -> bool {
        Retry::is_later(self.unasked.as_ref(), now)
    }

    /// True if one of its network's pools gives that address.
    pub fn may_use(&self, key: &AddressKey, config: &crate::config::Config) -> bool {
        let network = config.networks.get(&self.request.key.network);
        let mut pools = network.into_iter().flat_map(|network| &network.pools);
        pools.any(|name| {
            let pool = config.pools.get(name);
            pool.is_some_and(|pool| is_member(pool, key))
        })
    }
}

/// Former addresses of pods: an ADD of the same pod gets the same address if it is still free.
#[derive(Debug, Clone, Default)]
pub struct Homes {
    by_pod: BTreeMap<(String, NetworkName, IfName), Vec<AddressKey>>,
    order: VecDeque<(String, NetworkName, IfName)>,
}

impl Homes {
    fn id(uid: &str, key: &AttachmentKey) -> (String, NetworkName, IfName) {
        (uid.to_owned(), key.network.clone(), key.ifname.clone())
    }

    /// Remembers the addresses of an attachment that ended.
    pub fn remember(&mut self, entry: &Entry) {
        let Some(uid) = entry.pod.as_ref().and_then(|pod| pod.uid.as_deref()) else { return };
        let id = Self::id(uid, &entry.key);
        let addresses = entry.held.iter().map(Held::key).collect();
        if self.by_pod.insert(id.clone(), addresses).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > HOMES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_pod.remove(&oldest);
        }
    }

    /// Forgets them: the pod has an address again.
    pub fn forget(&mut self, entry: &Entry) {
        if let Some(uid) = entry.pod.as_ref().and_then(|pod| pod.uid.as_deref()) {
            let id = Self::id(uid, &entry.key);
            if self.by_pod.remove(&id).is_some() {
                self.order.retain(|other| *other != id);
            }
        }
    }

    /// The former addresses of the request's pod.
    pub fn of(&self, request: &LeaseRequest) -> Vec<AddressKey> {
        let uid = request.pod.as_ref().and_then(|pod| pod.uid.as_deref());
        uid.and_then(|uid| self.by_pod.get(&Self::id(uid, &request.key))).cloned().unwrap_or_default()
    }
}

impl Ledger {
    /// Lets every ADD in line try, in order.
    pub(super) fn serve_line(&mut self, now: Time) {
        let txns: Vec<_> = self
            .line
            .iter()
            .filter(|waiter| waiter.stage == Stage::InLine)
            .map(|waiter| waiter.request.txn.clone())
            .collect();
        for txn in txns {
            if let Some(index) = self.line.iter().position(|waiter| waiter.request.txn == txn) {
                self.try_serve(now, index);
            }
        }
    }

    /// Has everything judged that might free an address for this request.
    pub(super) fn press(&mut self, now: Time, request: &LeaseRequest) {
        let already = self.line.iter().any(|waiter| {
            waiter.request.txn != request.txn
                && waiter.request.key.network == request.key.network
                && waiter.since <= now
                && now.since(waiter.since) < Duration::from_secs(1)
                && waiter.stage == Stage::InLine
        });
        if already {
            return;
        }
        let Some(network) = self.config.networks.get(&request.key.network) else { return };
        let press: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.live.recheck_at.is_none()
                    && slot.entry.held.iter().any(|held| self.giving(network, held).is_some())
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in press {
            self.gather(key, false);
        }
    }

    /// An ADD of a pod with a former sandbox that is still recorded waits a moment for the proof of its
    /// death, so that the pod keeps its address.
    pub(super) fn wait_for_former_sandbox(&mut self, now: Time, request: &LeaseRequest) -> bool {
        let Some(uid) = request.pod.as_ref().and_then(|pod| pod.uid.clone()) else { return false };
        // Looked for once: in a long line this would else be most of the work.
        let is_over = |other: &Waiter| other.former_until.is_some_and(|until| until <= now);
        if self.line.iter().any(|other| other.request.txn == request.txn && is_over(other)) {
            return false;
        }
        let former: Vec<_> = self
            .slots
            .iter()
            .filter(|(key, slot)| {
                key.network == request.key.network
                    && key.ifname == request.key.ifname
                    && slot.entry.pod.as_ref().and_then(|pod| pod.uid.as_deref()) == Some(&uid)
            })
            .map(|(key, slot)| (key.clone(), slot.epoch(&self.me.boot_id, &self.me.machine_id)))
            .collect();
        let waiter = self.line.iter_mut().find(|waiter| waiter.request.txn == request.txn);
        let Some(waiter) = waiter else { return false };
        if former.is_empty() {
            waiter.former_until = Some(waiter.since);
            return false;
        }
        let rebooted = former.iter().any(|(_, epoch)| *epoch == Epoch::Rebooted);
        let patience = if rebooted { REBOOTED_SANDBOX } else { FORMER_SANDBOX };
        // An ADD in a hurry keeps half of its time for another address.
        let patience = patience.min(waiter.until.since(waiter.since) / 2);
        let until = *waiter.former_until.get_or_insert(waiter.since + patience);
        if until <= now {
            return false;
        }
        for (key, _) in former {
            self.gather(key, false);
        }
        true
    }

    /// First ADD in line with a need that the addresses of an attachment cover in full, together with free
    /// addresses known to be silent. It gets them, once the attachment is proven dead.
    pub(super) fn heir(&mut self, now: Time, key: &AttachmentKey) -> Option<(usize, Vec<Pick>)> {
        if !self.serving || !self.bars.is_empty() {
            return None;
        }
        let settled = |slot: &&Slot| !slot.entry.exposed && slot.live.disputed.is_none();
        let giver = self.slots.get(key).filter(settled)?.entry.clone();
        if giver.held.iter().any(|held| self.strays.carry(&held.key())) {
            return None;
        }
        // The same pod's new sandbox comes before all others: it keeps the address.
        let (mut order, others): (Vec<_>, Vec<_>) =
            (0..self.line.len()).partition(|&index| is_same_pod(&giver, &self.line[index].request));
        order.extend(others);
        for index in order {
            let waiter = &self.line[index];
            if waiter.stage != Stage::InLine
                || waiter.is_put_off(now)
                || self.slots.contains_key(&waiter.request.key)
                || self.is_blocked_by_strays(&waiter.request.key.network)
                || !self.may_inherit_with_mac(now, index, key)
                || self.is_unsurveyed(&waiter.request)
            {
                continue;
            }
            let at_home = is_same_pod(&giver, &waiter.request);
            if !at_home && waiter.former_until.is_some_and(|at| at > now && at > waiter.since) {
                continue; // Its own former address may be about to be proven free.
            }
            let request = waiter.request.clone();
            let avoid = waiter.avoid.clone();
            let Ok(network) = self.network(&request).cloned() else { continue };
            let port = self.port_of(&network);
            let mut picks: Vec<Pick> = Vec::new();
            for held in &giver.held {
                let fits = !avoid.contains(&held.address)
                    && self.occupied.of(&held.key()).is_empty()
                    && !self.is_shadowed(&port, &held.key())
                    && wants(&request, held.address)
                    && !picks.iter().any(|pick| Family::of(pick.key.address) == Family::of(held.address));
                let pool = self.giving(&network, held);
                let pool = pool.filter(|pool| fits && self.may_have(pool, held.address, &request));
                if let Some(pool) = pool {
                    picks.push(Pick { pool: pool.clone(), key: held.key(), from: Some(key.clone()) });
                }
            }
            if picks.is_empty() {
                continue;
            }
            if let Some(rest) = self.rest_of(now, &request, &avoid, &picks) {
                picks.extend(rest);
                return Some((index, picks));
            }
        }
        None
    }

    /// The pool from which a network may give an address, under whatever name it is declared now.
    fn giving<'a>(&self, network: &'a Network, held: &Held) -> Option<&'a PoolName> {
        network.pools.iter().find(|name| {
            self.config.pools.get(*name).is_some_and(|pool| !pool.disabled && is_member(pool, &held.key()))
        })
    }

    /// Free and silent addresses of the families that `picks` leaves open.
    fn rest_of(
        &mut self,
        now: Time,
        request: &LeaseRequest,
        avoid: &BTreeSet<IpAddr>,
        picks: &[Pick],
    ) -> Option<Vec<Pick>> {
        let network = self.network(request).ok()?;
        let open = self
            .families(network, request)
            .into_iter()
            .any(|family| !picks.iter().any(|pick| Family::of(pick.key.address) == family));
        if !open {
            return Some(Vec::new());
        }
        match self.choose(now, request, avoid) {
            Ok(Choice::Take(others)) => Some(
                others
                    .into_iter()
                    .filter(|other| {
                        !picks
                            .iter()
                            .any(|pick| Family::of(pick.key.address) == Family::of(other.key.address))
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Takes from the giver what the heir got; what remains is deleted. Returns the store writes for the rest.
    pub(super) fn take_from(&mut self, now: Time, giver: &AttachmentKey, heir: &Entry) -> Vec<StoreWrite> {
        self.end_binding(giver);
        let Some(slot) = self.slots.get_mut(giver) else { return Vec::new() };
        slot.entry.phase = Phase::Releasing;
        slot.live.committing = true;
        slot.live.stamp += 1;
        slot.live.since = now;
        let of = slot.entry.txn.clone();
        let inherited: BTreeSet<_> = heir.held.iter().map(Held::key).collect();
        let rest = slot.entry.held.iter().map(Held::key).filter(|key| !inherited.contains(key));
        let writes = rest.map(|address| StoreWrite::Delete { address, of: of.clone() }).collect();
        let text = format!("its address goes to {}", heir.key);
        let addresses = slot.entry.addresses();
        self.note(NoteKind::Action, "handed-over", addresses, Some(giver), text);
        writes
    }

    /// Ends the ADDs that waited long enough: code 11, with the holders and their addresses.
    pub(super) fn expire_line(&mut self, now: Time) {
        let overdue: Vec<_> = self
            .line
            .iter()
            .filter(|waiter| waiter.stage == Stage::InLine && waiter.until <= now)
            .map(|waiter| {
                let why = |last: &Option<Retry>| last.as_ref().map(|retry| retry.why.clone());
                let whys = (why(&waiter.put_off), why(&waiter.unasked));
                (waiter.caller, waiter.request.clone(), now.since(waiter.since), whys)
            })
            .collect();
        for (caller, request, waited, (put_off, unasked)) in overdue {
            self.line.retain(|waiter| waiter.request.txn != request.txn);
            let error = if let Some(error) = self.why_former(&request, waited) {
                error
            } else if let Some(error) = self.mac_in_use(&request, waited) {
                error
            } else if let Some(why) = self.why_barred(put_off).or_else(|| self.why_unsurveyed(&request)) {
                LedgerError::Barred { waited_ms: waited.as_millis(), why }
            } else if let Some((device, why)) = self.why_unasked(&request, unasked) {
                LedgerError::Wire { device, waited_ms: waited.as_millis(), why }
            } else {
                self.exhausted(&request, waited)
            };
            self.reply(caller, Step::Lease, Err(error));
        }
        let mut retry = false;
        for waiter in &mut self.line {
            if waiter.former_until.is_some_and(|at| at <= now && at > waiter.since) {
                // It stays in the past, which says that this wait is over; `since` marks it as used.
                waiter.former_until = Some(waiter.since);
                retry = true;
            }
            let since = waiter.since;
            let again = [waiter.put_off.as_mut(), waiter.unasked.as_mut()].into_iter().flatten();
            for again in again.filter(|again| again.at <= now && again.at > since) {
                again.at = since;
                retry = true;
            }
        }
        if retry {
            self.serve_line(now);
        }
    }

    /// The refusal of an ADD that waited for another of its attachment, if it did.
    fn why_former(&self, request: &LeaseRequest, waited: Duration) -> Option<LedgerError> {
        let slot = self.slots.get(&request.key).filter(|slot| slot.entry.txn != request.txn)?;
        let (key, state) = (request.key.clone(), slot.live.reason.code());
        Some(if slot.entry.netns.cookie == request.netns.cookie {
            LedgerError::FormerAdd { key, waited_ms: waited.as_millis(), state }
        } else {
            LedgerError::AttachmentExists(key)
        })
    }

    /// Cause, other than a lack of addresses, that kept an ADD waiting for all of its time.
    fn why_barred(&self, put_off: Option<String>) -> Option<String> {
        if !self.bars.is_empty() {
            return Some(self.bars.values().cloned().collect::<Vec<_>>().join("; "));
        }
        if self.shared.on && !self.serving {
            return Some("the store was not read yet, so nobody knows which addresses are free".to_owned());
        }
        put_off
    }

    /// Device on which the wire could not be asked for an ADD, and the reason.
    fn why_unasked(&self, request: &LeaseRequest, last: Option<String>) -> Option<(IfName, String)> {
        let port = self.config.networks.get(&request.key.network)?.link.wire_device()?;
        let why = self.hearings.deaf(&port).map(str::to_owned).or(last)?;
        Some((port, why))
    }

    fn exhausted(&self, request: &LeaseRequest, waited: Duration) -> LedgerError {
        let pools = self.config.networks.get(&request.key.network).map(|network| network.pools.clone());
        let pools = pools.unwrap_or_default();
        let held =
            self.slots.values().flat_map(|slot| {
                let pools = &pools;
                let concerns = |held: &&Held| {
                    pools.contains(self.pool_now(&held.pool, &held.key())) && wants(request, held.address)
                };
                slot.entry.held.iter().filter(concerns).map(move |held| {
                    format!("{} {} ({})", held.address, slot.entry.holder(), slot.live.reason)
                })
            });
        let shut = self
            .quarantine
            .values()
            .filter(|shut| pools.contains(&shut.pool) && wants(request, shut.key.address))
            .map(|shut| {
                let proxy = shut.macs.iter().any(|mac| self.answers.is_proxy(*mac));
                let hint = if proxy {
                    ", which answers for others too: if it is a router with proxy ARP, list it in proxyMACs"
                } else {
                    ""
                };
                format!("{} answered by {}{hint}", shut.key.address, self.names_of(&shut.macs))
            });
        let occupied = self.occupied_in(&pools).filter(|(address, _)| wants(request, *address));
        let occupied = occupied.map(|(address, text)| format!("{address} {text}"));
        let beside = self.holders_beside(&request.key.network, &pools);
        // What no workload holds comes first: it is what an operator can end.
        let here = occupied.chain(shut).chain(beside).chain(held);
        let elsewhere = self.holders_abroad(&pools).into_iter().chain(self.kept_from(request, &pools));
        let mut holders: Vec<String> = here.chain(elsewhere).collect();
        let more = holders.len().saturating_sub(HOLDERS_NAMED);
        holders.truncate(HOLDERS_NAMED);
        if more > 0 {
            holders.push(format!("and {more} more"));
        }
        holders.extend(self.strays.lines());
        LedgerError::Exhausted {
            pools: pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            waited_ms: waited.as_millis(),
            holders: holders.join("; "),
        }
    }
}

/// True if a request is of the pod, on the interface, that an attachment was for.
pub(super) fn is_same_pod(of: &Entry, request: &LeaseRequest) -> bool {
    let uid = |pod: &Option<crate::attachment::PodRef>| pod.as_ref().and_then(|pod| pod.uid.clone());
    of.key.network == request.key.network
        && of.key.ifname == request.key.ifname
        && uid(&of.pod).is_some_and(|of| uid(&request.pod) == Some(of))
}

/// True if a request would take this address: any, if it names none of that family.
fn wants(request: &LeaseRequest, address: IpAddr) -> bool {
    let mut named = request.ips.iter().filter(|ip| Family::of(**ip) == Family::of(address)).peekable();
    named.peek().is_none() || named.any(|ip| *ip == address)
}
