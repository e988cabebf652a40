//! Election of the steward: the holder of one `Lease`.
//!
//! Pure. The election only saves work: two stewards at a time would write the same counts twice. A steward
//! therefore resigns at once after another's write, and also when it could not renew for the time after which
//! another may follow.

use std::time::Duration;

use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::cluster::claim::{Claim, signed};

/// The lease's name.
pub const LEASE: &str = "berth-steward";
/// The steward renews this often.
pub const RENEW: Duration = Duration::from_secs(5);
/// Silence after which another agent follows.
const PATIENCE: Duration = Duration::from_secs(25);

/// One agent's part in it.
#[derive(Debug)]
pub struct Election {
    me: String,
    claim: Claim,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Candidate,
    /// The place is free, if this is still how the lease is.
    Taking(Option<Lease>),
    Steward {
        lease: Lease,
        /// Time of the request of the last successful renewal.
        proved: Time,
    },
}

impl Election {
    /// A candidate with the identity `me`. Reads further apart than `gap` count as none.
    pub fn new(me: String, gap: Duration) -> Self {
        let claim = Claim::new(me.clone(), gap);
        Self { me, claim, role: Role::Candidate }
    }

    /// True if this agent is steward.
    pub fn is_steward(&self) -> bool {
        matches!(self.role, Role::Steward { .. })
    }

    /// Sets the interval of the reads from now on.
    pub fn set_gap(&mut self, gap: Duration) {
        self.claim.set_gap(gap);
    }

    /// The lease was read, by a candidate.
    pub fn looked(&mut self, asked: Time, answered: Time, lease: Option<Lease>) {
        let standing = self.claim.look(asked, answered, lease.as_ref());
        let free = standing.mine || standing.holder.is_none() || standing.is_given_up();
        if free && !self.is_steward() {
            self.role = Role::Taking(lease);
        }
    }

    /// The write that is due, if one is.
    pub fn write(&self, at: MicroTime) -> Option<Lease> {
        let old = match &self.role {
            Role::Candidate => return None,
            Role::Taking(old) => old.as_ref(),
            Role::Steward { lease, .. } => Some(lease),
        };
        Some(signed(old, LEASE, &self.me, PATIENCE, at))
    }

    /// It took effect.
    pub fn written(&mut self, asked: Time, lease: Lease) {
        self.role = Role::Steward { lease, proved: asked };
    }

    /// The renewal failed, as far as is known. `lost`: the lease belongs to another agent now, or is gone.
    pub fn not_written(&mut self, now: Time, lost: bool) {
        let stays = match &self.role {
            Role::Steward { proved, .. } => !lost && now.since(*proved) < PATIENCE,
            Role::Candidate | Role::Taking(_) => false,
        };
        if !stays {
            self.role = Role::Candidate;
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::cluster::claim::stamp;

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn date(second: u64) -> MicroTime {
        stamp(Timestamp::from_second(i64::try_from(second).unwrap()).unwrap())
    }

    fn candidate(me: &str) -> Election {
        Election::new(me.to_owned(), Duration::from_secs(10))
    }

    /// One round; the server's lease is the given one, and its version is the second.
    fn round(election: &mut Election, second: u64, server: &mut Option<Lease>) {
        if !election.is_steward() {
            election.looked(at(second), at(second), server.clone());
        }
        let Some(mut lease) = election.write(date(second)) else { return };
        let version =
            |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if version(&Some(lease.clone())) == version(server) {
            lease.metadata.resource_version = Some(second.to_string());
            *server = Some(lease.clone());
            election.written(at(second), lease);
        } else {
            election.not_written(at(second), true);
        }
    }

    #[test]
    fn there_is_one_and_the_next_follows_in_time() {
        let (mut server, mut first, mut second) = (None, candidate("a"), candidate("b"));
        for time in (0..100).step_by(5) {
            round(&mut first, time, &mut server);
            round(&mut second, time, &mut server);
            assert!(first.is_steward() && !second.is_steward(), "{time}");
        }
        for time in (100..130).step_by(5) {
            round(&mut second, time, &mut server);
            assert_eq!(second.is_steward(), time >= 95 + 25, "{time}");
        }
        round(&mut first, 130, &mut server);
        assert!(!first.is_steward(), "it met another's write");
    }

    #[test]
    fn who_cannot_prove_himself_steps_down_in_time_for_the_next() {
        let mut server = None;
        let mut steward = candidate("a");
        round(&mut steward, 0, &mut server);
        for time in [5, 10, 15, 20] {
            steward.not_written(at(time), false);
            assert!(steward.is_steward(), "{time}");
        }
        steward.not_written(at(25), false);
        assert!(!steward.is_steward());
        // No other agent followed: it resumes.
        round(&mut steward, 30, &mut server);
        assert!(steward.is_steward());
    }
}
