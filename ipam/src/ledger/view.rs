//! Views of the ledger: every address that is not free, and the pools' counts.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Ledger;
use super::entry::{Held, Phase, Quarantined, Slot};
use super::hearing::PortView;
use super::io::{PoolCount, State};
use super::line::{Stage, Waiter};
use super::occupied::Occupant;
use super::wire::ProbePurpose;
use crate::alloc::gives;
use crate::config::Pool;
use crate::name::{IfName, NodeName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// One address that is not free.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// It has a holder.
    Held {
        /// Slot of the holder.
        slot: &'a Slot,
        /// Its entry for this address.
        held: &'a Held,
        /// State of the address.
        state: State,
    },
    /// It is quarantined.
    Shut(&'a Quarantined),
    /// An interface of this node has it, and it has no holder.
    Occupied(&'a Occupant),
}

impl View<'_> {
    /// The address in its segment.
    pub fn key(&self) -> AddressKey {
        match self {
            Self::Held { held, .. } => held.key(),
            Self::Shut(shut) => shut.key.clone(),
            Self::Occupied(occupant) => occupant.key.clone(),
        }
    }

    /// Address without its segment.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Held { held, .. } => held.address,
            Self::Shut(shut) => shut.key.address,
            Self::Occupied(occupant) => occupant.key.address,
        }
    }

    /// Since when it has been so.
    pub fn since(&self) -> Time {
        match self {
            Self::Held { slot, .. } => slot.live.since,
            Self::Shut(shut) => shut.since,
            Self::Occupied(occupant) => occupant.since,
        }
    }
}

impl Slot {
    /// The state that `leases` shows.
    pub fn state(&self) -> State {
        if self.entry.phase == Phase::Held {
            State::Held
        } else if self.live.suspect || self.entry.phase == Phase::Releasing {
            State::Suspect
        } else if self.entry.phase.is_open() {
            State::Reserved
        } else {
            State::Bound
        }
    }
}

impl Ledger {
    /// Addresses without a holder that an ADD may get without another question: known to be silent, or being
    /// asked for. Each claim to one of them must be heard.
    pub fn candidates(&self) -> Vec<(PoolName, IpAddr)> {
        let silent = self.hearings.all_silent().into_iter();
        let silent =
            silent.flat_map(|key| self.pools_of(key).into_iter().map(move |name| (name, key.address)));
        let probing = self
            .pools
            .iter()
            .flat_map(|(name, state)| state.probing.iter().map(move |address| (name.clone(), *address)));
        let picked = self.probes.values().flat_map(|purpose| match purpose {
            ProbePurpose::Add { picks, .. } => picks.as_slice(),
            _ => &[],
        });
        silent.chain(probing).chain(picked.map(|pick| (pick.pool.clone(), pick.key.address))).collect()
    }

    /// Hearing of the port on a device.
    pub fn port(&self, device: &IfName) -> PortView<'_> {
        self.hearings.view(device)
    }

    /// Every address that is not free.
    pub fn leases(&self) -> Vec<View<'_>> {
        let held = self.slots.values().flat_map(|slot| {
            let state = slot.state();
            slot.entry
                .held
                .iter()
                .filter(|held| self.holders.get(&held.key()) == Some(&slot.entry.key))
                .map(move |held| View::Held { slot, held, state })
        });
        let occupied = self.occupied().map(|(occupant, _)| View::Occupied(occupant));
        let mut views: Vec<_> = held.chain(self.quarantined().map(View::Shut)).chain(occupied).collect();
        views.sort_by_key(View::address);
        views
    }

    /// The quarantined addresses that no interface of the node is known to have.
    fn quarantined(&self) -> impl Iterator<Item = &Quarantined> {
        self.quarantine.values().filter(|shut| self.occupied.of(&shut.key).is_empty())
    }

    /// The counts of every pool.
    pub fn pool_counts(&self) -> Vec<PoolCount> {
        let occupied: Vec<_> = self.occupied().map(|(occupant, _)| occupant).collect();
        self.config
            .pools
            .iter()
            .filter_map(|(name, pool)| {
                let state = self.pools.get(name)?;
                let of = |wanted: &[State]| {
                    let slots = self.slots.values().filter(|slot| wanted.contains(&slot.state()));
                    let of_pool = |held: &&Held| self.pool_now(&held.pool, &held.key()) == name;
                    slots.flat_map(|slot| &slot.entry.held).filter(of_pool).count() as u64
                };
                let waiting =
                    self.line.iter().filter(|waiter| waiter.stage != Stage::Committing).filter(|waiter| {
                        let network = self.config.networks.get(&waiter.request.key.network);
                        network.is_some_and(|network| network.pools.contains(name))
                    });
                Some(PoolCount {
                    pool: name.clone(),
                    segment: pool.segment.clone(),
                    subnet: pool.subnet,
                    total: state.free.total(),
                    bound: of(&[State::Reserved, State::Bound]),
                    suspect: of(&[State::Suspect]),
                    held: of(&[State::Held]),
                    abroad: self.abroad_of(pool),
                    quarantined: self.quarantined().filter(|shut| shut.pool == *name).count() as u64
                        + occupied.iter().filter(|occupant| occupant.pool == *name).count() as u64,
                    free: state.free.free(),
                    waiting: waiting.count() as u64,
                })
            })
            .collect()
    }

    /// Number of a pool's addresses that other nodes hold.
    fn abroad_of(&self, pool: &Pool) -> u64 {
        let keys = self.shared.abroad.keys().filter(|key| key.segment == pool.segment);
        keys.filter(|key| gives(pool, key.address)).count() as u64
    }

    /// Devices that attachments are on.
    pub fn devices_in_use(&self) -> BTreeSet<IfName> {
        self.slots.values().filter_map(|slot| slot.entry.fdb_parent.clone()).collect()
    }

    /// States that require action in addition to the attachments that no verdict settles, in words: MACs that
    /// no entry explains, and interfaces that could not be read.
    pub fn troubles(&self) -> Vec<String> {
        self.strays.lines().into_iter().chain(self.unsurveyed()).collect()
    }

    /// Reason why the record of an ADD that waits was not taken: a cause that keeps one out of the store
    /// keeps them all.
    pub fn refusal(&self) -> Option<&str> {
        self.line.iter().find_map(Waiter::refusal)
    }

    /// Number of records that this version cannot read.
    pub fn unreadable(&self) -> usize {
        self.shared.abroad.values().filter(|abroad| abroad.txn.is_none()).count()
    }

    /// True if an attachment was made in this boot of this machine.
    pub fn is_of_this_boot(&self, entry: &super::entry::Entry) -> bool {
        entry.boot_id == self.me.boot_id && entry.machine_id == self.me.machine_id
    }

    /// Causes that keep every ADD waiting, by their codes.
    pub fn bars(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.bars.iter().map(|(code, why)| (*code, why.as_str()))
    }

    /// The node's name.
    pub fn node(&self) -> &NodeName {
        &self.me.node
    }
}
