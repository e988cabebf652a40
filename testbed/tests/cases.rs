//! The thirteen cases with fewer attachments and generous limits: what is asserted here is behaviour;
//! the bounds are held by `cargo xtask demo`.

use berth_testbed::cases;
use berth_testbed::lab::Options;

/// Number of attachments, as a share of the demo's.
const SCALE: f64 = 0.2;
fn play(id: u32) {
    let Some(options) = Options::of_tests(SCALE) else { return };
    let played = cases::ALL.iter().find(|script| script.id == id).map(|script| script.run(&options));
    let Some(Ok(case)) = &played else {
        assert!(matches!(played, Some(Ok(_))), "case {id} was not played: {played:?}");
        return;
    };
    let failed: Vec<_> = case.checks.iter().filter(|check| !check.ok).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(case.ok, "{case:#?}");
}

#[test]
fn a_deleted_namespace_frees_its_address() {
    play(1);
}

#[test]
fn a_deleted_link_frees_its_address_and_a_moved_one_does_not() {
    play(2);
}

#[test]
fn a_leaked_namespace_is_taken_down_and_a_held_one_is_not() {
    play(3);
}

#[test]
fn what_ended_while_the_agent_was_down_is_free_after_its_start() {
    play(4);
}

#[test]
fn no_death_of_plugin_or_agent_leaks_or_doubles_anything() {
    play(5);
}

#[test]
fn after_a_reboot_old_leases_are_free_or_handed_over() {
    play(6);
}

#[test]
fn a_rolling_restart_on_an_exactly_fitting_pool_never_fails() {
    play(7);
}

#[test]
fn no_hostile_namespace_costs_a_live_pod_its_address() {
    play(8);
}

#[test]
fn a_store_that_went_back_is_repaired_before_service() {
    play(9);
}

#[test]
fn a_crowd_that_ends_while_the_agent_is_stopped_is_freed_after_its_return() {
    play(10);
}

#[test]
fn an_address_that_a_neighbour_answers_for_is_not_handed_out() {
    play(11);
}

#[test]
fn a_neighbour_that_takes_a_live_address_is_told_of_and_frees_nothing() {
    play(12);
}

#[test]
fn every_rung_comes_to_the_same_verdicts() {
    play(13);
}
