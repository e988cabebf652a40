//! Edited declarations: taken over as a whole, or refused with the list of holders that would
//! lose their address.

use std::ops::RangeInclusive;

use super::Ledger;
use super::io::{Action, NoteKind};
use super::pools::{PoolState, pool_giving};
use crate::config::{Config, Pool};
use crate::record::AddressKey;
use crate::time::Time;

/// All that can be taken in a pool's subnet, in the order of the books: a pool costs what is taken in it.
fn span(pool: &Pool) -> RangeInclusive<AddressKey> {
    let at = |address| AddressKey { segment: pool.segment.clone(), address };
    at(pool.subnet.network())..=at(pool.subnet.broadcast())
}

impl Ledger {
    pub(super) fn declared(&mut self, now: Time, config: Config) {
        let lost: Vec<String> = self
            .slots
            .values()
            .flat_map(|slot| slot.entry.held.iter().map(move |held| (slot, held)))
            .filter(|(_, held)| {
                // A pool may be renamed. One that was gone when the agent started is dropped already.
                let by = |config: &Config| pool_giving(config, &held.pool, &held.key()).is_some();
                !by(&config) && by(&self.config)
            })
            .map(|(slot, held)| {
                format!("pool {} would drop {}, held by {}", held.pool, held.address, slot.entry.key)
            })
            .collect();
        if !lost.is_empty() && self.shared.on {
            // The API server took the edit, and other nodes follow it: a holder of such an address keeps it,
            // and no other attachment gets it.
            let text = lost.join("; ");
            self.note(NoteKind::Warning, "pool-edited-in-use", Vec::new(), None, text);
        } else if !lost.is_empty() {
            self.out.push(Action::ConfigTaken(Err(lost)));
            return;
        }
        self.choose_again();
        let mut old = std::mem::take(&mut self.pools);
        for (name, pool) in &config.pools {
            // By segment and not by the pool's name: an address in use may have come from a pool
            // that is called otherwise by now.
            let span = span(pool);
            let holders = self.holders.range(span.clone()).map(|(key, _)| key.address);
            let quarantine = self.quarantine.range(span.clone()).map(|(key, _)| key.address);
            let abroad = self.shared.abroad.range(span.clone()).map(|(key, _)| key.address);
            let occupied = self.occupied.range(span.clone()).map(|key| key.address);
            let strays = self.strays.carried(span);
            let taken: Vec<_> =
                holders.chain(quarantine).chain(abroad).chain(occupied).chain(strays).collect();
            let mut state = old.remove(name).unwrap_or_else(|| {
                let new = PoolState::new(pool);
                if self.shared.on { new.keep_apart() } else { new }
            });
            state.free.redeclare(pool, taken);
            state.probing.clear();
            self.pools.insert(name.clone(), state);
        }
        self.hearings.forget();
        for slot in self.slots.values_mut() {
            if let Some(network) = config.networks.get(&slot.entry.key.network) {
                slot.entry.settle = network.settle;
                slot.entry.leaked_after = network.leaked_after;
            }
        }
        self.config = config;
        self.name_pools_of_quarantine();
        self.redeclare_ports();
        self.strays.look(now);
        self.index_occupied(now);
        self.surveys.want_search();
        self.next_refill = Some(now);
        self.out.push(Action::ConfigTaken(Ok(())));
        self.serve_line(now);
    }
}
