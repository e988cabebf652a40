//! Identities against random interleavings: numbers of namespaces that come back at once, links that a pod's root moves,
//! hides, marks and copies, namespaces that no search can name, and an agent that starts again in another one.
//!
//! The world knows the owner of each link. Three promises are checked: an address is never on two live links, no link of
//! another attachment or runtime is removed, and once everything has settled an address is free, in use, or told to
//! an operator with what ends it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

#[expect(dead_code, reason = "one node needs no places of foreign hosts")]
#[path = "simulation/air.rs"]
mod air;
mod declared;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "identity/kernel.rs"]
mod kernel;
#[path = "identity/world.rs"]
mod world;

use proptest::prelude::*;
use world::{Op, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pod = 0..6_u8;
    let op = prop_oneof![
        6 => pod.clone().prop_map(Op::Add),
        3 => pod.clone().prop_map(Op::Del),
        3 => pod.clone().prop_map(Op::EndNamespace),
        2 => pod.clone().prop_map(Op::DeleteLink),
        2 => pod.clone().prop_map(Op::MoveLink),
        2 => pod.clone().prop_map(Op::HideLink),
        2 => pod.clone().prop_map(Op::Toggle),
        1 => pod.clone().prop_map(Op::EndHidden),
        1 => (pod.clone(), 0..12_u8).prop_map(|(pod, how)| Op::Alias(pod, how)),
        1 => (pod.clone(), pod.clone()).prop_map(|(pod, of)| Op::Mimic(pod, of)),
        1 => pod.clone().prop_map(Op::EndMimic),
        1 => pod.clone().prop_map(Op::Impostor),
        1 => Just(Op::MoveAgent),
        2 => pod.clone().prop_map(Op::KillPlugin),
        1 => pod.clone().prop_map(Op::Force),
        2 => pod.prop_map(Op::Answer),
        2 => Just(Op::CrashAgent),
        1 => Just(Op::LoseEvents),
        1 => Just(Op::Reboot),
        1 => Just(Op::LoseStore),
        6 => (1..40_u8).prop_map(Op::Happen),
        3 => (1..3000_u16).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..60)
}

/// The number of histories of a run: `SIMULATION_CASES`, else few enough for every run.
fn cases() -> u32 {
    std::env::var("SIMULATION_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_alive_is_freed_and_no_foreign_link_is_removed(seed in any::<u64>(), ops in ops()) {
        let mut world = World::new(seed);
        for op in ops {
            world.play(&op);
            world.check_alive();
        }
        world.settle();
        world.check_alive();
        world.check_nothing_leaked();
    }
}
