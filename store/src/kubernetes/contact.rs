//! Time of the last request that the API server is known to have served.
//!
//! Heartbeats, fences and `doctor` read it. All requests of the agent record it here, so that one agent has
//! one answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_ipam::time::Time;

/// A shared note of the last contact. Clones are the same note.
#[derive(Debug, Clone)]
pub struct Contact {
    now: fn() -> Time,
    /// Nanoseconds; 0 is never.
    last: Arc<AtomicU64>,
}

impl Contact {
    /// State before the first contact; `now` reads the agent's clock.
    pub fn new(now: fn() -> Time) -> Self {
        Self { now, last: Arc::default() }
    }

    /// Time at which the newest served request was *sent*: the known state of the server is at least as old
    /// as that.
    pub fn last(&self) -> Option<Time> {
        match self.last.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Time(nanos)),
        }
    }

    /// A reading of the clock, for [`Contact::note`].
    pub fn now(&self) -> Time {
        (self.now)()
    }

    /// Records that a request of `sent` has been served. Responses may come out of order.
    pub fn note(&self, sent: Time) {
        self.last.fetch_max(sent.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_does_not_turn_the_clock_back() {
        let contact = Contact::new(|| Time(7));
        assert_eq!((contact.last(), contact.now()), (None, Time(7)));
        let clone = contact.clone();
        clone.note(Time(30));
        clone.note(Time(20));
        assert_eq!(contact.last(), Some(Time(30)));
    }
}
