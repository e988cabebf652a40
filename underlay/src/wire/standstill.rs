//! Tells that a machine was suspended, or that a thread did not run, by two clocks. Pure.
//!
//! `CLOCK_BOOTTIME` goes on while a machine is suspended and `CLOCK_MONOTONIC` does not; a thread that
//! wakes long after it asked to was stopped, or its machine was. A virtual machine that is paused with
//! both of its clocks stopped cannot be told from one that ran.

use std::time::Duration;

use berth_ipam::time::Time;

/// The clocks drift apart by less than this while a machine runs: they are read one after the other.
const APART: Duration = Duration::from_millis(100);
/// A round of probes counts for nothing over a delay of this length.
const LATE: Duration = Duration::from_millis(250);
/// After a delay of this length nothing that was heard before counts.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// What the clocks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pace {
    /// The thread ran when it was to.
    Steady,
    /// It ran so much too late that a round of probes may have missed its answers.
    Late,
    /// Machine or thread stood still, for this reason.
    StoodStill(String),
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_BOOTTIME`.
    pub boot: Time,
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Time,
}

/// Whether a thread that was to run at `due` stood still, or its machine did.
pub fn is_still(now: Time, due: Time) -> bool {
    now.since(due) >= STOOD_STILL
}

/// See the module's head.
#[derive(Debug)]
pub struct Standstill {
    last: Clocks,
}

impl Standstill {
    /// Begins to look.
    pub fn new(now: Clocks) -> Self {
        Self { last: now }
    }

    /// What happened since the last look. `due`: when the thread meant to run again at the latest.
    pub fn look(&mut self, now: Clocks, due: Time) -> Pace {
        let last = std::mem::replace(&mut self.last, now);
        let passed = now.boot.since(last.boot);
        let suspended = passed.saturating_sub(now.monotonic.since(last.monotonic));
        let late = now.boot.since(due);
        if suspended >= APART {
            Pace::StoodStill(format!("the machine was suspended for {} ms", suspended.as_millis()))
        } else if is_still(now.boot, due) {
            Pace::StoodStill(format!("the agent stood still for {} ms", late.as_millis()))
        } else if late >= LATE {
            Pace::Late
        } else {
            Pace::Steady
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64, monotonic: u64) -> Clocks {
        Clocks { boot: Time::from_millis(boot), monotonic: Time::from_millis(monotonic) }
    }

    #[test]
    fn a_suspended_machine_and_a_stopped_thread_are_told_from_a_steady_one() {
        let mut standstill = Standstill::new(at(5_000, 2_000));
        let due = Time::from_millis;
        assert_eq!(standstill.look(at(5_100, 2_100), due(5_100)), Pace::Steady);
        assert_eq!(standstill.look(at(5_500, 2_500), due(5_200)), Pace::Late);
        let Pace::StoodStill(why) = standstill.look(at(9_000, 6_000), due(5_600)) else { panic!("not told") };
        assert_eq!(why, "the agent stood still for 3400 ms");
        let Pace::StoodStill(why) = standstill.look(at(9_300, 6_050), due(9_250)) else { panic!("not told") };
        assert_eq!(why, "the machine was suspended for 250 ms");
        assert_eq!(standstill.look(at(9_350, 6_100), due(9_350)), Pace::Steady, "told once");
    }
}
