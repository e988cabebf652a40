//! Deduplication for a listener: a statement that is repeated within a short time is reported once.
//!
//! Pure; time is an argument. The memory is bounded: when full it lets statements through, because a
//! duplicate report is harmless and a missing one is not.

use std::collections::HashMap;
use std::time::Duration;

use berth_ipam::time::Time;

use super::listener::Heard;

/// Time for which a repetition is suppressed.
pub const REPEAT: Duration = Duration::from_millis(200);

/// Number of statements remembered at most.
const REMEMBERED: usize = 4096;

/// The memory of reported statements.
#[derive(Debug, Default)]
pub struct Quiet {
    told: HashMap<Heard, Time>,
}

impl Quiet {
    /// True if `heard` must be reported: an equal statement within [`REPEAT`] suppresses it.
    pub fn admit(&mut self, heard: Heard, now: Time) -> bool {
        let heard = Heard { at: Time::default(), ..heard };
        if let Some(told) = self.told.get(&heard) {
            // A repetition does not extend the pause, so an address under constant use stays visible.
            if now.since(*told) < REPEAT {
                return false;
            }
        }
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, told| now.since(*told) < REPEAT);
        }
        if self.told.len() < REMEMBERED {
            self.told.insert(heard, now);
        } else {
            self.told.remove(&heard);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use berth_ipam::mac::Mac;

    use super::*;
    use crate::wire::{Direction, Kind};

    fn heard(last: u16, kind: Kind) -> Heard {
        let [high, low] = last.to_be_bytes();
        Heard {
            address: IpAddr::V4(Ipv4Addr::new(192, 0, high, low)),
            mac: Mac([2, 0, 0, 0, high, low]),
            direction: Direction::In,
            vlan: None,
            kind,
            at: Time::default(),
        }
    }

    #[test]
    fn a_repetition_within_200_ms_is_kept_back_and_does_not_extend_the_pause() {
        let mut quiet = Quiet::default();
        let at = |millis| Time::from_millis(1_000 + millis);
        let told: Vec<u64> =
            (0..=400).step_by(50).filter(|millis| quiet.admit(heard(1, Kind::Reply), at(*millis))).collect();
        assert_eq!(told, [0, 200, 400]);
    }

    #[test]
    fn another_kind_or_mac_is_another_statement() {
        let mut quiet = Quiet::default();
        let now = Time::from_millis(1);
        assert!(quiet.admit(heard(1, Kind::Dad), now));
        assert!(quiet.admit(heard(1, Kind::Reply), now));
        assert!(quiet.admit(Heard { mac: Mac([2; 6]), ..heard(1, Kind::Reply) }, now));
        assert!(!quiet.admit(heard(1, Kind::Dad), now));
    }

    #[test]
    fn a_flood_of_statements_neither_grows_the_memory_nor_hides_anything() {
        let mut quiet = Quiet::default();
        let now = Time::from_millis(1);
        assert!((0..10_000).all(|n| quiet.admit(heard(n, Kind::Reply), now)));
        assert!(quiet.told.len() <= REMEMBERED);
        assert!(quiet.admit(heard(1, Kind::Reply), now + REPEAT));
    }
}
