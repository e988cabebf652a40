use berth_cni::Version;
use berth_ipam::identity::BootId;
use berth_protocol::alive::Alive;

use super::*;
use crate::sim::{Agent, Sim};

fn away(now: u64, alive: Option<(&str, u64)>) -> Sim {
    let mut sim = Sim::new();
    sim.agent = Agent::AwayUntil(Duration::MAX);
    sim.now = Duration::from_secs(now);
    sim.alive =
        alive.map(|(boot, seconds)| Alive { boot_id: BootId(boot.to_owned()), boottime_ms: seconds * 1000 });
    sim
}

#[test]
fn the_agents_word_counts() {
    status(&mut Sim::new(), None).unwrap();
    let mut unready = Sim::new();
    unready.ready = false;
    let object = status(&mut unready, None).unwrap_err().object(Version::LATEST);
    assert_eq!(object.code, 50);
    assert!(object.msg.contains("store refused"));
}

#[test]
fn an_agent_may_be_away_for_60_seconds() {
    for (now, alive, served) in [
        (1000, Some(("boot", 950)), true),
        (1000, Some(("boot", 939)), false),
        (1000, None, false),
        (59, None, true),
        (61, None, false),
        (1000, Some(("former", 999)), false),
        (30, Some(("former", 999)), true),
        // Written by a clock ahead of ours: it cannot be, so it is not held against the agent.
        (1000, Some(("boot", 2000)), true),
    ] {
        assert_eq!(status(&mut away(now, alive), None).is_ok(), served, "{now} {alive:?}");
    }
}

#[test]
fn silence_is_absence_here() {
    let mut silent = away(1000, Some(("boot", 990)));
    silent.agent = Agent::Silent;
    status(&mut silent, None).unwrap();
    assert_eq!(silent.now, Duration::from_millis(1_000_500), "it waits no longer than 500 ms");
}
