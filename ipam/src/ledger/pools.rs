//! The pools as the ledger works with them: free addresses, and which of them are asked for ahead of need.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::access;
use super::io::{LeaseRequest, LedgerError};
use super::wire::ProbePurpose;
use crate::alloc::{FreeSet, check_requested, gives};
use crate::attachment::AttachmentKey;
use crate::config::{Config, Network, Pool};
use crate::interval::Family;
use crate::name::{IfName, NodeName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// Candidates kept ready while no ADD came lately, and while ADDs come.
const READY_IDLE: usize = 8;
const READY_BUSY: usize = 96;
/// Candidates kept ready in all pools together to which no ADD came lately. With a hundred pools and a
/// hundred nodes, more would be a storm on the wire without a use.
const READY_IDLE_IN_ALL: usize = 64;
/// Number of candidates that are probed ahead in one round: its proof is known only when all of it is over.
const AHEAD_AT_ONCE: usize = 16;
/// For how long an ADD counts as lately.
const BUSY_FOR: Duration = Duration::from_secs(10);
/// Interval at which the ready candidates are looked over.
const REFILL_EVERY: Duration = Duration::from_secs(1);
/// Number of candidates that an ADD probes itself when none is ready.
const PROBE_AT_ONCE: usize = 4;

/// One pool's state.
#[derive(Debug, Clone)]
pub struct PoolState {
    /// Its free addresses.
    pub free: FreeSet,
    /// Addresses being probed ahead.
    pub probing: BTreeSet<IpAddr>,
    /// The last ADD that drew from it.
    pub last_add: Option<Time>,
}

impl PoolState {
    /// A pool of which nothing is taken.
    pub fn new(pool: &Pool) -> Self {
        Self { free: FreeSet::new(pool, []), probing: BTreeSet::new(), last_add: None }
    }

    /// The same of a pool that other nodes draw from too.
    pub fn keep_apart(mut self) -> Self {
        self.free = self.free.keep_apart();
        self
    }
}

/// An address chosen for an ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Pool of the address.
    pub pool: PoolName,
    /// Key of its record.
    pub key: AddressKey,
    /// The attachment that hands it over, proven dead; `None`: it is free.
    pub from: Option<AttachmentKey>,
}

/// The name of a pool that gives an address: the one of that name, or else any.
pub(super) fn pool_giving<'a>(
    config: &'a Config,
    name: &'a PoolName,
    key: &AddressKey,
) -> Option<&'a PoolName> {
    // Nearly every pool keeps its name, so a holder costs one look.
    if config.pools.get(name).is_some_and(|pool| is_member(pool, key)) {
        return Some(name);
    }
    config.pools.iter().find(|(_, pool)| is_member(pool, key)).map(|(other, _)| other)
}

/// True if a pool gives an address in this segment.
pub(super) fn is_member(pool: &Pool, key: &AddressKey) -> bool {
    pool.segment == key.segment && gives(pool, key.address)
}

/// The address that a request names, if it is free; the error says why the pool never gives it.
fn asked_for(
    pool: &Pool,
    state: &PoolState,
    address: IpAddr,
    request: &LeaseRequest,
) -> Result<Vec<IpAddr>, LedgerError> {
    if let Err(why) = check_requested(pool, address) {
        return Err(LedgerError::NotGivable { address, why: why.to_string() });
    }
    if let Some(error) = access::reserved(pool, address, request) {
        return Err(error);
    }
    Ok(Some(address).filter(|address| state.free.is_free(*address)).into_iter().collect())
}

/// Free addresses for a request that names none, best first: those that are reserved for it alone, else those of its
/// pod's former sandbox and others.
fn suggested(
    pool: &Pool,
    state: &mut PoolState,
    request: &LeaseRequest,
    (node, now): (&NodeName, Time),
    home: &[AddressKey],
    (avoid, shadows): (&BTreeSet<IpAddr>, usize),
) -> Vec<IpAddr> {
    let free = |address: &IpAddr| state.free.is_free(*address) && !avoid.contains(address);
    let own: Vec<_> = access::own(pool, request).into_iter().filter(free).collect();
    if !own.is_empty() {
        return own;
    }
    let at_home = home.iter().filter(|key| key.segment == pool.segment).map(|key| key.address);
    let limit = READY_BUSY + avoid.len() + pool.access.reserved() + shadows;
    let mut all: Vec<_> = at_home.filter(free).collect();
    all.extend(state.free.candidates(node, now, limit));
    all.retain(|address| access::reserved(pool, *address, request).is_none());
    all
}

/// Result of a look for addresses.
#[derive(Debug)]
pub enum Choice {
    /// These, at once.
    Take(Vec<Pick>),
    /// These, if the wire is silent for them.
    Probe(Vec<Pick>),
    /// None is ready now.
    Wait,
}

impl Ledger {
    /// Chooses one address of each family that the network's pools name.
    pub(super) fn choose(
        &mut self,
        now: Time,
        request: &LeaseRequest,
        avoid: &BTreeSet<IpAddr>,
    ) -> Result<Choice, LedgerError> {
        let network = self.network(request)?.clone();
        let home = self.homes.of(request);
        let (mut sure, mut unsure) = (Vec::new(), Vec::new());
        let mut seen_families = Vec::new();
        for family in self.families(&network, request) {
            seen_families.push(family);
            if !self.has_enabled_pool(&network, family) {
                return Err(LedgerError::NoPool(request.key.network.clone()));
            }
            let (silent, others) = self.offers(now, &network, family, request, &home, avoid)?;
            let port = network.link.wire_device();
            // Without a wire that can be asked, the record alone decides.
            let blind = port.is_none();
            if let Some(pick) = silent.or_else(|| others.first().filter(|_| blind).cloned()) {
                sure.push(pick);
            } else if others.is_empty() || port.is_some_and(|port| self.hearings.deaf(&port).is_some()) {
                return Ok(Choice::Wait);
            } else {
                unsure.extend(others);
            }
        }
        if let Some(&stranger) = request.ips.iter().find(|ip| !seen_families.contains(&Family::of(**ip))) {
            let why = format!("no pool of network {} has addresses of that family", request.key.network);
            return Err(LedgerError::NotGivable { address: stranger, why });
        }
        if unsure.is_empty() { Ok(Choice::Take(sure)) } else { Ok(Choice::Probe([sure, unsure].concat())) }
    }

    pub(super) fn network(&self, request: &LeaseRequest) -> Result<&Network, LedgerError> {
        let name = &request.key.network;
        let network =
            self.config.networks.get(name).ok_or_else(|| LedgerError::UnknownNetwork(name.clone()))?;
        if let Some(why) = self.left_out(name) {
            return Err(LedgerError::LeftOut { network: name.clone(), why: Box::new(why.clone()) });
        }
        let enabled = |pool: &&PoolName| self.config.pools.get(*pool).is_some_and(|pool| !pool.disabled);
        if network.pools.iter().any(|pool| enabled(&pool)) {
            Ok(network)
        } else {
            Err(LedgerError::NoPool(name.clone()))
        }
    }

    fn has_enabled_pool(&self, network: &Network, family: Family) -> bool {
        let pools = network.pools.iter().filter_map(|name| self.config.pools.get(name));
        pools.into_iter().any(|pool| Family::of(pool.subnet.ip()) == family && !pool.disabled)
    }

    /// The families of which a request gets an address, in the order in which the network names its
    /// pools: all of them, or those of the addresses that its interface has already.
    pub(super) fn families(&self, network: &Network, request: &LeaseRequest) -> Vec<Family> {
        let wanted =
            |family: Family| !request.adopt || request.ips.iter().any(|ip| Family::of(*ip) == family);
        let mut families = Vec::new();
        for pool in network.pools.iter().filter_map(|name| self.config.pools.get(name)) {
            let family = Family::of(pool.subnet.ip());
            if wanted(family) && !families.contains(&family) {
                families.push(family);
            }
        }
        families
    }

    /// The best free address known to be silent, else a few that would have to be asked for.
    fn offers(
        &mut self,
        now: Time,
        network: &Network,
        family: Family,
        request: &LeaseRequest,
        home: &[AddressKey],
        avoid: &BTreeSet<IpAddr>,
    ) -> Result<(Option<Pick>, Vec<Pick>), LedgerError> {
        let wanted = request.ips.iter().copied().find(|ip| Family::of(*ip) == family);
        let port = self.port_of(network);
        let mut unsure = Vec::new();
        let (mut refused, mut open) = (None, false);
        let device = network.link.wire_device();
        for name in &network.pools {
            let Some(pool) =
                self.config.pools.get(name).filter(|pool| Family::of(pool.subnet.ip()) == family)
            else {
                continue;
            };
            if pool.disabled {
                continue;
            }
            if let Some(error) = access::refusal(name, pool, request) {
                refused = Some(error);
                continue;
            }
            let shadows = self.shadows_at_most(&pool.segment);
            let Some(state) = self.pools.get_mut(name) else { continue };
            if state.last_add.is_none_or(|at| now.since(at) >= BUSY_FOR) {
                // More may follow: they shall find more than an idle pool keeps ready.
                self.next_refill = Some(now);
            }
            state.last_add = Some(now);
            let candidates = match wanted {
                Some(address) => match asked_for(pool, state, address, request) {
                    Ok(found) => found,
                    Err(error) => {
                        refused = Some(error);
                        continue;
                    }
                },
                None => suggested(pool, state, request, (&self.me.node, now), home, (avoid, shadows)),
            };
            open = true;
            let pick = |address: IpAddr| Pick {
                pool: name.clone(),
                key: AddressKey { segment: pool.segment.clone(), address },
                from: None,
            };
            let fit = candidates
                .iter()
                .copied()
                .filter(|address| !avoid.contains(address) && !self.is_shadowed(&port, &pick(*address).key));
            let silent = |address: &IpAddr| self.is_silent(now, device.as_ref(), &pick(*address).key);
            if let Some(address) = fit.clone().find(silent) {
                return Ok((Some(pick(address)), Vec::new()));
            }
            unsure.extend(fit.take(PROBE_AT_ONCE).map(pick));
            if wanted.is_some() {
                return Ok((None, unsure));
            }
            if !unsure.is_empty() {
                break;
            }
        }
        match refused {
            Some(error) if !open => Err(error),
            _ => Ok((None, unsure)),
        }
    }

    fn is_silent(&self, now: Time, device: Option<&IfName>, key: &AddressKey) -> bool {
        device.is_some_and(|device| self.hearings.is_silent(now, device, key))
    }

    /// Marks an address as taken, under whatever name its pool is declared now.
    pub(super) fn take(&mut self, key: &AddressKey) {
        for name in self.pools_of(key) {
            if let Some(state) = self.pools.get_mut(&name) {
                state.free.take(key.address);
            }
        }
        self.hearings.spoken(key);
    }

    /// The pools that may give an address: usually one.
    pub(super) fn pools_of(&self, key: &AddressKey) -> Vec<PoolName> {
        let of_them = |pool: &Pool| is_member(pool, key);
        self.config.pools.iter().filter(|(_, pool)| of_them(pool)).map(|(name, _)| name.clone()).collect()
    }

    /// The name of the pool that gives an address now. `name`: the one of the record, which may be renamed since.
    pub(super) fn pool_now<'a>(&'a self, name: &'a PoolName, key: &AddressKey) -> &'a PoolName {
        pool_giving(&self.config, name, key).unwrap_or(name)
    }

    /// Marks an address as free again, unless it is held or quarantined. It rests.
    pub(super) fn give_back(&mut self, now: Time, key: &AddressKey) {
        if !self.is_taken(key) && self.is_asked_for(key) {
            for name in self.pools_of(key) {
                if let Some(state) = self.pools.get_mut(&name) {
                    state.free.released_meanwhile(key.address, now);
                }
            }
        }
        self.free_again(key, |free| free.give_back(key.address, now));
    }

    /// The same for one that was taken and not used, which needs no rest.
    pub(super) fn return_unused(&mut self, key: &AddressKey) {
        self.free_again(key, |free| free.return_unused(key.address));
    }

    fn free_again(&mut self, key: &AddressKey, free: impl Fn(&mut FreeSet) -> bool) {
        // What an ADD asks the wire about is given back when that is over.
        if self.is_taken(key) || self.is_asked_for(key) {
            return;
        }
        for waiter in &mut self.line {
            waiter.avoid.remove(&key.address);
        }
        for name in self.pools_of(key) {
            if let Some(state) = self.pools.get_mut(&name) {
                free(&mut state.free);
            }
        }
    }

    /// True if an address has a holder, here or elsewhere, is on an interface of the node, is quarantined, or
    /// is carried by a stray.
    pub(super) fn is_taken(&self, key: &AddressKey) -> bool {
        !self.occupied.of(key).is_empty()
            || self.shared.abroad.contains_key(key)
            || self.holders.contains_key(key)
            || self.quarantine.contains_key(key)
            || self.strays.carry(key)
    }

    fn is_asked_for(&self, key: &AddressKey) -> bool {
        self.probes.values().any(|purpose| match purpose {
            ProbePurpose::Add { picks, .. } => picks.iter().any(|pick| pick.key == *key),
            _ => false,
        })
    }

    /// Probes candidates ahead of need, so that a normal ADD waits for nothing.
    pub(super) fn refill_if_due(&mut self, now: Time) {
        if !self.serving || self.next_refill.is_some_and(|at| at > now) {
            return;
        }
        self.next_refill = Some(now + REFILL_EVERY);
        self.refill(now);
    }

    pub(super) fn refill(&mut self, now: Time) {
        let networks: Vec<_> = self
            .served()
            .filter_map(|(_, network)| Some((network.link.wire_device()?, network.pools.clone())))
            .collect();
        let mut devices = BTreeMap::new();
        for (device, pools) in &networks {
            for name in pools {
                if self.hearings.deaf(device).is_none() {
                    devices.entry(name.clone()).or_insert_with(|| device.clone());
                }
            }
        }
        self.hearings.forget_old(now);
        // Where an ADD came last, the next one is likeliest.
        let mut by_use: Vec<_> = devices.into_iter().collect();
        by_use.sort_by_key(|(name, _)| Reverse(self.pools.get(name).and_then(|state| state.last_add)));
        let mut idle = READY_IDLE_IN_ALL;
        for (name, device) in by_use {
            let wanted = self.wanted_ahead(now, &name, &device, &mut idle);
            for addresses in wanted.chunks(AHEAD_AT_ONCE) {
                self.ask(device.clone(), ProbePurpose::Ahead(name.clone()), addresses.to_vec(), false);
            }
        }
    }

    /// The candidates of a pool to be probed now. `idle`: how many more there may be of pools without ADDs.
    fn wanted_ahead(&mut self, now: Time, name: &PoolName, device: &IfName, idle: &mut usize) -> Vec<IpAddr> {
        let Some(pool) = self.config.pools.get(name).filter(|pool| !pool.disabled) else { return Vec::new() };
        let Some(state) = self.pools.get_mut(name) else { return Vec::new() };
        let busy = state.last_add.is_some_and(|at| now.since(at) < BUSY_FOR);
        let ready = if busy { READY_BUSY } else { READY_IDLE.min(*idle) };
        if state.probing.len() * 2 > ready {
            *idle -= if busy { 0 } else { ready };
            return Vec::new();
        }
        if ready == 0 {
            return Vec::new();
        }
        let hearings = &self.hearings;
        let old = |&address: &IpAddr| {
            !hearings.is_fresh(now, device, &AddressKey { segment: pool.segment.clone(), address })
        };
        let candidates = state.free.candidates(&self.me.node, now, ready);
        *idle -= if busy { 0 } else { candidates.len() };
        let wanted: Vec<_> =
            candidates.into_iter().filter(|a| old(a) && !state.probing.contains(a)).collect();
        state.probing.extend(wanted.iter().copied());
        wanted
    }

    /// A port heard no host for an address: if it is free, that makes it ready.
    pub(super) fn silence_of(&mut self, now: Time, device: &IfName, pool: &PoolName, key: &AddressKey) {
        if self.pools.get(pool).is_some_and(|state| state.free.is_free(key.address)) {
            self.hearings.silence(now, device, key.clone());
        }
    }
}
