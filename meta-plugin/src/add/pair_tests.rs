//! Two processes with ADDs of one attachment: the second runs between any two steps of the first, and is
//! killed at any of its own. A reported success keeps its link, its addresses and its lease.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use berth_ipam::identity::TxnId;

use super::*;
use crate::settings::Settings;
use crate::sim::{Killed, Sim, attach, conf};

const MAIN: &str = "";
const CHAINED: &str =
    r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n"}]}"#;
const DELEGATE: &str = r#""type":"macvlan","ipam":{"type":"berth","network":"lan"}"#;
/// Another plugin's address on its link, which is only tracked.
const ADOPTED: &str = r#""prevResult":{"interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/n"}],
    "ips":[{"address":"10.0.0.7/24","interface":0},{"address":"2001:db8::7/64","interface":0}]}"#;

/// More steps than any ADD has.
const STEPS: usize = 24;

fn world(more: &str) -> Sim {
    if more == MAIN {
        return Sim::new();
    }
    let sim = Sim::new().with_link("eth0", "02:00:00:00:00:07", None);
    if more == ADOPTED { sim.with_address("10.0.0.7/24").with_address("2001:db8::7/64") } else { sim }
}

/// Runs one ADD, optionally killed after this number of steps; returns whether it reported success.
fn run(sim: &mut Sim, more: &str, killed_after: Option<usize>) -> bool {
    let conf = conf(more);
    let settings = Settings::read(&conf).unwrap();
    sim.killed_at = killed_after.map(|steps| sim.log.len() + steps);
    let own = TxnId(format!("{:032x}", u128::from_be_bytes([sim.random_next(); 16])));
    let ended = catch_unwind(AssertUnwindSafe(|| add(sim, &conf, &settings, &attach()).is_ok()));
    match ended {
        Ok(success) => {
            sim.killed_at = None;
            success
        }
        Err(payload) if payload.is::<Killed>() => {
            sim.hang_up(&own);
            false
        }
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Asserts the state that an ADD with reported success guarantees.
fn intact(sim: &Sim, more: &str, scenario: &str) {
    assert!(sim.leased.is_some() && sim.done, "{scenario}: no lease; {:?}", sim.log);
    let named: Vec<_> = sim.links.iter().filter(|link| link.name == "eth0").collect();
    assert_eq!(named.len(), 1, "{scenario}: {:?}; {:?}", sim.links, sim.log);
    assert_eq!(sim.bound.map(|(ifindex, _)| ifindex), Some(named[0].ifindex), "{scenario}");
    if more != DELEGATE {
        let held = sim.addresses.iter().filter(|held| held.ifindex == named[0].ifindex).count();
        assert!(named[0].up && held >= 2, "{scenario}: {held} addresses on {named:?}; {:?}", sim.log);
    }
}

#[test]
fn a_repeated_add_that_is_killed_anywhere_leaves_the_attachment_as_it_was() {
    for more in [MAIN, CHAINED, DELEGATE, ADOPTED] {
        for kill in 0..STEPS {
            let mut sim = world(more);
            assert!(run(&mut sim, more, None), "{more}: {:?}", sim.log);
            let before = (sim.links.clone(), sim.addresses.clone(), sim.leased.clone(), sim.bound);
            let told = run(&mut sim, more, Some(kill));
            intact(&sim, more, &format!("{more}: killed after {kill}"));
            let after = (sim.links.clone(), sim.addresses.clone(), sim.leased.clone(), sim.bound);
            assert_eq!(before.0, after.0, "{more}: killed after {kill}");
            assert_eq!((before.2, before.3), (after.2, after.3), "{more}: killed after {kill}");
            assert!(told || kill < STEPS - 1, "it is longer than that");
        }
    }
}

#[test]
fn of_two_adds_at_once_the_one_that_was_told_success_keeps_all() {
    for more in [MAIN, CHAINED, DELEGATE, ADOPTED] {
        let mut both = 0;
        for start in 0..STEPS {
            for kill in (0..STEPS).map(Some).chain([None]) {
                let mut sim = world(more);
                let second = Rc::new(RefCell::new(false));
                let told = Rc::clone(&second);
                let text = more.to_owned();
                sim.meanwhile =
                    Some((start, Box::new(move |sim| *told.borrow_mut() = run(sim, &text, kill))));
                let first = run(&mut sim, more, None);
                let scenario = format!("{more}: the second after {start}, killed after {kill:?}");
                let second = *second.borrow();
                both += usize::from(first && second);
                if first || second {
                    intact(&sim, more, &scenario);
                } else {
                    // A killed one left its address on another plugin's link, which its DEL is to remove.
                    let left = more != MAIN && !sim.addresses.is_empty() && !sim.done;
                    assert!(left, "{scenario}: none reported success; {:?}", sim.log);
                }
            }
        }
        assert!(both > 0, "{more}: the later one repeats what the earlier one made");
    }
}

#[test]
fn an_add_that_the_agent_gave_up_takes_nothing_of_the_next_one() {
    for start in 4..STEPS {
        let mut sim = Sim::new();
        let first = TxnId(format!("{:032x}", u128::from_be_bytes([sim.random_next(); 16])));
        let second = Rc::new(RefCell::new(false));
        let told = Rc::clone(&second);
        // The agent was started again, and the plugin did not come back in time.
        let next = move |sim: &mut Sim| {
            sim.hang_up(&first);
            *told.borrow_mut() = run(sim, MAIN, None);
        };
        sim.meanwhile = Some((start, Box::new(next)));
        sim.ends_at_del = true;
        let first = run(&mut sim, MAIN, None);
        let scenario = format!("given up after {start}");
        assert!(first || *second.borrow(), "{scenario}: {:?}", sim.log);
        intact(&sim, MAIN, &scenario);
    }
}

#[test]
fn a_del_between_any_two_steps_of_an_add_leaves_no_link_of_it() {
    for start in 0..STEPS {
        let mut sim = Sim::new();
        let del = |sim: &mut Sim| {
            let conf = conf("");
            let settings = Settings::read(&conf).unwrap();
            crate::del::del(sim, &conf, &settings, &crate::sim::detach()).unwrap();
        };
        sim.meanwhile = Some((start, Box::new(del)));
        sim.ends_at_del = true;
        if run(&mut sim, MAIN, None) {
            // The DEL came before the lease, or after the end.
            assert!(sim.meanwhile.is_some() || sim.done, "after {start}: {:?}", sim.log);
        } else {
            assert!(sim.links.is_empty() && sim.leased.is_none(), "after {start}: {:?}", sim.log);
        }
    }
}
