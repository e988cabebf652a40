//! Times in which the machine ran no thread.
//!
//! A thread on each sampler's processor does nothing but sleep for [`BEAT`], and has priority over all
//! ordinary threads. If all of them oversleep at the same time, no processor ran any user-space thread: a
//! virtual machine with a busy host, or a kernel without preemption. No plugin and no agent ran in that time
//! either, so it is not a gap in the monitor's view of them. If a single one oversleeps, the time counts.

use std::time::{Duration, Instant};

/// From and to.
pub type Window = (Instant, Instant);

/// Sleep of the heartbeat threads.
pub const BEAT: Duration = Duration::from_millis(2);
/// Oversleeping by less is ordinary.
const LEAST: Duration = Duration::from_millis(4);

/// Sleeps; the time by which it was too long, if it was much too long.
pub fn doze(length: Duration) -> Option<Window> {
    let due = Instant::now() + length;
    std::thread::sleep(length);
    let now = Instant::now();
    (now > due + LEAST).then_some((due, now))
}

/// The times that are in all lists. Each list is in order.
pub fn common(lists: &[Vec<Window>]) -> Vec<Window> {
    let Some((first, rest)) = lists.split_first() else { return Vec::new() };
    rest.iter().fold(first.clone(), |common, list| intersect(&common, list))
}

fn intersect(left: &[Window], right: &[Window]) -> Vec<Window> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(from, to)| from < to).collect()
}

/// Part of `window` that is not in `stalls`, which do not overlap each other.
pub fn without(window: Window, stalls: &[Window]) -> Duration {
    let inside =
        stalls.iter().map(|stall| stall.1.min(window.1).saturating_duration_since(stall.0.max(window.0)));
    (window.1 - window.0).saturating_sub(inside.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(start: Instant, from: u64, to: u64) -> Window {
        (start + Duration::from_millis(from), start + Duration::from_millis(to))
    }

    #[test]
    fn only_what_held_up_all_counts_as_the_machines() {
        let t = Instant::now();
        let one = vec![ms(t, 10, 50), ms(t, 100, 110)];
        let other = vec![ms(t, 20, 60), ms(t, 200, 300)];
        assert_eq!(common(&[one.clone(), other]), [ms(t, 20, 50)]);
        assert_eq!(common(std::slice::from_ref(&one)), one);
        assert_eq!(common(&[one, Vec::new()]), []);
    }

    #[test]
    fn a_gap_is_shortened_by_the_part_of_a_stall_that_lies_in_it() {
        let t = Instant::now();
        let stalls = [ms(t, 20, 50), ms(t, 90, 200)];
        assert_eq!(without(ms(t, 0, 100), &stalls), Duration::from_millis(60));
        assert_eq!(without(ms(t, 50, 90), &stalls), Duration::from_millis(40));
        assert_eq!(without(ms(t, 100, 150), &stalls), Duration::ZERO);
    }
}
