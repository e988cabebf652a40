//! Work that hints ask for: so much at once, and the rest when the window is over.
//!
//! A pod's root makes as many hints as it likes, and each one asks for a read. The invariant: every hint is
//! followed by work that begins after it, and no window has more of it than its share.

use std::time::Duration;

use crate::time::Time;

/// The reads that hints get of one attachment: a teardown makes about five hints.
pub const READS: Share = Share { most: 8, window: Duration::from_millis(200) };
/// The searches of every nameable namespace that hints get for one attachment.
pub const SEARCHES: Share = Share { most: 4, window: Duration::from_secs(2) };
/// The reads of everything after lost events.
pub const FULL_READS: Share = Share { most: 1, window: Duration::from_secs(1) };

/// So much work in a window of time.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    most: u32,
    window: Duration,
}

/// Used part of a share, and the work that is put off.
#[derive(Debug, Clone)]
pub struct Pace {
    share: Share,
    since: Time,
    used: u32,
    due: Option<Time>,
}

impl Pace {
    /// Nothing of this share is used.
    pub const fn new(share: Share) -> Self {
        Self { share, since: Time(0), used: 0, due: None }
    }

    /// Takes one piece of the share. False: it is used up, and the work is due at [`Self::due`].
    pub fn take(&mut self, now: Time) -> bool {
        if now.since(self.since) >= self.share.window || self.used == 0 {
            (self.since, self.used) = (now, 0);
        }
        if self.used < self.share.most {
            self.used += 1;
            return true;
        }
        self.due.get_or_insert(self.since + self.share.window);
        false
    }

    /// Time at which the work that was put off is due.
    pub const fn due(&self) -> Option<Time> {
        self.due
    }

    /// True if work that was put off is due now. It uses the new window.
    pub fn take_due(&mut self, now: Time) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        (self.due, self.since, self.used) = (None, now, 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: Share = Share { most: 2, window: Duration::from_millis(100) };

    #[test]
    fn what_exceeds_the_share_is_due_once_at_the_windows_end() {
        let at = Time::from_millis;
        let mut pace = Pace::new(SHARE);
        assert!(pace.take(at(1000)) && pace.take(at(1010)) && pace.due().is_none());
        assert!(!pace.take(at(1020)) && !pace.take(at(1090)));
        assert_eq!(pace.due(), Some(at(1100)));
        assert!(!pace.take_due(at(1099)) && pace.take_due(at(1100)));
        assert!(!pace.take_due(at(1100)), "once");
        // The work that was put off counts in the window that it began.
        assert!(pace.take(at(1110)) && !pace.take(at(1120)));
    }

    #[test]
    fn a_flood_gets_its_share_and_its_last_hint_is_followed_by_work() {
        let mut pace = Pace::new(SHARE);
        let (mut work, mut last_work) = (0, Time(0));
        for millis in 1000..2000 {
            let now = Time::from_millis(millis);
            if pace.take_due(now) | pace.take(now) {
                (work, last_work) = (work + 1, now);
            }
        }
        let due = pace.due();
        assert!((10..=21).contains(&work), "{work} in ten windows of two");
        assert!(last_work == Time::from_millis(1999) || due.is_some(), "{last_work:?} {due:?}");
    }
}
