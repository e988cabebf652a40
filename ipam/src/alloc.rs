//! Choice of the next free address: rendezvous order per node, and rest after a release.
//!
//! Every node orders the free addresses of a pool by its own hash of (node, address), so nodes
//! that allocate at one instant seldom want the same one, without talking to each other. The
//! order is a preference only: what makes an address unique is the store's create-if-absent.
//! An address that was released in the last [`REST`] comes last, because neighbours may still
//! have the former holder in their caches.
//!
//! This module does not probe, does not wait and knows no leases. Invariant of [`FreeSet`]:
//! every usable address of the pool is exactly one of rested, resting or taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::config::Pool;
use crate::interval::{Family, IntervalSet, from_bits, to_bits};
use crate::name::NodeName;
use crate::time::Time;

/// Time after its release in which an address comes last.
pub const REST: Duration = Duration::from_mins(1);

/// Up to so many rested addresses the order is exact; above, it is the best of a sample.
pub const EXACT_MAX: u128 = 4096;

/// Number of positions that a sample has beyond four for each candidate asked for.
const SAMPLE_MIN: usize = 64;

/// Reason why an address that was asked for by name cannot come from a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is of the other family, or beyond the prefix.
    #[error("{address} is not in subnet {subnet}; ask for an address of that subnet")]
    OutsideSubnet {
        /// The address asked for.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNetwork,
    },
    /// It is the router's.
    #[error("{address} is the gateway of {subnet}; ask for another address")]
    Gateway {
        /// The address asked for.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNetwork,
    },
    /// It is the subnet's first address (IPv6: the subnet-router anycast address).
    #[error("{address} names the subnet {subnet} itself; ask for another address")]
    Network {
        /// The address asked for.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNetwork,
    },
    /// It is the subnet's broadcast address.
    #[error("{address} is the broadcast address of {subnet}; ask for another address")]
    Broadcast {
        /// The address asked for.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNetwork,
    },
    /// It is in the subnet, but in no range of the pool, or in an exclusion.
    #[error(
        "{address} is in subnet {subnet} but not given by the pool; ask for another address, or change the pool's ranges and exclude"
    )]
    NotGiven {
        /// The address asked for.
        address: IpAddr,
        /// The pool's subnet.
        subnet: IpNetwork,
    },
}

/// Checks that `pool` may give `address` at all. [`FreeSet::is_free`] shows if the address is free.
pub fn check_requested(pool: &Pool, address: IpAddr) -> Result<(), Refusal> {
    let subnet = pool.subnet;
    if !subnet.contains(address) {
        return Err(Refusal::OutsideSubnet { address, subnet });
    }
    if pool.gateway == Some(address) {
        return Err(Refusal::Gateway { address, subnet });
    }
    // A range may name a subnet's edge on purpose, so membership decides before the edges do.
    if pool.members.contains(to_bits(address)) {
        return Ok(());
    }
    let bits: u8 = if subnet.is_ipv4() { 32 } else { 128 };
    let has_edges = subnet.prefix() + 1 < bits;
    if has_edges && address == subnet.network() {
        return Err(Refusal::Network { address, subnet });
    }
    if has_edges && subnet.is_ipv4() && address == subnet.broadcast() {
        return Err(Refusal::Broadcast { address, subnet });
    }
    Err(Refusal::NotGiven { address, subnet })
}

/// True if an address is one of `pool`'s: a member, not merely of its subnet.
pub fn gives(pool: &Pool, address: IpAddr) -> bool {
    check_requested(pool, address).is_ok()
}

/// The addresses of `pool` that may be given: its members within the subnet, less the gateway.
pub fn usable(pool: &Pool) -> IntervalSet {
    let subnet: IntervalSet =
        [(to_bits(pool.subnet.network()), to_bits(pool.subnet.broadcast()))].into_iter().collect();
    let mut usable = pool.members.intersection(&subnet);
    if let Some(gateway) = pool.gateway.filter(|gateway| pool.subnet.contains(*gateway)) {
        usable.remove(to_bits(gateway), to_bits(gateway));
    }
    usable
}

/// The place of an address in a node's order; a higher score comes earlier.
///
/// FNV-1a (64 bits) over the node's name, then three steps of `SplitMix64`: over that hash, over
/// it and the upper half of the address, over that and the lower half. The formula never changes between releases, so nodes
/// of different versions still prefer different addresses.
pub fn score(node: &NodeName, address: IpAddr) -> u64 {
    score_bits(seed(node), to_bits(address))
}

fn seed(node: &NodeName) -> u64 {
    let name = node.as_str().bytes();
    mix(name.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

fn score_bits(seed: u64, bits: u128) -> u64 {
    let [upper, lower] = halves(bits);
    mix(mix(seed ^ upper) ^ lower)
}

#[expect(clippy::cast_possible_truncation, reason = "each half is what 64 bits hold")]
fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

/// One step of the `SplitMix64` generator: spreads every bit of `number` over all of the result.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The free addresses of one pool, kept as they are taken and given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeSet {
    family: Family,
    /// All that the pool may give, free or not.
    usable: IntervalSet,
    /// Number of addresses in `usable`, because counting walks all intervals.
    usable_len: u128,
    /// Free, and not released lately.
    rested: IntervalSet,
    /// Number of addresses in `rested`.
    rested_len: u128,
    /// Free, with the time of the release, which was less than [`REST`] ago when last looked at.
    resting: BTreeMap<u128, Time>,
    /// `resting` by time, oldest first.
    by_release: BTreeSet<(Time, u128)>,
    /// Since when those were resting that were taken then.
    interrupted: BTreeMap<u128, Time>,
    /// True if resting addresses, too, come in the node's own order.
    apart: bool,
}

impl FreeSet {
    /// The free set of `pool` while `taken` are in use. Addresses that are not the pool's are ignored.
    pub fn new(pool: &Pool, taken: impl IntoIterator<Item = IpAddr>) -> Self {
        let usable = usable(pool);
        let usable_len = usable.len();
        let mut set = Self {
            family: Family::of(pool.subnet.ip()),
            rested: usable.clone(),
            rested_len: usable_len,
            usable,
            usable_len,
            resting: BTreeMap::new(),
            by_release: BTreeSet::new(),
            interrupted: BTreeMap::new(),
            apart: false,
        };
        for address in taken {
            set.take(address);
        }
        set
    }

    /// Follows an edit of the pool while `taken` are in use; what rests goes on resting.
    pub fn redeclare(&mut self, pool: &Pool, taken: impl IntoIterator<Item = IpAddr>) {
        let mut next = Self::new(pool, taken);
        next.apart = self.apart;
        if next.family == self.family {
            for (&bits, &released) in &self.resting {
                if next.take_bits(bits) {
                    next.rest(bits, released);
                }
            }
            for (&bits, &released) in &self.interrupted {
                if next.take_bits(bits) {
                    next.rest(bits, released);
                } else if next.usable.contains(bits) {
                    next.interrupted.insert(bits, released);
                }
            }
        }
        *self = next;
    }

    /// Many nodes draw from the pool: resting addresses, too, come in the node's own order from now on.
    /// The longest released first would be the same one for all of them.
    pub fn keep_apart(mut self) -> Self {
        self.apart = true;
        self
    }

    /// Number of addresses that the pool may give, free or not; saturates at `u128::MAX`.
    pub fn total(&self) -> u128 {
        self.usable_len
    }

    /// Number of free addresses, resting ones included; saturates at `u128::MAX`.
    pub fn free(&self) -> u128 {
        self.rested_len.saturating_add(self.resting.len() as u128)
    }

    /// True if `address` is the pool's and free.
    pub fn is_free(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && self.is_free_bits(to_bits(address))
    }

    /// Marks `address` as in use. False if it was not free.
    pub fn take(&mut self, address: IpAddr) -> bool {
        Family::of(address) == self.family && self.take_bits(to_bits(address))
    }

    /// Marks `address` as free; it rests from `now` on. False if it is not the pool's, or was
    /// free already (then its rest goes on as it was).
    pub fn give_back(&mut self, address: IpAddr, now: Time) -> bool {
        let Some(bits) = self.taken(address) else { return false };
        self.interrupted.remove(&bits);
        self.rest(bits, now);
        true
    }

    /// Notes the release of a taken address that is only asked about: [`Self::return_unused`] lets it rest
    /// from `now`.
    pub fn released_meanwhile(&mut self, address: IpAddr, now: Time) {
        if let Some(bits) = self.taken(address) {
            self.interrupted.insert(bits, now);
        }
    }

    /// Undoes [`Self::take`] for an address that was never used: it is free as it was before, and need not
    /// rest for that. False if it is not the pool's, or was free already.
    pub fn return_unused(&mut self, address: IpAddr) -> bool {
        let Some(bits) = self.taken(address) else { return false };
        if let Some(released) = self.interrupted.remove(&bits) {
            self.rest(bits, released);
        } else {
            self.rested.insert(bits, bits);
            self.rested_len = self.rested_len.saturating_add(1);
        }
        true
    }

    /// Up to `limit` free addresses, the one that `node` should try first in front: rested ones
    /// by descending [`score`], then resting ones, the longest released first, or where nodes keep
    /// [apart](Self::keep_apart) by score too. Takes none.
    ///
    /// All of at most [`EXACT_MAX`] rested addresses are ordered; of more, a sample of positions
    /// that depends on the node alone, so that the cost follows `limit` and never the subnet. In
    /// either case `limit` addresses come out if that many are free.
    pub fn candidates(&mut self, node: &NodeName, now: Time, limit: usize) -> Vec<IpAddr> {
        self.settle(now);
        let seed = seed(node);
        let rested: Vec<u128> = if self.rested_len <= EXACT_MAX {
            self.rested.numbers().collect()
        } else {
            self.sample(seed, limit)
        };
        let mut scored: Vec<_> =
            rested.into_iter().map(|bits| Reverse((score_bits(seed, bits), bits))).collect();
        if limit > 0 && limit < scored.len() {
            scored.select_nth_unstable(limit - 1);
        }
        scored.truncate(limit);
        scored.sort_unstable();
        let mut resting: Vec<_> = self.by_release.iter().map(|&(_, bits)| bits).collect();
        if self.apart {
            resting.sort_by_cached_key(|bits| Reverse((score_bits(seed, *bits), *bits)));
        }
        let order = scored.into_iter().map(|Reverse((_, bits))| bits).chain(resting);
        order.take(limit).map(|bits| from_bits(bits, self.family)).collect()
    }

    /// The bits of an address that is the pool's and not free.
    fn taken(&self, address: IpAddr) -> Option<u128> {
        let bits = to_bits(address);
        let ours = Family::of(address) == self.family && self.usable.contains(bits);
        (ours && !self.is_free_bits(bits)).then_some(bits)
    }

    fn is_free_bits(&self, bits: u128) -> bool {
        self.rested.contains(bits) || self.resting.contains_key(&bits)
    }

    fn take_bits(&mut self, bits: u128) -> bool {
        if self.rested.contains(bits) {
            self.rested.remove(bits, bits);
            self.rested_len -= 1;
            return true;
        }
        match self.resting.entry(bits) {
            btree_map::Entry::Occupied(entry) => {
                let released = entry.remove();
                self.by_release.remove(&(released, bits));
                self.interrupted.insert(bits, released);
                true
            }
            btree_map::Entry::Vacant(_) => false,
        }
    }

    fn rest(&mut self, bits: u128, released: Time) {
        self.resting.insert(bits, released);
        self.by_release.insert((released, bits));
    }

    /// Moves what has rested long enough to the rested ones.
    fn settle(&mut self, now: Time) {
        while let Some(&(released, bits)) = self.by_release.first() {
            if now.since(released) < REST {
                return;
            }
            self.by_release.pop_first();
            self.resting.remove(&bits);
            self.rested.insert(bits, bits);
            self.rested_len = self.rested_len.saturating_add(1);
        }
    }

    /// Some rested addresses, at least `limit` if there are that many: those at, or next after,
    /// positions among the pool's addresses that the seed decides.
    fn sample(&self, seed: u64, limit: usize) -> Vec<u128> {
        let tries = SAMPLE_MIN.saturating_add(limit.saturating_mul(4));
        let mut found = BTreeSet::new();
        for index in 0..tries as u64 {
            let upper = mix(seed ^ index.wrapping_mul(2));
            let lower = mix(seed ^ index.wrapping_mul(2).wrapping_add(1));
            let position = (u128::from(upper) << 64 | u128::from(lower)) % self.usable_len;
            let Some(at) = self.usable.nth(position) else { continue };
            found.extend(self.rested.at_or_after(at).or_else(|| self.rested.nth(0)));
        }
        // Where the rested ones lie in few clusters, many positions lead to one address.
        let wanted = self.rested_len.min(limit as u128);
        let mut next = found.first().copied();
        while let Some(at) = next.filter(|_| (found.len() as u128) < wanted) {
            let after = at.checked_add(1).and_then(|bits| self.rested.at_or_after(bits));
            next = after.or_else(|| self.rested.nth(0));
            found.extend(next);
        }
        found.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
