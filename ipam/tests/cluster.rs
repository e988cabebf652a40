//! Several nodes on one store, everything late, lost or cut short that can be: no address is ever given
//! to two pods that live, and in the end exactly the living ones are recorded.
//!
//! Each seed is one story. `CLUSTER_SEED=n` tells one again, with everything that happens printed.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod declared;
#[path = "cluster/world.rs"]
mod world;

use world::World;

fn stories(seeds: std::ops::Range<u64>, kind: impl Fn(u64) -> World) {
    let one: Option<u64> = std::env::var("CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut granted, mut restarts, mut relists) = (0, 0, 0);
    for seed in one.map_or(seeds, |seed| seed..seed + 1) {
        let mut world = kind(seed);
        for _ in 0..400 {
            world.happen();
        }
        world.settle();
        granted += world.granted;
        restarts += world.restarts;
        relists += world.relists;
    }
    if one.is_none() {
        // The stories are about something.
        assert!(granted > 1_000 && restarts > 100 && relists > 50, "{granted} {restarts} {relists}");
    }
}

#[test]
fn the_store_alone_keeps_addresses_apart_even_where_the_wire_is_deaf() {
    stories(0..300, |seed| World::new(seed, false, false));
}

#[test]
fn hands_in_the_store_are_survived_where_the_wire_hears() {
    stories(10000..10300, |seed| World::new(seed, true, true));
}
