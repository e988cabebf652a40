//! Detection of a suspended machine, or of a thread that did not run, by two clocks. Pure.
//!
//! `CLOCK_BOOTTIME` advances while a machine is suspended and `CLOCK_MONOTONIC` does not. A thread that wakes
//! long after its deadline was stopped, or its machine was. A virtual machine that is paused with both clocks
//! stopped cannot be distinguished from one that ran.

use std::time::Duration;

use berth_ipam::time::Time;

/// The clocks drift apart by less than this while a machine runs: they are read one after the other.
const APART: Duration = Duration::from_millis(100);
/// A round of probes counts for nothing over a delay of this length.
const LATE: Duration = Duration::from_millis(250);
/// Delay after which earlier silence does not count.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Result of comparing the clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pace {
    /// The thread ran when it was to.
    Steady,
    /// It ran so late that a round of probes may have missed its replies.
    Late,
    /// The machine or the thread was stopped, for this reason.
    StoodStill(String),
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Time of `CLOCK_BOOTTIME`.
    pub boot: Time,
    /// Time of `CLOCK_MONOTONIC`.
    pub monotonic: Time,
}

/// True if a thread that was due at `due` did not run, or if its machine was stopped.
pub fn is_still(now: Time, due: Time) -> bool {
    now.since(due) >= STOOD_STILL
}

/// See the module's head.
#[derive(Debug)]
pub struct Standstill {
    last: Clocks,
}

impl Standstill {
    /// Starts the comparison.
    pub fn new(now: Clocks) -> Self {
        Self { last: now }
    }

    /// Pace since the last call. `due`: latest time of the thread's next turn.
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
        let Pace::StoodStill(why) = standstill.look(at(9_000, 6_000), due(5_600)) else {
            panic!("not reported")
        };
        assert_eq!(why, "the agent stood still for 3400 ms");
        let Pace::StoodStill(why) = standstill.look(at(9_300, 6_050), due(9_250)) else {
            panic!("not reported")
        };
        assert_eq!(why, "the machine was suspended for 250 ms");
        assert_eq!(standstill.look(at(9_350, 6_100), due(9_350)), Pace::Steady, "reported once");
    }
}
