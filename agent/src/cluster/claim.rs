//! Observation of a `Lease` object: its holder, and the time of the holder's silence.
//!
//! Pure. A holder is judged by the observer's own clock alone: a renewal is a changed version of the object,
//! regardless of the dates in it, because no two clocks agree. Silence counts only while the observer reads:
//! if its reads were further apart than `gap`, it was isolated itself, perhaps together with the holder, and
//! starts again.
//!
//! Invariant: `silent` is never more than the time between the response to one read and the request of a
//! later one, through which every version was the same.

use std::time::Duration;

use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Minimum silence before a holder is given up, whatever its lease says.
const PATIENCE_MIN: Duration = Duration::from_secs(10);
/// Maximum silence before a holder is given up, whatever its lease says: an hour is the period of 36,000
/// nodes.
const PATIENCE_MAX: Duration = Duration::from_hours(1);

/// An observer of one `Lease`.
#[derive(Debug, Clone)]
pub struct Claim {
    me: String,
    gap: Duration,
    seen: Option<Seen>,
}

/// One version of the object, or that there was none.
#[derive(Debug, Clone)]
struct Seen {
    version: Option<(String, String)>,
    /// Time of the response that first showed it.
    since: Time,
    /// Time of the response that last showed it.
    last: Time,
}

/// Observed state of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Holder of the lease; `None`: it has none.
    pub holder: Option<String>,
    /// True if the observer is the holder.
    pub mine: bool,
    /// Time without a write, as far as the observer has seen.
    pub silent: Duration,
    /// Permitted silence of the holder.
    pub patience: Duration,
}

impl Standing {
    /// True if its holder was silent for too long.
    pub fn is_given_up(&self) -> bool {
        self.silent >= self.patience
    }
}

impl Claim {
    /// An observer without reads, with the identity `me`. Reads further apart than `gap` count as none.
    pub fn new(me: impl Into<String>, gap: Duration) -> Self {
        Self { me: me.into(), gap, seen: None }
    }

    /// Sets the interval of the reads from now on.
    pub fn set_gap(&mut self, gap: Duration) {
        self.gap = gap;
    }

    /// Observed state after a read with this time of the request and of the response.
    pub fn look(&mut self, asked: Time, answered: Time, lease: Option<&Lease>) -> Standing {
        let version = lease.map(version);
        let seen = self.seen.take();
        let kept = seen.filter(|seen| seen.version == version && asked.since(seen.last) <= self.gap);
        let silent = kept.as_ref().map_or(Duration::ZERO, |seen| asked.since(seen.since));
        let since = kept.map_or(answered, |seen| seen.since);
        self.seen = Some(Seen { version, since, last: answered });
        let holder = lease.and_then(holder);
        Standing {
            mine: holder.as_ref() == Some(&self.me),
            holder,
            silent,
            patience: lease.map_or(PATIENCE_MIN, patience),
        }
    }
}

fn version(lease: &Lease) -> (String, String) {
    let meta = &lease.metadata;
    (meta.uid.clone().unwrap_or_default(), meta.resource_version.clone().unwrap_or_default())
}

fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone().filter(|holder| !holder.is_empty())
}

fn patience(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(PATIENCE_MIN, PATIENCE_MAX)
}

/// The date of a write, in the precision of an API server, so that a writer recognises its own.
pub fn stamp(wall: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(wall.as_microsecond()).unwrap_or(wall))
}

/// The date of a lease's last renewal, as its holder wrote it.
pub fn stamped(lease: &Lease) -> Option<&MicroTime> {
    lease.spec.as_ref()?.renew_time.as_ref()
}

/// The lease in the form of its holder's next write. It contains the version of `old`, so that the write
/// fails after a concurrent write; without `old` it is a new object.
pub fn signed(old: Option<&Lease>, name: &str, me: &str, patience: Duration, at: MicroTime) -> Lease {
    let mut lease = old.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    // The API server tracks managed fields itself.
    lease.metadata.managed_fields = None;
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(me) {
        if spec.holder_identity.is_some() {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(me.to_owned());
        spec.acquire_time = Some(at.clone());
    }
    let seconds = patience.as_millis().div_ceil(1000);
    spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
    spec.renew_time = Some(at);
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn lease(holder: &str, version: u32, seconds: i32, date: i64) -> Lease {
        Lease {
            metadata: ObjectMeta {
                uid: Some("u1".to_owned()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(seconds),
                renew_time: Some(MicroTime(Timestamp::from_second(date).unwrap())),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Reads at (second, version, date), and the read after which the holder is given up.
    fn given_up(seconds: i32, looks: &[(u64, u32, i64)]) -> Vec<u64> {
        let mut claim = Claim::new("me", GAP);
        let mut found = Vec::new();
        for (second, version, date) in looks {
            let standing =
                claim.look(at(*second), at(*second), Some(&lease("them", *version, seconds, *date)));
            assert!(!standing.mine);
            if standing.is_given_up() {
                found.push(*second);
            }
        }
        found
    }

    #[test]
    fn who_is_given_up_when() {
        let day = 86_400;
        let silent: Vec<_> = (0..8).map(|turn| (turn * 2, 7, 0)).collect();
        let renewed: Vec<_> = (0..20).map(|turn| (turn * 2, u32::try_from(turn).unwrap(), 0)).collect();
        // Dates a day ahead, a day behind and going backwards, of a renewing holder and of a silent one.
        let odd = [day, -day, 0, -2 * day, day, 5, 4, 3, 2, 1];
        let renewed_oddly =
            (0..10).map(|turn| (turn * 2, u32::try_from(turn).unwrap(), odd[usize::try_from(turn).unwrap()]));
        let silent_ahead: Vec<_> = (0..8).map(|turn| (turn * 2, 7, day)).collect();
        let silent_long_ago: Vec<_> = (0..8).map(|turn| (turn * 2, 7, -day)).collect();
        for (what, seconds, looks, expected) in [
            ("silent for its patience", 10, silent.clone(), vec![10, 12, 14]),
            ("a lease that asks for no patience gets ten seconds", 0, silent.clone(), vec![10, 12, 14]),
            ("nor does a negative one get less", -5, silent.clone(), vec![10, 12, 14]),
            ("a lease that asks for more gets it", 14, silent, vec![14]),
            ("renewed", 10, renewed, vec![]),
            ("renewed, with dates that jump", 10, renewed_oddly.collect(), vec![]),
            ("silent, its date a day ahead", 10, silent_ahead, vec![10, 12, 14]),
            ("silent, its date a day ago: that proves nothing", 10, silent_long_ago, vec![10, 12, 14]),
            (
                "one renewal begins the time anew",
                10,
                vec![(0, 1, 0), (3, 1, 0), (6, 2, 0), (9, 2, 0), (12, 2, 0)],
                vec![],
            ),
            (
                "who did not look saw no silence",
                10,
                vec![(0, 1, 0), (30, 1, 0), (34, 1, 0), (38, 1, 0)],
                vec![],
            ),
            (
                "until it looked for long enough",
                10,
                vec![(0, 1, 0), (30, 1, 0), (34, 1, 0), (38, 1, 0), (42, 1, 0)],
                vec![42],
            ),
        ] {
            assert_eq!(given_up(seconds, &looks), expected, "{what}");
        }
    }

    #[test]
    fn a_slow_answer_is_no_silence() {
        let mut claim = Claim::new("me", GAP);
        let them = lease("them", 1, 10, 0);
        claim.look(at(0), at(5), Some(&them));
        assert_eq!(
            claim.look(at(7), at(12), Some(&them)).silent,
            Duration::from_secs(2),
            "asked less answered"
        );
    }

    #[test]
    fn an_object_made_anew_is_another_one_and_none_is_silent_too() {
        let mut claim = Claim::new("me", GAP);
        let mut other = lease("them", 1, 10, 0);
        claim.look(at(0), at(0), Some(&other));
        other.metadata.uid = Some("u2".to_owned());
        assert_eq!(claim.look(at(3), at(3), Some(&other)).silent, Duration::ZERO);
        for second in [6, 9, 12, 15] {
            assert!(!claim.look(at(second), at(second), None).is_given_up(), "{second}");
        }
        let standing = claim.look(at(18), at(18), None);
        assert!(standing.is_given_up() && standing.holder.is_none());
    }

    #[test]
    fn my_own_is_known_by_its_holder() {
        let mut claim = Claim::new("me", GAP);
        assert!(claim.look(at(0), at(0), Some(&lease("me", 1, 10, 0))).mine);
        let nobody = claim.look(at(0), at(0), Some(&lease("", 2, 10, 0)));
        assert_eq!((nobody.mine, nobody.holder), (false, None));
    }

    #[test]
    fn what_is_written_names_the_version_that_it_replaces() {
        let date = stamp(Timestamp::from_nanosecond(1_234_567_891).unwrap());
        assert_eq!(date.0.as_nanosecond(), 1_234_567_000, "as an API server keeps it");
        let new = signed(None, "berth-node-n1", "me", Duration::from_millis(10_001), date.clone());
        assert_eq!(
            (new.metadata.name.as_deref(), &new.metadata.resource_version),
            (Some("berth-node-n1"), &None)
        );
        let spec = new.spec.unwrap();
        assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(11), None));

        let taken = signed(Some(&lease("them", 7, 10, 0)), "x", "me", Duration::from_secs(10), date.clone());
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("7"));
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.lease_transitions, spec.acquire_time), (Some(1), Some(date)));

        let later = stamp(Timestamp::from_second(9).unwrap());
        let renewed = signed(Some(&taken), "x", "me", Duration::from_secs(10), later.clone());
        assert_eq!(stamped(&renewed), Some(&later));
        let spec = renewed.spec.unwrap();
        assert_eq!((spec.lease_transitions, spec.acquire_time != Some(later)), (Some(1), true));
    }
}
