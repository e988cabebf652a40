//! The ledger against random interleavings of ADD, DEL, death, crash and restart.
//!
//! A small world stands in for kernel, disk and plugins; a seed decides which of the things under
//! way happens next. Two promises are checked: an address is never on two live links, and once
//! everything has settled no address is recorded that nobody has.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

#[path = "simulation/air.rs"]
mod air;
mod declared;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/guests.rs"]
mod guests;
#[path = "simulation/local.rs"]
mod local;
#[path = "simulation/promises.rs"]
mod promises;
#[path = "declared/renames.rs"]
mod renames;
#[path = "simulation/segment.rs"]
mod segment;
#[path = "declared/segments.rs"]
mod segments;
#[path = "simulation/world.rs"]
mod world;

use proptest::prelude::*;
use world::{Op, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pod = 0..6_u8;
    let op = prop_oneof![
        6 => pod.clone().prop_map(Op::Add),
        4 => (pod.clone(), prop::bool::weighted(0.1)).prop_map(|(pod, elsewhere)| Op::Again(pod, elsewhere)),
        3 => pod.clone().prop_map(Op::Del),
        3 => pod.clone().prop_map(Op::EndNamespace),
        2 => pod.clone().prop_map(Op::DeleteLink),
        2 => pod.clone().prop_map(Op::MoveLink),
        2 => pod.clone().prop_map(Op::KillPlugin),
        1 => pod.clone().prop_map(Op::Force),
        2 => pod.clone().prop_map(Op::Answer),
        1 => (pod.clone(), any::<bool>()).prop_map(|(last, comes)| Op::Node(last, comes)),
        1 => (pod.clone(), any::<bool>()).prop_map(|(last, comes)| Op::Foreign(last, comes)),
        2 => (pod.clone(), pod.clone(), any::<bool>()).prop_map(|(pod, last, says)| Op::Vip(pod, last, says)),
        1 => pod.prop_map(Op::NoVip),
        2 => Just(Op::CrashAgent),
        1 => Just(Op::LoseEvents),
        1 => (0..6_u8).prop_map(Op::Flood),
        1 => Just(Op::Reboot),
        1 => Just(Op::LoseStore),
        1 => any::<u8>().prop_map(Op::Declare),
        3 => (0..4_u8, any::<bool>(), any::<bool>()).prop_map(|(last, announces, lost)| Op::Take(last, announces, lost)),
        2 => (0..4_u8).prop_map(Op::Leave),
        3 => any::<bool>().prop_map(Op::Port),
        2 => (1..3000_u16, prop::option::of(0..4_u8)).prop_map(|(millis, taken)| Op::Pause(millis, taken)),
        2 => (1..4_u8).prop_map(Op::Refuse),
        6 => (1..40_u8).prop_map(Op::Happen),
        3 => (1..3000_u16).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..60)
}

/// Several pools of one subnet, several networks on a port, two segments with the same addresses, and an
/// operator who edits all of it.
fn ops_with_segments() -> impl Strategy<Value = Vec<Op>> {
    // The link of a chained pod is on a port of its own configuration's: left out.
    let (pod, place) = ((0..7_u8).prop_map(|pod| pod + u8::from(pod >= 5)), 0..8_u8);
    let op = prop_oneof![
        6 => pod.clone().prop_map(Op::Add),
        3 => pod.clone().prop_map(Op::Del),
        2 => pod.clone().prop_map(Op::EndNamespace),
        1 => pod.clone().prop_map(Op::MoveLink),
        1 => pod.clone().prop_map(Op::KillPlugin),
        1 => pod.prop_map(Op::Force),
        1 => place.clone().prop_map(Op::Answer),
        3 => place.clone().prop_map(Op::NeighbourComes),
        1 => place.prop_map(Op::NeighbourGoes),
        2 => any::<u8>().prop_map(Op::Declare),
        1 => Just(Op::CrashAgent),
        1 => Just(Op::Reboot),
        1 => Just(Op::LoseStore),
        8 => (1..40_u8).prop_map(Op::Happen),
        3 => (1..3000_u16).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..60)
}

/// How many histories a run plays: `SIMULATION_CASES`, else few enough for every run.
fn cases() -> u32 {
    std::env::var("SIMULATION_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn an_address_is_given_once_on_a_port_whatever_is_declared(
        seed in any::<u64>(),
        ops in ops_with_segments(),
    ) {
        play_in(World::of(seed, segments::segments), &ops, &[]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_live_address_is_freed_and_no_dead_one_is_kept(seed in any::<u64>(), ops in ops()) {
        play(seed, &ops);
    }
}

/// Guests behind pods' links, and time in which their silence could be taken for their end.
fn ops_with_guests() -> impl Strategy<Value = Vec<Op>> {
    // As many pods as addresses: the last one of them needs what a guest has.
    let (pod, last) = (0..4_u8, 0..4_u8);
    let op = prop_oneof![
        5 => pod.clone().prop_map(Op::Add),
        4 => (pod.clone(), last.clone()).prop_map(|(pod, last)| Op::Guest(pod, last, true)),
        2 => (pod.clone(), last.clone()).prop_map(|(pod, last)| Op::Guest(pod, last, false)),
        1 => (pod.clone(), last.clone(), any::<bool>()).prop_map(|(pod, last, says)| Op::Vip(pod, last, says)),
        1 => pod.clone().prop_map(Op::NoVip),
        1 => (last, any::<bool>()).prop_map(|(last, comes)| Op::Foreign(last, comes)),
        2 => pod.clone().prop_map(Op::Del),
        1 => pod.prop_map(Op::EndNamespace),
        1 => Just(Op::CrashAgent),
        1 => any::<bool>().prop_map(Op::Port),
        1 => any::<u8>().prop_map(Op::Declare),
        10 => (20..40_u8).prop_map(Op::Happen),
        8 => (1500..3000_u16).prop_map(Op::Pass),
    ];
    let begin = [
        Op::Add(0),
        Op::Happen(39),
        Op::Happen(39),
        Op::Guest(0, 1, true),
        Op::Guest(0, 2, true),
        Op::Happen(39),
    ];
    prop::collection::vec(op, 1..60).prop_map(move |ops| begin.iter().cloned().chain(ops).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_guests_address_is_given_to_no_other_pod_and_is_free_after_it(seed in any::<u64>(), ops in ops_with_guests()) {
        play_in(World::new(seed), &ops, &[]);
    }
}

/// Pods at a full pool, and gaps of hearing in which foreign hosts take what pods have.
fn ops_with_gaps() -> impl Strategy<Value = Vec<Op>> {
    let (pod, last) = (0..5_u8, 0..4_u8);
    let op = prop_oneof![
        5 => pod.clone().prop_map(Op::Add),
        3 => pod.clone().prop_map(Op::Del),
        2 => pod.prop_map(Op::EndNamespace),
        4 => (1..50_u16, last.clone()).prop_map(|(millis, taken)| Op::Pause(millis, Some(taken))),
        1 => any::<bool>().prop_map(Op::Port),
        2 => (last.clone(), any::<bool>(), any::<bool>()).prop_map(|(last, announces, lost)| Op::Take(last, announces, lost)),
        1 => last.clone().prop_map(Op::Leave),
        1 => (last, any::<bool>()).prop_map(|(last, comes)| Op::Node(last, comes)),
        1 => Just(Op::CrashAgent),
        10 => (1..40_u8).prop_map(Op::Happen),
        2 => (1..1500_u16).prop_map(Op::Pass),
    ];
    let begin =
        [Op::Add(0), Op::Add(1), Op::Add(2), Op::Add(3), Op::Happen(39), Op::Happen(39), Op::Happen(39)];
    prop::collection::vec(op, 1..60).prop_map(move |ops| begin.iter().cloned().chain(ops).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn an_address_that_was_taken_in_a_gap_is_given_to_no_later_pod(seed in any::<u64>(), ops in ops_with_gaps()) {
        play_in(World::new(seed), &ops, &[World::check_promises]);
    }
}

/// Pods that come to a full pool and lose their links, and time.
fn losses() -> impl Strategy<Value = Vec<Op>> {
    let pod = 0..6_u8;
    let op = prop_oneof![
        4 => pod.clone().prop_map(Op::Add),
        2 => pod.prop_map(Op::DeleteLink),
        4 => (1..12_u8).prop_map(Op::Happen),
        1 => Just(Op::Happen(200)),
        2 => (1000..3000_u16).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_free_before_its_link_was_missing_for_the_settle_time(seed in any::<u64>(), ops in losses()) {
        let mut world = World::new(seed);
        for op in ops {
            world.play(&op);
            world.check_promises();
        }
    }
}

#[test]
fn a_flood_of_hints_costs_a_bounded_number_of_reads() {
    let mut world = World::new(7);
    world.play(&Op::Add(0));
    world.play(&Op::Add(1));
    world.settle();
    assert_eq!(world.live(), 2);
    for _ in 0..10 {
        world.play(&Op::Flood(0));
    }
    world.play(&Op::EndNamespace(0));
    world.settle();
    assert_eq!(world.live(), 1);
    world.check_nothing_leaked();
}

#[test]
fn a_full_pool_serves_the_next_pod_as_soon_as_one_ends() {
    let mut world = World::new(7);
    for pod in 0..4 {
        world.play(&Op::Add(pod));
    }
    world.settle();
    assert_eq!(world.live(), 4);
    world.play(&Op::Add(4));
    world.play(&Op::Happen(39));
    assert_eq!(world.live(), 4, "the pool has four addresses");
    world.play(&Op::EndNamespace(1));
    world.play(&Op::Happen(39));
    world.play(&Op::Pass(50));
    world.play(&Op::Happen(39));
    assert_eq!(world.live(), 4, "the fifth pod took the place of the second");
    world.check_alive();
}

/// Plays one history to its end.
fn play(seed: u64, ops: &[Op]) {
    let world = play_in(World::new(seed), ops, &[World::check_promises]);
    world.check_promises();
    world.check_answered();
}

/// Plays one history in a world until everything has settled. `checks`: made after each step.
fn play_in(mut world: World, ops: &[Op], checks: &[fn(&World)]) -> World {
    for op in ops {
        world.play(op);
        world.check_alive();
        for check in checks {
            check(&world);
        }
    }
    world.settle();
    world.check_alive();
    world.check_nothing_leaked();
    world
}

#[test]
fn a_link_that_goes_while_a_survey_reads_it_is_forgotten() {
    use Op::{Add, Again, CrashAgent, EndNamespace, Foreign, Happen, LoseEvents, LoseStore};
    let ops = [
        vec![LoseEvents, Add(0), Add(0), Happen(6), Foreign(5, true), LoseStore, Again(0, false), Add(3)],
        vec![Happen(12), EndNamespace(3), CrashAgent, Happen(7), Foreign(5, false)],
    ];
    play(368_617_049_486_931_680, &ops.concat());
}

#[test]
fn a_host_that_speaks_between_grant_and_bind_keeps_the_address() {
    use Op::{Add, Again, Happen, Take};
    let ops = [Happen(6), Add(3), Take(1, true, false), Add(4), Add(0), Again(3, false), Happen(8)];
    play(4_878_925_326_171_801_426, &ops);
}

#[test]
fn a_bind_that_waits_is_answered_when_its_namespace_ends() {
    use Op::{Add, EndNamespace, Happen, Pause, Port, Refuse};
    let ops = [
        vec![Refuse(1), Refuse(1), Happen(6), Add(0), Port(false), Pause(1, None), Happen(1), Add(1)],
        vec![Happen(5), EndNamespace(0)],
    ];
    play(8_570_902_618_605_125_014, &ops.concat());
}

#[test]
fn a_del_of_a_forced_release_that_a_crash_cut_short_is_answered() {
    use Op::{Add, CrashAgent, Del, Force, Happen, MoveLink};
    let ops = [Add(5), CrashAgent, Happen(17), Force(5), CrashAgent, MoveLink(5), Del(5)];
    play(8_943_716_978_320_133_548, &ops);
}

#[test]
fn what_a_pod_adds_after_a_forced_release_is_followed() {
    use Op::{Add, Force, Happen, Vip};
    let ops = [Add(3), Happen(10), Force(3), Vip(3, 5, false), Vip(3, 2, false), Add(0), Vip(3, 0, true)];
    play(0, &ops);
}

#[test]
fn a_link_that_outlived_a_forced_release_stands_for_its_attachment() {
    use Op::{Add, Again, CrashAgent, Del, DeleteLink, EndNamespace, Force, Happen, LoseEvents, MoveLink};
    let ops = [
        vec![Add(0), Add(1), Happen(22), Force(0), Add(2), Add(5), Again(2, false), Add(4), LoseEvents],
        vec![EndNamespace(5), Happen(4), Happen(35), Again(0, false), Add(3), MoveLink(0), Del(4), Force(1)],
        vec![Happen(22), CrashAgent, DeleteLink(0)],
    ];
    play(7_124_790_010_438_146_172, &ops.concat());
}

#[test]
fn the_guard_of_a_forced_release_ends_beside_the_next_add_of_its_attachment() {
    use Op::{Add, Again, CrashAgent, DeleteLink, Force, Happen};
    let ops = [
        vec![Happen(5), Add(0), Happen(6), Force(0), DeleteLink(0), Again(0, false), Happen(17), CrashAgent],
        vec![DeleteLink(0)],
    ];
    play(2_630_250_165_199_855_746, &ops.concat());
}

#[test]
fn an_undone_add_whose_end_is_not_on_the_disk_keeps_its_link() {
    use Op::{Add, CrashAgent, Happen, LoseStore, Pass};
    let ops = [
        vec![Add(1), Happen(14), Add(2), Happen(6), Add(5), Pass(738), CrashAgent, Pass(2340), Happen(8)],
        vec![LoseStore],
    ];
    play(12_781_782_184_246_366_345, &ops.concat());
}

#[test]
fn an_intent_that_was_given_up_stands_for_no_link_after_a_crash() {
    use Op::{Add, Again, CrashAgent, Happen, LoseStore, Pause};
    let ops = [
        vec![Add(4), Happen(15), LoseStore, CrashAgent, Add(5), Again(5, false), Pause(116, Some(0))],
        vec![Happen(24), CrashAgent],
    ];
    play(2_433_433_232_206_048_676, &ops.concat());
}

#[test]
fn the_address_of_a_moved_link_is_kept_while_another_pods_link_answers_for_it() {
    use Op::{Add, DeleteLink, Happen, MoveLink, Take, Vip};
    let ops = [
        vec![Add(4), Add(0), Take(1, true, false), Happen(21), Add(5), MoveLink(5), DeleteLink(5)],
        vec![Vip(0, 2, false)],
    ];
    play(7_420_328_490_789_863_738, &ops.concat());
}

#[test]
fn an_add_whose_record_is_written_again_is_given_no_address_of_another_interface() {
    let ops = [
        Op::Pause(335, None),
        Op::Force(4),
        Op::Foreign(3, false),
        Op::Again(5, false),
        Op::Add(2),
        Op::MoveLink(4),
        Op::Happen(36),
        Op::Refuse(2),
        Op::Happen(17),
        Op::Foreign(0, true),
        Op::Happen(3),
        Op::Pass(1400),
        Op::Add(5),
        Op::Leave(0),
        Op::KillPlugin(1),
        Op::CrashAgent,
        Op::Pass(236),
        Op::Del(1),
        Op::Happen(33),
        Op::Again(5, false),
        Op::Refuse(2),
        Op::Foreign(1, false),
        Op::Pass(1369),
        Op::Take(3, true, false),
        Op::Node(5, true),
        Op::Refuse(1),
        Op::Port(true),
        Op::Happen(33),
        Op::Take(3, true, true),
        Op::Again(2, false),
        Op::Take(1, false, false),
        Op::Take(1, false, false),
        Op::Again(3, false),
        Op::CrashAgent,
        Op::Again(3, false),
        Op::LoseStore,
        Op::Add(1),
        Op::Force(1),
        Op::Add(0),
        Op::Again(1, false),
        Op::Again(4, false),
        Op::EndNamespace(1),
        Op::Happen(23),
        Op::LoseEvents,
        Op::Happen(4),
        Op::DeleteLink(5),
        Op::Node(2, false),
        Op::Happen(19),
        Op::Again(4, false),
        Op::Add(0),
        Op::Declare(229),
        Op::Pass(2182),
        Op::Happen(32),
        Op::Again(2, false),
        Op::Again(0, false),
        Op::MoveLink(5),
        Op::Leave(3),
        Op::EndNamespace(2),
    ];
    play(15_876_671_160_396_869_164, &ops);
}

#[test]
fn an_address_that_goes_while_a_survey_reads_it_is_free() {
    let ops = [
        Op::Add(2),
        Op::Refuse(1),
        Op::Foreign(0, false),
        Op::Answer(5),
        Op::Pass(1451),
        Op::Answer(0),
        Op::Add(4),
        Op::Happen(39),
        Op::Del(0),
        Op::Vip(4, 5, true),
        Op::Port(true),
        Op::DeleteLink(1),
        Op::Pause(1909, Some(1)),
        Op::Add(1),
        Op::Add(0),
        Op::Pass(2838),
        Op::Happen(12),
        Op::LoseStore,
        Op::Happen(30),
        Op::Again(4, false),
        Op::DeleteLink(5),
        Op::Add(1),
        Op::Again(3, false),
        Op::Pause(365, None),
        Op::EndNamespace(3),
        Op::Leave(2),
        Op::Add(4),
        Op::Happen(10),
        Op::Port(false),
        Op::DeleteLink(4),
        Op::Refuse(1),
        Op::Port(true),
        Op::Again(2, false),
        Op::CrashAgent,
        Op::Add(1),
        Op::Answer(1),
        Op::Refuse(1),
        Op::Add(1),
        Op::Pass(2459),
        Op::NoVip(5),
        Op::Vip(1, 0, false),
        Op::Pass(205),
        Op::Vip(1, 2, true),
        Op::Vip(2, 4, false),
        Op::CrashAgent,
        Op::KillPlugin(2),
        Op::Happen(1),
        Op::Add(0),
        Op::NoVip(2),
        Op::MoveLink(5),
        Op::MoveLink(0),
    ];
    play(11_937_412_494_280_371_982, &ops);
}
