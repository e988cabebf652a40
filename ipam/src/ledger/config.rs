//! Edited declarations: taken over as a whole, or refused with the list of holders that would
//! lose their address.

use super::Ledger;
use super::io::Action;
use super::pools::PoolState;
use crate::config::Config;
use crate::time::Time;

impl Ledger {
    pub(super) fn declared(&mut self, now: Time, config: Config) {
        let lost: Vec<String> = self
            .slots
            .values()
            .flat_map(|slot| slot.entry.held.iter().map(move |held| (slot, held)))
            .filter(|(_, held)| {
                self.config.pools.contains_key(&held.pool)
                    && config.pools.get(&held.pool).is_some_and(|pool| {
                        pool.segment != held.segment
                            || !crate::alloc::usable(pool).contains(crate::interval::to_bits(held.address))
                    })
            })
            .map(|(slot, held)| {
                format!("pool {} would drop {}, held by {}", held.pool, held.address, slot.entry.key)
            })
            .collect();
        if !lost.is_empty() {
            self.out.push(Action::ConfigTaken(Err(lost)));
            return;
        }
        let mut old = std::mem::take(&mut self.pools);
        for (name, pool) in &config.pools {
            let held = self.slots.values().flat_map(|slot| &slot.entry.held);
            let held = held.filter(|held| held.pool == *name).map(|held| held.address);
            let shut =
                self.quarantine.values().filter(|shut| shut.pool == *name).map(|shut| shut.key.address);
            let mut state = old.remove(name).unwrap_or_else(|| PoolState::new(pool));
            state.free.redeclare(pool, held.chain(shut));
            state.silent.clear();
            state.probing.clear();
            self.pools.insert(name.clone(), state);
        }
        for slot in self.slots.values_mut() {
            if let Some(network) = config.networks.get(&slot.entry.key.network) {
                slot.entry.settle = network.settle;
                slot.entry.leaked_after = network.leaked_after;
            }
        }
        self.config = config;
        self.next_refill = Some(now);
        self.out.push(Action::ConfigTaken(Ok(())));
        self.serve_line(now);
    }
}
