//! Conditions that keep the node from serving an ADD, and their start.
//!
//! STATUS takes a node out of service some seconds after its first error, and Services drop its pods: so only
//! lasting conditions are reported. Left out: detection of the conditions.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_ipam::time::Time;

/// Duration below which a condition appears only in `doctor`.
const LASTS: Duration = Duration::from_mins(1);

/// See the module's head.
#[derive(Debug, Default)]
pub struct Readiness {
    troubles: BTreeMap<String, (Time, String)>,
}

impl Readiness {
    /// Sets the state of a subject: well, or in trouble for this reason.
    pub fn note(&mut self, now: Time, what: &str, trouble: Option<String>) {
        match trouble {
            None => drop(self.troubles.remove(what)),
            Some(why) => self.troubles.entry(what.to_owned()).or_insert((now, String::new())).1 = why,
        }
    }

    /// Start of the trouble, and its reason.
    pub fn trouble(&self, what: &str) -> Option<&(Time, String)> {
        self.troubles.get(what)
    }

    /// Reason of a lasting trouble.
    pub fn lasting(&self, now: Time, what: &str) -> Option<String> {
        self.trouble(what).filter(|(since, _)| now.since(*since) >= LASTS).map(|(_, why)| why.clone())
    }

    /// Forgets subjects that no longer exist.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.troubles.retain(|what, _| keep(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_is_told_and_a_moment_of_health_ends_it() {
        let mut readiness = Readiness::default();
        let at = |second: u64| Time::from_millis(second * 1000);
        readiness.note(at(10), "lan", Some("no eth1".to_owned()));
        readiness.note(at(40), "lan", Some("eth1 is down".to_owned()));
        assert_eq!(readiness.lasting(at(69), "lan"), None);
        assert_eq!(readiness.lasting(at(70), "lan").as_deref(), Some("eth1 is down"));
        assert_eq!(readiness.lasting(at(70), "other"), None);
        readiness.note(at(71), "lan", None);
        readiness.note(at(72), "lan", Some("no eth1".to_owned()));
        assert_eq!(readiness.lasting(at(131), "lan"), None);
        readiness.retain(|what| what != "lan");
        assert!(readiness.trouble("lan").is_none());
    }
}
